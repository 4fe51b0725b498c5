"""A trial pass over a picture of 512 pixels: the results decide, whatever the network's description states."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from magnet_cli.errors import DeviceError, MagnetError, UsageError, WeightsError
from magnet_cli.geometry import Size
from magnet_cli.models.device import is_out_of_memory
from magnet_cli.models.foreign.adapter import COARSEST, Adapted, covers_patch, select_output
from magnet_cli.models.foreign.completion import ASSUMED, ForeignDescription, input_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.models.foreign.foreign_spec import ForeignSpec
    from magnet_cli.models.network_spec import Bundle

SIDE = 512
"""Side of the picture in pixels."""
SPARSE = 8
"""Every so many rows and columns of probabilities are kept."""
SAME = 1e-3
"""Largest difference of the probabilities of one patch in two calls: GPUs add in any order."""
KEPT = 1e-2
"""Largest difference from the kept probabilities, on another device or with another version of a library."""
LABELS_KEPT = 0.999
"""Share of the picture's pixels whose class has to be the kept one."""
SUM = 1e-2
"""Largest difference between one and the sum of a pixel's probabilities, in half precision."""
INDEPENDENT = (
    "Give --activation share where each pixel has one of the classes, or name the class of all other pixels with "
    "--activation none --classes NAME=0,NAME=1,NAME=none"
)
"""Advice for probabilities of a pixel that do not sum to one."""
BATCHES = (1, 2, 4, 8, 16, 32)
"""Fixed numbers of patches that are tried where a network refuses a single one."""
MULTIPLES = (2, 4, 8, 16, 32, 64)
"""Numbers that are tried as the divisor of a patch's sides, where nothing states it."""
REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, KeyError, torch.jit.Error)
"""Exceptions that libraries raise for shapes and types that their networks do not accept."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A picture and what a network made of it."""

    picture: NDArray[Any]
    """Stored values `(bands, 512, 512)`."""
    labels: NDArray[np.uint8]
    """Classes `(512, 512)`."""
    probs: NDArray[np.float32]
    """Probabilities `(classes, 64, 64)` of every eighth row and column."""

    def encode(self) -> bytes:
        """Return the trial as the bytes of a safetensors file."""
        parts = {"picture": self.picture, "labels": self.labels, "probs": self.probs}
        return save({name: torch.from_numpy(np.ascontiguousarray(part)) for name, part in parts.items()})

    @classmethod
    def decode(cls, path: Path) -> Trial:
        """Read a trial that was kept.

        Raises:
            WeightsError: The file is missing or damaged.
        """
        try:
            found = load(path.read_bytes())
            return cls(**{name: found[name].numpy() for name in ("picture", "labels", "probs")})
        except (OSError, KeyError, ValueError, RuntimeError) as exc:
            raise WeightsError(
                f"the kept trial cannot be read: {exc}", file=path, advice="Import the network again"
            ) from exc

    def compare(self, other: Trial) -> tuple[float, float]:
        """Return the share of pixels of the same class, and the largest difference of two probabilities."""
        same = float((self.labels == other.labels).mean())
        return same, float(np.abs(self.probs - other.probs).max())


def generated_picture(bands: int, span: tuple[float, float]) -> NDArray[np.float32]:
    """Return a made-up picture `(bands, 512, 512)` over the range of stored values: spots of several sizes and noise.

    Args:
        bands: The number of bands.
        span: The smallest and the largest stored value.
    """
    random = np.random.default_rng(0)
    total = np.zeros((bands, SIDE, SIDE))
    for power, weight in ((2, 0.4), (4, 0.3), (6, 0.2), (9, 0.1)):
        coarse = torch.from_numpy(random.random((1, bands, 2**power, 2**power)))
        whole = nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        total += weight * whole[0].numpy()
    low, high = total.min(), total.max()
    values: NDArray[np.float32] = (span[0] + (total - low) / (high - low) * (span[1] - span[0])).astype(np.float32)
    return values.round() if span[1] - span[0] > 1 else values


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Windows of a picture, as a plan without overlap would cut it."""

    picture: NDArray[Any]
    """Stored values `(bands, rows, columns)`."""
    size: Size
    spans: tuple[tuple[float, float], ...]
    """Stored values that become 0 and 1, for each band."""
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def starts(self) -> Iterator[tuple[int, int]]:
        """Yield row and column of each window. The last one of an axis is moved inside."""
        rows, columns = self.picture.shape[1:]
        for top in range(0, rows, self.size.height):
            for left in range(0, columns, self.size.width):
                yield max(0, min(top, rows - self.size.height)), max(0, min(left, columns - self.size.width))

    def patch(self, top: int, left: int) -> Tensor:
        """Return a window as a normalised patch `(1, bands, h, w)` float32, with reflection beyond the picture."""
        height, width = self.size.height, self.size.width
        part = self.picture[:, top : top + height, left : left + width]
        beyond = ((0, 0), (0, height - part.shape[1]), (0, width - part.shape[2]))
        part = np.pad(part.astype(np.float32), beyond, mode="symmetric")
        columns = (*zip(*self.spans, strict=True), self.mean, self.std)
        low, high, mean, std = (np.array(values, np.float32)[:, None, None] for values in columns)
        unit = (np.clip(part, low, high) - low) / (high - low)
        return torch.from_numpy(((unit - mean) / std).astype(np.float32))[None]


def replay(predict: Callable[[Tensor], Tensor], windows: Windows) -> Trial:
    """Run a network over the whole picture, as many windows together as have the pixels of the picture.

    Args:
        predict: Patches `(n, bands, h, w)` float32 on the host to probabilities `(n, classes, h, w)`.
        windows: The windows of the picture.
    """
    rows, columns = windows.picture.shape[1:]
    starts = list(windows.starts())
    together = max(1, rows * columns // windows.size.pixels)
    parts = []
    for first in range(0, len(starts), together):
        patches = torch.cat([windows.patch(top, left) for top, left in starts[first : first + together]])
        parts.append(predict(patches).float().cpu())
    found = torch.cat(parts)
    probs = torch.zeros((found.shape[1], rows, columns))
    for (top, left), each in zip(starts, found, strict=True):
        height, width = min(windows.size.height, rows - top), min(windows.size.width, columns - left)
        probs[:, top : top + height, left : left + width] = each[:, :height, :width]
    return Trial(
        picture=windows.picture,
        labels=probs.argmax(dim=0).to(torch.uint8).numpy(),
        probs=probs[:, ::SPARSE, ::SPARSE].numpy(),
    )


def windows_of_description(description: ForeignDescription, picture: NDArray[Any]) -> Windows:
    """Return the windows of a picture, with the description's normalisation."""
    return Windows(
        picture=picture,
        size=input_size(description),
        spans=(tuple(description["range"]),) * len(description["mean"]),
        mean=tuple(description["mean"]),
        std=tuple(description["std"]),
    )


def windows_of_bundle(bundle: Bundle, picture: NDArray[Any]) -> Windows:
    """Return the windows of a picture, with a bundle's normalisation."""
    given = bundle.input
    spans = (given.range,) * len(given.mean)
    return Windows(picture=picture, size=given.size, spans=spans, mean=given.mean, std=given.std)


class Explorer:
    """Finds by trial how a network has to be called, and refuses what could not be used.

    Args:
        network: The network on the host, as its kind has loaded it.
        description: The values that are known. Those that the network contradicts are replaced.
        spec: The draft that the network was loaded with.
        windows: The windows of the picture.
    """

    def __init__(
        self,
        network: Callable[[Tensor], object],
        description: ForeignDescription,
        spec: ForeignSpec,
        windows: Windows,
    ) -> None:
        self._network = network
        self._windows = windows
        self._may_find_multiple = description.values["multiple"] is ASSUMED["multiple"]
        self.description = description
        self.spec = spec
        self._patch = windows.patch(*next(iter(windows.starts())))

    @torch.inference_mode()
    def explore(self) -> tuple[ForeignDescription, ForeignSpec]:
        """Return the description and the draft with what the trial has shown; `classes` is left to the caller.

        Raises:
            WeightsError: The network cannot be used, or contradicts what the user or the files say.
        """
        stated = self.spec.trim
        self.spec = replace(self.spec, trim=0)
        scores = self._first_scores()
        self._find_axes(scores)
        trim = self._find_geometry(stated)
        self._find_activation()
        self._leave_rim(trim)
        self._check_batch()
        return self.description, self.spec

    def _note(self, name: str, value: object, origin: str) -> None:
        self.description = self.description.with_value(name, value, origin)

    def _call(self, patches: Tensor) -> Tensor:
        """Return the chosen output for patches, as the network gives it. Its input is prepared as in the adapter."""
        return call_prepared(self._network, self.spec, patches)

    def _first_scores(self) -> Tensor:
        """Return the scores of the first patch, by the first way to call the network that it does not refuse.

        A frozen network with weights in half precision refuses patches in single precision.
        """
        try:
            return self._scores_by_batch()
        except WeightsError as error:
            if "Half" not in str(error) or self.spec.input_type != "float32":
                raise
            self.spec = replace(self.spec, input_type="float16")
            self._note("input_type", "float16", "trial pass: the network's weights are in half precision")
            return self._scores_by_batch()

    def _scores_by_batch(self) -> Tensor:
        errors: list[BaseException] = []
        for count in BATCHES:
            try:
                found = self._call(self._patch.expand(count, -1, -1, -1))
            except REFUSALS as error:
                if is_out_of_memory(error):
                    raise DeviceError(
                        "a single patch does not fit into memory",
                        value=str(input_size(self.description)),
                        advice="Give more memory with --gpu-memory, or a smaller size of patches with --input",
                    ) from error
                errors.append(error)
                continue
            if count > 1:
                self.spec = replace(self.spec, batch=count)
                self._note(
                    "batch", count, f"trial pass: the network takes {count} patches at a time and no other number"
                )
            return found
        first = errors[0]
        if isinstance(first, MagnetError):
            raise first
        if self.spec.multiple == 1 and self._find_multiple(lambda scores, _: scores.ndim == 4):  # noqa: PLR2004 - axes
            return self._scores_by_batch()
        line = (str(first).strip().splitlines() or [type(first).__name__])[-1][:200]
        raise WeightsError(
            f"the network refuses a patch of {tuple(self._patch.shape)}: {line}",
            file=self.description.reading.path,
            advice="Check --input, --network-bands, --multiple and --layout",
        ) from first

    def _find_multiple(self, fits: Callable[[Tensor, tuple[int, int]], bool]) -> bool:
        """Find the smallest number to whose multiples the patch may be padded, where nothing states one.

        Args:
            fits: Whether scores, as the network gives them, are right for rows and columns that it was given.

        Returns:
            Whether a number was found. Two sizes have to fit, so that none does so by chance.
        """
        if not self._may_find_multiple:
            return False
        rows, columns = self._patch.shape[2:]
        plain = replace(self.spec, multiple=1)
        for multiple in MULTIPLES:
            sides = [(rows + -rows % multiple + more, columns + -columns % multiple + more) for more in (0, multiple)]
            try:
                right = all(fits(call_prepared(self._network, plain, self._extended(each)), each) for each in sides)
            except (*REFUSALS, WeightsError):
                continue
            if right:
                self.spec = replace(self.spec, multiple=multiple)
                self._note("multiple", multiple, "trial pass: patches are padded to what the network works in")
                return True
        return False

    def _extended(self, sides: tuple[int, int]) -> Tensor:
        """Return the patch with its last row and column repeated up to other sides, as often as a batch is large."""
        (rows, columns), (height, width) = self._patch.shape[2:], sides
        patch = nn.functional.pad(self._patch, (0, width - columns, 0, height - rows), mode="replicate")
        return patch.expand(self.spec.batch or 1, -1, -1, -1)

    def _find_axes(self, scores: Tensor) -> None:
        """Find the axis of the classes, and their number."""
        shape, wanted = tuple(scores.shape), self.description.get("channels")
        if scores.ndim == 2 or (scores.ndim == 4 and (shape[2:] == (1, 1) or shape[1:3] == (1, 1))):  # noqa: PLR2004 - axes
            raise WeightsError(
                "the network gives one answer for a whole patch: it classifies patches and does not segment",
                value=shape,
                file=self.description.reading.path,
                advice="Take a network that gives scores for each pixel",
            )
        if scores.ndim != 4:  # noqa: PLR2004 - axes of a batch of maps
            raise WeightsError(
                "a network gives scores (patches, channels, rows, columns)",
                value=shape,
                file=self.description.reading.path,
                advice="Check --output-name, or export the network with these four axes, also that of a single channel",
            )
        height, width = self._patch.shape[2:]
        # Maps are about as large as the patch; the axis of the classes is the one that is not.
        first, last = (_fits(shape[2:], (height, width)), _fits(shape[1:3], (height, width)))
        is_last = last and (not first or (wanted is not None and shape[3] == wanted and shape[1] != wanted))
        if is_last:
            self.spec = replace(self.spec, output_layout="nhwc")
            self._note("output_layout", "nhwc", f"trial pass: the scores have the shape {shape}")
        channels = shape[3] if is_last else shape[1]
        if wanted is not None and channels != wanted:
            raise WeightsError(
                f"the description says {wanted} channels ({self.description.values['channels'].origin}), and the "
                "network gives another number",
                value=shape,
                file=self.description.reading.path,
                advice="Give the classes that the network has with --classes",
            )
        self.spec = replace(self.spec, channels=channels)
        self._note("channels", channels, "trial pass: the shape of the scores")

    def _leave_rim(self, trim: int) -> None:
        """Let patches be what the network gives scores for: what it takes less the rim."""
        if not trim:
            return
        self.spec = replace(self.spec, trim=trim)
        self._patch = self._patch[:, :, trim:-trim, trim:-trim]
        height, width = self._patch.shape[2:]
        origin = f"{self.description.values['input'].origin}, less a rim of {trim} pixels that gets no score"
        self._note("input", Size(width=width, height=height), origin)

    def _find_geometry(self, stated: int) -> int:
        """Find whether scores cover the whole patch or its centre, and refuse maps whose axes are exchanged.

        Returns:
            The pixels on each side of the patch that get no score.
        """
        rows, columns = self._scores().shape[2:]
        height, width = self._padded()
        if stated:
            if (rows, columns) != (height - 2 * stated, width - 2 * stated):
                raise WeightsError(
                    f"scores that lack {stated} pixels on each side of {width}x{height} have "
                    f"{width - 2 * stated}x{height - 2 * stated} pixels",
                    value=f"{columns}x{rows}",
                    file=self.description.reading.path,
                    advice="Check --trim and --input",
                )
            return stated
        if (rows, columns) == (height, width):
            self._check_place()
            return 0
        if not _divides((rows, columns), (height, width)) and self._find_multiple(self._covers):
            rows, columns = self._scores().shape[2:]
            height, width = self._padded()
            if (rows, columns) == (height, width):
                self._check_place()
                return 0
        missing = ((height - rows) // 2, (width - columns) // 2)
        may_trim = missing[0] == missing[1] > 0 and (height - rows) % 2 == 0 and (width - columns) % 2 == 0
        place = self._place_of(missing[0]) if may_trim else "whole"
        if place == "corner":
            raise WeightsError(
                f"scores of {columns}x{rows} pixels belong to the first rows and columns of {width}x{height}, so the "
                "last ones get none",
                file=self.description.reading.path,
                advice="Give an --input whose sides the network divides evenly, such as a multiple of 32",
            )
        if place == "centre":
            self._note("trim", missing[0], f"trial pass: {columns}x{rows} scores belong to the centre of the patch")
            return missing[0]
        if not _fits((rows, columns), (height, width)):
            raise WeightsError(
                f"scores have the patch's {width}x{height} pixels, or fewer down to a {COARSEST}th of each side",
                value=f"{columns}x{rows}",
                file=self.description.reading.path,
                advice="Check --input and --output-name",
            )
        origin = "trial pass: scores are enlarged to the patch"
        if not _divides((rows, columns), (height, width)):
            # Libraries enlarge such maps to the patch as well, so that this is what the network was trained with.
            origin += (
                f", whose {width}x{height} pixels are no multiple of {columns}x{rows}: labels in its last rows and "
                f"columns may lie up to {ceil(max(height / rows, width / columns))} pixels beside their place"
            )
        self._note("stride", round(height / rows, 3), origin)
        self._check_place()
        return 0

    def _covers(self, scores: Tensor, sides: tuple[int, int]) -> bool:
        """Return whether scores, as the network gives them, belong to whole squares of all the pixels it was given."""
        last = self.spec.output_layout == "nhwc"
        return _divides(tuple(scores.shape[1:3] if last else scores.shape[2:]), sides)

    def _padded(self) -> tuple[int, int]:
        height, width = self._patch.shape[2:]
        return height + -height % self.spec.multiple, width + -width % self.spec.multiple

    def _place_of(self, trim: int) -> str:
        """Return what part of the patch smaller scores belong to, as a change inside it shows.

        Returns:
            `whole`, or where a score belongs to one pixel `centre`, or `corner` for the first rows and columns.
        """
        found = self._felt()
        if found is None:
            return "whole"
        (row, column), (at_row, at_column) = found
        rows, columns = self._scores().shape[2:]
        height, width = self._padded()
        apart = {
            "whole": abs(row - at_row * rows / height) + abs(column - at_column * columns / width),
            "centre": abs(row - (at_row - trim)) + abs(column - (at_column - trim)),
            "corner": abs(row - at_row) + abs(column - at_column),
        }
        return min(apart, key=apart.__getitem__)

    def _check_place(self) -> None:
        """Refuse scores that lie mirrored about the diagonal: their rows would be columns."""
        found = self._felt()
        if found is None:
            return
        (row, column), (at_row, at_column) = found
        rows, columns = self._scores().shape[2:]
        height, width = self._padded()
        right = abs(row / rows - at_row / height) + abs(column / columns - at_column / width)
        exchanged = abs(row / rows - at_column / width) + abs(column / columns - at_row / height)
        if right > 2 * exchanged and right > 1 / 8:
            raise WeightsError(
                "a change in the rows of a patch changes the columns of the scores: the axes are exchanged",
                file=self.description.reading.path,
                advice="Check --layout, or export the network again",
            )

    def _felt(self) -> tuple[tuple[float, float], tuple[float, float]] | None:
        """Return where in the scores, and where in the patch, a change lies; None where the scores do not change.

        The change is a block off the diagonal, so that exchanged axes show.
        """
        height, width = self._patch.shape[2:]
        top, left, high, wide = (5 * height // 8, 3 * width // 8, max(1, height // 16), max(1, width // 16))
        changed = self._patch.clone()
        block = changed[:, :, top : top + high, left : left + wide]
        block.copy_(self._patch.amax(dim=(2, 3), keepdim=True) + self._patch.amin(dim=(2, 3), keepdim=True) - block)
        difference = (self._scores(changed) - self._scores()).abs().sum(dim=(0, 1))
        strongest = float(difference.max())
        if not strongest > 0:
            return None
        weights = torch.where(difference > strongest / 2, difference, 0.0)
        rows, columns = torch.meshgrid(*(torch.arange(side) + 0.5 for side in weights.shape), indexing="ij")
        total = weights.sum()
        felt = (float((weights * rows).sum() / total), float((weights * columns).sum() / total))
        return felt, (top + high / 2, left + wide / 2)

    def _scores(self, patch: Tensor | None = None) -> Tensor:
        """Return the scores `(1, channels, h', w')` float32 of a patch; of the first one where none is given."""
        given = self._patch if patch is None else patch
        count = self.spec.batch or 1
        found = self._call(given.expand(count, -1, -1, -1))[:1].float()
        return found.permute(0, 3, 1, 2) if self.spec.output_layout == "nhwc" else found

    def _find_activation(self) -> None:
        scores = self._scores()
        if not bool(torch.isfinite(scores).all()):
            raise WeightsError(
                "the network gives values that are not numbers for the trial's picture",
                file=self.description.reading.path,
                advice="Check --range, --mean and --std",
            )
        least, most = float(scores.min()), float(scores.max())
        if self.spec.channels == 1 and (most > 1 or most > least) and bool((scores == scores.round()).all()):
            raise WeightsError(
                "the network gives the numbers of classes instead of scores, so nothing can be refined or blended",
                value=f"whole numbers from {least:g} to {most:g}",
                file=self.description.reading.path,
                advice="Export the network again without its last step, argmax or a threshold",
            )
        inside = least >= -SUM and most <= 1 + SUM
        sums = bool(((scores.sum(dim=1) - 1).abs() < SUM).all())
        said, unclaimed = f"scores from {least:.3g} to {most:.3g}", self._unclaimed_class()
        if unclaimed is not None:
            self._check_independence(unclaimed, sums=inside and sums)
        if self.description.get("activation") is None:
            self._deduce_activation(inside=inside, sums=sums, said=said)
        else:
            self._check_activation(inside=inside, sums=sums, least=least, said=said)
        self.spec = replace(self.spec, activation=self.description["activation"])

    def _check_activation(self, *, inside: bool, sums: bool, least: float, said: str) -> None:
        """Refuse an activation that a file or the user states and the scores contradict."""
        stated, several, unclaimed = self.description["activation"], self.spec.channels > 1, self._unclaimed_class()
        origin, file = self.description.values["activation"].origin, self.description.reading.path
        if stated == "softmax" and not several:
            raise WeightsError("one channel has no softmax: its score is that of the second of two classes",
                value=origin, advice="Give --activation sigmoid")  # fmt: skip
        if inside and (stated == "sigmoid" or (stated == "softmax" and sums)):
            # The sigmoid of a probability is above one half: all pixels of a network with one score would be of the
            # second class.
            none = INDEPENDENT if several and not sums and unclaimed is None else "Give --activation none"
            raise WeightsError(
                "the scores of each pixel lie from 0 to 1: they are probabilities already",
                value=f"{said}, activation {stated} ({origin})",
                file=file,
                advice=f"{none}; or --sample IMAGE, if the scores of your images lie elsewhere",
            )
        if stated == "none" and not (inside and (sums or not several or unclaimed is not None)):
            raise WeightsError(
                "with activation none the scores of a pixel are probabilities, from 0 to 1, whose sum is 1",
                value=f"{said}, activation none ({origin})",
                file=file,
                advice=INDEPENDENT if inside else "Give --activation softmax or sigmoid",
            )
        if stated == "share" and least < -SUM:
            raise WeightsError("scores that are divided by their sum are at least 0", value=said,
                file=file, advice="Give --activation softmax")  # fmt: skip
        if stated == "sigmoid" and several and unclaimed is None:
            more = "the likeliest class wins, also where none is likely: --classes ...,NAME=none is for such pixels"
            self._note("activation", stated, f"{origin}; {more}")

    def _unclaimed_class(self) -> str | None:
        """Return the name of the class of pixels that no channel claims; None where there is no such class."""
        classes = self.description.get("classes")
        if not isinstance(classes, tuple):
            return None
        return next((each.name for each in classes if each.unclaimed), None)

    def _check_independence(self, name: str, *, sums: bool) -> None:
        """Refuse a class of unclaimed pixels where the probabilities of a pixel sum to one, so that none is left."""
        stated = self.description.get("activation")
        if self.spec.channels > 1 and stated in (None, "sigmoid", "none") and not sums:
            return
        is_softmax = stated == "softmax" and not sums
        raise UsageError(
            f"the probabilities of a pixel's classes sum to one, so that no pixel is left for {name}=none",
            value=f"activation {stated}, {self.spec.channels} channels",
            advice="Give --activation sigmoid, if each class was trained by itself"
            if is_softmax
            else f"Leave {name}=none out of --classes",
        )

    def _deduce_activation(self, *, inside: bool, sums: bool, said: str) -> None:
        several, unclaimed = self.spec.channels > 1, self._unclaimed_class() is not None
        if not inside:
            name = "softmax" if several and not unclaimed else "sigmoid"
            self._note("activation", name, f"trial pass: {said}, so they are logits")
        elif several and sums:
            self._note("activation", "none", "trial pass: the scores of each pixel sum to one")
        elif several and unclaimed:
            self._note("activation", "none", f"trial pass: {said}, so they are probabilities of single classes")
        else:
            raise WeightsError(
                "nothing states what makes probabilities of the scores, and the trial pass does not tell",
                value=said,
                file=self.description.reading.path,
                advice=f"For probabilities: {INDEPENDENT[0].lower()}{INDEPENDENT[1:]}. For logits: give --activation "
                "softmax or sigmoid"
                if several
                else "Give --activation none for probabilities, sigmoid for logits",
            )

    def _check_batch(self) -> None:
        """Refuse results that change from call to call, or with what else is in a batch; find a batch of one."""
        spec = self.spec
        channels = range(max(2, spec.channels))
        adapted = Adapted(self._network, spec=replace(spec, classes=tuple((index,) for index in channels)))
        one = adapted(self._patch)
        if float((adapted(self._patch) - one).abs().max()) > SAME:
            raise WeightsError(
                "the network gives another result for the same patch when it is called again",
                file=self.description.reading.path,
                advice="Switch dropout and other randomness off: a mask has to be the same when it is computed again",
            )
        if spec.batch:
            return
        try:
            # The second patch differs from the first: norms in training mode, which mix the patches of a batch, then
            # show.
            two = adapted(torch.cat((self._patch, self._patch.flip(3))))
        except (*REFUSALS, WeightsError):
            self.spec = replace(spec, batch=1)
            self._note("batch", 1, "trial pass: the network takes one patch at a time")
            return
        apart = float((two[:1] - one).abs().max())
        if apart > SAME:
            raise WeightsError(
                "the result for a patch depends on the other patches of its batch",
                value=f"probabilities up to {apart:.3g} apart",
                file=self.description.reading.path,
                advice="Save the network in evaluation mode: network.eval()",
            )


def call_prepared(network: Callable[[Tensor], object], spec: ForeignSpec, patches: Tensor) -> Tensor:
    """Return the chosen output of a network, with the axes that it has, for patches `(n, bands, h, w)`."""
    return select_output(network(Adapted(network, spec=spec).prepared(patches)), spec.output)


def _divides(found: tuple[int, ...], patch: tuple[int, int]) -> bool:
    """Return whether each score of a map belongs to a square of so many pixels of the patch, and none is left over."""
    (rows, columns), (height, width) = found, patch
    return height % rows == 0 and width % columns == 0 and height // rows == width // columns


def _fits(found: tuple[int, ...], patch: tuple[int, int]) -> bool:
    """Return whether a map may be one of scores: it has a 32nd of the patch's sides to all, the same share of both."""
    (rows, columns), (height, width) = found, patch
    return covers_patch(found, patch) and abs(rows / height - columns / width) < 1 / height + 1 / width

"""A network from elsewhere as backbones are called: patches of the plan's size to probabilities of each pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from magnet_cli.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from magnet_cli.models.foreign.foreign_spec import ForeignSpec

COARSEST = 32
"""Largest number of pixels a side for one score: networks for segmentation end at strides of up to 32. One score for a
whole patch comes from a network that classifies patches, whose mask would look plausible and mean nothing."""
INPUT_TYPES = {
    "float32": torch.float32, "float16": torch.float16, "float64": torch.float64, "uint8": torch.uint8
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RawScores:
    """The scores of a network as it gives them, with the axes in the program's order."""

    values: Tensor
    """`(n, channels, h', w')` float32: fewer pixels than the patch where the network works at a stride or does not
    pad."""
    covered: tuple[int, int]
    """Rows and columns, in pixels of the patch and from its first one, that the scores belong to."""


def select_output(found: object, name: str) -> Tensor:
    """Return the tensor of scores among what a network returned.

    Args:
        found: A tensor, or tensors in a mapping, in a sequence, or in an object with attributes.
        name: Name or number of the output; empty where there is only one to choose.

    Raises:
        WeightsError: The network returned several outputs and none is named, or none of that name, or the output is no
            tensor of floating-point numbers.
    """
    known = _outputs(found)
    if not name and len(known) > 1:
        raise WeightsError(
            "the network has several outputs",
            value=", ".join(known),
            advice=f"Give --output-name {next(iter(known))}, or whichever holds the scores of the classes",
        )
    chosen = known.get(name) if name else next(iter(known.values()), None)
    if chosen is None:
        raise WeightsError(
            "the network has no output of this name" if name else "the network returned no tensor",
            value=name or type(found).__name__,
            advice=f"Give --output-name one of: {', '.join(known) or 'none'}",
        )
    if not chosen.is_floating_point():
        raise WeightsError(
            "the network gives whole numbers instead of scores, so nothing can be refined or blended",
            value=str(chosen.dtype).removeprefix("torch."),
            advice="Export the network again without its last step, argmax",
        )
    return chosen


def _outputs(found: object) -> dict[str, Tensor]:
    if isinstance(found, Tensor):
        return {"0": found}
    if isinstance(found, Mapping):
        return {str(key): value for key, value in found.items() if isinstance(value, Tensor)}
    if isinstance(found, Sequence):
        return {str(index): value for index, value in enumerate(found) if isinstance(value, Tensor)}
    return {}


class Adapted(nn.Module):
    """Calls a network from elsewhere with patches, and makes probabilities of the classes of what it returns.

    Scores at fewer pixels than the patch has are first enlarged (bilinear, pixel centres aligned) and then activated:
    the other order gave 0.9 % of a SegFormer's pixels another label.

    Args:
        network: The network, as its kind loads it.
        spec: Facts with which the network is called.
    """

    def __init__(self, network: Callable[[Tensor], object], *, spec: ForeignSpec) -> None:
        super().__init__()
        self._network = network
        self.spec = spec

    def forward(self, x: Tensor) -> Tensor:
        """Map `(n, bands, h, w)` float32 to probabilities `(n, classes, h, w)` float32."""
        step = self.spec.batch
        if not step or len(x) == step:
            return self._probabilities(x)
        parts = []
        for start in range(0, len(x), step):
            part = x[start : start + step]
            # A network that takes a fixed number of patches gets copies of the last one, which are dropped again.
            full = torch.cat([part, part[-1:].expand(step - len(part), -1, -1, -1)]) if len(part) < step else part
            parts.append(self._probabilities(full)[: len(part)])
        return torch.cat(parts)

    def raw(self, x: Tensor) -> RawScores:
        """Return the scores of patches `(n, bands, h, w)`, before they are enlarged or activated.

        Raises:
            WeightsError: The network returns something else than scores of pixels.
        """
        spec = self.spec
        padded = self.padded(x)
        scores = select_output(self._network(self.prepared(x)), spec.output)
        if scores.ndim == 4 and spec.output_layout == "nhwc":  # noqa: PLR2004 - axes of a batch of maps
            scores = scores.permute(0, 3, 1, 2)
        self._check(scores, count=len(x), padded=padded)
        trim = 2 * self.spec.trim
        return RawScores(values=scores.float(), covered=(padded[0] - trim, padded[1] - trim))

    def padded(self, x: Tensor) -> tuple[int, int]:
        """Return the rows and columns of patches with a rim that gets no score, as multiples that the network takes."""
        rows, columns = (side + 2 * self.spec.trim for side in x.shape[2:])
        return rows + -rows % self.spec.multiple, columns + -columns % self.spec.multiple

    def prepared(self, x: Tensor) -> Tensor:
        """Return the patches `(n, bands, h, w)` float32 as the network takes them: padded, typed, and with its axes."""
        spec = self.spec
        (rows, columns), (height, width), trim = x.shape[2:], self.padded(x), spec.trim
        if (height, width) != (rows, columns):
            beyond = (trim, width - columns - trim, trim, height - rows - trim)
            # PyTorch reflects at most one pixel less than a side has.
            mode = "reflect" if max(beyond[:2]) < columns and max(beyond[2:]) < rows else "replicate"
            x = nn.functional.pad(x, beyond, mode=mode)
        if spec.input_type == "uint8":
            # Conversion to bytes cuts decimals off, and a value may lie a little below the stored one.
            x = x.round().clamp(0, 255)
        x = x.to(INPUT_TYPES[spec.input_type])
        return x.permute(0, 2, 3, 1).contiguous() if spec.layout == "nhwc" else x

    def _check(self, scores: Tensor, *, count: int, padded: tuple[int, int]) -> None:
        spec, (height, width) = self.spec, padded
        shape = tuple(scores.shape)
        if scores.ndim == 2 or (scores.ndim == 4 and shape[2:] == (1, 1) and min(padded) > COARSEST):  # noqa: PLR2004 - axes
            raise WeightsError(
                "the network gives one answer for a whole patch: it classifies patches and does not segment",
                value=shape,
                advice="Take a network that gives scores for each pixel",
            )
        if scores.ndim != 4 or shape[:2] != (count, spec.channels):  # noqa: PLR2004 - axes of a batch of maps
            raise WeightsError(
                f"for {count} patches the network gives scores ({count}, {spec.channels}, rows, columns)",
                value=shape,
                advice="Check --classes, --layout and --output-name",
            )
        rows, columns = shape[2:]
        if spec.trim:
            right = (rows, columns) == (height - 2 * spec.trim, width - 2 * spec.trim)
            if not right:
                raise WeightsError(
                    f"scores that lack {spec.trim} pixels on each side of {width}x{height} have "
                    f"{width - 2 * spec.trim}x{height - 2 * spec.trim} pixels",
                    value=f"{columns}x{rows}",
                    advice="Check --trim and --input",
                )
        elif not covers_patch((rows, columns), padded):
            raise WeightsError(
                f"scores have the patch's {width}x{height} pixels, or fewer down to a {COARSEST}th of each side",
                value=f"{columns}x{rows}",
                advice="Check --input",
            )

    def _probabilities(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        raw = self.raw(x)
        scores = enlarged(raw.values, raw.covered)[:, :, :height, :width]
        return added_up(activated_scores(scores, self.spec.activation), self.spec.classes)


def covers_patch(sides: Sequence[int], patch: Sequence[int]) -> bool:
    """Return whether a map of these rows and columns may hold the scores of a patch: a 32nd of each side or more."""
    return all(side / COARSEST <= found <= side for found, side in zip(sides, patch, strict=True))


def enlarged(scores: Tensor, sides: Sequence[int]) -> Tensor:
    """Return scores `(n, channels, h', w')` at other rows and columns: bilinear, pixel centres aligned."""
    if tuple(scores.shape[2:]) == tuple(sides):
        return scores
    return nn.functional.interpolate(scores, size=tuple(sides), mode="bilinear", align_corners=False)


def activated_scores(scores: Tensor, activation: str) -> Tensor:
    """Return probabilities `(n, max(2, channels), h, w)`; a single channel is the probability of the second of two."""
    if activation == "share":
        # Sums of a mask classifier's queries are no probabilities: where all masks are faint, all classes are.
        return scores / scores.sum(dim=1, keepdim=True).clamp_min(torch.finfo(scores.dtype).tiny)
    if activation == "softmax" and scores.shape[1] > 1:
        return scores.softmax(dim=1)
    probs = scores if activation == "none" else scores.sigmoid()
    return torch.cat((1 - probs, probs), dim=1) if probs.shape[1] == 1 else probs


def added_up(probs: Tensor, classes: Sequence[Sequence[int]]) -> Tensor:
    """Return the probabilities of classes.

    Args:
        probs: The probabilities of channels, `(n, channels, h, w)`.
        classes: The channels of each class, whose probabilities are added up. A class without channels has what no
            channel claims. Where there is one, channels are independent: the sum of two may be more than 1, and their
            largest probability is taken.

    Returns:
        The probabilities `(n, classes, h, w)`.
    """
    if [list(each) for each in classes] == [[index] for index in range(probs.shape[1])]:
        return probs
    if all(classes):
        return torch.stack([probs[:, list(each)].sum(dim=1) for each in classes], dim=1)
    parts = [probs[:, list(each)].amax(dim=1) if each else 1 - probs.amax(dim=1) for each in classes]
    return torch.stack(parts, dim=1)

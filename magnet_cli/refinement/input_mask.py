"""The mask that is refined: a raster of labels, of one object or of probabilities, read as labels by region."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from magnet_cli.errors import SourceError, UsageError
from magnet_cli.geometry import Box, Size
from magnet_cli.images.labels import LOSSY_ADVICE, open_stored
from magnet_cli.images.protocol import NODATA
from magnet_cli.masks.spec import parts
from magnet_cli.refinement.mask_kinds import Reading, Stored, decide
from magnet_cli.system.closing import Closing

if TYPE_CHECKING:
    from fractions import Fraction
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.images.labels import LabelImage
    from magnet_cli.refinement.mask_kinds import MaskKind

SIDE = 2048
"""Side in pixels of the squares in which the values of a mask are collected."""
MOST_VALUES = 1 << 10
"""Most different values that are collected. A raster with more holds no classes."""


class InputMask(Closing):
    """An open mask. Close it, or use it as a context manager.

    Args:
        raster: The open file.
        reading: The interpretation of its values.
        threshold: Probability above which a pixel belongs to the object, 0 to 1.
        resources: Closed together with the mask.
    """

    def __init__(self, raster: LabelImage, reading: Reading, *, threshold: Fraction, resources: ExitStack) -> None:
        self.path = raster.path
        self.reading = reading
        self.largest = 0.0
        """The largest stored value that was read so far."""
        self._raster = raster
        self._resources = resources
        whole = np.dtype(raster.dtype)
        # Integers hold a probability over the whole range of their type: 255 of uint8 stands for 1.
        self._scale = 1.0 if whole.kind in "fb" else float(np.iinfo(whole).max)
        self._cut = float(threshold) * self._scale

    @property
    def size(self) -> Size:
        """The size of the mask in pixels."""
        return self._raster.size

    @property
    def resident_bytes(self) -> int:
        """The most bytes of memory that the mask keeps between reads."""
        return self._raster.resident_bytes

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user on how the values are interpreted, and why."""
        kinds = {
            "binary": "a binary mask",
            "labels": f"class indices (classes: {len(self.reading.classes)})",
            "probability": f"a probability (above {self._cut:g} of {self._scale:g} is the object)",
        }
        missing = () if self._has_background else self._raster.notes
        return (f"{self.path}: read as {kinds[self.reading.kind]}, because {self.reading.why}", *missing)

    @property
    def _has_background(self) -> bool:
        """Whether the nodata value means the background: if 0 were unknown, no object of such a file could grow."""
        return self._raster.nodata == 0 and self.reading.kind != "labels"

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Read the labels of a box inside the mask, `(height, width)` uint8; 255 where they are not known.

        Raises:
            SourceError: The box cannot be decoded, or has values that are no probability.
        """
        values, valid = self._raster.read_stored(box)
        if self._has_background:
            valid = None
        known = np.ones(values.shape, bool) if valid is None else valid
        if values.dtype.kind == "f":
            # Floating-point masks mark unknown pixels by NaN.
            known = known & np.isfinite(values)
        if known.any():
            self.largest = max(self.largest, float(values[known].max()))
        labels = self._labels(values, known)
        if self.reading.nodata:
            labels[values == NODATA] = NODATA
        labels[~known] = NODATA
        return labels

    def read_probability(self, box: Box) -> NDArray[np.float32]:
        """Read the probability of the object in a box of a mask of kind `probability`.

        Returns:
            `(height, width)` float32 in [0, 1]. Values are meaningless where `read` returns 255.
        """
        values, _ = self._raster.read_stored(box)
        shares: NDArray[np.float32] = values.astype(np.float32) / np.float32(self._scale)
        return np.nan_to_num(shares).clip(0, 1)

    def close(self) -> None:
        """Close the file, and delete temporary files that reading it needed."""
        self._resources.close()

    def _labels(self, values: NDArray[Any], known: NDArray[np.bool_]) -> NDArray[np.uint8]:
        if self.reading.kind == "labels":
            return np.array(values, dtype=np.uint8)
        if self.reading.objects:
            return np.isin(values, self.reading.objects).astype(np.uint8)
        if self.reading.kind == "binary":
            return np.array(values != 0, dtype=np.uint8)
        if values.dtype.kind == "f" and known.any():
            low, high = float(values[known].min()), float(values[known].max())
            if low < 0 or high > 1:
                raise SourceError(
                    "a probability is 0 to 1",
                    value=f"{low:g} to {high:g}",
                    file=self.path,
                    advice="Turn scores into probabilities first, or threshold them into a binary mask; save class "
                    "indices as whole numbers (uint8)",
                )
        # NumPy warns of comparisons with NaN. Such pixels are unknown, and are marked by the caller.
        with np.errstate(invalid="ignore"):
            return np.array(values > self._cut, dtype=np.uint8)


def open_mask(
    source: str | Path,
    *,
    kind: MaskKind | Literal["auto"],
    threshold: Fraction,
    is_given: bool = False,
    objects: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
    names: tuple[str, ...] = (),
) -> InputMask:
    """Open a raster of one band as a mask. Its values are read once to find out what they mean.

    Args:
        source: A file in a format that `magnet_cli.images` reads.
        kind: The interpretation of its values that the user asks for.
        threshold: Probability above which a pixel belongs to the object, 0 to 1.
        is_given: Whether the user gave the threshold, which is an error for a mask without probabilities.
        objects: Names or indices of classes that together are the object. If empty, `kind` says what the object is.
        only: Names or indices of classes that are refined while the others stay.
        names: Names of the classes that are known from elsewhere, for a file without names.

    Raises:
        SourceError: The file is missing or damaged, has several bands, or its values do not fit the interpretation.
        UsageError: A threshold was given and the mask holds no probability, or a class is unknown.
    """
    with ExitStack() as stack:
        raster = stack.enter_context(open_stored(source))
        if raster.bands != 1:
            raise SourceError(
                "a mask has one band",
                value=raster.bands,
                file=raster.path,
                advice="Save it as grey, as class indices or as a probability",
            )
        # The values are read before the interpretation is decided: the type of a file rarely tells labels from
        # probabilities.
        stored = _stored(raster)
        if objects or only or not stored.is_zero_and_one:
            stored = stored.named(names)
        reading = decide(stored, kind, objects, only)
        if raster.lossy is not None and reading.kind != "probability" and not stored.is_full_scale:
            raise SourceError(
                f"{raster.lossy} compression changes values near borders, so a {raster.lossy} file cannot be read as "
                f"{reading.kind}",
                file=raster.path,
                advice=f"{LOSSY_ADVICE}. Of one object give --mask-kind probability, which takes the values above the "
                "middle",
            )
        if is_given and reading.kind != "probability":
            raise UsageError(
                "--threshold is for probabilities",
                value=f"{raster.path} is read as {reading.kind}, because {reading.why}",
                advice="Leave --threshold out, or give --mask-kind probability",
            )
        return InputMask(raster, reading, threshold=threshold, resources=stack.pop_all())


def _stored(raster: LabelImage) -> Stored:
    is_whole = np.dtype(raster.dtype).kind != "f"
    return Stored(
        path=raster.path,
        dtype=raster.dtype,
        values=_values(raster) if is_whole else (),
        classes=raster.classes,
        indexed=raster.indexed,
    )


def _values(raster: LabelImage) -> tuple[int, ...]:
    """Return the values that occur, in rising order; of very many some, with the smallest and the largest."""
    found: set[int] = set()
    for part in parts(Box.whole(raster.size), SIDE):
        values, valid = raster.read_stored(part.box)
        found.update(np.unique(values if valid is None else values[valid]).tolist())
        # The smallest and the largest value tell what a message needs; the set must not grow with a 16-bit raster.
        if len(found) > MOST_VALUES:
            found = {min(found), max(found), *sorted(found)[:MOST_VALUES]}
    return tuple(sorted(found))

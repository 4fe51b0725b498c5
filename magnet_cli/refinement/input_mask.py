"""A mask that something else made, read as labels whatever its file holds."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from magnet_cli.errors import SourceError, UsageError
from magnet_cli.geometry import Box, Size
from magnet_cli.images.labels import open_region
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
"""Of the squares in which a mask is read."""
MOST_VALUES = 1 << 10
"""Different values of a raster that are told apart; one with more holds no classes."""


class InputMask(Closing):
    """An opened mask; close it, or use it as a context.

    Args:
        raster: Its file.
        reading: How its values are read.
        threshold: Above which a probability belongs to the object.
        resources: Closed with it.
    """

    def __init__(self, raster: LabelImage, reading: Reading, *, threshold: Fraction, resources: ExitStack) -> None:
        self.path = raster.path
        self.reading = reading
        self.largest = 0.0
        """The largest value that was read until now, as it is stored."""
        self._raster = raster
        self._resources = resources
        whole = np.dtype(raster.dtype)
        self._scale = 1.0 if whole.kind in "fb" else float(np.iinfo(whole).max)
        self._cut = float(threshold) * self._scale

    @property
    def size(self) -> Size:
        """In pixels."""
        return self._raster.size

    @property
    def resident_bytes(self) -> int:
        """Memory that it keeps between reads, at most."""
        return self._raster.resident_bytes

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how it is read."""
        kinds = {
            "binary": "a binary mask",
            "labels": f"class indices (classes: {len(self.reading.classes)})",
            "probability": f"a probability (above {self._cut:g} of {self._scale:g} is the object)",
        }
        return (f"{self.path}: read as {kinds[self.reading.kind]}, because {self.reading.why}",)

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Labels of a box inside the mask, `(height, width)` uint8; 255 where they are not known.

        Raises:
            SourceError: It cannot be decoded, or holds values that are no probability.
        """
        values, valid = self._raster.read_stored(box)
        # A file that calls 0 missing means the background: else nothing could grow beyond its edge.
        if valid is not None and self._raster.nodata == 0 and self.reading.kind != "labels":
            valid = None
        known = np.ones(values.shape, bool) if valid is None else valid
        if values.dtype.kind == "f":
            known = known & np.isfinite(values)
        if known.any():
            self.largest = max(self.largest, float(values[known].max()))
        labels = self._labels(values, known)
        if self.reading.nodata:
            labels[values == NODATA] = NODATA
        labels[~known] = NODATA
        return labels

    def read_probability(self, box: Box) -> NDArray[np.float32]:
        """How probable the object is in a box of a mask that is read so, `(height, width)` float32 0 to 1.

        What it says where `read` says 255 means nothing.
        """
        values, _ = self._raster.read_stored(box)
        shares: NDArray[np.float32] = values.astype(np.float32) / np.float32(self._scale)
        return np.nan_to_num(shares).clip(0, 1)

    def close(self) -> None:
        """Release files and the disk used."""
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
    """A raster of one band, read as labels; its values are looked through once to see what they are.

    Args:
        source: Any file that `magnet_cli.images` reads.
        kind: How its values are read.
        threshold: Above which a probability belongs to the object, 0 to 1.
        is_given: Whether the user named the threshold, which then must count.
        objects: Names or indices of classes that are the object together; none: as `kind` says.
        only: Names or indices of classes that are chosen from others, which stay.
        names: Of the classes, where they are known from elsewhere and the file does not name them.

    Raises:
        SourceError: It is missing, damaged, has several bands, or values that cannot be read so.
        UsageError: A threshold was given and the mask holds no probability, or a class is unknown.
    """
    with ExitStack() as stack:
        raster = stack.enter_context(open_region(source))
        if raster.bands != 1:
            raise SourceError(
                "a mask has one band",
                value=raster.bands,
                file=raster.path,
                advice="Save it as grey, as class indices or as a probability",
            )
        stored = _stored(raster)
        if objects or only or not stored.is_zero_and_one:
            stored = stored.named(names)
        reading = decide(stored, kind, objects, only)
        if is_given and reading.kind != "probability":
            raise UsageError(
                "--threshold is for probabilities",
                value=f"{raster.path} is read as {reading.kind}, because {reading.why}",
                advice="Leave it out, or say --mask-kind probability",
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
    """The values that occur, rising; of very many only some, the smallest and the largest among them."""
    found: set[int] = set()
    for part in parts(Box.whole(raster.size), SIDE):
        values, valid = raster.read_stored(part.box)
        found.update(np.unique(values if valid is None else values[valid]).tolist())
        if len(found) > MOST_VALUES:
            found = {min(found), max(found), *sorted(found)[:MOST_VALUES]}
    return tuple(sorted(found))

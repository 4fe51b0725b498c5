"""Stored pixels: what a backend provides, and views of it that correct the orientation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from magnet_cli.geometry import Box, Size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Pixels(NamedTuple):
    """A box of stored pixels."""

    values: NDArray[Any]
    """`(height, width, bands)` in the image's dtype."""
    valid: NDArray[np.bool_] | None
    """Pixels that hold data; None where all do. `(height, width)`, or `(height, width, bands)` where bands differ: a
    pixel then holds data where one of them does. Floats that are no numbers are left to the reader."""

    @property
    def nbytes(self) -> int:
        """Memory that the pixels take."""
        return self.values.nbytes + (0 if self.valid is None else self.valid.nbytes)

    def only(self, bands: tuple[int, ...] | None) -> Pixels:
        """Return some of the bands by their positions; None returns all."""
        if bands is None:
            return self
        apart = self.valid is not None and self.valid.ndim > 2  # noqa: PLR2004 (height and width)
        valid = self.valid[:, :, list(bands)] if self.valid is not None and apart else self.valid
        return Pixels(self.values[:, :, list(bands)], valid)


class Store(Protocol):
    """Random access to the stored levels of an image; safe from several threads at once."""

    def block(self, level: int) -> Size:
        """Return the size of the blocks in which a level is best read, such as its tiles."""

    def fetch(self, level: int, box: Box, bands: tuple[int, ...] | None = None) -> Pixels:
        """Return the pixels of a box inside a stored level.

        Args:
            level: Index of the stored level, 0 for the finest.
            box: Box on the grid of that level.
            bands: Positions of the bands that are wanted, rising; None for all. Where bands are stored apart, no others
                are read, and no others say which pixels hold data.

        Raises:
            SourceError: The pixels cannot be decoded; the error names the file and the place.
        """

    def close(self) -> None:
        """Release the store's files and memory."""


class MemoryStore:
    """An image without reduced levels, held in memory.

    Args:
        values: `(height, width, bands)`.
        valid: `(height, width)`, or None.
    """

    def __init__(self, values: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> None:
        self._pixels = Pixels(values, valid)

    def block(self, level: int) -> Size:  # noqa: ARG002 (there is one level)
        """Return the size of the whole image, which lies in memory."""
        height, width = self._pixels.values.shape[:2]
        return Size(width=width, height=height)

    def fetch(self, level: int, box: Box, bands: tuple[int, ...] | None = None) -> Pixels:  # noqa: ARG002 (one level)
        """Return a view of the pixels in a box."""
        values, valid = self._pixels
        return Pixels(values[box.slices], None if valid is None else valid[box.slices]).only(bands)

    def close(self) -> None:
        """Release the memory of the pixels."""
        self._pixels = Pixels(np.empty((0, 0, 1), np.uint8), None)


class OrientedStore:
    """A store whose levels are rotated and mirrored to the upright orientation.

    Args:
        store: Store of the pixels in the orientation of the file.
        sizes: Sizes of the stored levels in the orientation of the file.
        orientation: 2 to 8, as the TIFF and EXIF tag 274 has it.
    """

    def __init__(self, store: Store, sizes: Sequence[Size], orientation: int) -> None:
        self._store = store
        self._sizes = tuple(sizes)
        self._transpose = orientation in TRANSPOSED
        # Tag 274 names the visual sides of row 0 and column 0; the flips are those left after the transposition.
        self._flip_x = orientation in (2, 3, 6, 7)
        self._flip_y = orientation in (3, 4, 7, 8)

    def block(self, level: int) -> Size:
        """Return the block size of the wrapped store, with width and height swapped where the rotation swaps them."""
        size = self._store.block(level)
        return oriented(size, 5) if self._transpose else size

    def fetch(self, level: int, box: Box, bands: tuple[int, ...] | None = None) -> Pixels:
        """Return the upright pixels of a box on the upright grid of a level."""
        size = oriented(self._sizes[level], 5 if self._transpose else 1)
        x = size.width - box.right if self._flip_x else box.x
        y = size.height - box.bottom if self._flip_y else box.y
        width, height = box.width, box.height
        if self._transpose:
            x, y, width, height = y, x, height, width
        values, valid = self._store.fetch(level, Box(x=x, y=y, width=width, height=height), bands)
        return Pixels(self._turn(values), None if valid is None else self._turn(valid))

    def close(self) -> None:
        """Close the wrapped store."""
        self._store.close()

    def _turn(self, array: NDArray[Any]) -> NDArray[Any]:
        if self._transpose:
            array = array.swapaxes(0, 1)
        return array[:: -1 if self._flip_y else 1, :: -1 if self._flip_x else 1]


TRANSPOSED = (5, 6, 7, 8)
"""Orientations that exchange rows and columns."""


def oriented(size: Size, orientation: int) -> Size:
    """Return a size after the orientation was corrected."""
    return Size(width=size.height, height=size.width) if orientation in TRANSPOSED else size

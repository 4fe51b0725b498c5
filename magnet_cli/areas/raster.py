"""An area given by a raster of the image's shape, of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.geometry import Box, Size

if TYPE_CHECKING:
    from collections.abc import Callable
    from fractions import Fraction

    from numpy.typing import NDArray

    from magnet_cli.geometry import Pitch

MOST_CELLS = 2048
"""Most squares along the longer side. The area is known to touch each square or not."""
STRIP_PIXELS = 4 << 20
"""Most pixels of the raster that are held at a time."""


class Raster:
    """The pixels of a raster that lie in the area; the nearest one decides about each pixel of the image.

    Args:
        read: Function that returns a box of the raster, `(height, width)`, True in the area; any thread calls it.
        size: Size of the raster in pixels.
        image: Size of the image's level 0 in pixels.
    """

    def __init__(self, read: Callable[[Box], NDArray[np.bool_]], *, size: Size, image: Size) -> None:
        self._read = read
        self._size = size
        self._image = image
        self._side = -(-max(size.width, size.height) // MOST_CELLS)
        self._cells, self._share = self._survey()

    @property
    def share(self) -> float:
        """The share of the image, 0 to 1."""
        return self._share

    def touches(self, box: Box) -> bool:
        """Return whether something of a level-0 box may lie in the area."""
        box = box.intersection(Box.whole(self._image))
        if not box.area:
            return False
        columns = self._cells_of(box.x, box.right, self._size.width, self._image.width)
        rows = self._cells_of(box.y, box.bottom, self._size.height, self._image.height)
        return bool(self._cells[rows, columns].any())

    def mask(self, box: Box, pitch: Pitch) -> NDArray[np.bool_]:
        """Return where the centres of pixels lie in the area, `(box.height, box.width)` bool."""
        columns = nearest(box.x, box.right, pitch.x * self._size.width / self._image.width, self._size.width)
        rows = nearest(box.y, box.bottom, pitch.y * self._size.height / self._image.height, self._size.height)
        inside = np.empty((box.height, box.width), bool)
        top = 0
        while top < box.height:
            reach = rows[top] + max(1, STRIP_PIXELS // int(columns[-1] + 1 - columns[0]))
            bottom = int(np.searchsorted(rows, reach))
            part = Box.between(
                left=int(columns[0]), top=int(rows[top]), right=int(columns[-1]) + 1, bottom=int(rows[bottom - 1]) + 1
            )
            inside[top:bottom] = self._read(part)[np.ix_(rows[top:bottom] - part.y, columns - part.x)]
            top = bottom
        return inside

    def _cells_of(self, begin: int, end: int, stored: int, length: int) -> slice:
        return slice(begin * stored // length // self._side, -(-end * stored // length) // self._side + 1)

    def _survey(self) -> tuple[NDArray[np.bool_], float]:
        """Return which squares of the raster hold pixels of the area, and the area's share of all pixels.

        All of it is read once.
        """
        found: list[NDArray[np.bool_]] = []
        inside = 0
        columns = np.arange(0, self._size.width, self._side)
        for top in range(0, self._size.height, self._side):
            height = min(self._side, self._size.height - top)
            part = self._read(Box(x=0, y=top, width=self._size.width, height=height))
            inside += int(np.count_nonzero(part))
            found.append(np.logical_or.reduceat(part.any(axis=0), columns))
        return np.array(found), inside / self._size.pixels


def nearest(begin: int, end: int, ratio: Fraction, length: int) -> NDArray[np.int64]:
    """Return the pixels of a raster under the centres of pixels `[begin, end)` that are `ratio` of its pixels wide."""
    # Whole numbers are used, because a float could put a centre that lies on a border on either side of it.
    step, whole = ratio.numerator, 2 * ratio.denominator
    return np.array([min((2 * index + 1) * step // whole, length - 1) for index in range(begin, end)], np.int64)

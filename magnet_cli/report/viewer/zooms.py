"""The grid of tiles in which the page asks for an image and everything over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.geometry import Box, Pitch, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

TILE = 512
"""A tile has this side in pixels of its zoom."""


@dataclass(frozen=True, kw_only=True)
class ZoomGrid:
    """A zoom grid divides zooms 0 (level 0) to `coarsest` into tiles; each zoom has half the pixels a side of the last.

    A pixel of zoom z covers exactly 2^z level-0 pixels a side, so that image, masks and pointer meet without drift.
    Tiles at the right and lower edge are filled up with transparent pixels: a browser that scales a cut tile to a
    fraction of a pixel would shift it.
    """

    size: Size
    """The size of level 0 in pixels."""

    @property
    def coarsest(self) -> int:
        """Return the first zoom at which one tile holds the whole image."""
        zoom = 0
        while max(self.size.width, self.size.height) > TILE << zoom:
            zoom += 1
        return zoom

    @property
    def padded(self) -> Size:
        """Return the size of level 0, rounded up to whole pixels of the coarsest zoom."""
        side = 1 << self.coarsest
        return Size(width=-(-self.size.width // side) * side, height=-(-self.size.height // side) * side)

    def cover(self, zoom: int) -> Size:
        """Return the number of pixels of a zoom that cover the image."""
        return pitch(zoom).cover(self.size)

    def tile(self, zoom: int, column: int, row: int) -> Box | None:
        """Return the part of a tile inside the image, in pixels of the zoom; None where there is no such tile."""
        if not 0 <= zoom <= self.coarsest or column < 0 or row < 0:
            return None
        whole = Box(x=column * TILE, y=row * TILE, width=TILE, height=TILE)
        box = whole.intersection(Box.whole(self.cover(zoom)))
        return box if box.area else None


def pitch(zoom: int) -> Pitch:
    """Return the number of level-0 pixels along the side of a zoom's pixel."""
    return Pitch.square(1 << zoom)


def nearest(first: int, count: int, *, zoom: int, pitch: float, length: int) -> NDArray[np.int64]:
    """Return which value of a row lies under the centre of each pixel of a zoom.

    Args:
        first: The first pixel of the zoom.
        count: Number of pixels.
        zoom: The zoom.
        pitch: Level-0 pixels that a value covers.
        length: Number of values.
    """
    centres = (np.arange(first, first + count) + 0.5) * (1 << zoom)
    found: NDArray[np.int64] = np.minimum(np.floor(centres / pitch).astype(np.int64), length - 1)
    return found

"""Smaller versions of a mask: each pixel the commonest label of the four below it, built tile by tile."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.geometry import Size
from magnet_cli.images.protocol import NODATA
from magnet_cli.masks import codec
from magnet_cli.masks.spec import tiles_of
from magnet_cli.system.spool import Spool

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def level_sizes(size: Size, *, tile: int) -> list[Size]:
    """Return the sizes of a mask and its overviews, halved and rounded up until one tile holds the last."""
    sizes = [size]
    while max(sizes[-1].width, sizes[-1].height) > tile:
        sizes.append(Size(width=(sizes[-1].width + 1) // 2, height=(sizes[-1].height + 1) // 2))
    return sizes


def halve(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the commonest label of each 2 x 2 pixels.

    Ties go to the lowest label; 255 has no vote, so that it remains only where all four are 255.

    Args:
        labels: `(height, width)` uint8, both even.

    Returns:
        `(height / 2, width / 2)` uint8.
    """
    a, b, c, d = (labels[row::2, col::2] for row in (0, 1) for col in (0, 1))
    # A sorting network of five comparisons puts the four labels of each pixel in order, for all pixels at once.
    a, b, c, d = np.minimum(a, b), np.maximum(a, b), np.minimum(c, d), np.maximum(c, d)
    lowest, third = np.minimum(a, c), np.minimum(b, d)
    second, highest = np.maximum(a, c), np.maximum(b, d)
    second, third = np.minimum(second, third), np.maximum(second, third)
    # Sorted, a label that occurs twice has an equal neighbour; the first such pair is the lowest commonest label.
    pair_above = np.where((third == highest) & (third != NODATA), third, lowest)
    middle = np.where((second == third) & (second != NODATA), second, pair_above)
    return np.where(lowest == second, lowest, middle)


def halved(labels: NDArray[np.uint8]) -> bytes:
    """Return a tile, `(tile, tile)` uint8, as `HalvedTiles` keeps it."""
    return codec.encode_fragment(halve(labels))


class HalvedTiles(Spool):
    """Halved tiles of one level, which wait on disk to be joined to the tiles of the next."""

    def __init__(self, folder: Path, *, size: Size, tile: int) -> None:
        """Make an empty spool for the halved tiles of a level of this size."""
        super().__init__(folder)
        self._half = tile // 2
        self._tiles = tiles_of(size, tile)
        self._starts = array("Q", [0]) * self._tiles.pixels
        self._lengths = array("I", [0]) * self._tiles.pixels

    def put(self, row: int, col: int, data: bytes) -> None:
        """Keep a tile, `halved`; one thread at a time."""
        cell = row * self._tiles.width + col
        self._starts[cell], self._lengths[cell] = self.append(data), len(data)

    def joined(self, row: int, col: int) -> NDArray[np.uint8]:
        """Return a tile of the next level, `(tile, tile)` uint8, from the up to four tiles below it; by any thread."""
        half = self._half
        labels = np.full((2 * half, 2 * half), NODATA, dtype=np.uint8)
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            if 2 * row + down < self._tiles.height and 2 * col + right < self._tiles.width:
                quarter = self._quarter((2 * row + down) * self._tiles.width + 2 * col + right)
                labels[down * half : (down + 1) * half, right * half : (right + 1) * half] = quarter
        return labels

    def _quarter(self, cell: int) -> NDArray[np.uint8]:
        data = self.read(self._lengths[cell], self._starts[cell])
        return codec.decode_fragment(data, height=self._half, width=self._half)

"""The connected components of a mask of any size, found tile by tile.

A component is yielded once the sweep has passed below it. Memory holds a tile, two rows of pixels with their component
numbers, and the components that reach the current row of tiles, so it does not grow with the height of the mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import find_objects
from skimage.measure import label as connected

from magnet_cli.geometry import Box, Size
from magnet_cli.images.protocol import NODATA
from magnet_cli.masks.components import Components, SweptEdge
from magnet_cli.masks.spec import parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

TILE = 1024
"""Side in pixels of the tiles in which a mask is surveyed. The order of the objects depends on it, and so do the
numbers of groups in a journal."""


@dataclass(frozen=True, kw_only=True)
class MaskObject:
    """A connected component of equal labels. Pixels that touch at a corner are connected."""

    label: int
    area: int
    """The number of pixels."""
    box: Box
    """The box around the component."""
    seed: tuple[int, int]
    """Row and column of its first pixel in row-major order."""


@dataclass(kw_only=True, slots=True)
class _Grown:
    """A component as far as the sweep has read it."""

    label: int
    area: int
    left: int
    top: int
    right: int
    bottom: int
    seed: tuple[int, int]
    weight: int = 1

    def absorb(self, other: _Grown) -> None:
        """Merge another part of the same component into this one."""
        self.area += other.area
        self.left, self.top = min(self.left, other.left), min(self.top, other.top)
        self.right, self.bottom = max(self.right, other.right), max(self.bottom, other.bottom)
        self.seed = min(self.seed, other.seed)
        self.weight += other.weight

    def whole(self) -> MaskObject:
        """Return the finished component."""
        box = Box.between(left=self.left, top=self.top, right=self.right, bottom=self.bottom)
        return MaskObject(label=self.label, area=self.area, box=box, seed=self.seed)


class Survey:
    """Finds the components of a mask by reading each tile once, row by row.

    Args:
        read: Reads the labels of a box inside the mask, `(height, width)` uint8; 255 belongs to no object.
        size: The size of the mask.
        side: The side of a tile.
    """

    def __init__(self, read: Callable[[Box], NDArray[np.uint8]], *, size: Size, side: int = TILE) -> None:
        self._read = read
        self._size = size
        self._side = side
        self._numbered = 0
        self._components = Components[_Grown]()

    @property
    def most_components(self) -> int:
        """The most components that were open at the end of a row of tiles; memory grows with them."""
        return self._components.most_on_edge

    def objects(self) -> Iterator[MaskObject]:
        """Yield every object once, in an order that depends on the mask and the tiles alone."""
        above = SweptEdge.empty(self._size.width)
        below = above
        left = above
        for part in parts(Box.whole(self._size), self._side):
            box = part.box
            if box.x == 0:
                below, left = SweptEdge.empty(self._size.width), SweptEdge.empty(box.height)
            labels = self._read(box)
            numbers, inside = self._number(labels, box)
            self._join_above(above, labels, numbers, box)
            self._join(left, labels[:, 0], numbers[:, 0])
            yield from inside
            reach = slice(box.x, box.right)
            below.labels[reach], below.numbers[reach] = labels[-1], numbers[-1]
            left = SweptEdge(labels=labels[:, -1].copy(), numbers=numbers[:, -1].copy())
            if box.right == self._size.width:
                above = self._components.passed(below)
                reaching = np.unique(above.numbers).tolist() if box.bottom < self._size.height else []
                for component in self._components.finish(reaching):
                    yield component.whole()

    def _number(self, labels: NDArray[np.uint8], box: Box) -> tuple[NDArray[np.int64], list[MaskObject]]:
        """Number the components of a tile, and return the objects that touch none of its borders."""
        found, count = connected(labels, background=NODATA, connectivity=2, return_num=True)  # type: ignore[no-untyped-call]
        first = np.zeros(count + 1, dtype=np.int64)
        # NumPy assigns repeated indices in order, so the last value stays: in reversed order that of the first pixel.
        first[found.ravel()[::-1]] = np.arange(found.size)[::-1]
        area = np.bincount(found.ravel(), minlength=count + 1)
        rim = np.zeros(count + 1, dtype=bool)
        rim[np.concatenate((found[0], found[-1], found[:, 0], found[:, -1]))] = True
        inside = []
        for number, (rows, cols) in enumerate(find_objects(found), start=1):
            row, col = divmod(int(first[number]), box.width)
            grown = _Grown(
                label=int(labels[row, col]),
                area=int(area[number]),
                left=box.x + cols.start,
                top=box.y + rows.start,
                right=box.x + cols.stop,
                bottom=box.y + rows.stop,
                seed=(box.y + row, box.x + col),
            )
            if rim[number]:
                self._components.add(self._numbered + number, grown)
            else:
                inside.append(grown.whole())
        numbers = np.where(found > 0, found + self._numbered, 0).astype(np.int64)
        self._numbered += count
        return numbers, inside

    def _join_above(self, above: SweptEdge, labels: NDArray[np.uint8], numbers: NDArray[np.int64], box: Box) -> None:
        # Pixels that touch at a corner are connected, so each pixel has three neighbours in the row above.
        for shift in (-1, 0, 1):
            begin, end = max(0, box.x + shift), min(self._size.width, box.right + shift)
            edge = above.part(slice(begin, end))
            own = slice(begin - box.x - shift, end - box.x - shift)
            self._joined(edge, labels[0, own], numbers[0, own])

    def _join(self, left: SweptEdge, labels: NDArray[np.uint8], numbers: NDArray[np.int64]) -> None:
        """Join a tile's first column with the column before it."""
        self._joined(left, labels, numbers)
        self._joined(left.part(slice(None, -1)), labels[1:], numbers[1:])
        self._joined(left.part(slice(1, None)), labels[:-1], numbers[:-1])

    def _joined(self, edge: SweptEdge, labels: NDArray[np.uint8], numbers: NDArray[np.int64]) -> None:
        touching = (edge.labels == labels) & (edge.numbers > 0) & (numbers > 0)
        self._components.join_pairs(edge.numbers, numbers, touching)

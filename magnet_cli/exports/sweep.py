"""Polygons of a mask of any size, tile by tile: a component is yielded once the sweep has passed below it.

Memory holds two rows of pixels with their component numbers, eight bytes for each open end of an outline and for each
piece of it, and eight for each closed ring of components that reach the current row of tiles. Corners wait on disk.
The polygon that is yielded is held whole.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from skimage.measure import label as connected

from magnet_cli.exports.chains import Chains
from magnet_cli.exports.corner_spool import CornerSpool
from magnet_cli.exports.outlines import OUTSIDE, trace
from magnet_cli.exports.polygon import Polygon, make_polygon
from magnet_cli.geometry import Box, Size
from magnet_cli.masks.components import Components, SweptEdge
from magnet_cli.masks.spec import parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(kw_only=True, slots=True)
class _Outlined:
    """Facts about a component that may still grow."""

    label: int
    rings: array[int] = field(default_factory=lambda: array("Q"))
    """Numbers of its closed rings in the spool."""

    @property
    def weight(self) -> int:
        """The cost of moving the facts into another component."""
        return len(self.rings)

    def absorb(self, other: _Outlined) -> None:
        """Add the facts about another component."""
        self.rings.extend(other.rings)


@dataclass(frozen=True, kw_only=True)
class _Block:
    """A tile with the row above it and the column to its left."""

    box: Box
    """The tile."""
    labels: NDArray[np.uint8]
    """`(height + 1, width + 1)`."""
    components: NDArray[np.int64]
    """`(height + 1, width + 1)`, the component of each pixel; 0 where the label has no outline."""
    inside: Mapping[int, int]
    """Label by number of the components that touch no border of the tile."""

    def leave(self, below: SweptEdge) -> SweptEdge:
        """Return the tile's last column; its last row goes into `below`."""
        reach = slice(self.box.x + 1, self.box.right + 1)
        below.labels[reach], below.numbers[reach] = self.labels[-1, 1:], self.components[-1, 1:]
        return SweptEdge(labels=self.labels[1:, -1].copy(), numbers=self.components[1:, -1].copy())


class Sweep:
    """Reads every tile once, row by row.

    Args:
        read: Labels of a box inside the mask, `(height, width)` uint8.
        size: The size of the mask.
        side: The side of a tile.
        folder: The folder where corners may wait on disk.
    """

    def __init__(self, read: Callable[[Box], NDArray[np.uint8]], *, size: Size, side: int, folder: Path) -> None:
        self._read = read
        self._size = size
        self._side = side
        self._folder = folder
        self._numbered = 0
        self._components = Components[_Outlined]()
        self.most_ends = 0
        """Largest number of open ends of outlines at a time."""

    @property
    def most_components(self) -> int:
        """Largest number of components that reached beyond a row of tiles."""
        return self._components.most_on_edge

    def polygons(self) -> Iterator[Polygon]:
        """Yield a polygon for each 4-connected area of equal labels, except for the label 255.

        The order of the polygons depends only on the mask and the side of the tiles.
        """
        # One row and one column more than the mask has: the outlines of its last pixels lie on their upper left.
        padded = Size(width=self._size.width + 1, height=self._size.height + 1)
        with CornerSpool(self._folder) as spool:
            chains = Chains(spool)
            above = SweptEdge.empty(padded.width + 1)
            left = below = above
            for part in parts(Box.whole(padded), self._side):
                if part.col == 0:
                    left, below = SweptEdge.empty(part.box.height), SweptEdge.empty(padded.width + 1)
                block = self._block(part.box, above=above, left=left)
                yield from self._traced(block, chains, spool)
                left = block.leave(below)
                if part.box.right == padded.width:
                    above = self._components.passed(below)
                    for component in self._components.finish(np.unique(above.numbers).tolist()):
                        yield make_polygon(component.label, (spool.get(ring) for ring in component.rings))

    def _block(self, box: Box, *, above: SweptEdge, left: SweptEdge) -> _Block:
        """Read a tile, number its components, and join those that go on from above or from the left."""
        # One row above and one column to the left are kept, because an edge lies between two pixels.
        labels = np.full((box.height + 1, box.width + 1), OUTSIDE, dtype=np.uint8)
        numbers = np.zeros(labels.shape, dtype=np.int64)
        reach = slice(box.x, box.right + 1)
        labels[0], numbers[0] = above.labels[reach], above.numbers[reach]
        labels[1:, 0], numbers[1:, 0] = left.labels, left.numbers
        inner = box.intersection(Box.whole(self._size))
        if inner.area:
            labels[1 : inner.height + 1, 1 : inner.width + 1] = self._read(inner)
        inside = self._number(labels[1:, 1:], numbers[1:, 1:])
        # Pixels outside have no number, and those of a tile that are not outside have one.
        above_equal, left_equal = labels[0, 1:] == labels[1, 1:], labels[1:, 0] == labels[1:, 1]
        self._components.join_pairs(numbers[0, 1:], numbers[1, 1:], above_equal & (numbers[1, 1:] > 0))
        self._components.join_pairs(numbers[1:, 0], numbers[1:, 1], left_equal & (numbers[1:, 1] > 0))
        return _Block(box=box, labels=labels, components=numbers, inside=inside)

    def _traced(self, block: _Block, chains: Chains, spool: CornerSpool) -> Iterator[Polygon]:
        """Trace a tile. Polygons that lie inside it are yielded at once, and all other outlines are kept."""
        found: dict[int, list[NDArray[np.int32]]] = defaultdict(list)
        for path in trace(block.labels, components=block.components, tile=block.box):
            ring = path.points if path.entry < 0 else chains.add(path)
            if path.component in block.inside:
                found[path.component].append(path.points)
            elif ring is not None:
                self._components.at(path.component).rings.append(spool.put(ring))
        self.most_ends = max(self.most_ends, len(chains))
        for number, rings in found.items():
            yield make_polygon(block.inside[number], rings)

    def _number(self, tile: NDArray[np.uint8], numbers: NDArray[np.int64]) -> dict[int, int]:
        """Fill in the number of each pixel's component, and return number and label of those that touch no border."""
        found, count = connected(tile, background=OUTSIDE, connectivity=1, return_num=True)  # type: ignore[no-untyped-call]
        numbers[...] = np.where(found > 0, found + self._numbered, 0)
        values, first = np.unique(numbers, return_index=True)
        labels = dict(zip(values.tolist(), tile.ravel()[first].tolist(), strict=True))
        labels.pop(0, None)
        rim = np.unique(np.concatenate((numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1])))
        for number in rim[rim > 0].tolist():
            self._components.add(number, _Outlined(label=labels.pop(number)))
        # Numbers of a tile begin behind those of the tiles before, so that none stands for two components.
        self._numbered += count
        return labels

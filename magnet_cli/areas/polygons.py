"""An area bounded by polygons, rasterised box by box."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from magnet_cli.geometry import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.geometry import Pitch, Size

STRIP_PIXELS = 4 << 20
"""Most pixels that are rasterised at a time."""


class Polygons:
    """Disjoint polygons with holes, in level-0 pixels.

    A pixel is inside where its centre is: an odd number of edges lies to its left. A library's rasteriser rounds from
    the corner of the array that it fills, so that a pixel on an edge could depend on how the image was cut into boxes;
    here every edge and every centre is the same number in whatever box it is asked for.

    Args:
        geometry: Polygons that do not overlap, as `shapely.union_all` gives them.
        size: The size of level 0.
    """

    def __init__(self, geometry: Any, size: Size) -> None:
        self._parts = shapely.get_parts(geometry)
        self._tree = shapely.STRtree(self._parts)
        self._edges = [_edges(part) for part in self._parts]
        inside = shapely.intersection(geometry, shapely.box(0, 0, size.width, size.height))
        self._share = float(shapely.area(inside)) / size.pixels
        self._size = size

    @property
    def share(self) -> float:
        """The share of the image, 0 to 1."""
        return self._share

    def covers_pixels(self) -> bool:
        """Return whether the centre of any pixel lies inside."""
        return any(_covers(edges, self._size) for edges in self._edges)

    def touches(self, box: Box) -> bool:
        """Return whether something of a level-0 box may lie in a polygon."""
        rectangle = shapely.box(box.x, box.y, box.right, box.bottom)
        return bool(box.area) and self._tree.query(rectangle, predicate="intersects").size > 0

    def mask(self, box: Box, pitch: Pitch) -> NDArray[np.bool_]:
        """Return where the centres of pixels lie in a polygon, `(box.height, box.width)` bool."""
        inside = np.zeros((box.height, box.width), bool)
        around = pitch.level0(box)
        rectangle = shapely.box(around.x, around.y, around.right, around.bottom)
        near = [self._edges[index] for index in self._tree.query(rectangle)]
        if near:
            edges = np.concatenate(near)
            rows = max(1, STRIP_PIXELS // box.width)
            for top in range(0, box.height, rows):
                strip = Box(x=box.x, y=box.y + top, width=box.width, height=min(rows, box.height - top))
                inside[top : top + strip.height] = _filled(edges, strip, pitch)
        return inside


def _edges(part: Any) -> NDArray[np.float64]:
    """Return the upper and lower end of every edge of a polygon that is not horizontal, `(n, 4)` as x, y, x, y."""
    rings = [shapely.get_coordinates(ring) for ring in shapely.get_rings(part)]
    edges = np.concatenate([np.hstack((ring[:-1], ring[1:])) for ring in rings])
    edges = np.where(edges[:, [1]] > edges[:, [3]], edges[:, [2, 3, 0, 1]], edges)
    # A horizontal edge is crossed by no row of centres, or lies on it, where its neighbours are counted.
    return edges[edges[:, 1] < edges[:, 3]]


def _covers(edges: NDArray[np.float64], size: Size) -> bool:
    """Return whether the centre of any pixel of an image lies inside a polygon, without making the pixels."""
    first, last = max(0.0, edges[:, 1].min(initial=np.inf)), min(float(size.height), edges[:, 3].max(initial=-np.inf))
    if not first < last:
        return False
    step = max(1, STRIP_PIXELS // max(1, len(edges)))
    columns = np.arange(size.width) + 0.5
    for top in range(int(first), ceil(last), step):
        rows = np.arange(top, min(top + step, size.height)) + 0.5
        row, crossing = _crossings(edges, columns, rows)
        order = np.lexsort((crossing, row))
        # The edges that a row crosses come in pairs: what lies between the two of a pair is inside.
        if (crossing[order][0::2] < crossing[order][1::2]).any():
            return True
    return False


def _crossings(
    edges: NDArray[np.float64], columns: NDArray[Any], rows: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the row and the first column right of the edge, for each edge and each row that the edge crosses."""
    first, last = np.searchsorted(rows, edges[:, 1]), np.searchsorted(rows, edges[:, 3])
    counts = last - first
    edge = np.repeat(np.arange(len(edges)), counts)
    row = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    x0, y0, x1, y1 = edges[edge].T
    return row, np.searchsorted(columns, x0 + (x1 - x0) * ((rows[row] - y0) / (y1 - y0)))


def _filled(edges: NDArray[np.float64], box: Box, pitch: Pitch) -> NDArray[np.bool_]:
    columns = (np.arange(box.x, box.right) + 0.5) * float(pitch.x)
    rows = (np.arange(box.y, box.bottom) + 0.5) * float(pitch.y)
    row, crossing = _crossings(edges, columns, rows)
    toggles = np.zeros((box.height, box.width + 1), np.uint8)
    # `at` applies every crossing, where plain indexing would count two at one place as one.
    np.bitwise_xor.at(toggles, (row, crossing), 1)
    filled: NDArray[np.bool_] = np.bitwise_xor.accumulate(toggles[:, :-1], axis=1).view(bool)
    return filled

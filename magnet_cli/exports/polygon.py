"""One area of equal labels as a polygon: an exterior ring, holes, and its number of pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


SQUARE = 4
"""Corners of the smallest outline, which cannot touch itself."""


@dataclass(frozen=True, kw_only=True)
class Polygon:
    """A valid polygon on the pixel lattice of level 0, x and y from the top-left corner of the first pixel."""

    label: int
    pixels: int
    """The number of pixels of the area before any simplification."""
    exterior: NDArray[np.generic]
    """`(n, 2)` x, y, the first corner not repeated; its signed area, y counted upward as numbers, is positive."""
    holes: tuple[NDArray[np.generic], ...] = ()
    """Rings of holes, with negative area; each may touch another or the exterior at single points."""

    @property
    def rings(self) -> tuple[NDArray[np.generic], ...]:
        """The exterior and the holes."""
        return self.exterior, *self.holes


def make_polygon(label: int, rings: Iterable[NDArray[np.int32]]) -> Polygon:
    """Return the polygon of an area from all its outlines.

    Args:
        label: The label of the area.
        rings: The outlines, the outer one and those of holes in any order. An outline that visits a point twice is cut
            there into two, because a ring that touches itself is invalid.
    """
    simple = [loop for ring in rings for loop in _loops(ring)]
    areas = [_twice_area(loop) for loop in simple]
    # Of the loops of one component exactly one encloses the others, and only its area is positive.
    (outer,) = [number for number, area in enumerate(areas) if area > 0]
    holes = tuple(loop for number, loop in enumerate(simple) if number != outer)
    return Polygon(label=label, pixels=sum(areas) // 2, exterior=simple[outer], holes=holes)


def _twice_area(ring: NDArray[np.int32]) -> int:
    # Corners are counted from the first one, so that the products stay far from 64 bits in an image of any size.
    x, y = (ring - ring[0]).T.astype(np.int64)
    return int(x[:-1] @ y[1:] - x[1:] @ y[:-1])


def _loops(ring: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    """Return the ring cut into loops that visit no point twice."""
    # Rings that touch themselves at a corner are invalid in GeoJSON, so they are cut there.
    keys = ring[:, 0].astype(np.int64) << 32 | ring[:, 1]
    if len(keys) == SQUARE or len(np.unique(keys)) == len(keys):
        return [ring]
    loops: list[NDArray[np.int32]] = []
    stack: list[int] = []
    place: dict[int, int] = {}
    values = keys.tolist()
    for number, key in enumerate(values):
        start = place.get(key)
        if start is not None:
            loop = stack[start:]
            for visited in loop:
                del place[values[visited]]
            del stack[start:]
            loops.append(ring[loop])
        place[key] = len(stack)
        stack.append(number)
    loops.append(ring[stack])
    return loops


def simplified(polygon: Polygon, *, tolerance: float) -> Polygon:
    """Return the polygon without the corners that lie within `tolerance` pixels of the line between their neighbours.

    It stays valid, and keeps its holes. Each polygon is simplified by itself: neighbours may part or overlap by about
    the tolerance. One that GEOS cannot simplify validly stays as it is.
    """
    shape = shapely.Polygon(polygon.exterior, polygon.holes).simplify(tolerance, preserve_topology=True)
    if not isinstance(shape, shapely.Polygon) or shape.is_empty or not shape.is_valid:
        return polygon
    # GEOS may return rings in the other direction.
    shape = shapely.orient_polygons(shape)
    return replace(polygon, exterior=_ring(shape.exterior), holes=tuple(_ring(hole) for hole in shape.interiors))


def _ring(ring: Any) -> NDArray[np.int32]:
    """Return the corners of a closed ring, the first one once; they are corners that were there before."""
    return np.asarray(ring.coords)[:-1].astype(np.int32)

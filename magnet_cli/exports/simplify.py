"""Polygons with fewer corners."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.exports.polygon import Polygon


def simplified(polygon: Polygon, *, tolerance: float) -> Polygon:
    """The polygon without the corners that lie within `tolerance` pixels of the line between their neighbours.

    It stays valid, and keeps its holes. Each polygon is simplified by itself: neighbours may part or overlap by about
    the tolerance. One that GEOS cannot simplify validly stays as it is.
    """
    shape = shapely.Polygon(polygon.exterior, polygon.holes).simplify(tolerance, preserve_topology=True)
    if not isinstance(shape, shapely.Polygon) or shape.is_empty or not shape.is_valid:
        return polygon
    shape = shapely.orient_polygons(shape)
    return replace(polygon, exterior=_ring(shape.exterior), holes=tuple(_ring(hole) for hole in shape.interiors))


def _ring(ring: Any) -> NDArray[np.int32]:
    """The corners of a closed ring, the first one once; they are corners that were there before."""
    return np.asarray(ring.coords)[:-1].astype(np.int32)

"""Shapes that somebody draws on an image: polygons and strokes of a brush, made valid and cut at the image's edge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from magnet_cli.areas.features import refuse_tangles
from magnet_cli.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from magnet_cli.geometry import Size

Points = list[tuple[float, float]]

GRID = 0.01
"""Corners lie on multiples of this number of pixels."""
SMOOTHNESS = 0.01
"""The outline of a stroke may deviate from the exact one by this share of the brush's width."""
LEAST_CORNERS = 3


def polygon_shape(rings: Sequence[Points], size: Size, *, name: str) -> Any:
    """Return the part of a polygon that lies on an image, as valid polygons.

    Args:
        rings: The outline and the holes, in level-0 pixels; each may be closed or not.
        size: The size of level 0.
        name: The name of the shape in errors.

    Raises:
        SourceError: A ring is too short, or the polygon covers no part of the image.
    """
    if not rings or any(len(ring) < LEAST_CORNERS for ring in rings):
        raise SourceError(
            f"a polygon has rings of at least {LEAST_CORNERS} corners",
            file=name,
            advice="Draw it again with at least three corners",
        )
    polygon = shapely.Polygon(rings[0], rings[1:])
    refuse_tangles(np.array([polygon]), name)
    return _on_image(shapely.make_valid(polygon), size, name)


def stroke_shape(line: Points, width: float, size: Size, *, name: str) -> Any:
    """Return the part of an image that a round brush has painted, as valid polygons.

    Args:
        line: The places of the brush's centre, in level-0 pixels; at least one.
        width: The width of the brush in level-0 pixels.
        size: The size of level 0.
        name: The name of the shape in errors.

    Raises:
        SourceError: The line is empty, the width is not above 0, or nothing of the image was painted.
    """
    if not line or not 0 < width <= 2 * max(size.width, size.height):
        raise SourceError(
            "a stroke has a place, and a width up to that of the image",
            value=width,
            file=name,
            advice="Draw it again with a narrower brush",
        )
    centre = shapely.LineString(line) if len(set(line)) > 1 else shapely.Point(line[0])
    tolerance = SMOOTHNESS * width
    return _on_image(shapely.buffer(centre.simplify(tolerance), width / 2).simplify(tolerance), size, name)


def joined(shapes: Sequence[Any]) -> Any:
    """Return the polygons of several shapes as one geometry, joined where they overlap."""
    return shapely.MultiPolygon(
        [part for part in shapely.get_parts(shapely.union_all(shapes)) if part.geom_type == "Polygon"]
    )


def rings_of(geometry: Any) -> list[list[NDArray[np.float64]]]:
    """Return the rings of each polygon of a geometry, the outline first, each `(n, 2)` x, y with equal ends.

    The signed area of outlines is positive and that of holes negative, y counted upward as numbers. Equal shapes have
    equal rings, wherever their corners began.
    """
    return [
        [shapely.get_coordinates(ring) for ring in shapely.get_rings(polygon)]
        for polygon in shapely.get_parts(shapely.orient_polygons(shapely.normalize(geometry)))
    ]


def area_of(geometry: Any) -> float:
    """Return the area of a geometry, in pixels."""
    return float(shapely.area(geometry))


def _on_image(geometry: Any, size: Size, name: str) -> Any:
    whole = shapely.box(0, 0, size.width, size.height)
    cut = shapely.set_precision(shapely.intersection(geometry, whole), GRID)
    # A shape that touches the edge in a line or a point leaves these beside its polygons.
    polygons = [part for part in shapely.get_parts(shapely.get_parts(cut)) if part.geom_type == "Polygon" and part.area]
    if not polygons:
        raise SourceError(
            "a correction covers a part of the image",
            value="none",
            file=name,
            advice="Draw it inside the image",
        )
    return shapely.MultiPolygon(polygons)

"""The meridian of 180 degrees, at which longitudes begin again: polygons that cross it are cut there."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

ROUNDING = 1e-11
"""Share of a turn by which a longitude of the meridian may be beside it, because it is the sum of many small steps."""
BEYOND = 1e9
"""A number beyond every latitude, in any unit."""


def snapped(points: NDArray[Any], turn: float) -> NDArray[np.float64]:
    """Return points, `(n, 2)` longitude and latitude, with those that rounding put beside the meridian on it."""
    found = np.array(points, np.float64)
    half = turn / 2
    meridians = np.round((found[:, 0] - half) / turn) * turn + half
    near = np.abs(found[:, 0] - meridians) <= ROUNDING * turn
    found[near, 0] = meridians[near]
    return found


def crosses(points: NDArray[Any], turn: float) -> bool:
    """Return whether longitudes lie beyond 180 degrees to the west or the east; `turn` is 360 degrees in their unit."""
    return bool(points[:, 0].min() < -turn / 2 or points[:, 0].max() > turn / 2)


def parts(polygon: Any, turn: float) -> Iterator[Any]:
    """Yield the parts of a valid polygon between -180 and 180 degrees (RFC 7946, section 3.1.9).

    Args:
        polygon: The polygon, in longitude and latitude, whose longitudes may go on beyond 180 degrees.
        turn: 360 degrees in the unit of its longitudes.
    """
    half = turn / 2
    west, _, east, _ = shapely.bounds(polygon)
    for number in range(floor((west + half) / turn), ceil((east + half) / turn)):
        world = shapely.box(number * turn - half, -BEYOND, number * turn + half, BEYOND)
        inside = shapely.intersection(polygon, world)
        back = shapely.transform(inside, lambda points, by=number * turn: points - np.array((by, 0.0)))
        yield from (part for part in shapely.get_parts(back) if part.geom_type == "Polygon" and part.area > 0)


def longest_step(polygon: Any, turn: float) -> float:
    """Return the largest difference of longitude between the ends of an edge of a polygon.

    An edge between -180 and 180 degrees is left out: only one that goes around the whole earth has these two ends.
    """
    found = 0.0
    for ring in shapely.get_rings(polygon):
        longitudes = shapely.get_coordinates(ring)[:, 0]
        ends = np.abs(np.abs(longitudes) - turn / 2) <= ROUNDING * turn
        steps = np.abs(np.diff(longitudes))[~(ends[1:] & ends[:-1])]
        found = max(found, float(steps.max(initial=0)))
    return found


@dataclass(frozen=True, kw_only=True)
class Across:
    """The longitudes and latitudes of an image that the meridian of 180 degrees parts in two.

    Longitudes go on counting beyond that meridian, to the east.
    """

    west: float
    east: float
    south: float
    north: float


def across(outline: NDArray[Any], turn: float, width: int, height: int) -> Across | None:
    """Return where an image lies, or None where no edge of a polygon on it can have been meant to go the other way.

    These are images that the meridian of 180 degrees does not part, and those that hold a pole, or go around more than
    half of the earth: on them an edge of more than 180 degrees is nothing unusual.

    Args:
        outline: Longitudes and latitudes, `(4 * n, 2)`, at equal distances along the four edges of the image, n on
            each, in the order top, right, bottom, left.
        turn: 360 degrees in their unit.
        width: Width of the image in pixels.
        height: Height of the image in pixels.
    """
    if not np.isfinite(outline).all():
        return None
    longitudes = np.unwrap(outline[:, 0], period=turn)
    west, east = float(longitudes.min()), float(longitudes.max())
    closed = abs(longitudes[-1] - longitudes[0]) < turn / 2
    if not closed or east - west > turn / 2:
        return None
    steps = np.abs(np.diff(longitudes.reshape(4, -1), axis=1)).max(axis=1) * (longitudes.size // 4 - 1)
    # A pixel is the least that a side of the meridian can have to be part of the image.
    pixel = max(steps[0] / width, steps[2] / width, steps[1] / height, steps[3] / height)
    by = turn / 2 - (round(((west + east) / 2 - turn / 2) / turn) * turn + turn / 2)
    west, east = west + by, east + by
    if west + pixel >= turn / 2 or east - pixel <= turn / 2:
        return None
    return Across(west=west, east=east, south=float(outline[:, 1].min()), north=float(outline[:, 1].max()))

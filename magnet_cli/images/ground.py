"""Metres that a pixel of a georeferenced image covers on the ground."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import atan, cos, degrees, hypot, radians, sin, sinh
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.images import tiff_geo
from magnet_cli.images.geotransform import Geotransform
from magnet_cli.images.protocol import Resolution
from magnet_cli.images.resolution import stated

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tifffile import TiffPage

    from magnet_cli.geometry import Size
    from magnet_cli.images.resolution import Found

MODEL_TYPE, GEOGRAPHIC_CODE, PROJECTED_CODE = 1024, 2048, 3072
ANGULAR_UNITS, AXIS, MINOR_AXIS, INVERSE_FLATTENING, LINEAR_UNITS = 2054, 2057, 2058, 2059, 3076
PROJECTED, GEOGRAPHIC, DEGREE, USER_DEFINED = 1, 2, 9102, 32767

METRES = {
    9001: Fraction(1),
    9002: Fraction("0.3048"),
    9003: Fraction(1200, 3937),
    9036: Fraction(1000),
}
"""Of the metre, the international foot, the foot of the US surveys, and the kilometre, by their EPSG codes."""

METRIC_CODES = (
    (32601, 32660),
    (32701, 32760),
    (25828, 25838),
    (26901, 26923),
    (3857, 3857),
    (2154, 2154),
    (3035, 3035),
)
"""EPSG ranges known to be in metres, for files that leave the unit to the code."""

WEB_MERCATOR = (3857, 3785, 900913)
"""Its metres are those of the equator: elsewhere they are fewer on the ground, half as many at 60 degrees."""

MOST_VARIATION = 0.05
"""By how much a pixel's width may differ between the image's middle and its edges and still count as one size."""


@dataclass(frozen=True, kw_only=True)
class Ellipsoid:
    """The figure of a planet."""

    axis: float = 6378137.0
    """Half the equator's diameter, in metres."""
    flattening: float = 1 / 298.257223563

    def north(self, latitude: float) -> float:
        """Metres of a radian along the meridian."""
        return float(self.axis * (1 - self._squared) / (1 - self._squared * sin(latitude) ** 2) ** 1.5)

    def east(self, latitude: float) -> float:
        """Metres of a radian along the parallel."""
        return float(self.axis * cos(latitude) / (1 - self._squared * sin(latitude) ** 2) ** 0.5)

    @property
    def _squared(self) -> float:
        return self.flattening * (2 - self.flattening)


EARTH = Ellipsoid()


def ground_size(page: TiffPage, size: Size) -> Found:
    """Metres a pixel, exact where the reference system is in a unit of length, and what to tell the user about it.

    Degrees and Web Mercator are turned into metres at the middle of the image, where that serves all of it.

    Args:
        page: Of a GeoTIFF, with the tags that place it.
        size: Of level 0.
    """
    keys = tiff_geo.geo_keys(page)
    if keys.get(MODEL_TYPE) == GEOGRAPHIC and keys.get(ANGULAR_UNITS, DEGREE) == DEGREE:
        planet = _planet(keys, tiff_geo.geo_numbers(page))
        return (None, ()) if planet is None else _degrees(page, size, planet)
    unit = _unit(keys)
    if keys.get(MODEL_TYPE) != PROJECTED or unit is None:
        return None, ()
    if keys.get(PROJECTED_CODE) in WEB_MERCATOR:
        return _mercator(page, size)
    found, notes = stated(*_steps(page), unit="m")
    return found and Resolution(x=found.x * unit, y=found.y * unit, unit="m"), notes


def _unit(keys: Mapping[int, int]) -> Fraction | None:
    """Metres of the unit of a projected system."""
    if LINEAR_UNITS in keys:
        return METRES.get(keys[LINEAR_UNITS])
    code = keys.get(PROJECTED_CODE, 0)
    return METRES[9001] if any(low <= code <= high for low, high in METRIC_CODES) else None


def _planet(keys: Mapping[int, int], numbers: Mapping[int, float]) -> Ellipsoid | None:
    """That of the geographic system; the Earth's figures differ by less than matters here."""
    if 0 < keys.get(GEOGRAPHIC_CODE, 0) < USER_DEFINED:
        return EARTH
    axis, minor, inverse = (numbers.get(key, 0.0) for key in (AXIS, MINOR_AXIS, INVERSE_FLATTENING))
    if axis <= 0:
        return None
    flattening = 1 / inverse if inverse > 1 else 1 - minor / axis if 0 < minor <= axis else 0.0
    return Ellipsoid(axis=axis, flattening=flattening)


def _steps(page: TiffPage) -> tuple[float | None, float | None]:
    """Units that a pixel is wide and high; None where the tags do not say."""
    scale, matrix = (tiff_geo.numbers(page, code) for code in (tiff_geo.PIXEL_SCALE, tiff_geo.TRANSFORMATION))
    if len(scale) > 1:
        return abs(scale[0]), abs(scale[1])
    if len(matrix) > 5:  # noqa: PLR2004 (two rows of a 4 x 4 matrix)
        return hypot(matrix[0], matrix[4]), hypot(matrix[1], matrix[5])
    return None, None


def _degrees(page: TiffPage, size: Size, planet: Ellipsoid) -> Found:
    placed = _placed(page)
    if placed is None:
        return None, ()
    latitude, varies = _latitude(placed, size, planet, radians)
    if varies > MOST_VARIATION:
        return None, (_no_one_size("coordinates are degrees", varies),)
    found, notes = _measured(placed, east=planet.east(latitude) * radians(1), north=planet.north(latitude) * radians(1))
    if found is not None:
        notes = (f"coordinates are degrees: {_in_the_middle(latitude, found)}",)
    return found, notes


def _mercator(page: TiffPage, size: Size) -> Found:
    placed = _placed(page)
    if placed is None:
        return stated(*_steps(page), unit="m")
    latitude, varies = _latitude(placed, size, EARTH, _of_mercator)
    if varies > MOST_VARIATION:
        return None, (_no_one_size("Web Mercator stretches what it shows", varies),)
    # Its metre is `axis` times a radian of longitude, and on the sphere as much over the cosine of one of latitude.
    east, north = mercator_metre(latitude)
    found, notes = _measured(placed, east=east, north=north)
    if found is not None:
        notes = (f"Web Mercator stretches what it shows: {_in_the_middle(latitude, found)}",)
    return found, notes


def mercator_metre(latitude: float) -> tuple[float, float]:
    """Metres on the ground of a metre of Web Mercator, along the parallel and along the meridian.

    Args:
        latitude: In radians.
    """
    return EARTH.east(latitude) / EARTH.axis, EARTH.north(latitude) * cos(latitude) / EARTH.axis


def _of_mercator(y: float) -> float:
    """Latitude, in radians, of a northing of Web Mercator, whose maps end at half a turn: 3.14 times the axis."""
    return atan(sinh(max(-10.0, min(y / EARTH.axis, 10.0))))


def _placed(page: TiffPage) -> Geotransform | None:
    return Geotransform.of({code: value for code, _, _, value in tiff_geo.geo_tags(page)})


def _latitude(
    placed: Geotransform, size: Size, planet: Ellipsoid, radians_of: Callable[[float], float]
) -> tuple[float, float]:
    """Latitude of the image's middle, in radians, and by how much of its length the parallel differs at the corners."""
    right, bottom = size.width, size.height
    points = np.array([(right / 2, bottom / 2), (0, 0), (right, 0), (0, bottom), (right, bottom)])
    with np.errstate(all="ignore"):  # a hostile file may place it at infinity
        middle, *corners = (radians_of(float(y)) for y in placed.coordinates(points)[:, 1])
    pole = radians(90)
    if not abs(middle) < pole:  # nor where it is no number
        return middle, float("inf")
    length = planet.east(middle)
    lengths = [planet.east(max(-pole, min(corner, pole))) for corner in corners]
    return middle, max(abs(other / length - 1) for other in lengths)


def _measured(placed: Geotransform, *, east: float, north: float) -> Found:
    """Metres a pixel, from those of a unit of the coordinates; nine digits, which is more than is true of them."""
    (a, b), (d, e) = placed.matrix
    sides = (hypot(a * east, d * north), hypot(b * east, e * north))
    return stated(*(float(f"{side:.9g}") for side in sides), unit="m")


def _in_the_middle(latitude: float, found: Resolution) -> str:
    sides = f"{float(found.x):.4g} x {float(found.y):.4g} m"
    return f"on the ground a pixel in the middle, at latitude {degrees(latitude):.4g}, measures {sides}"


def _no_one_size(why: str, varies: float) -> str:
    wide = f"up to {varies:.0%}" if varies < 1 else "far"
    return (
        f"{why}: a pixel at the edge is {wide} wider or narrower than in the middle, so it has no one size in metres "
        "(reproject the image, or give --slide-mpp)"
    )

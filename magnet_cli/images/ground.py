"""Metres that a pixel of a georeferenced image covers on the ground."""

from __future__ import annotations

from dataclasses import dataclass
from math import atan, cos, degrees, hypot, radians, sin, sinh
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.images.protocol import Resolution
from magnet_cli.images.resolution import stated

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyproj import CRS

    from magnet_cli.geometry import Size
    from magnet_cli.images.georeference import Georeference
    from magnet_cli.images.geotransform import Geotransform
    from magnet_cli.images.resolution import Found

WEB_MERCATOR = "Popular Visualisation Pseudo Mercator"
"""PROJ's name of the method whose metres are those of the equator: elsewhere they are fewer on the ground, half as many
at 60 degrees."""

MOST_VARIATION = 0.05
"""Largest relative change of a pixel's width from the image's middle to its edges that counts as one size."""


@dataclass(frozen=True, kw_only=True)
class Ellipsoid:
    """The figure of a planet."""

    axis: float = 6378137.0
    """Half the equator's diameter, in metres."""
    flattening: float = 1 / 298.257223563

    def north(self, latitude: float) -> float:
        """Return the metres of a radian along the meridian."""
        # The radius of curvature of the meridian ellipse; `east` has that of the prime vertical times the cosine.
        return float(self.axis * (1 - self._squared) / (1 - self._squared * sin(latitude) ** 2) ** 1.5)

    def east(self, latitude: float) -> float:
        """Return the metres of a radian along the parallel."""
        return float(self.axis * cos(latitude) / (1 - self._squared * sin(latitude) ** 2) ** 0.5)

    @property
    def _squared(self) -> float:
        return self.flattening * (2 - self.flattening)


EARTH = Ellipsoid()


def ground_size(reference: Georeference, size: Size) -> Found:
    """Return the size of a pixel in metres, exact where the system has a unit of length, and notes for the user.

    Degrees and Web Mercator are turned into metres at the middle of the image, where that serves all of it.

    Args:
        reference: Georeference of the image.
        size: Size of level 0 in pixels.
    """
    placed, crs = reference.geotransform, reference.crs
    if placed is None:
        return None, ()
    if crs is not None and crs.is_geographic:
        return _degrees(placed, size, crs)
    if reference.unit is None:
        return None, ()
    if (
        crs is not None
        and crs.coordinate_operation is not None
        and crs.coordinate_operation.method_name == WEB_MERCATOR
    ):
        return _mercator(placed, size)
    (a, b), (d, e) = placed.matrix
    found, notes = stated(hypot(a, d), hypot(b, e), unit="m")
    return found and Resolution(x=found.x * reference.unit, y=found.y * reference.unit, unit="m"), notes


def _planet(crs: CRS) -> Ellipsoid | None:
    figure = crs.ellipsoid
    if figure is None or not figure.semi_major_metre > 0:
        return None
    flattening = 1 / figure.inverse_flattening if figure.inverse_flattening else 0.0
    return Ellipsoid(axis=figure.semi_major_metre, flattening=flattening)


def _degrees(placed: Geotransform, size: Size, crs: CRS) -> Found:
    planet = _planet(crs)
    if planet is None:
        return None, ()
    turn = crs.axis_info[0].unit_conversion_factor
    latitude, varies = _latitude(placed, size, planet, lambda angle: angle * turn)
    if varies > MOST_VARIATION:
        return None, (_no_one_size("coordinates are degrees", varies),)
    found, notes = _measured(placed, east=planet.east(latitude) * turn, north=planet.north(latitude) * turn)
    if found is not None:
        notes = (f"coordinates are degrees: {_in_the_middle(latitude, found)}",)
    return found, notes


def _mercator(placed: Geotransform, size: Size) -> Found:
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
    """Return the metres on the ground for one metre of Web Mercator, along the parallel and the meridian.

    Args:
        latitude: Latitude in radians.
    """
    return EARTH.east(latitude) / EARTH.axis, EARTH.north(latitude) * cos(latitude) / EARTH.axis


def _of_mercator(y: float) -> float:
    """Return the latitude in radians of a northing of Web Mercator, whose axis ends at 3.14 radii."""
    return atan(sinh(max(-10.0, min(y / EARTH.axis, 10.0))))


def _latitude(
    placed: Geotransform, size: Size, planet: Ellipsoid, radians_of: Callable[[float], float]
) -> tuple[float, float]:
    """Return the middle's latitude in radians, and the share by which the parallel's length differs at the corners."""
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
    """Return the metres a pixel, from those of a unit of the coordinates.

    Nine digits are kept, which is more than the georeference of an image is exact to.
    """
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

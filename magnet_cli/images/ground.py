"""Metres that a pixel of a georeferenced image covers on the ground."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from math import atan, cos, degrees, hypot, isfinite, radians, sin, sinh
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.images.crs import converter
from magnet_cli.images.protocol import Resolution
from magnet_cli.images.resolution import stated

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
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

    def place(self, longitude: NDArray[np.float64], latitude: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return geocentric coordinates in metres, `(n, 3)`, of places on the surface given in radians, both `(n,)`."""
        normal = self.axis / np.sqrt(1 - self._squared * np.sin(latitude) ** 2)
        equatorial = normal * np.cos(latitude)
        polar = normal * (1 - self._squared) * np.sin(latitude)
        return np.stack([equatorial * np.cos(longitude), equatorial * np.sin(longitude), polar], axis=1)

    @property
    def _squared(self) -> float:
        return self.flattening * (2 - self.flattening)


EARTH = Ellipsoid()

MOST_STRETCHING = 0.1
"""Largest relative difference between areas by the coordinates of a projection and on the ground that is left as it is:
UTM stays below a hundredth in its zones, World Mercator and equidistant cylinders reach several times the area."""
MOST_PROJECTED_VARIATION = 0.2
"""Largest such change on a map whose projection stretches areas. Conformal maps of a continent reach 11 to 14 %."""
STEP_M = 100.0
"""Metres over which the stretching of a projection is measured; PROJ returns places to fractions of a millimetre."""


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
    if crs is not None and (stretched := _stretched(placed, size, crs, reference.unit)) is not None:
        return stretched
    (a, b), (d, e) = placed.matrix
    found, notes = stated(hypot(a, d), hypot(b, e), unit="m")
    skew = _skew(a, b, d, e)
    return found and Resolution(x=found.x * reference.unit, y=found.y * reference.unit, unit="m", skew=skew), notes


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


def _stretched(placed: Geotransform, size: Size, crs: CRS, unit: Fraction) -> Found | None:
    """Return the size of a pixel on the ground at the image's middle, and notes for the user.

    The result is None where the projection keeps areas well enough, or PROJ cannot say.
    """
    right, bottom = size.width, size.height
    points = np.array([(right / 2, bottom / 2), (0, 0), (right, 0), (0, bottom), (right, bottom)])
    with np.errstate(all="ignore"):  # a hostile file may place it at infinity
        places = placed.coordinates(points)
    jacobians = _jacobians(places, crs, STEP_M / float(unit))
    if jacobians is None:
        return None
    areas = np.abs(np.linalg.det(jacobians)) / float(unit) ** 2
    if np.abs(areas - 1).max() <= MOST_STRETCHING:
        return None
    on_ground = jacobians @ np.array(placed.matrix)
    sides = np.hypot(on_ground[:, 0], on_ground[:, 1])
    varies = float(np.abs(sides[1:] / sides[0] - 1).max())
    why = "the projection stretches what it shows"
    if not varies <= MOST_PROJECTED_VARIATION:
        return None, (_no_one_size(why, varies),)
    (a, b), (d, e) = on_ground[0].tolist()
    found, notes = stated(*(float(f"{side:.9g}") for side in sides[0]), unit="m")
    if found is None:
        return found, notes
    shown = f"{float(found.x):.4g} x {float(found.y):.4g} m"
    at_corners = f", and up to {varies:.0%} more or less at the corners" if varies > MOST_VARIATION else ""
    notes = (f"{why}: on the ground a pixel in the middle measures {shown}{at_corners}",)
    return replace(found, skew=_skew(a, b, d, e)), notes


def _jacobians(places: NDArray[np.float64], crs: CRS, step: float) -> NDArray[np.float64] | None:
    """Return metres east and north on the ground for a unit of each coordinate, `(n, 2, 2)`, at `(n, 2)` places.

    The result is None where PROJ knows no longitude and latitude of a place.
    """
    geographic, planet = crs.geodetic_crs, _planet(crs)
    if geographic is None or planet is None or not geographic.is_geographic:
        return None
    convert = converter(crs.to_wkt(), geographic.to_wkt())
    if convert is None:
        return None
    turn = geographic.axis_info[0].unit_conversion_factor
    with np.errstate(all="ignore"):  # a hostile file may place it at infinity
        moves = ((0, 0), (step, 0), (-step, 0), (0, step), (0, -step))
        angles = np.stack([convert(places + move) * turn for move in moves])
    if not np.isfinite(angles).all():
        return None
    sines, cosines = np.sin(angles[0]).T, np.cos(angles[0]).T
    east = np.stack([-sines[0], cosines[0], np.zeros_like(sines[0])], axis=1)
    north = np.stack([-sines[1] * cosines[0], -sines[1] * sines[0], cosines[1]], axis=1)
    # Differences of longitude say nothing at a pole, where a step across it turns them by 180 degrees.
    x_ahead, x_behind, y_ahead, y_behind = (planet.place(*each.T) for each in angles[1:])
    moved = np.stack([x_ahead - x_behind, y_ahead - y_behind], axis=2) / (2 * step)
    return np.stack([east, north], axis=1) @ moved


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
    a, b, d, e = a * east, b * east, d * north, e * north
    found, notes = stated(*(float(f"{side:.9g}") for side in (hypot(a, d), hypot(b, e))), unit="m")
    return found and replace(found, skew=_skew(a, b, d, e)), notes


def _skew(a: float, b: float, d: float, e: float) -> Fraction:
    """Return the sine of the angle between rows and columns, to nine digits; 1 where either has no length.

    The arguments are the matrix of a geotransform with equal units on both axes.
    """
    sides = hypot(a, d) * hypot(b, e)
    sine = abs(a * e - b * d) / sides if sides else 1.0
    return Fraction(f"{sine:.9g}") if isfinite(sine) and sine else Fraction(1)


def _in_the_middle(latitude: float, found: Resolution) -> str:
    sides = f"{float(found.x):.4g} x {float(found.y):.4g} m"
    return f"on the ground a pixel in the middle, at latitude {degrees(latitude):.4g}, measures {sides}"


def _no_one_size(why: str, varies: float) -> str:
    wide = f"up to {varies:.0%}" if varies < 1 else "far"
    return (
        f"{why}: a pixel at the edge is {wide} wider or narrower than in the middle, so it has no one size in metres "
        "(reproject the image, or give --slide-mpp)"
    )

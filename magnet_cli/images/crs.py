"""Coordinate reference systems as texts: the code of a register where it has the whole definition, else WKT."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from math import pi
from typing import TYPE_CHECKING, Any

import numpy as np
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

REGISTERS = ("EPSG", "OGC", "ESRI", "IAU_2015", "IGNF")
"""Registers whose codes are used, in the order in which they are preferred."""
CODE = re.compile(r"([A-Za-z]+(?:_\d+)?):(\w+)")
WGS84 = "EPSG:4326"
WORDS = 1e-13
"""Relative difference up to which a unit of length is taken for the fraction that it was rounded from."""


def spelled(crs: CRS) -> str:
    """Return the text that stands for the horizontal part of a system: `EPSG:32633`, `ESRI:102022`, or WKT.

    A code is given only where the register's definition is the same in all that places a point.
    """
    return _spelled(horizontal(crs).to_wkt("WKT2_2019"))


@lru_cache(maxsize=256)
def _spelled(wkt: str) -> str:
    crs = CRS.from_wkt(wkt)
    own = crs.to_json_dict().get("id")
    found = [(str(own["authority"]), str(own["code"]))] if own else []
    # PROJ gives a confidence of 70 to codes whose definition is equivalent and whose name differs (proj_identify). Each
    # is compared again below.
    found += [(each.auth_name, each.code) for each in crs.list_authority(min_confidence=70)]
    found = [each for each in found if each[0] in REGISTERS]
    for authority, code in sorted(found, key=lambda each: REGISTERS.index(each[0])):
        text = f"{authority}:{code}"
        if is_crs(text) and same_crs(text, wkt):
            return text
    return wkt


def has_code(text: str) -> bool:
    """Return whether a text is the code of a register."""
    return CODE.fullmatch(text) is not None


def label(text: str) -> str:
    """Return a short text for messages: the code, or the name of a definition without one."""
    if has_code(text):
        return text
    return f"{parsed(text).name or 'unnamed'} (without a code: a definition of the file's own)"


@lru_cache(maxsize=256)
def parsed(text: str) -> CRS:
    """Return the system that a text stands for.

    Raises:
        pyproj.exceptions.CRSError: The text means none.
    """
    return CRS.from_user_input(text)


def is_crs(text: str) -> bool:
    """Return whether a text stands for a system."""
    try:
        parsed(text)
    except CRSError:
        return False
    return True


def same_crs(one: str, other: str) -> bool:
    """Return whether two texts stand for systems that give every point on the map the same coordinates.

    Datum, ellipsoid, meridian, projection, its parameters and units are compared. Heights do not matter, nor names,
    nor the order of axes: rasters have east or longitude first.
    """
    return one == other or _comparable(one).equals(_comparable(other), ignore_axis_order=True)


@lru_cache(maxsize=256)
def _comparable(text: str) -> CRS:
    crs = horizontal(parsed(text))
    if crs.is_bound and crs.source_crs is not None:
        # A shift to WGS 84 belongs to a way of transforming coordinates and not to the coordinates.
        crs = crs.source_crs
    definition: dict[str, Any] = crs.to_json_dict()
    axes = definition.get("coordinate_system", {}).get("axis")
    directions = ("east", "north") if crs.is_projected else ("north", "east") if crs.is_geographic else None
    if not axes or len(axes) != len(directions or ()):
        return crs
    for axis, direction in zip(axes, directions or (), strict=True):
        axis.update({"name": direction, "abbreviation": direction[0], "direction": direction, "unit": axes[0]["unit"]})
        axis.pop("meridian", None)
    return CRS.from_json_dict(definition)


def horizontal(crs: CRS) -> CRS:
    """Return a system without its heights."""
    if crs.is_compound:
        return horizontal(crs.sub_crs_list[0])
    if crs.is_bound and crs.source_crs is not None and crs.source_crs.is_compound:
        return horizontal(crs.source_crs)
    return crs.to_2d() if len(crs.axis_info) > 2 and not crs.is_geocentric else crs  # noqa: PLR2004 (x and y)


def metres(crs: CRS) -> Fraction | None:
    """Return the exact unit of projected coordinates in metres, or None for other systems."""
    if not crs.is_projected or not crs.axis_info:
        return None
    return exact_unit(crs.axis_info[0].unit_conversion_factor)


def exact_unit(factor: float) -> Fraction | None:
    """Return the fraction that a register rounds to a unit of length, such as 1200/3937 for the US survey foot."""
    if not factor > 0:
        return None
    near = Fraction(factor).limit_denominator(100_000)
    return near if near and abs(float(near) / factor - 1) < WORDS else Fraction(repr(factor))


GEOJSON_SYSTEMS = ("EPSG:4326", "OGC:CRS84")
"""Reference systems that GeoJSON means where it names none (RFC 7946, section 4)."""


def turn(text: str) -> float | None:
    """Return a full turn in the unit of longitude, or None where coordinates are no longitude and latitude."""
    crs = horizontal(parsed(text))
    return round(2 * pi / crs.axis_info[0].unit_conversion_factor, 9) if crs.is_geographic else None


def converter(source: str, target: str) -> Callable[[NDArray[Any]], NDArray[np.float64]] | None:
    """Return a function from coordinates of one system to those of another, or None where PROJ knows no way.

    Coordinates are `(n, 2)`, east or longitude first.
    """
    try:
        transformer = Transformer.from_crs(horizontal(parsed(source)), horizontal(parsed(target)), always_xy=True)
    except ProjError:
        return None

    def convert(points: NDArray[Any]) -> NDArray[np.float64]:
        x, y = transformer.transform(points[:, 0], points[:, 1])
        return np.column_stack((x, y))

    return convert


def stated_accuracy(source: str, target: str, point: NDArray[Any]) -> float | None:
    """Return how exact PROJ says that its transformation is at a place, in metres.

    The result is None where PROJ knows no shift between the datums and leaves it out, and 0 where no datum changes.

    Args:
        source: Reference system of the place.
        target: Reference system to which it is transformed; `converter` has found a way.
        point: `(1, 2)`, the place, east or longitude first.
    """
    transformer = Transformer.from_crs(horizontal(parsed(source)), horizontal(parsed(target)), always_xy=True)
    transformer.transform(point[:, 0], point[:, 1])
    try:
        # Several transformations may serve two systems. PROJ chooses one for each place.
        used = transformer.get_last_used_operation()
    except ProjError:
        # PROJ names none where coordinates stay what they are.
        return 0.0
    return used.accuracy if used.accuracy >= 0 else None

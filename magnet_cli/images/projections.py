"""Projection methods of GeoTIFF: how the keys of a directory become a projected system in WKT 1, which PROJ reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magnet_cli.images.geokeys import METHOD, UnknownCrsError

if TYPE_CHECKING:
    from magnet_cli.images.geokeys import GeoKeys

LATITUDE, LONGITUDE = (3081, 3085, 3089), (3080, 3084, 3088)
EASTING, NORTHING, SCALE = (3082, 3090, 3086), (3083, 3091, 3087), (3092, 3093)
FIRST_PARALLEL, SECOND_PARALLEL, AZIMUTH, GRID_ANGLE, POLE_LONGITUDE = (3078,), (3079,), (3094,), (3096,), (3095,)

Parameters = tuple[tuple[str, tuple[int, ...], float], ...]
"""Each parameter has its name in WKT 1, the keys that may hold its value, and the value where none of them does."""

_FALSE: Parameters = (("false_easting", EASTING, 0.0), ("false_northing", NORTHING, 0.0))
_ORIGIN: Parameters = (("latitude_of_origin", LATITUDE, 0.0), ("central_meridian", LONGITUDE, 0.0))
_SCALED: Parameters = (*_ORIGIN, ("scale_factor", SCALE, 1.0), *_FALSE)
_CENTRE: Parameters = (
    ("latitude_of_center", LATITUDE, 0.0),
    ("longitude_of_center", LONGITUDE, 0.0),
)
_PARALLELS: Parameters = (("standard_parallel_1", FIRST_PARALLEL, 0.0), ("standard_parallel_2", SECOND_PARALLEL, 0.0))
_MERIDIAN: Parameters = (("central_meridian", LONGITUDE, 0.0), *_FALSE)
_POLAR: Parameters = (
    ("latitude_of_origin", LATITUDE, 0.0),
    ("central_meridian", (*POLE_LONGITUDE, *LONGITUDE), 0.0),
    ("scale_factor", SCALE, 1.0),
    *_FALSE,
)
_OBLIQUE: Parameters = (
    *_CENTRE,
    ("azimuth", AZIMUTH, 0.0),
    ("rectified_grid_angle", GRID_ANGLE, 90.0),
    ("scale_factor", (3093, 3092), 1.0),
    *_FALSE,
)

METHODS: dict[int, tuple[str, Parameters]] = {
    1: ("Transverse_Mercator", _SCALED),
    3: ("Hotine_Oblique_Mercator", _OBLIQUE),
    4: (
        "Laborde_Oblique_Mercator",
        (*_CENTRE, ("azimuth", AZIMUTH, 0.0), ("scale_factor", (3093, 3092), 1.0), *_FALSE),
    ),
    8: ("Lambert_Conformal_Conic_2SP", (*_ORIGIN, *_PARALLELS, *_FALSE)),
    9: ("Lambert_Conformal_Conic_1SP", _SCALED),
    10: ("Lambert_Azimuthal_Equal_Area", (*_CENTRE, *_FALSE)),
    11: ("Albers_Conic_Equal_Area", (*_CENTRE, *_PARALLELS, *_FALSE)),
    12: ("Azimuthal_Equidistant", (*_CENTRE, *_FALSE)),
    13: ("Equidistant_Conic", (*_CENTRE, *_PARALLELS, *_FALSE)),
    14: ("Stereographic", _SCALED),
    15: ("Polar_Stereographic", _POLAR),
    16: ("Oblique_Stereographic", _SCALED),
    17: ("Equirectangular", (*_ORIGIN, ("standard_parallel_1", FIRST_PARALLEL, 0.0), *_FALSE)),
    18: ("Cassini_Soldner", (*_ORIGIN, *_FALSE)),
    19: ("Gnomonic", (*_ORIGIN, *_FALSE)),
    20: ("Miller_Cylindrical", (("longitude_of_center", LONGITUDE, 0.0), *_FALSE)),
    21: ("Orthographic", (*_ORIGIN, *_FALSE)),
    22: ("Polyconic", (*_ORIGIN, *_FALSE)),
    23: ("Robinson", (("longitude_of_center", LONGITUDE, 0.0), *_FALSE)),
    24: ("Sinusoidal", (("longitude_of_center", LONGITUDE, 0.0), *_FALSE)),
    25: ("VanDerGrinten", _MERIDIAN),
    26: ("New_Zealand_Map_Grid", (*_ORIGIN, *_FALSE)),
    27: ("Transverse_Mercator_South_Orientated", _SCALED),
    28: ("Cylindrical_Equal_Area", (("standard_parallel_1", FIRST_PARALLEL, 0.0), *_MERIDIAN)),
    9815: ("Hotine_Oblique_Mercator_Azimuth_Center", _OBLIQUE),
}
"""Name in WKT 1 and parameters of the projection methods, by their GeoTIFF code. GDAL knows no other codes, except 7
(Mercator), whose name depends on the parameters."""

MERCATOR, POLAR = 7, 15
EAST_NORTH = ',AXIS["Easting",EAST],AXIS["Northing",NORTH]'
"""These axes are stated because PROJ would give systems around a pole others."""


def projected_wkt(keys: GeoKeys, *, angle: float, metres: float) -> str:
    """Return a projected system with the conversion of a directory, on a base that has no meaning.

    Angles of the conversion are in the unit of the base, as GDAL takes them.

    Args:
        keys: GeoKeys of the directory.
        angle: Radians of the angular unit of the base.
        metres: Metres of the unit of length.

    Raises:
        UnknownCrsError: The directory names a method that GeoTIFF does not define, or that GDAL does not know.
    """
    name, parameters = _method(keys)
    values = []
    for word, codes, default in parameters:
        value = keys.number(*codes)
        values.append(f'PARAMETER["{word}",{default if value is None else value!r}]')
    return (
        'PROJCS["unknown",GEOGCS["unknown",DATUM["unknown",SPHEROID["unknown",6378137,298.257223563]],'
        f'PRIMEM["Greenwich",0],UNIT["unknown",{angle!r}]],PROJECTION["{name}"],{",".join(values)},'
        f'UNIT["{"metre" if metres == 1 else "unknown"}",{metres!r}]{"" if keys.code(METHOD) == POLAR else EAST_NORTH}]'
    )


def _method(keys: GeoKeys) -> tuple[str, Parameters]:
    code = keys.code(METHOD)
    if code == MERCATOR:
        # With a standard parallel or a latitude of origin it is the form without a scale.
        parallel = keys.number(*FIRST_PARALLEL, *LATITUDE)
        if keys.number(*SCALE) in (None, 1.0) and parallel not in (None, 0.0):
            return "Mercator_2SP", (("standard_parallel_1", (*FIRST_PARALLEL, *LATITUDE), 0.0), *_MERIDIAN)
        return "Mercator_1SP", (("central_meridian", LONGITUDE, 0.0), ("scale_factor", SCALE, 1.0), *_FALSE)
    found = METHODS.get(code or 0)
    if found is None:
        message = f"projection method {code if code is not None else 'without a number'}"
        raise UnknownCrsError(message)
    return found

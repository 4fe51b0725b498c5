"""The coordinate reference system of GeoTIFF keys, by PROJ: codes of a register, or definitions of the file's own.

The meaning of the keys is that of the GeoTIFF standard (OGC 19-008); where programs differ, GDAL is followed.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyproj import CRS

# PROJ's own documentation imports them from here, but the package does not mark them as exported.
from pyproj.crs import (  # type: ignore[attr-defined]
    CoordinateOperation,
    Datum,
    Ellipsoid,
    PrimeMeridian,
)
from pyproj.database import get_units_map
from pyproj.exceptions import CRSError

from magnet_cli.images.crs import spelled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from magnet_cli.images.geotransform import Tag

KEY_DIRECTORY, KEY_NUMBERS, KEY_TEXTS = 34735, 34736, 34737
ENTRY = 4

MODEL_TYPE, RASTER_TYPE, CITATION = 1024, 1025, 1026
GEOGRAPHIC, GEOGRAPHIC_CITATION, DATUM, MERIDIAN = 2048, 2049, 2050, 2051
ANGULAR_UNIT, ANGULAR_SIZE, ELLIPSOID = 2054, 2055, 2056
MAJOR_AXIS, MINOR_AXIS, INVERSE_FLATTENING, MERIDIAN_LONGITUDE, TO_WGS84 = 2057, 2058, 2059, 2061, 2062
VERTICAL = 4096
PROJECTED, PROJECTED_CITATION, CONVERSION, METHOD, LINEAR_UNIT, LINEAR_SIZE = 3072, 3073, 3074, 3075, 3076, 3077

MODEL_PROJECTED, MODEL_GEOGRAPHIC, USER_DEFINED = 1, 2, 32767
POINT, AREA = 2, 1
ESRI_WKT = "ESRI PE String = "
"""Begins a citation that holds the definition as WKT. GDAL, like ArcGIS, writes it where the keys have no word for a
projection method, and reads any WKT there."""

LATITUDE, LONGITUDE = (3081, 3085, 3089), (3080, 3084, 3088)
EASTING, NORTHING, SCALE = (3082, 3090, 3086), (3083, 3091, 3087), (3092, 3093)
FIRST_PARALLEL, SECOND_PARALLEL, AZIMUTH, GRID_ANGLE, POLE_LONGITUDE = (3078,), (3079,), (3094,), (3096,), (3095,)

Parameters = tuple[tuple[str, tuple[int, ...], float | None], ...]
"""Name in WKT 1, the keys that may hold the value, and the value where none does; None leaves the parameter out."""

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
"""Projection methods by their GeoTIFF code: name in WKT 1 and parameters. The keys have no other method that GDAL
knows; 7, Mercator, depends on its parameters."""

MERCATOR, POLAR = 7, 15
EAST_NORTH = ',AXIS["Easting",EAST],AXIS["Northing",NORTH]'
"""Without them PROJ gives systems around a pole other axes."""


EARTH_AXIS = 6378137.0


KEY_TAGS = (KEY_DIRECTORY, KEY_NUMBERS, KEY_TEXTS)
SHORT, ASCII = 3, 2
"""TIFF's numbers for an unsigned 16-bit number and for text."""


class UnknownCrsError(Exception):
    """The keys define a reference system that is not understood; the message says why."""


@dataclass(frozen=True, kw_only=True)
class GeoKeys:
    """The GeoKeys of a directory, by their number."""

    shorts: Mapping[int, int] = field(default_factory=dict)
    numbers: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    texts: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, tags: Mapping[int, object]) -> GeoKeys:
        """The keys of a TIFF's tags by their codes; entries that point beyond their tag are left out."""
        words = values if isinstance(values := tags.get(KEY_DIRECTORY), tuple) else ()
        stored = values if isinstance(values := tags.get(KEY_NUMBERS), tuple) else ()
        text = _text(tags.get(KEY_TEXTS))
        shorts, numbers, texts = {}, {}, {}
        for start in range(ENTRY, len(words) - ENTRY + 1, ENTRY):
            key, location, count, value = words[start : start + ENTRY]
            if location == 0 and count == 1:
                shorts[key] = int(value)
            elif location == KEY_NUMBERS and 0 < count <= len(stored) - value:
                numbers[key] = tuple(float(each) for each in stored[value : value + count])
            elif location == KEY_TEXTS and 0 < count <= len(text) - value + 1:
                texts[key] = text[value : value + count].rstrip("|\0 ")
        return cls(shorts=shorts, numbers=numbers, texts=texts)

    @property
    def places_centres(self) -> bool:
        """Whether the tags place the centre of a pixel, not its corner."""
        return self.shorts.get(RASTER_TYPE) == POINT

    def number(self, *keys: int) -> float | None:
        """The value of the first of several keys that the directory has."""
        return next((self.numbers[key][0] for key in keys if key in self.numbers), None)

    def code(self, key: int) -> int | None:
        """A code of a register; None where the directory has none or defines the thing by other keys."""
        found = self.shorts.get(key, 0)
        return found if 0 < found < USER_DEFINED else None


def crs_of_keys(keys: GeoKeys) -> CRS | None:
    """The horizontal reference system of a GeoTIFF; None where it names none.

    Raises:
        UnknownCrsError: It defines one in a way that is not understood.
    """
    try:
        return _crs(keys)
    except CRSError as exc:
        raise UnknownCrsError(str(exc).splitlines()[0]) from exc


def linear_unit(keys: GeoKeys) -> float | None:
    """Metres of the unit of projected coordinates; None where the directory does not say."""
    code = keys.code(LINEAR_UNIT)
    if code is not None:
        return _units("linear").get(code)
    return keys.number(LINEAR_SIZE) if keys.shorts.get(LINEAR_UNIT) == USER_DEFINED else None


def _crs(keys: GeoKeys) -> CRS | None:
    model = keys.shorts.get(MODEL_TYPE)
    projected, geographic = keys.code(PROJECTED), keys.code(GEOGRAPHIC)
    if projected is not None and model != MODEL_GEOGRAPHIC:
        return _of_code(keys, projected)
    if model == MODEL_PROJECTED:
        if {PROJECTED, CONVERSION, METHOD} & set(keys.shorts):
            return _projected(keys)
        raise _local(keys)
    if model == MODEL_GEOGRAPHIC:
        return CRS.from_epsg(geographic) if geographic is not None else _geographic(keys)
    for citation in (PROJECTED_CITATION, CITATION):
        text = keys.texts.get(citation, "")
        if text.startswith(ESRI_WKT):
            return CRS.from_wkt(text.removeprefix(ESRI_WKT))
    if model is None:
        return None
    raise _local(keys)


def _local(keys: GeoKeys) -> UnknownCrsError:
    """Neither a projection nor a geographic system is named: coordinates of a place that only their author knows."""
    return UnknownCrsError(
        f"a local system that the keys do not define: {keys.texts.get(CITATION) or 'without a name'}"
    )


def _of_code(keys: GeoKeys, code: int) -> CRS:
    """A system of the EPSG register. Its base and its unit give way to those of the file where these differ."""
    found = CRS.from_epsg(code)
    if not found.is_projected:
        return found
    changed = found.to_json_dict()
    geographic, unit = keys.code(GEOGRAPHIC), linear_unit(keys)
    base = None if geographic is None else CRS.from_epsg(geographic)
    other = base is not None and found.source_crs is not None and not _same(base, found.source_crs)
    if base is not None and other:
        changed["base_crs"] = base.to_json_dict()
    stored = found.axis_info[0].unit_conversion_factor
    differs = unit is not None and unit > 0 and abs(unit / stored - 1) > 1e-10  # noqa: PLR2004 (rounding)
    if not (other or differs):
        return found
    if differs:
        _convert(changed, unit)
    return CRS.from_json_dict(_anonymous(changed))


def _convert(definition: dict[str, Any], metres: float | None) -> None:
    """Give a projected system another unit of length, with the same false origin on the ground."""
    unit = {"type": "LinearUnit", "name": "unknown", "conversion_factor": metres}
    for axis in definition["coordinate_system"]["axis"]:
        axis["unit"] = unit


def _anonymous(definition: dict[str, Any]) -> dict[str, Any]:
    """A definition without the code of what it was made from, nor its region of use."""
    return {
        key: value for key, value in definition.items() if key not in ("id", "ids", "usages", "scope", "area", "bbox")
    }


def _same(one: CRS, other: CRS) -> bool:
    return bool(one.equals(other, ignore_axis_order=True))


def _projected(keys: GeoKeys) -> CRS:
    base = _base(keys)
    unit = linear_unit(keys)
    named = keys.code(CONVERSION)
    made = _named_conversion(named) if named is not None else _conversion(keys, base, unit or 1.0)
    made["base_crs"] = base.to_json_dict()
    made["name"] = _projected_name(keys)
    if named is not None and unit is not None:
        _convert(made, unit)
    found = CRS.from_json_dict(_anonymous(made))
    return _bound(found, keys)


def _base(keys: GeoKeys) -> CRS:
    code = keys.code(GEOGRAPHIC)
    return CRS.from_epsg(code) if code is not None else _geographic(keys, bound=False)


def _named_conversion(code: int) -> dict[str, Any]:
    """A projected system with a conversion of the EPSG register, such as 16033 for zone 33 of UTM."""
    conversion = CoordinateOperation.from_epsg(code).to_json_dict()
    dummy: dict[str, Any] = CRS.from_epsg(32633).to_json_dict()
    return {**dummy, "conversion": conversion}


def _conversion(keys: GeoKeys, base: CRS, metres: float) -> dict[str, Any]:
    """A projected system with the file's own conversion, on a base that the caller replaces.

    Angles are in the unit of the base, as GDAL takes them.
    """
    name, parameters = _method(keys)
    values = []
    for word, codes, default in parameters:
        value = keys.number(*codes)
        value = default if value is None else value
        if value is not None:
            values.append(f'PARAMETER["{word}",{value!r}]')
    wkt = (
        'PROJCS["unknown",GEOGCS["unknown",DATUM["unknown",SPHEROID["unknown",6378137,298.257223563]],'
        f'PRIMEM["Greenwich",0],UNIT["unknown",{base.axis_info[0].unit_conversion_factor!r}]],'
        f'PROJECTION["{name}"],{",".join(values)},UNIT["{_unit_name(metres)}",{metres!r}]'
        f"{'' if keys.code(METHOD) == POLAR else EAST_NORTH}]"
    )
    return CRS.from_wkt(wkt).to_json_dict()


def _unit_name(metres: float) -> str:
    return "metre" if metres == 1 else "unknown"


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


def _projected_name(keys: GeoKeys) -> str:
    return keys.texts.get(CITATION) or keys.texts.get(PROJECTED_CITATION) or "unnamed"


def _geographic(keys: GeoKeys, *, bound: bool = True) -> CRS:
    names = _citation_names(keys.texts.get(GEOGRAPHIC_CITATION, ""))
    code = keys.code(DATUM)
    datum: dict[str, Any] | None = _datum(code) if code is not None else None
    if datum is None:
        name = names.get("Datum") or ("unnamed" if code is None else f"EPSG datum {code}")
        datum = {"type": "GeodeticReferenceFrame", "name": name}
        datum["ellipsoid"] = _ellipsoid(keys, names.get("Ellipsoid"))
        datum["prime_meridian"] = _meridian(keys, names.get("Primem"), is_earth=_is_earth(datum["ellipsoid"]))
    unit = {"type": "AngularUnit", "name": "unknown", "conversion_factor": _angle(keys)}
    axes = [("Latitude", "lat", "north"), ("Longitude", "lon", "east")]
    kind = "datum_ensemble" if datum["type"] == "DatumEnsemble" else "datum"
    found = CRS.from_json_dict(
        {
            "$schema": "https://proj.org/schemas/v0.7/projjson.schema.json",
            "type": "GeographicCRS",
            "name": names.get("GCS Name") or "unknown",
            kind: datum,
            "coordinate_system": {
                "subtype": "ellipsoidal",
                "axis": [
                    {"name": name, "abbreviation": short, "direction": direction, "unit": unit}
                    for name, short, direction in axes
                ],
            },
        }
    )
    return _bound(found, keys) if bound else found


def _datum(code: int) -> dict[str, Any] | None:
    """A datum of the EPSG register; None where PROJ does not have it."""
    try:
        return Datum.from_epsg(code).to_json_dict()
    except CRSError:
        return None


def _citation_names(text: str) -> dict[str, str]:
    """The parts of a citation such as `GCS Name = GCS_Mars_2000|Datum = D_Mars_2000|`; else it is the name itself."""
    parts = [part.partition(" = ") for part in text.split("|") if part]
    if parts and all(sign for _, sign, _ in parts):
        return {key.strip(): value.strip() for key, _, value in parts}
    return {"GCS Name": text} if text else {}


def _ellipsoid(keys: GeoKeys, name: str | None) -> dict[str, Any]:
    major, minor, inverse = (keys.number(key) for key in (MAJOR_AXIS, MINOR_AXIS, INVERSE_FLATTENING))
    code = keys.code(ELLIPSOID)
    if code is not None:
        return Ellipsoid.from_epsg(code).to_json_dict()
    if major is None or major <= 0:
        message = "a geographic system without a datum or an ellipsoid"
        raise UnknownCrsError(message)
    size: dict[str, Any] = {"name": name or "unnamed", "semi_major_axis": major}
    if inverse is not None and inverse > 1:
        return {**size, "inverse_flattening": inverse}
    if minor is not None and 0 < minor < major:
        return {**size, "semi_minor_axis": minor}
    return {"name": name or "unnamed", "radius": major}


def _is_earth(ellipsoid: dict[str, Any]) -> bool:
    axis = ellipsoid.get("semi_major_axis", ellipsoid.get("radius"))
    metres = float(axis["value"] if isinstance(axis, dict) else axis or 0)
    return abs(metres / EARTH_AXIS - 1) < 0.005  # noqa: PLR2004 (PROJ's own bound for other bodies)


def _meridian(keys: GeoKeys, name: str | None, *, is_earth: bool) -> dict[str, Any]:
    code = keys.code(MERIDIAN)
    if code is not None:
        return PrimeMeridian.from_epsg(code).to_json_dict()
    longitude = keys.number(MERIDIAN_LONGITUDE) or 0.0
    zero = "Greenwich" if is_earth else "Reference meridian"
    unit = {"type": "AngularUnit", "name": "unknown", "conversion_factor": _angle(keys)}
    return {"name": name or (zero if longitude == 0 else "unnamed"), "longitude": {"value": longitude, "unit": unit}}


def _angle(keys: GeoKeys) -> float:
    """Radians of the angular unit; degrees where the directory does not say."""
    code = keys.code(ANGULAR_UNIT)
    if code is None:
        size = keys.number(ANGULAR_SIZE) if keys.shorts.get(ANGULAR_UNIT) == USER_DEFINED else None
        return size or _units("angular")[9102]
    if code not in _units("angular"):
        message = f"angular unit {code}"
        raise UnknownCrsError(message)
    return _units("angular")[code]


def _bound(found: CRS, keys: GeoKeys) -> CRS:
    """With the shift to WGS 84 that the file states for a datum of its own."""
    shift = keys.numbers.get(TO_WGS84, ())
    if keys.code(GEOGRAPHIC) is not None or keys.code(DATUM) is not None or len(shift) not in (3, 7):
        return found
    from pyproj.crs import BoundCRS  # noqa: PLC0415 (seldom needed)
    from pyproj.crs.coordinate_operation import ToWGS84Transformation  # noqa: PLC0415

    base = found if found.is_geographic else found.geodetic_crs
    return BoundCRS(source_crs=found, target_crs="WGS 84", transformation=ToWGS84Transformation(base, *shift))


def _units(category: str) -> dict[int, float]:
    """Size of the units of the EPSG register by their code, in metres or radians."""
    units = get_units_map(auth_name="EPSG", category=category, allow_deprecated=True)
    return {int(unit.code): unit.conv_factor for unit in units.values() if unit.code.isdecimal()}


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value if isinstance(value, str) else ""


def tags_of_crs(crs: CRS, *, centres: bool = False) -> tuple[Tag, ...]:
    """The tags that say a system: EPSG codes, else the definition as WKT in a citation, as GDAL reads it back.

    Args:
        crs: Of any kind.
        centres: Whether the tags that place the image name the centre of a pixel, not its corner.
    """
    heights = crs.sub_crs_list[1] if crs.is_compound else None
    code = _epsg(crs.sub_crs_list[0] if crs.is_compound else crs)
    vertical = _epsg(heights) if heights is not None else None
    keys: dict[int, int | str] = {RASTER_TYPE: POINT if centres else AREA}
    if code is not None and (heights is None or vertical is not None):
        kind = crs.sub_crs_list[0] if crs.is_compound else crs
        keys[MODEL_TYPE] = MODEL_PROJECTED if kind.is_projected else MODEL_GEOGRAPHIC
        keys[PROJECTED if kind.is_projected else GEOGRAPHIC] = code
        if vertical is not None:
            keys[VERTICAL] = vertical
    else:
        keys[MODEL_TYPE] = USER_DEFINED
        keys[PROJECTED_CITATION] = ESRI_WKT + _wkt(crs)
    # GDAL reports heights from revision 1.1 on.
    return _packed(keys, minor=0 if vertical is None else 1)


def _epsg(crs: CRS) -> int | None:
    text = spelled(crs) if len(crs.axis_info) == 2 else (crs.to_authority(min_confidence=100) or ("", ""))  # noqa: PLR2004
    authority, _, code = text.partition(":") if isinstance(text, str) else (text[0], "", text[1])
    return int(code) if authority == "EPSG" and code.isdecimal() and int(code) < USER_DEFINED else None


def _wkt(crs: CRS) -> str:
    """As WKT 2, which GDAL reads back exactly; the dialect of ESRI loses methods, meridians and the order of axes."""
    text = crs.to_wkt("WKT2_2019")
    # Keys hold ASCII, and a bar ends a text.
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().replace("|", "/")


def _packed(keys: Mapping[int, int | str], *, minor: int) -> tuple[Tag, ...]:
    words: list[int] = [1, 1, minor, len(keys)]
    text = ""
    for key, value in sorted(keys.items()):
        if isinstance(value, int):
            words += [key, 0, 1, value]
        else:
            words += [key, KEY_TEXTS, len(value) + 1, len(text)]
            text += f"{value}|"
    directory: Tag = (KEY_DIRECTORY, SHORT, len(words), tuple(words))
    return (directory, (KEY_TEXTS, ASCII, len(text) + 1, text)) if text else (directory,)

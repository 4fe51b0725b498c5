"""The reference system that the GeoKeys of a file define, made by PROJ from codes and from own definitions.

The meaning of the keys is that of the GeoTIFF standard (OGC 19-008); where programs differ, GDAL is followed.
"""

from __future__ import annotations

from functools import cache
from typing import Any

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

from magnet_cli.images.geokeys import (
    ANGULAR_SIZE,
    ANGULAR_UNIT,
    CITATION,
    CONVERSION,
    DATUM,
    ELLIPSOID,
    ESRI_WKT,
    GEOGRAPHIC,
    GEOGRAPHIC_CITATION,
    INVERSE_FLATTENING,
    LINEAR_SIZE,
    LINEAR_UNIT,
    MAJOR_AXIS,
    MERIDIAN,
    MERIDIAN_LONGITUDE,
    METHOD,
    MINOR_AXIS,
    MODEL_GEOGRAPHIC,
    MODEL_PROJECTED,
    MODEL_TYPE,
    PROJECTED,
    PROJECTED_CITATION,
    TO_WGS84,
    USER_DEFINED,
    GeoKeys,
    UnknownCrsError,
)
from magnet_cli.images.projections import projected_wkt

EARTH_AXIS = 6378137.0
DEGREE = 9102


def crs_of_keys(keys: GeoKeys) -> CRS | None:
    """Return the horizontal reference system of a GeoTIFF, or None where it names none.

    Raises:
        UnknownCrsError: The GeoTIFF defines a system in a way that is not understood.
    """
    try:
        return _crs(keys)
    except CRSError as exc:
        raise UnknownCrsError(str(exc).splitlines()[0]) from exc


def linear_unit(keys: GeoKeys) -> float | None:
    """Return the unit of projected coordinates in metres, or None where the directory does not state it."""
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
    """Return the error for keys that name neither a projection nor a geographic system."""
    return UnknownCrsError(
        f"a local system that the keys do not define: {keys.texts.get(CITATION) or 'without a name'}"
    )


def _of_code(keys: GeoKeys, code: int) -> CRS:
    """Return a system of the EPSG register, with the base and the unit of the file where these differ."""
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
    """Return a definition without the code and the region of use of the system that it was made from."""
    return {
        key: value for key, value in definition.items() if key not in ("id", "ids", "usages", "scope", "area", "bbox")
    }


def _same(one: CRS, other: CRS) -> bool:
    return bool(one.equals(other, ignore_axis_order=True))


def _projected(keys: GeoKeys) -> CRS:
    base = _base(keys)
    unit = linear_unit(keys)
    named = keys.code(CONVERSION)
    angle = base.axis_info[0].unit_conversion_factor
    if named is not None:
        made = _named_conversion(named)
    else:
        made = CRS.from_wkt(projected_wkt(keys, angle=angle, metres=unit or 1.0)).to_json_dict()
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
    """Return a projected system with a conversion of the EPSG register, such as 16033 for zone 33 of UTM."""
    conversion = CoordinateOperation.from_epsg(code).to_json_dict()
    # The register has the conversion alone. A system of the register lends it the form of a projected one; the caller
    # replaces its base and its unit.
    dummy: dict[str, Any] = CRS.from_epsg(32633).to_json_dict()
    return {**dummy, "conversion": conversion}


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
    """Return a datum of the EPSG register, or None where PROJ does not have it."""
    try:
        return Datum.from_epsg(code).to_json_dict()
    except CRSError:
        return None


def _citation_names(text: str) -> dict[str, str]:
    """Return the parts of a citation such as `GCS Name = GCS_Mars_2000|Datum = D_Mars_2000|`.

    A citation without parts is the name of the geographic system.
    """
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
    """Return the angular unit in radians; it is the degree where the directory does not state it."""
    code = keys.code(ANGULAR_UNIT)
    if code is None:
        size = keys.number(ANGULAR_SIZE) if keys.shorts.get(ANGULAR_UNIT) == USER_DEFINED else None
        return size or _units("angular")[DEGREE]
    if code not in _units("angular"):
        message = f"angular unit {code}"
        raise UnknownCrsError(message)
    return _units("angular")[code]


def _bound(found: CRS, keys: GeoKeys) -> CRS:
    """Return a system with the shift to WGS 84 that the file states for a datum of its own."""
    shift = keys.numbers.get(TO_WGS84, ())
    if keys.code(GEOGRAPHIC) is not None or keys.code(DATUM) is not None or len(shift) not in (3, 7):
        return found
    from pyproj.crs import BoundCRS  # noqa: PLC0415 (seldom needed)
    from pyproj.crs.coordinate_operation import ToWGS84Transformation  # noqa: PLC0415

    base = found if found.is_geographic else found.geodetic_crs
    return BoundCRS(source_crs=found, target_crs="WGS 84", transformation=ToWGS84Transformation(base, *shift))


@cache
def _units(category: str) -> dict[int, float]:
    """Return the size of the units of the EPSG register by their code, in metres or radians."""
    units = get_units_map(auth_name="EPSG", category=category, allow_deprecated=True)
    return {int(unit.code): unit.conv_factor for unit in units.values() if unit.code.isdecimal()}

"""The GeoKeys of a GeoTIFF: its directory as numbers and texts, and the tags that state a reference system."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from magnet_cli.images.crs import spelled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyproj import CRS

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
"""This prefix begins a citation that holds the definition as WKT. GDAL, like ArcGIS, writes it where the keys have no
word for a projection method, and it reads any WKT there."""

KEY_TAGS = (KEY_DIRECTORY, KEY_NUMBERS, KEY_TEXTS)
SHORT, ASCII = 3, 2
"""TIFF's numbers for an unsigned 16-bit number and for text."""


class UnknownCrsError(Exception):
    """The keys define a reference system that is not understood; the message says why."""


@dataclass(frozen=True, kw_only=True)
class GeoKeys:
    """GeoKeys of a directory by their number, apart by the kind of their value."""

    shorts: Mapping[int, int] = field(default_factory=dict)
    numbers: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    texts: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, tags: Mapping[int, object]) -> GeoKeys:
        """Read the keys from the tags of a TIFF by their codes. Entries that point beyond their tag are left out."""
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
        """Whether the tags that place the image name the centre of a pixel and not its corner."""
        return self.shorts.get(RASTER_TYPE) == POINT

    def number(self, *keys: int) -> float | None:
        """Return the value of the first of several keys that the directory has, or None."""
        return next((self.numbers[key][0] for key in keys if key in self.numbers), None)

    def code(self, key: int) -> int | None:
        """Return a code of a register, or None where the directory has none or defines the thing by other keys."""
        found = self.shorts.get(key, 0)
        # 0 stands for undefined and 32767 for user-defined in every key that holds a code (OGC 19-008).
        return found if 0 < found < USER_DEFINED else None


def _text(value: object) -> str:
    # The standard asks for ASCII, and files hold other bytes. Latin-1 reads each of them.
    return value.decode("latin-1") if isinstance(value, bytes) else value if isinstance(value, str) else ""


def tags_of_crs(crs: CRS, *, centres: bool = False) -> tuple[Tag, ...]:
    """Return tags that state a system by EPSG codes, or else as WKT in a citation, which GDAL reads back.

    Args:
        crs: Reference system of any kind.
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
    """Return WKT 2, which GDAL reads back exactly. ESRI's dialect loses methods, meridians and the order of axes."""
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

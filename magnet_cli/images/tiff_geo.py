"""The georeference of a TIFF: the tags as they are, their GeoKeys, the CRS, and nodata."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tifffile import TiffPage

GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737, 42113)
"""ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory and its numbers and texts, GDAL_NODATA."""

PIXEL_SCALE, TRANSFORMATION, KEY_DIRECTORY, KEY_NUMBERS, NODATA = 33550, 34264, 34735, 34736, 42113
RPC = 50844
"""The tag of a camera's rational polynomials."""
GEOGRAPHIC_CODE, PROJECTED_CODE, USER_DEFINED = 2048, 3072, 32767


def geo_tags(page: TiffPage) -> tuple[tuple[int, int, int, object], ...]:
    """The tags that carry the georeference: code, TIFF data type, count, value."""
    found = (page.tags.get(code) for code in GEO_TAGS)
    return tuple((tag.code, int(tag.dtype), tag.count, tag.value) for tag in found if tag is not None)


def geo_keys(page: TiffPage) -> dict[int, int]:
    """The GeoKeys whose value is a short stored in the directory itself."""
    return {key: value for key, location, count, value in _entries(page) if location == 0 and count == 1}


def geo_numbers(page: TiffPage) -> dict[int, float]:
    """The GeoKeys whose value is one real number."""
    stored = numbers(page, KEY_NUMBERS)
    return {
        key: stored[index]
        for key, location, count, index in _entries(page)
        if location == KEY_NUMBERS and count == 1 and index < len(stored)
    }


def numbers(page: TiffPage, code: int) -> tuple[float, ...]:
    """The numbers of a tag; none where it is missing or holds something else."""
    value = page.tags.valueof(code, None)
    if not isinstance(value, tuple) or not all(isinstance(entry, int | float) for entry in value):
        return ()
    return tuple(float(entry) for entry in value)


def _entries(page: TiffPage) -> list[tuple[int, int, int, int]]:
    """Key, location, count and value or index of each GeoKey."""
    value = page.tags.valueof(KEY_DIRECTORY, None)
    words = value[4:] if isinstance(value, tuple) else ()
    return [(*words[start : start + 4],) for start in range(0, len(words) - 3, 4)]


def crs(page: TiffPage) -> str | None:
    """`EPSG:n` of the projected, else of the geographic system; None where the file names none."""
    keys = geo_keys(page)
    for key in (PROJECTED_CODE, GEOGRAPHIC_CODE):
        code = keys.get(key, 0)
        if 0 < code < USER_DEFINED:
            return f"EPSG:{code}"
    return None


def nodata(page: TiffPage) -> float | None:
    """The value that marks a missing pixel; None where there is none."""
    tag = page.tags.get(NODATA)
    if tag is None:
        return None
    text = tag.value.decode(errors="replace") if isinstance(tag.value, bytes) else str(tag.value)
    try:
        return float(text.strip().rstrip("\x00"))
    except ValueError:
        return None

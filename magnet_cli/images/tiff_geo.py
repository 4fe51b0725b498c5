"""The georeference of a TIFF: the tags as they are, the CRS, the pixel size in metres, and nodata."""

from __future__ import annotations

from math import hypot
from typing import TYPE_CHECKING

from magnet_cli.images.resolution import decimal, known

if TYPE_CHECKING:
    from tifffile import TiffPage

    from magnet_cli.images.protocol import Resolution

GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737, 42113)
"""ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory and its numbers and texts, GDAL_NODATA."""

PIXEL_SCALE, TRANSFORMATION, KEY_DIRECTORY, NODATA = 33550, 34264, 34735, 42113
MODEL_TYPE, GEOGRAPHIC_CODE, PROJECTED_CODE, LINEAR_UNITS = 1024, 2048, 3072, 3076
PROJECTED, METRE, USER_DEFINED = 1, 9001, 32767

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


def geo_tags(page: TiffPage) -> tuple[tuple[int, int, int, object], ...]:
    """The tags that carry the georeference: code, TIFF data type, count, value."""
    found = (page.tags.get(code) for code in GEO_TAGS)
    return tuple((tag.code, int(tag.dtype), tag.count, tag.value) for tag in found if tag is not None)


def geo_keys(page: TiffPage) -> dict[int, int]:
    """The GeoKeys whose value is a short stored in the directory itself."""
    tag = page.tags.get(KEY_DIRECTORY)
    if tag is None or not isinstance(tag.value, tuple):
        return {}
    words = tag.value[4:]
    entries = [words[start : start + 4] for start in range(0, len(words) - 3, 4)]
    return {key: value for key, location, count, value in entries if location == 0 and count == 1}


def crs(page: TiffPage) -> str | None:
    """`EPSG:n` of the projected, else of the geographic system; None where the file names none."""
    keys = geo_keys(page)
    for key in (PROJECTED_CODE, GEOGRAPHIC_CODE):
        code = keys.get(key, 0)
        if 0 < code < USER_DEFINED:
            return f"EPSG:{code}"
    return None


def ground_resolution(page: TiffPage) -> Resolution | None:
    """Metres a pixel, where the coordinate system is projected in metres."""
    keys = geo_keys(page)
    if keys.get(MODEL_TYPE) != PROJECTED or not _metric(keys):
        return None
    scale = _numbers(page, PIXEL_SCALE)
    if len(scale) > 1:
        return known(abs(scale[0]), abs(scale[1]), unit="m")
    matrix = _numbers(page, TRANSFORMATION)
    if len(matrix) > 5:  # noqa: PLR2004 (two rows of a 4 x 4 matrix)
        return known(hypot(matrix[0], matrix[4]), hypot(matrix[1], matrix[5]), unit="m")
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


def _metric(keys: dict[int, int]) -> bool:
    unit = keys.get(LINEAR_UNITS)
    if unit is not None:
        return unit == METRE
    code = keys.get(PROJECTED_CODE, 0)
    return any(low <= code <= high for low, high in METRIC_CODES)


def _numbers(page: TiffPage, code: int) -> tuple[float, ...]:
    tag = page.tags.get(code)
    if tag is None or not isinstance(tag.value, tuple):
        return ()
    values = [decimal(abs(value)) for value in tag.value]
    return tuple(float(value) if value is not None else 0.0 for value in values)

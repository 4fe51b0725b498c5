"""The georeference of a TIFF page: the tags as they are, what they mean together with its sidecars, and nodata."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magnet_cli.images.georeference import NOTHING, Georeference, georeference

if TYPE_CHECKING:
    from tifffile import TiffPage

    from magnet_cli.images.sidecars import Sidecars

GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737, 42113, 50844)
"""ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory and its numbers and texts, GDAL_NODATA,
RPCCoefficient."""

NODATA = 42113


def geo_tags(page: TiffPage) -> tuple[tuple[int, int, int, object], ...]:
    """Return the tags that carry the georeference: code, TIFF data type, count, value."""
    found = (page.tags.get(code) for code in GEO_TAGS)
    return tuple((tag.code, int(tag.dtype), tag.count, tag.value) for tag in found if tag is not None)


def page_georeference(page: TiffPage, sidecars: Sidecars = NOTHING) -> Georeference:
    """Return the georeference of a page from its own tags and the sidecars of its file."""
    return georeference(geo_tags(page), sidecars)


def nodata(page: TiffPage) -> float | None:
    """Return the value that marks a missing pixel; None where there is none."""
    tag = page.tags.get(NODATA)
    if tag is None:
        return None
    text = tag.value.decode(errors="replace") if isinstance(tag.value, bytes) else str(tag.value)
    try:
        return float(text.strip().rstrip("\x00"))
    except ValueError:
        return None

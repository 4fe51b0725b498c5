"""Regions of an image: `--roi`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from magnet_cli.errors import UsageError
from magnet_cli.geometry import Box
from magnet_cli.options.option import Form
from magnet_cli.system.addresses import is_address, local_path

VECTOR_SUFFIXES = (".shp", ".gpkg", ".fgb", ".kml", ".kmz", ".gml", ".tab", ".mif")
"""Endings of files of polygons of geographic programs; a GeoPackage may hold rasters instead."""
POLYGONS = "polygons are read from a file that lies on a disk"
"""Rule of the message where an address of polygons is given."""
_BOX = re.compile(",".join([r"\s*(\d{1,18})\s*"] * 4))


def parse_roi(text: str) -> Box | Path:
    """Parse a region: `x,y,width,height` in pixels of level 0, or the path of a GeoJSON file.

    Raises:
        UsageError: The text is neither a box nor the name of a GeoJSON file, or the box has no pixel.
    """
    if is_geojson(text):
        return local_path(text, rule=POLYGONS)
    box = parse_box(text)
    if box is None and is_vector(text):
        raise UsageError(
            "--roi is x,y,width,height in pixels of the full resolution, or a .geojson file",
            value=repr(text),
            advice=conversion(text),
        )
    if box is None:
        raise UsageError(
            "--roi is x,y,width,height in pixels of the full resolution, or a .geojson file",
            value=repr(text),
            advice="Write --roi 1000,2000,512,512, or name a file",
        )
    return box


def parse_counted(text: str) -> Box | Path | str:
    """Parse the region of a comparison: a box, a GeoJSON file, or a raster of the mask's size.

    Returns:
        The box, the path of the file, or the address of a raster.

    Raises:
        UsageError: The text is none of these, or the box has no pixel.
    """
    box = parse_box(text)
    if box is not None:
        return box
    if is_address(text) and not is_geojson(text):
        return text
    path = local_path(text, rule=POLYGONS)
    # A file's name may hold commas. Where there is no such file, a mistyped box is the likelier mistake.
    if "," in text and not path.exists():
        raise UsageError(
            "--roi of evaluate is x,y,width,height in pixels, a .geojson file, or a raster of the mask's size",
            value=repr(text),
            advice="Write --roi 1000,2000,512,512, or name a file",
        )
    return path


def is_geojson(name: str) -> bool:
    """Return whether a file's name, or an address without its query, is that of a GeoJSON file."""
    name = name.partition("?")[0] if is_address(name) else name
    return name.lower().removesuffix(".gz").endswith((".geojson", ".json"))


def is_vector(name: str) -> bool:
    """Return whether a file's name is that of a file of polygons in another form than GeoJSON."""
    return name.lower().endswith(VECTOR_SUFFIXES)


def conversion(path: str) -> str:
    """Return the advice to convert a file of polygons to GeoJSON, with the command that does it."""
    target = f"{path.rpartition('.')[0] or path}.geojson"
    words = shlex.join(["ogr2ogr", "-f", "GeoJSON", "-t_srs", "EPSG:4326", target, path])
    unknown = "Where the file names no reference system, add -s_srs and the one of its coordinates"
    return f"Convert it with GDAL: {words}; then give {target}. {unknown}"


def parse_box(text: str) -> Box | None:
    """Parse a box, `x,y,width,height` in pixels of level 0; return None where the text has another form.

    Raises:
        UsageError: The box has no pixel.
    """
    match = _BOX.fullmatch(text)
    if match is None:
        return None
    x, y, width, height = map(int, match.groups())
    if not width or not height:
        raise UsageError(
            "--roi x,y,width,height has a width and a height of at least one pixel",
            value=repr(text),
            advice="Write four numbers, such as --roi 0,0,4096,4096",
        )
    return Box(x=x, y=y, width=width, height=height)


def spell_roi(roi: Box | Path) -> str:
    """Write a region as `parse_roi` reads it."""
    return str(roi) if isinstance(roi, Path) else f"{roi.x},{roi.y},{roi.width},{roi.height}"


REGION = Form(parse=lambda text, _: parse_roi(text), spell=spell_roi, types=(Box, Path), metavar="BOX|FILE")

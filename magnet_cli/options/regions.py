"""Regions of an image: `--roi`."""

from __future__ import annotations

import re
from pathlib import Path

from magnet_cli.errors import UsageError
from magnet_cli.geometry import Box
from magnet_cli.options.option import Form

_BOX = re.compile(",".join([r"\s*(\d{1,18})\s*"] * 4))


def parse_roi(text: str) -> Box | Path:
    """Parse a region: `x,y,width,height` in pixels of level 0, or the path of a GeoJSON file.

    Raises:
        UsageError: The text is neither a box nor the name of a GeoJSON file, or the box has no pixel.
    """
    if is_geojson(text):
        return Path(text)
    box = parse_box(text)
    if box is None:
        raise UsageError(
            "--roi is x,y,width,height in pixels of the full resolution, or a .geojson file",
            value=repr(text),
            advice="Write --roi 1000,2000,512,512, or name a file",
        )
    return box


def parse_counted(text: str) -> Box | Path:
    """Parse the region of a comparison: a box, a GeoJSON file, or a raster of the mask's size.

    Returns:
        The box, or the path of the file.

    Raises:
        UsageError: The text is neither, or the box has no pixel.
    """
    box = parse_box(text)
    if box is not None:
        return box
    path = Path(text)
    # A file's name may hold commas. Where there is no such file, a mistyped box is the likelier mistake.
    if "," in text and not path.exists():
        raise UsageError(
            "--roi of evaluate is x,y,width,height in pixels, a .geojson file, or a raster of the mask's size",
            value=repr(text),
            advice="Write --roi 1000,2000,512,512, or name a file",
        )
    return path


def is_geojson(name: str) -> bool:
    """Return whether a file's name is that of a GeoJSON file."""
    return name.lower().removesuffix(".gz").endswith((".geojson", ".json"))


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

"""Pixel size and channel names that programs write into a TIFF's ImageDescription."""

from __future__ import annotations

import re
from contextlib import suppress
from fractions import Fraction
from html import unescape
from typing import TYPE_CHECKING

from magnet_cli.images.channels import BandNames, channel_bands
from magnet_cli.images.resolution import UM_PER_INCH, decimal, microscope, not_positive, objective, stated
from magnet_cli.images.units import unit_in_um

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tifffile import TiffPage

    from magnet_cli.images.resolution import Found

DESCRIPTION, X_RESOLUTION, Y_RESOLUTION, GDAL_METADATA = 270, 282, 283, 42112

APERIO_MPP = re.compile(r"\|\s*MPP\s*=\s*([^|\s]+)")
APERIO_OBJECTIVE = re.compile(r"\|\s*AppMag\s*=\s*([^|\s]+)")
IMAGEJ_UNIT = re.compile(r"^(y?)unit=[ \t]*(\S[^\r\n]*?)[ \t]*\r?$", re.MULTILINE)
GDAL_ITEM = re.compile(r"<Item\b([^<>]*)>([^<]*)</Item>")
GDAL_ATTRIBUTE = re.compile(r"\b(sample|role)=\"(\w{1,20})\"")
APERIO_PICTURE = re.compile(r"\n\s*(label|macro|thumbnail)\b", re.IGNORECASE)
APERIO_REDUCED = "->"
QPI_TYPE = re.compile(r"<ImageType>\s*(\w+)\s*</ImageType>")
QPI_NAMES = (re.compile(r"<Biomarker>([^<]+)</Biomarker>"), re.compile(r"<Name>([^<]+)</Name>"))


def described_resolution(page: TiffPage) -> Found:
    """Return micrometres a pixel from an Aperio or ImageJ description; None where it states no valid size."""
    text = description(page)
    if text.startswith("Aperio"):
        found = APERIO_MPP.search(text)
        return (None, ()) if found is None else stated(found[1], found[1], unit="um")
    return _imagej(page, text) if text.startswith("ImageJ=") else (None, ())


def described_objective(page: TiffPage) -> Fraction | None:
    """Return the magnification from an Aperio description; None where it states none."""
    text = description(page)
    found = APERIO_OBJECTIVE.search(text) if text.startswith("Aperio") else None
    return None if found is None else objective(found[1])


def aperio_kind(page: TiffPage) -> str:
    """Return the kind of an Aperio page by its description: `level`, `thumbnail`, `label`, `macro`, or empty."""
    text = description(page)
    if not text.startswith("Aperio"):
        return ""
    named = APERIO_PICTURE.search(text)
    if named is not None:
        return named[1].lower()
    # Aperio stores levels in tiles, and the pictures beside them in strips.
    return "level" if page.is_tiled else "thumbnail" if APERIO_REDUCED in text else ""


def qpi_kind(page: TiffPage) -> str:
    """Return what a page of a QPTIFF is by its description, such as `ReducedResolution`; empty for other files."""
    text = description(page)
    found = QPI_TYPE.search(text) if "PerkinElmer-QPI" in text else None
    return "" if found is None else found[1]


def channel_names(pages: Sequence[TiffPage], described: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names of channels that lie in pages of their own, one a band; empty where a file names none.

    Args:
        pages: Pages that hold one channel each.
        described: Names by the OME-XML of the file; none where it has none, and each page describes itself.
    """
    said = described or [_qpi_name(description(page)) for page in pages]
    names = channel_bands([unescape(name) for name in said])
    return names if len(names) == len(pages) else ()


def band_names(page: TiffPage) -> BandNames:
    """Return the names that GDAL's metadata give to samples."""
    return BandNames.of(_gdal_names(page))


def _gdal_names(page: TiffPage) -> Iterator[tuple[int, str, str]]:
    """Yield the position of a sample, the role of a text, and the text."""
    text = page.tags.valueof(GDAL_METADATA, "")
    for attributes, value in GDAL_ITEM.findall(text) if isinstance(text, str) else []:
        said = dict(GDAL_ATTRIBUTE.findall(attributes))
        if said.get("sample", "").isdecimal():
            # GDAL escapes a value before it writes it as XML, which escapes it again.
            yield int(said["sample"]), said.get("role", ""), unescape(unescape(value))


def band_scales(page: TiffPage) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the scales and the offsets that GDAL's metadata give to samples, where they state any."""
    text = page.tags.valueof(GDAL_METADATA, "")
    found: dict[str, list[float]] = {"scale": [], "offset": []}
    for attributes, value in GDAL_ITEM.findall(text) if isinstance(text, str) else []:
        role = dict(GDAL_ATTRIBUTE.findall(attributes)).get("role", "")
        if role in found:
            with suppress(ValueError):
                found[role].append(float(value))
    return tuple(found["scale"]), tuple(found["offset"])


def _qpi_name(text: str) -> str:
    found = [name for name in (pattern.search(text) for pattern in QPI_NAMES) if name is not None]
    return found[0][1] if found else ""


def description(page: TiffPage) -> str:
    """Return the text of a page's description; an empty text where it has none."""
    value = page.tags.valueof(DESCRIPTION, "")
    if isinstance(value, bytes):
        # The tag is ASCII by its definition, and programs write any code page into it. Latin-1 maps every byte to some
        # character, so that the ASCII words between are found.
        value = value.rstrip(b"\0").decode("latin-1")
    return value if isinstance(value, str) else ""


def is_slide(page: TiffPage) -> bool:
    """Return whether a slide scanner's program wrote the description."""
    return description(page).startswith("Aperio")


def _imagej(page: TiffPage, text: str) -> Found:
    """Read the pixel size in the unit of the text, which ImageJ prefers to the tag's; `yunit` states another for y."""
    units: dict[str, str] = dict(IMAGEJ_UNIT.findall(text))
    x, y = (_inverse(page.tags.valueof(code, None)) for code in (X_RESOLUTION, Y_RESOLUTION))
    if "" not in units:
        return None, ()
    found, notes = _in_um(x, units[""], y, units.get("y", units[""]))
    if found is not None and unit_in_um(units[""]) == UM_PER_INCH:
        # ImageJ takes over the densities of screens and print from the pictures that it opens, with this unit.
        return microscope(found.x, found.y)
    return found, notes


def _in_um(x: object, x_unit: str, y: object, y_unit: str) -> Found:
    um_x, um_y = unit_in_um(x_unit), unit_in_um(y_unit)
    if x is None or y is None:
        return None, ()
    if um_x is None or um_y is None:
        strange = x_unit if um_x is None else y_unit
        return None, (f"the pixel size is stated in {strange[:20]!r}, which is no length: ignored",)
    exact_x, exact_y = decimal(x), decimal(y)
    if exact_x is None or exact_y is None:
        return None, (not_positive(x, y),)
    return stated(exact_x * um_x, exact_y * um_y, unit="um")


def _inverse(value: object) -> object:
    if not isinstance(value, tuple) or len(value) != 2 or value[0] < 1:  # noqa: PLR2004 (a rational)
        return None
    return Fraction(int(value[1]), int(value[0])) if value[1] > 0 else None

"""The names of a TIFF's bands: by its samples, by the tag of GDAL, and by the file .aux.xml beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tifffile

from magnet_cli.errors import SourceError
from magnet_cli.images.channels import OTHER_COLOURS, BandNames, channel_bands
from magnet_cli.images.tiff_colour import COLOURS, MINISBLACK, MINISWHITE, RGB, Colour, colour, understood
from magnet_cli.images.tiff_description import band_names

if TYPE_CHECKING:
    from pathlib import Path

    from tifffile import TiffPage

NAMED = (MINISWHITE, MINISBLACK, RGB)
"""Photometric interpretations whose samples are handed out as bands, so that names of samples are names of bands."""


def named_bands(page: TiffPage, found: Colour, beside: BandNames) -> tuple[str, ...]:
    """Return the names of the bands of a page.

    Descriptions of the file .aux.xml have priority over those of the tag, and so have its colours over those of the
    tag. Any colour has priority over any description, because GDAL repeats the descriptions alone, without the colours,
    in the file .aux.xml where it stores statistics.

    Args:
        page: Page that holds all bands.
        found: Meaning of its samples.
        beside: Names from the file .aux.xml.
    """
    samples = [sample for sample in range(found.stored_samples) if sample != found.alpha]
    if found.palette is not None or len(samples) != len(found.bands):
        return found.bands
    tagged = band_names(page)
    named = tagged.under(beside).named(found.bands, samples)
    if _repeats_a_colour(named):
        # A file .aux.xml that names few bands may contradict the colours of the others.
        named = tagged.under(BandNames(descriptions=beside.descriptions)).named(found.bands, samples)
    if _repeats_a_colour(named):
        named = tagged.named(found.bands, samples)
    return channel_bands(named)


def _repeats_a_colour(names: tuple[str, ...]) -> bool:
    return any(names.count(name) > 1 for name in COLOURS)


def refuse_other_colours(page: TiffPage, beside: BandNames, path: str) -> None:
    """Refuse samples that would be taken for red, green and blue by their count.

    Args:
        page: Page that holds all bands.
        beside: Names from the file .aux.xml.
        path: Path of the file, for the message.

    Raises:
        SourceError: The file or the one beside it says that they are hue, cyan, luma or the like.
    """
    if page.photometric not in NAMED:
        return
    colours = band_names(page).under(beside).colours
    others = {sample: name for sample, name in sorted(colours.items()) if name in OTHER_COLOURS}
    if others and page.samplesperpixel >= len(COLOURS):
        named = ", ".join(f"band {sample + 1} is {name}" for sample, name in others.items())
        raise SourceError(
            "bands of these colours are not read",
            value=f"{named}, by GDAL's metadata",
            file=path,
            advice="Convert the image to RGB or grey; where its bands are red, green and blue, gdal_edit.py with "
            "-colorinterp_1 red -colorinterp_2 green -colorinterp_3 blue says so",
        )


def names_from_beside(path: Path, beside: BandNames) -> tuple[str, ...]:
    """Return the names of all samples of a TIFF, where the file .aux.xml changes them; empty where it does not.

    Args:
        path: The TIFF.
        beside: Names from the file .aux.xml.
    """
    with tifffile.TiffFile(path, _multifile=False) as file:
        page = file.pages.first
        if not understood(page):
            return ()
        plain = colour(page, alpha="band")
        named = named_bands(page, plain, beside)
        return () if named == named_bands(page, plain, BandNames()) else named

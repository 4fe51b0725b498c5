"""The files that belong to a mask, and how this program recognises its own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import tifffile

from magnet_cli.errors import OutputError
from magnet_cli.images.failures import FOREIGN
from magnet_cli.images.labels_tiff import mask_description
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.records import MAGIC, begins_journal
from magnet_cli.masks.report_file import is_report, read_report
from magnet_cli.system.written_files import WrittenFile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SOFTWARE, SAMPLES = 305, 277
"""TIFF tags."""
SCENE_SOFTWARE = "magnet scene"
"""Value of the first one in the files of `magnet scene`, of which images have several samples a pixel."""
DESCRIBED = {"classes", "nodata"}
"""Keys that every mask has in its description."""
FIELD_ATTRIBUTES = {"scale_factor", "add_offset", "classes", "pitch", "level0"}
"""Attributes that every field has."""


def mask_files(mask: Path, *, owner: str, fields: Sequence[str] = ()) -> list[WrittenFile]:
    """Return the files that a run may write to make a mask.

    Args:
        mask: The file of the mask.
        owner: The image that the mask is made of.
        fields: Names of the fields that are kept beside the mask.
    """
    paths = OutputPaths.of(mask)
    return [
        WrittenFile(path=paths.mask, kind="mask", owner=owner, is_ours=is_mask),
        WrittenFile(path=paths.report, kind="report", owner=owner, is_ours=is_report),
        WrittenFile(path=paths.journal, kind="journal", owner=owner, is_ours=is_journal),
        *(
            WrittenFile(path=paths.field(name), kind="field", owner=owner, is_ours=is_field)
            for name in dict.fromkeys(fields)
        ),
    ]


def is_mask(path: Path) -> bool:
    """Return whether a file is a mask of this program, by its own description or by the report beside it."""
    if not path.is_file():
        return False
    try:
        with tifffile.TiffFile(path) as tiff:
            found = mask_description(tiff.pages.first) or {}
    except (*FOREIGN, tifffile.TiffFileError):  # A damaged file is no mask.
        found = {}
    if found.keys() >= DESCRIBED and "export" not in found:
        return True
    report = OutputPaths.of(path).report
    if not is_report(report):
        return False
    try:
        section = read_report(report).get("mask")
    except OutputError:
        return False
    return isinstance(section, dict) and section.get("bytes") == path.stat().st_size


def is_truth(path: Path) -> bool:
    """Return whether a file holds the true classes of a scene that this program drew."""
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            return bool(page.tags.valueof(SOFTWARE, "") == SCENE_SOFTWARE and page.tags.valueof(SAMPLES, 1) == 1)
    except (*FOREIGN, tifffile.TiffFileError):  # A damaged file is no truth.
        return False


def is_journal(path: Path) -> bool:
    """Return whether a file begins as a journal does, of whichever version, or was only begun as one."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return begins_journal(file.read(len(MAGIC)))


def is_field(path: Path) -> bool:
    """Return whether a folder is a Zarr array with the attributes of a field."""
    try:
        attributes = json.loads((path / "zarr.json").read_bytes())["attributes"]
        return bool(attributes.keys() >= FIELD_ATTRIBUTES)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False

"""A mask as a Cloud-Optimized GeoTIFF; without a CRS it is a TIFF of the same layout."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import tifffile

from magnet_cli.exports.destinations import names_path
from magnet_cli.exports.relayout import TiffLayout, write_relaid
from magnet_cli.images.labels_tiff import mask_description
from magnet_cli.system import durable
from magnet_cli.system.characters import xml_text
from magnet_cli.system.working_files import working_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from magnet_cli.masks.mask_file import MaskFile

STRUCTURE = (
    "LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n"
    "BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
)
"""The structural metadata of GDAL's COG driver (gdal.org, drivers/raster/cog): readers then ask for fewer ranges. The
closing space leaves room for YES, which GDAL writes where it changes such a file."""
NAMES_HEAD = '<PAMDataset>\n  <PAMRasterBand band="1">\n    <CategoryNames>\n'


def write_cog(mask: MaskFile, target: Path, *, identity: str) -> None:
    """Write a copy of the mask with its palette, nodata, class names, CRS and overviews.

    A second file has the names of the classes: GDAL calls them categories, shows them in the programs that use it, and
    finds no place for them in a TIFF.
    """
    head = f"GDAL_STRUCTURAL_METADATA_SIZE={len(STRUCTURE):06d} bytes\n{STRUCTURE}".encode()
    description = json.dumps({**mask.facts.description, "export": identity}, sort_keys=True)
    with working_file(target) as file:
        # Directories begin at multiples of eight bytes, so the head is padded to one.
        preamble = head + b"\0" * (-len(head) % 8)
        write_relaid(mask, file, TiffLayout(description=description, preamble=preamble, framed=True))
        # The names are written first, so that a file that has its final name always has them beside it.
        durable.write_whole(names_path(target), _categories(entry.name for entry in mask.facts.classes).encode())


def _categories(names: Iterable[str]) -> str:
    """Return the names as GDAL's PAM has them (gdal.org, drivers/raster/gtiff and the schema pamdataset)."""
    lines = "".join(f"      <Category>{escape(xml_text(name))}</Category>\n" for name in names)
    return f"{NAMES_HEAD}{lines}    </CategoryNames>\n  </PAMRasterBand>\n</PAMDataset>\n"


def has_names(path: Path) -> bool:
    """Return whether a file begins like the files of class names that this program writes; more may follow."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(NAMES_HEAD)) == NAMES_HEAD.encode()


def found_identity(path: Path) -> str | None:
    """Return the identity of a COG that this program wrote; None for any other file."""
    try:
        with tifffile.TiffFile(path) as tiff:
            found = mask_description(tiff.pages.first) or {}
    except (OSError, ValueError, tifffile.TiffFileError):
        return None
    identity = found.get("export")
    return identity if isinstance(identity, str) else None

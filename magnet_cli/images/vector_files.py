"""Files of points, lines and polygons of geographic programs, which are recognised to be refused with what to do."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

from magnet_cli.errors import SourceError
from magnet_cli.images.sqlite_files import opened_sqlite
from magnet_cli.images.urls import is_url
from magnet_cli.options.regions import conversion, is_vector
from magnet_cli.system import regular_files

SHAPEFILE_MAGIC = b"\x00\x00\x27\x0a"
SQLITE_MAGIC = b"SQLite format 3\x00"
RASTER_TABLE = re.compile(rb'type\s+"raster"', re.IGNORECASE)
"""What a MapInfo table says that places a picture and holds no polygons."""
TABLE_BYTES = 4096
"""Bytes at the beginning of such a table in which this is looked for."""
RASTERS = ("tiles", "2d-gridded-coverage")
"""Kinds of contents of a GeoPackage that are rasters."""


def refuse_vectors(path: str, head: bytes) -> None:
    """Refuse a file that holds no raster, but points, lines or polygons.

    Args:
        path: Path or URL of the file.
        head: First bytes of the file.

    Raises:
        SourceError: The file is of a kind that holds no raster, or a GeoPackage without one.
    """
    if path.lower().endswith(".tab") and RASTER_TABLE.search(_beginning(path, head)):
        raise SourceError(
            "a MapInfo table of type RASTER holds no pixels, but names a picture",
            file=path,
            advice="Give the picture that it names",
        )
    if head.startswith(SHAPEFILE_MAGIC) or (is_vector(path) and not _may_hold_rasters(path, head)):
        raise SourceError(
            "the file holds points, lines or polygons and no raster; of these GeoJSON is read",
            file=path,
            advice=conversion(path),
        )


def _beginning(path: str, head: bytes) -> bytes:
    """Return more of a file than its head, where it is on a disk: the names of files in a table may be long."""
    if is_url(path):
        return head
    with regular_files.opened(Path(path)) as file:
        return file.read(TABLE_BYTES)


def _may_hold_rasters(path: str, head: bytes) -> bool:
    """Return whether a file is a GeoPackage with a raster, or one whose contents are not known."""
    if not path.lower().endswith(".gpkg"):
        return False
    if not head.startswith(SQLITE_MAGIC) or is_url(path):
        return True
    try:
        with closing(opened_sqlite(path)) as base:
            kinds = {str(kind) for (kind,) in base.execute("SELECT data_type FROM gpkg_contents")}
    except sqlite3.Error:
        return True
    return not kinds or not kinds.isdisjoint(RASTERS)

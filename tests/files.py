"""Functions with which tests compare files: the content of folders, the pages of TIFF files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tifffile

if TYPE_CHECKING:
    from pathlib import Path


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pages_of(tiff: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """Return the pages of a TIFF file that have tags of their own."""
    return [page for page in tiff.pages if isinstance(page, tifffile.TiffPage)]

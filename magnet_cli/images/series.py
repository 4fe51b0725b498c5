"""Images that lie in several files: DICOM slides, one file a level, and multi-file OME-TIFF."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from magnet_cli.images.failures import naming
from magnet_cli.system import regular_files

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

HEAD_BYTES = 64 << 10
OME_PIECE = re.compile(r"\.ome\.(tiff?|tf2|tf8|btf)$", re.IGNORECASE)
SERIES_UID = b"\x20\x00\x0e\x00UI"
"""Tag (0020,000E) with its type, as in the little-endian syntax with explicit types that slides are written in."""


def one_a_series(files: Iterable[Path]) -> list[Path]:
    """Return the files without those that belong to the image of another one among them, in their order.

    OpenSlide opens a whole DICOM series by any of its levels, and the largest file is one. A multi-file OME-TIFF is
    read by any of its pieces, so its first stays.

    Raises:
        SourceError: A DICOM file cannot be read.
    """
    files = _one_an_ome_set(files)
    largest: dict[tuple[Path, bytes], Path] = {}
    for file in files:
        key = (file.parent, series_uid(file))
        # Label and overview are files of the series too, and smaller than the finest level.
        if key[1] and (key not in largest or file.stat().st_size > largest[key].stat().st_size):
            largest[key] = file
    return [file for file in files if largest.get((file.parent, series_uid(file)), file) == file]


def _one_an_ome_set(files: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    others: set[Path] = set()
    for file in files:
        if file in others:
            continue
        found.append(file)
        if OME_PIECE.search(file.name) and file.is_file():
            from magnet_cli.images.ome_files import ome_set  # noqa: PLC0415 (tifffile loads slowly)

            others |= {file.with_name(name) for name in ome_set(file)}
    return found


def series_uid(file: Path) -> bytes:
    """Return the identifier of the series that a DICOM file belongs to; empty where it is none, or says none."""
    if file.suffix.lower() != ".dcm" or not file.is_file():
        return b""
    with naming(file, "the file cannot be read"), regular_files.opened(file) as stream:
        head = stream.read(HEAD_BYTES)
    at = head.find(SERIES_UID)
    if head[128:132] != b"DICM" or at < 0:
        return b""
    start = at + len(SERIES_UID) + 2
    length = int.from_bytes(head[start - 2 : start], "little")
    return head[start : start + length].rstrip(b"\0 ")

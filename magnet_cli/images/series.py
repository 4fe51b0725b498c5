"""DICOM slides among files: a slide is a series of files, one a level, a label and an overview."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magnet_cli.images.failures import naming

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

HEAD_BYTES = 64 << 10
SERIES_UID = b"\x20\x00\x0e\x00UI"
"""Tag (0020,000E) with its type, as in the little-endian syntax with explicit types that slides are written in."""


def one_a_series(files: Iterable[Path]) -> list[Path]:
    """Files without those that belong to the DICOM series of a larger one beside them, in their order.

    OpenSlide opens the whole series by any of its levels; the largest file is one.

    Raises:
        SourceError: A DICOM file cannot be read.
    """
    files = list(files)
    largest: dict[tuple[Path, bytes], Path] = {}
    for file in files:
        key = (file.parent, series_uid(file))
        if key[1] and (key not in largest or file.stat().st_size > largest[key].stat().st_size):
            largest[key] = file
    return [file for file in files if largest.get((file.parent, series_uid(file)), file) == file]


def series_uid(file: Path) -> bytes:
    """The identifier of the series that a DICOM file belongs to; empty where it is none, or says none."""
    if file.suffix.lower() != ".dcm" or not file.is_file():
        return b""
    with naming(file, "the file cannot be read"), file.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    at = head.find(SERIES_UID)
    if head[128:132] != b"DICM" or at < 0:
        return b""
    start = at + len(SERIES_UID) + 2
    length = int.from_bytes(head[start - 2 : start], "little")
    return head[start : start + length].rstrip(b"\0 ")

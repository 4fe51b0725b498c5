"""PNG pictures that name this program as their software, by which it recognises them wherever they lie."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SOFTWARE = {"Software": "magnet"}
"""Text that matplotlib is to write into a PNG (PNG specification, 11.3.3.2)."""
SIGNATURE = b"Software\0magnet"
"""The same text as it stands in the file."""
HEAD_BYTES = 4096
"""Number of bytes at the beginning of a PNG that hold its text."""


def signed(png: bytes) -> bytes:
    """Return a PNG that names this program as its software."""
    chunk = b"tEXt" + SIGNATURE
    # Behind the first chunk, IHDR: its type, its 13 bytes of data and its checksum.
    end = png.index(b"IHDR") + 4 + 13 + 4
    # A chunk is the length of its data, its type and data, and the CRC-32 of both (PNG specification, 5.3).
    return png[:end] + struct.pack(">I", len(SIGNATURE)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[end:]


def is_own_picture(path: Path) -> bool:
    """Return whether a file is a PNG that names this program as its software, as its pictures and plots do.

    The result is False where the file cannot be read; whatever opens it as an image says why.
    """
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return b"tEXt" + SIGNATURE in file.read(HEAD_BYTES)
    except OSError:
        return False

"""PNG files whose samples are indices, made readable as grey: the decoders at hand turn palettes into colours.

A palette PNG and a grey one of the same bit depth store the same compressed bytes, so only the header has to change.
Layout of the chunks: PNG specification, third edition, sections 5 and 11.
"""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple

from magnet_cli.errors import SourceError
from magnet_cli.system import regular_files

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
GREY, PALETTE = 0, 3
"""Colour types of the PNG header: grey, and palette."""
BYTE = 8
KEPT = (b"IDAT", b"IEND", b"eXIf")
"""Chunks whose content is the same for palette and grey; the others may be illegal in a grey file."""
PIECE = 1 << 20


class PngHeader(NamedTuple):
    """Format of the samples, as the header of a PNG file states it."""

    depth: int
    """Bits of a sample."""
    colour: int
    """PNG's colour type."""

    @property
    def has_indices(self) -> bool:
        """Whether a decoder would give other values than the stored ones."""
        return self.colour == PALETTE or (self.colour == GREY and self.depth < BYTE)

    @property
    def step(self) -> int:
        """Factor by which decoders multiply a grey sample of fewer than eight bits."""
        return 255 // (2**self.depth - 1) if self.depth < BYTE else 1


def png_header(head: bytes, path: str) -> PngHeader:
    """Return the bit depth and colour type of a PNG file.

    Args:
        head: The first bytes of the file.
        path: Path or URL of the file, for error messages.

    Raises:
        SourceError: The header is damaged.
    """
    return _parsed(_header(BytesIO(head), path))


def write_grey_copy(path: str, target: Path) -> None:
    """Write a palette or grey PNG again as a grey one, piece by piece; its samples are not decoded.

    Raises:
        SourceError: The file is damaged, or the copy cannot be written.
    """
    try:
        with regular_files.opened(path) as file, target.open("wb") as copy:
            header = _header(file, path)
            grey = b"IHDR" + header[:9] + bytes([GREY]) + header[10:]
            copy.write(PNG_MAGIC + struct.pack(">I", len(header)) + grey + struct.pack(">I", zlib.crc32(grey)))
            while len(start := file.read(8)) == 8:  # noqa: PLR2004 - length and name
                kept = start[4:] in KEPT
                if kept:
                    copy.write(start)
                _pass(file, struct.unpack(">I", start[:4])[0] + 4, copy if kept else None)
    except OSError as exc:
        raise SourceError(
            f"the picture cannot be read or copied: {exc}",
            file=path,
            advice="Save the picture again as PNG, and check that the folder for temporary files has room",
        ) from exc


def _header(file: BinaryIO, path: str) -> bytes:
    """Return the 13 bytes of the IHDR chunk; the file's position is then behind the chunk."""
    start = file.read(len(PNG_MAGIC) + 8 + 13 + 4)
    chunk, check = start[len(PNG_MAGIC) + 4 : -4], start[-4:]
    if chunk[:4] != b"IHDR" or len(chunk) != 4 + 13 or struct.pack(">I", zlib.crc32(chunk)) != check:
        raise SourceError("the PNG header is damaged", file=path, advice="Copy or export the file again")
    return chunk[4:]


def _parsed(header: bytes) -> PngHeader:
    return PngHeader(depth=header[8], colour=header[9])


def _pass(file: BinaryIO, count: int, copy: BinaryIO | None) -> None:
    if copy is None:
        file.seek(count, 1)
        return
    while count and (piece := file.read(min(count, PIECE))):
        copy.write(piece)
        count -= len(piece)

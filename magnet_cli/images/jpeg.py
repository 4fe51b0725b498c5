"""Checks of compressed tiles whose decoder does not report damage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magnet_cli.geometry import Size


STANDALONE = frozenset({0x00, 0x01, *range(0xD0, 0xD9), 0xFF})
"""Codes after 0xFF that carry no length: stuffing, TEM, restarts, start of image, fill."""

FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
LOSSLESS_FRAMES = frozenset({0xC3, 0xC7, 0xCB, 0xCF})
SEQUENTIAL_LOSSLESS = 0xC3
POINT_TRANSFORM = 0x0F
"""Bits of the last byte of a scan's header that hold its point transform."""
JPEG_LS_FRAME = 0xF7
BITS = 8
"""Bits of a sample that libjpeg reads."""
SCAN, END = 0xDA, 0xD9
JPEG_HEAD_BYTES = 1 << 16
"""Bytes at the beginning of a JPEG file in which its frame is looked for."""

SIZE_MARKER = b"\xff\x4f\xff\x51"
"""Beginning of a JPEG 2000 codestream."""
LONGEST_BOXES = 4096
"""Bytes in which the codestream begins, behind the boxes of a JP2 file where there are some."""

RIFF_HEADER = 8
"""Bytes before the content whose length a RIFF header states."""
WEBP_HEADER = RIFF_HEADER + 4
"""Bytes of WebP data before its first chunk."""

BLANK, BLANK_SHARE = 16, 4
"""Zero bytes at the end of sound WebP data: at most this many and one part in so many of the data.

Skipped macroblocks at the end of a lossy picture are written as zeros. Over flat, striped and transparent tiles of
64 to 2,048 pixels at qualities 10 to 90 they made up 8 % of the data at most.
"""

PADDING = 64
"""Bytes of any value tolerated after the end marker."""


def check_jpeg(data: bytes, chunk: Size) -> None:
    """Refuse JPEG data that ends early, or that declares a picture much larger than its tile.

    libjpeg fills what is missing with grey and only warns, which imagecodecs drops; and it allocates whatever the
    header says.

    Args:
        data: Bytes of one tile, with or without its tables.
        chunk: Size of the tile.

    Raises:
        ValueError: The data ends early, or its picture is much larger than the tile.
    """
    position = _first_scan(data, chunk)
    if position is None:
        message = "the JPEG data has no scan"
        raise ValueError(message)
    codes = np.frombuffer(data, np.uint8)
    # Inside a scan a byte 0xFF is followed by 0 or is part of a marker (ITU-T T.81, B.1.1.5), so an end marker is one.
    marks = np.flatnonzero(codes[position:-1] == 0xFF) + position  # noqa: PLR2004 (start of a marker)
    ends = marks[codes[marks + 1] == END]
    if len(ends) == 0:
        message = "the JPEG data ends before its end marker"
        raise ValueError(message)
    if len(data) - int(ends[0]) > PADDING and data[int(ends[0]) + 2 :].strip(b"\x00"):
        message = "the JPEG data has an end marker before its end"
        raise ValueError(message)


def check_jpeg2000(data: bytes, chunk: Size) -> None:
    """Refuse a JPEG 2000 codestream without its end marker, or of a picture much larger than its tile.

    OpenJPEG decodes what there is, and allocates whatever the header says.

    Raises:
        ValueError: The codestream lacks the marker, or declares such a picture.
    """
    start = data.find(SIZE_MARKER, 0, LONGEST_BOXES)
    if start >= 0:
        # Width and height of the reference grid, and the offset of the picture on it (ISO/IEC 15444-1, A.5.1).
        across, down, x, y = (int.from_bytes(data[start + at : start + at + 4], "big") for at in (8, 12, 16, 20))
        _check_declared(across - x, down - y, chunk)
    if not data.rstrip(b"\x00").endswith(b"\xff\xd9"):
        message = "the JPEG 2000 data ends before its end marker"
        raise ValueError(message)


def check_webp(data: bytes, chunk: Size) -> None:
    """Refuse WebP data that is shorter than its header states, of a larger picture, or blank at its end.

    libwebp decodes what there is and reports no error. Half-copied files have a blank end.

    Raises:
        ValueError: It is too short, declares a picture larger than its tile, or ends in more zeros than an encoder
            writes.
    """
    _check_declared(*_webp_size(data), chunk)
    length = int.from_bytes(data[4:RIFF_HEADER], "little") + RIFF_HEADER
    if data[:4] != b"RIFF" or length > len(data):
        message = f"the WebP data has {len(data)} bytes and its header states {length}"
        raise ValueError(message)
    stated = data[:length]
    zeros = length - len(stated.rstrip(b"\0"))
    if zeros > BLANK + length // BLANK_SHARE:
        message = f"the WebP data ends in {zeros} zeros of {length} bytes"
        raise ValueError(message)


def unread_kind(data: bytes) -> str | None:
    """Return what kind of JPEG the beginning of a file holds, in words, where libjpeg does not read it; else None.

    Args:
        data: The beginning, as far as the first scan where that is not far.
    """
    for code, position in _segments(data):
        if code == JPEG_LS_FRAME:
            return "JPEG-LS"
        if code in FRAMES:
            bits, lossless = data[position + 4], "lossless " if code in LOSSLESS_FRAMES else ""
            return None if bits == BITS else f"{lossless}JPEG of {bits} bits a sample"
    return None


def is_exact(data: bytes) -> bool:
    """Return whether JPEG data of one component states that its samples are those that were stored.

    They are in the lossless process (ITU-T T.81, annex H), unless a point transform has cut their lowest bits. Several
    components are not looked at: a conversion of colours may have rounded them.

    Args:
        data: The beginning, as far as the first scan. Data without one counts as changed.
    """
    is_lossless = False
    for code, position in _segments(data):
        segment = data[position + 4 : position + 10]
        if len(segment) < 6:  # noqa: PLR2004 - up to the number of components, or to the point transform
            return False
        if code in FRAMES:
            is_lossless = code == SEQUENTIAL_LOSSLESS and segment[5] == 1
        if code == SCAN:
            return is_lossless and segment[0] == 1 and segment[5] & POINT_TRANSFORM == 0
    return False


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield code and position of each marker that has a length, up to the first scan or to what is no marker."""
    position = 2
    while position + 5 <= len(data) and data[position] == 0xFF:  # noqa: PLR2004 (start of a marker)
        code = data[position + 1]
        if code in STANDALONE:
            position += 1 if code == 0xFF else 2  # noqa: PLR2004 (fill byte)
            continue
        yield code, position
        if code == SCAN:
            return
        position += 2 + max(int.from_bytes(data[position + 2 : position + 4], "big"), 2)


def _first_scan(data: bytes, chunk: Size) -> int | None:
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:  # noqa: PLR2004 (start of a marker)
            message = "the JPEG data has a damaged header"
            raise ValueError(message)
        code = data[position + 1]
        if code in STANDALONE:
            position += 1 if code == 0xFF else 2  # noqa: PLR2004 (fill byte)
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if code in FRAMES:
            _check_frame(data[position + 5 : position + 9], chunk)
        position += 2 + max(length, 2)
        if code == SCAN:
            return position
    return None


def _check_frame(field: bytes, chunk: Size) -> None:
    height, width = int.from_bytes(field[:2], "big"), int.from_bytes(field[2:], "big")
    _check_declared(width, height, chunk)


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return the width and height that WebP data declares (RFC 9649); 0 where it does not say."""
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return 0, 0


def _check_declared(width: int, height: int, chunk: Size) -> None:
    # Edge tiles may be padded to whole MCUs, or a strip to the height that others have.
    if width > chunk.width + 64 or height > chunk.height + 64:
        message = f"the header declares {width} x {height} pixels in a tile of {chunk}"
        raise ValueError(message)

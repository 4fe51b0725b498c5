"""Compressed data whose pixels are not those that were stored: exact values, such as labels, cannot be read from it.

A decoder gives no sign of it, so the headers of the data are asked.
"""

from __future__ import annotations

import struct
import zlib

from magnet_cli.images.jpeg import LONGEST_BOXES, SIZE_MARKER, WEBP_HEADER, is_exact
from magnet_cli.images.tiff_colour import JPEG_2000

JPEG = (6, 7, 33007, 34892)
"""TIFF compression codes of JPEG: as TIFF 6.0 first defined it, as it is now, and two of other registers."""
WEBP = 50001
JPEG_XL = (50002, 52546)

LERC = 34887
LERC2_MARK = b"Lerc2 "
ZSTANDARD_MARK = b"\x28\xb5\x2f\xfd"
LERC2_INTEGERS = 6
"""Number of LERC's types of samples that are whole numbers; the two after them are floats."""
LARGEST_HALF = 0.5
"""Error limit of LERC within which whole numbers stay what they are."""

CODING_STYLE = b"\xff\x52"
"""Marker of a JPEG 2000 codestream whose segment names the wavelet."""
WAVELET = 13
"""Bytes from that marker to the name of the wavelet (ISO/IEC 15444-1, A.6.1)."""
IRREVERSIBLE = 0
JPEG_MARK = b"\xff\xd8\xff"
JPEG_XL_MARK = b"\xff\x0a"


def is_told_by_header(compression: int) -> bool:
    """Return whether data of a TIFF compression code may be lossy or lossless, as its header says."""
    return compression in (*JPEG, *JPEG_2000, WEBP, *JPEG_XL, LERC)


def lossy_codec(compression: int, data: bytes) -> str | None:
    """Return the name of the compression of a TIFF's tile where it changes values, else None.

    Args:
        compression: TIFF code of the compression.
        data: Bytes of the tile; they do not matter where `is_told_by_header` is false.
    """
    if compression in JPEG:
        return lossy_jpeg(data)
    if compression in JPEG_2000:
        return "lossy JPEG 2000" if _is_irreversible(data) else None
    if compression == WEBP:
        return lossy_webp(data)
    if compression == LERC:
        return "lossy LERC" if _has_errors(data) else None
    return "lossy JPEG XL" if compression in JPEG_XL and _is_xyb(data) else None


def lossy_jpeg(data: bytes) -> str | None:
    """Return the name of the compression where JPEG data holds changed samples, else None."""
    return None if is_exact(data) else "JPEG"


def lossy_webp(data: bytes) -> str | None:
    """Return the name of the compression where WebP data holds a lossy picture, else None (RFC 9649)."""
    at = WEBP_HEADER
    while at + 8 <= len(data):
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if kind == b"VP8 ":
            return "lossy WebP"
        at += 8 + length + length % 2
    return None


def lossy_tile(data: bytes) -> str | None:
    """Return the name of the compression of a tile of a web map where it is a lossy picture, else None."""
    if data.startswith(JPEG_MARK):
        return lossy_jpeg(data)
    return lossy_webp(data) if data[8:12] == b"WEBP" else None


def _has_errors(data: bytes) -> bool:
    """Return whether a LERC stream, also one that was compressed once more, allows values to differ from the stored.

    Its layout is that of Esri's library: mark, version, checksum since version 3, rows, columns, depth since version 4,
    valid pixels, size of a block, size of the stream, type of a sample, two more numbers since version 6, and then the
    largest error.
    """
    if data.startswith(ZSTANDARD_MARK):
        import imagecodecs  # noqa: PLC0415 - seldom needed

        data = bytes(imagecodecs.zstd_decode(data))
    elif not data.startswith(LERC2_MARK):
        data = zlib.decompressobj().decompress(data, 128)
    if not data.startswith(LERC2_MARK):
        return False
    (version,) = struct.unpack_from("<i", data, len(LERC2_MARK))
    at = len(LERC2_MARK) + 4 + 4 * (version >= 3) + 8 + 4 * (version >= 4) + 12  # noqa: PLR2004 - see above
    (kind,) = struct.unpack_from("<i", data, at)
    (limit,) = struct.unpack_from("<d", data, at + 4 + 8 * (version >= 6))  # noqa: PLR2004 - see above
    return bool(limit > (LARGEST_HALF if kind < LERC2_INTEGERS else 0))


def _is_irreversible(data: bytes) -> bool:
    """Return whether a JPEG 2000 codestream uses the wavelet of real numbers, whose result is rounded."""
    start = data.find(SIZE_MARKER, 0, LONGEST_BOXES)
    # The segments of the main header state their lengths; the codestream begins with a marker without one.
    at = start + 2
    while start >= 0 and at + WAVELET < len(data) and data[at] == 0xFF:  # noqa: PLR2004 (beginning of a marker)
        if data[at : at + 2] == CODING_STYLE:
            return data[at + WAVELET] == IRREVERSIBLE
        at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    return False


def _is_xyb(data: bytes) -> bool:
    """Return whether a JPEG XL codestream holds the colours of its lossy mode, XYB (ISO/IEC 18181-1, annex D).

    Pictures with extra channels, which an encoder of labels has no use for, count as lossless.
    """
    start = data.find(JPEG_XL_MARK, 0, LONGEST_BOXES)
    if start < 0:
        return False
    bits = _Bits(data[start + 2 : start + 66])
    _skip_size(bits)
    if bits.take(1):
        # All values of the metadata are the defaults.
        return True
    if bits.take(1):
        bits.take(3)
        if any(bits.take(1) for _ in range(3)):
            # An intrinsic size, a preview or an animation.
            return False
    if bits.take(1):
        bits.one_of((0, 32), (0, 16), (0, 24), (6, 1))
        bits.take(4)
    else:
        bits.one_of((0, 8), (0, 10), (0, 12), (6, 1))
    bits.take(1)
    extra = bits.one_of((0, 0), (0, 1), (4, 2), (12, 1))
    return not extra and bool(bits.take(1))


def _skip_size(bits: _Bits) -> None:
    """Skip the size of a JPEG XL picture."""
    small = bits.take(1)
    for side in range(2):
        if small:
            bits.take(5)
        else:
            bits.one_of((9, 1), (13, 1), (18, 1), (30, 1))
        # A ratio of the sides stands for the width.
        if side == 0 and bits.take(3):
            return


class _Bits:
    """Bits of a JPEG XL header, the lowest of each byte first.

    Args:
        data: Bytes of the header. Those beyond its end are 0.
    """

    def __init__(self, data: bytes) -> None:
        self._left = int.from_bytes(data, "little")

    def take(self, count: int) -> int:
        """Return the number in the next bits."""
        value = self._left & ((1 << count) - 1)
        self._left >>= count
        return value

    def one_of(self, *kinds: tuple[int, int]) -> int:
        """Return a number that is stored in one of four ways: so many bits, and what is added to them."""
        count, base = kinds[self.take(2)]
        return self.take(count) + base

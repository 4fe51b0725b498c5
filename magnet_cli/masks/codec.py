"""Bytes of tiles and chunks: the same labels or values always give the same bytes."""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np

from magnet_cli.images.protocol import NODATA

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

DEFLATE_LEVEL = 6
"""The level of libdeflate, which takes two fifths of the time of zlib at this level and packs about as well."""
ZSTD_LEVEL = 3
FRAGMENT_LEVEL = 1
"""The zstd level of fragments, which only this program reads back: zstd takes a third of the time of deflate."""

LZ4 = b"\4"
"""First byte of a chunk that lz4 has packed."""

STEPS = 254
"""A quantised value v stands for v / STEPS; 255 stands for not computed."""


def encode_tile(labels: NDArray[np.uint8], *, compression: str) -> bytes:
    """Return a whole tile, `(side, side)` uint8, as the mask's file holds it."""
    if compression == "zstd":
        return bytes(imagecodecs.zstd_encode(labels.tobytes(), level=ZSTD_LEVEL))
    # TIFF's deflate is a stream with zlib's header.
    return bytes(imagecodecs.deflate_encode(labels.tobytes(), level=DEFLATE_LEVEL))


def decode_tile(data: bytes, *, side: int, compression: str) -> NDArray[np.uint8]:
    """Return the labels of a whole tile, `(side, side)` uint8, read-only."""
    decode = imagecodecs.zstd_decode if compression == "zstd" else imagecodecs.deflate_decode
    raw = decode(data, out=side * side)
    return np.frombuffer(raw, dtype=np.uint8).reshape(side, side)


def encode_fragment(labels: NDArray[np.uint8]) -> bytes:
    """Return a part of a tile, `(height, width)` uint8, for the journal alone."""
    return bytes(imagecodecs.zstd_encode(labels.tobytes(), level=FRAGMENT_LEVEL))


def decode_fragment(data: bytes, *, height: int, width: int) -> NDArray[np.uint8]:
    """Return the labels of a part of a tile, `(height, width)` uint8, read-only."""
    raw = imagecodecs.zstd_decode(data, out=height * width)
    return np.frombuffer(raw, dtype=np.uint8).reshape(height, width)


def packed_text(data: bytes) -> str:
    """Return bytes as text: a stream with zlib's header in base 64."""
    # Packing at zlib's level 9 takes eight times as long, and gives a longer text.
    return base64.b64encode(imagecodecs.deflate_encode(data, level=DEFLATE_LEVEL)).decode()


def encode_text(arrays: Iterable[NDArray[np.generic]]) -> str:
    """Return the bytes of arrays, one array after another, as text for the counts of a group."""
    return packed_text(b"".join(array.tobytes() for array in arrays))


def decode_text(text: str, *, dtype: str) -> NDArray[Any]:
    """Return the values of all arrays that `encode_text` has joined, `(values,)`, read-only."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype)


def encode_chunk(values: NDArray[np.generic]) -> bytes:
    """Return a chunk of a field, `(bands, height, width)` float16 or uint8, for the journal alone."""
    size = values.dtype.itemsize
    data = np.ascontiguousarray(values).reshape(-1).view(f"u{size}")
    if size > 1:
        # The high bytes of neighbouring probabilities are alike and the low ones are noise, so they pack better apart.
        planes = np.empty((size, data.size), np.uint8)
        for byte, plane in enumerate(planes):
            # Shifts take a fifth of the time of copying every other byte.
            np.right_shift(data, 8 * byte, out=plane, casting="unsafe")
        data = planes.reshape(-1)
    # Chunks are read once or twice and then deleted: zstd packs a tenth better in twice the time.
    return LZ4 + bytes(imagecodecs.lz4_encode(data.tobytes()))


def decode_chunk(data: bytes, *, shape: tuple[int, int, int], dtype: str) -> NDArray[np.generic]:
    """Return the values of a chunk, `shape` = (bands, height, width); they may be read-only."""
    kind = np.dtype(dtype)
    length = kind.itemsize * shape[0] * shape[1] * shape[2]
    if data.startswith(LZ4):
        raw = imagecodecs.lz4_decode(data[1:], out=length)
    else:
        # Journals of earlier versions hold frames of zstd, which begin with another byte.
        raw = imagecodecs.zstd_decode(data, out=length)
    *low, high = np.frombuffer(raw, dtype=np.uint8).reshape(kind.itemsize, -1)
    if not low:
        return high.reshape(shape)
    values = high.astype(f"u{kind.itemsize}")
    for plane in reversed(low):
        values <<= 8
        values |= plane
    return values.view(kind).reshape(shape)


def quantise(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Quantise values in 0..1 to uint8 0..254, with 255 for NaN; values outside are clipped."""
    # NaN survives the clip, and rint rounds ties to even on every platform.
    steps = np.rint(np.clip(values.astype(np.float32), 0, 1) * STEPS)
    return np.where(np.isnan(steps), NODATA, steps).astype(np.uint8)


def dequantise(values: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Return quantised values as float16 0..1, with NaN for 255."""
    # A table divides 255 values instead of every pixel.
    table = np.arange(256, dtype=np.float32) / STEPS
    table[NODATA] = np.nan
    return table.astype(np.float16)[values]

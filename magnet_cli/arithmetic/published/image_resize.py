"""Resizing 8-bit images as the published programs do: OpenCV's bilinear in fixed point, without antialiasing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.geometry import Size

# OpenCV keeps weights in 11 bits, drops 4 bits of each row's sum, then 16, and rounds the last 2.
_ONE = 1 << 11
_ROWS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class _Taps:
    """The two source pixels of each target pixel along one axis, and their 11-bit weights."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    low_weight: NDArray[np.int32]
    high_weight: NDArray[np.int32]


def resize_uint8_bilinear(pixels: NDArray[np.uint8], *, size: Size) -> NDArray[np.uint8]:
    """Return the image at another size, as OpenCV's INTER_LINEAR gives it for 8-bit values.

    Halving both sides exactly is a 2 x 2 box average there, and so it is here.

    Args:
        pixels: (H, W, bands), uint8.
        size: The size of the result; the aspect need not be kept.

    Returns:
        (size.height, size.width, bands), uint8; a copy where the size stays.
    """
    height, width = pixels.shape[:2]
    if (height, width) == (size.height, size.width):
        return pixels.copy()
    # OpenCV sends INTER_LINEAR with an exact half to its area code, which rounds differently.
    if (height, width) == (2 * size.height, 2 * size.width):
        return _halved(pixels)
    rows, columns = _taps(height, size.height), _taps(width, size.width, clamp_weights=True)
    result = np.empty((size.height, size.width, pixels.shape[2]), np.uint8)
    for start in range(0, size.height, _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        top = _along_columns(pixels[rows.low[part]], columns) >> 4
        bottom = _along_columns(pixels[rows.high[part]], columns) >> 4
        top *= rows.low_weight[part, None, None]
        bottom *= rows.high_weight[part, None, None]
        result[part] = ((top >> 16) + (bottom >> 16) + 2) >> 2
    return result


def _along_columns(pixels: NDArray[np.uint8], taps: _Taps) -> NDArray[np.int32]:
    low = pixels[:, taps.low].astype(np.int32) * taps.low_weight[:, None]
    low += pixels[:, taps.high].astype(np.int32) * taps.high_weight[:, None]
    return low


def _halved(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    total = np.full((pixels.shape[0] // 2, pixels.shape[1] // 2, pixels.shape[2]), 2, np.uint16)
    for row in (0, 1):
        for column in (0, 1):
            total += pixels[row::2, column::2]
    return (total >> 2).astype(np.uint8)


def _taps(source: int, target: int, *, clamp_weights: bool = False) -> _Taps:
    """Return the positions and weights along one axis; the fractions are float32, as OpenCV computes them."""
    # The order of both divisions is that of OpenCV: source / target may differ in the last bit, and with it a weight.
    scale = 1.0 / (target / source)
    position = ((np.arange(target) + 0.5) * scale - 0.5).astype(np.float32)
    low = np.floor(position).astype(np.int64)
    fraction = position - low.astype(np.float32)
    # OpenCV sets the weight to 0 at the border of columns but clamps the index alone for rows.
    if clamp_weights:
        fraction[(low < 0) | (low >= source - 1)] = 0
    return _Taps(
        low=np.clip(low, 0, source - 1),
        high=np.clip(low + 1, 0, source - 1),
        # Weights are rounded to 11 bits one by one, as OpenCV does; their sum may be off by one.
        low_weight=np.rint((np.float32(1) - fraction) * np.float32(_ONE)).astype(np.int32),
        high_weight=np.rint(fraction * np.float32(_ONE)).astype(np.int32),
    )

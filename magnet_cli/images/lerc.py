"""Tiles compressed by LERC, whose stream carries its own mask of the pixels that hold data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np

from magnet_cli.images.store import Pixels
from magnet_cli.images.validity import spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.geometry import Size

LERC = 34887
"""TIFF compression code of LERC."""
ROWS_COLUMNS_SAMPLES = 3
"""Number of axes of an array of pixels: rows, columns, samples."""


def lerc_tile(data: bytes, *, chunk: Size, samples: int, is_swapped: bool = False) -> Pixels:
    """Decode a tile to its samples and their validity.

    GDAL writes NaN into the mask and not into the samples, and an 8-bit alpha channel of 0 and 255 likewise: a tile of
    four samples then has three in its stream. Bands whose masks differ follow one another in the stream; otherwise
    their samples are interleaved.

    Args:
        data: The stream, also where it was compressed once more by Deflate or Zstandard.
        chunk: Size of a tile or of a whole strip; the last strip may be shorter.
        samples: Samples of a pixel of the tile.
        is_swapped: Whether the bytes of each sample are in the other order: libtiff exchanges those of a big-endian
            file before it compresses them.

    Returns:
        `(height, width, samples)`. Floats without data are NaN; for integers `valid` is `(height, width)`, or
        `(height, width, samples)` where masks differ.

    Raises:
        ValueError: The stream holds a tile of another shape.
    """
    values, mask = imagecodecs.lerc_decode(data, masks=True)
    apart = mask is not None and mask.ndim == ROWS_COLUMNS_SAMPLES
    if values.ndim < ROWS_COLUMNS_SAMPLES:
        values = values[:, :, None]
    elif apart or values.shape[1] != chunk.width:
        values = np.moveaxis(values, 0, 2)
    if apart:
        mask = np.moveaxis(mask, 0, 2)
    valid = None if mask is None or mask.all() else mask
    values = values.byteswap() if is_swapped else values
    height, width, stored = values.shape
    if width != chunk.width or height > chunk.height or stored not in (samples, samples - 1):
        message = f"the LERC stream holds {width} x {height} pixels of {stored} samples in a tile of {chunk}"
        raise ValueError(message)
    if stored < samples:
        return Pixels(_with_alpha(values, valid), None)
    if valid is not None and values.dtype.kind == "f":
        return Pixels(np.where(spread(valid, values.shape), values, values.dtype.type(np.nan)), None)
    return Pixels(values, valid)


def _with_alpha(values: NDArray[Any], valid: NDArray[np.bool_] | None) -> NDArray[Any]:
    """Return the samples with the alpha channel that is stored as the mask."""
    if values.dtype != np.uint8:
        message = f"the LERC stream lacks a sample of {values.dtype}"
        raise ValueError(message)
    alpha = np.full((*values.shape[:2], 1), 255, np.uint8)
    if valid is not None:
        alpha[~valid] = 0
    return np.concatenate([values, alpha], axis=2)

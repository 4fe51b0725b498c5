"""The picture beside a mask: the image under the mask's colours, with a legend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import imagecodecs
import numpy as np

from magnet_cli.images.protocol import NODATA
from magnet_cli.report.legend import draw_legend
from magnet_cli.system.own_pictures import signed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.report.picture import MaskPicture

OPACITY = 0.5
"""The opacity of the mask's colours."""
SMALLEST = 640
"""Smallest longer side in pixels, about. Smaller images are enlarged, so that the legend fits."""
WHITE = 255


def draw_overlay(picture: MaskPicture) -> bytes:
    """Return a PNG of the image under the mask's colours, with a legend of classes and shares below it."""
    # Whole factors repeat pixels, so that labels keep their edges.
    scale = max(1, SMALLEST // max(picture.labels.shape))
    seen = blended(picture).repeat(scale, axis=0).repeat(scale, axis=1)
    legend = draw_legend(picture, width=seen.shape[1])
    return signed(bytes(imagecodecs.png_encode(_stacked(seen, legend))))


def blended(picture: MaskPicture) -> NDArray[np.uint8]:
    """Return `(height, width, 3)`: half image, half colour; the image alone where nothing was computed."""
    colours = picture.palette[picture.labels].astype(np.float32)
    mixed = np.rint(picture.pixels * (1 - OPACITY) + colours * OPACITY).astype(np.uint8)
    return np.where((picture.labels == NODATA)[..., None], picture.pixels, mixed)


def _stacked(upper: NDArray[np.uint8], lower: NDArray[np.uint8]) -> NDArray[np.uint8]:
    width = max(upper.shape[1], lower.shape[1])
    parts = [
        np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0)), constant_values=WHITE) for part in (upper, lower)
    ]
    return np.ascontiguousarray(np.concatenate(parts))

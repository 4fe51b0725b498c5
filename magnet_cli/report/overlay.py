"""The picture beside a mask: the image, the mask's colours over it, and what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import imagecodecs
import numpy as np

from magnet_cli.images.protocol import NODATA
from magnet_cli.report.legend import draw_legend

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.report.picture import MaskPicture

OPACITY = 0.5
"""The opacity of the mask's colours."""
SMALLEST = 640
"""Pixels of the longer side, about; smaller images are shown enlarged, so that the legend fits."""
WHITE = 255


def draw_overlay(picture: MaskPicture) -> bytes:
    """A PNG of the image with the mask's colours over it, and under it a legend with classes and their shares."""
    # Whole factors repeat pixels, so that labels keep their edges.
    scale = max(1, SMALLEST // max(picture.labels.shape))
    seen = blended(picture).repeat(scale, axis=0).repeat(scale, axis=1)
    legend = draw_legend(picture, width=seen.shape[1])
    return bytes(imagecodecs.png_encode(_stacked(seen, legend)))


def blended(picture: MaskPicture) -> NDArray[np.uint8]:
    """`(height, width, 3)`: half image, half colour; the image alone where nothing was computed."""
    colours = picture.palette[picture.labels].astype(np.float32)
    mixed = np.rint(picture.pixels * (1 - OPACITY) + colours * OPACITY).astype(np.uint8)
    return np.where((picture.labels == NODATA)[..., None], picture.pixels, mixed)


def _stacked(upper: NDArray[np.uint8], lower: NDArray[np.uint8]) -> NDArray[np.uint8]:
    width = max(upper.shape[1], lower.shape[1])
    parts = [
        np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0)), constant_values=WHITE) for part in (upper, lower)
    ]
    return np.ascontiguousarray(np.concatenate(parts))

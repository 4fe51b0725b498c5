"""Finding tissue on a slide: most of a slide is glass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from magnet_cli.areas.raster import Raster
from magnet_cli.geometry import Box, Pitch, Size
from magnet_cli.images import Request

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.images import Image

COLOURS = ("red", "green", "blue")
OVERVIEW_SIDE = 2048
"""The longer side of the overview on which tissue is looked for, at most."""
MOST_SATURATION = 0.1
"""Pixels more colourful than this are tissue wherever the histogram is cut: Otsu's threshold parts dark tissue from
pale where there is little glass."""
LEAST_SATURATION = 0.03
"""Pixels less colourful than this are glass: a slide without tissue has nothing but noise to be parted."""
SPECK_SHARE = 2e-5
"""Pieces smaller than this share of the overview are dust."""
HOLE_SHARE = 1e-3
"""Holes smaller than this share of the overview are tissue, like fat and vessels."""
RIM = 4
"""Pixels of the overview around tissue that are looked at as well."""


def find_tissue(image: Image) -> Raster:
    """Tissue, found on an overview of the image.

    Raises:
        SourceError: The overview cannot be decoded.
    """
    size = image.info.size
    pitch = overview_pitch(size)
    request = Request(pitch=pitch, box=Box.whole(pitch.cover(size)))
    region = image.read([request])[0]
    colours = [image.info.bands.index(name) for name in COLOURS]
    inside = tissue_of(region.pixels[:, :, colours], region.valid)
    # The last pixel of the overview may reach beyond the image: its columns and rows are those that the image has.
    return Raster(lambda box: inside[box.slices], size=pitch.cover(size), image=_covered(size, pitch))


def overview_pitch(size: Size) -> Pitch:
    """The finest power of two at which an image is an overview."""
    step = 1
    while max(size.width, size.height) > OVERVIEW_SIDE * step:
        step *= 2
    return Pitch.square(step)


def _covered(size: Size, pitch: Pitch) -> Size:
    cover = pitch.cover(size)
    return Size(width=int(cover.width * pitch.x), height=int(cover.height * pitch.y))


def tissue_of(pixels: NDArray[Any], valid: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Where tissue is: what is more colourful than glass, without dust, with its holes and a rim.

    Args:
        pixels: `(height, width, 3)` uint8, red, green and blue.
        valid: `(height, width)`, or None where every pixel holds data.

    Returns:
        `(height, width)`.
    """
    # It takes half a second to import, and only slides need it.
    from scipy.ndimage import binary_dilation, median_filter  # noqa: PLC0415
    from skimage.filters import threshold_otsu  # noqa: PLC0415
    from skimage.morphology import remove_small_holes, remove_small_objects  # noqa: PLC0415

    saturation = median_filter(saturation_of(pixels), size=5)
    seen = saturation if valid is None else saturation[valid]
    if not seen.size or seen.min() == seen.max():
        return np.zeros(saturation.shape, bool)
    cut = float(threshold_otsu(seen))  # type: ignore[no-untyped-call]
    inside = saturation > np.clip(cut, LEAST_SATURATION, MOST_SATURATION)
    if valid is not None:
        inside &= valid
    inside = remove_small_objects(inside, max_size=int(SPECK_SHARE * inside.size) + RIM)
    inside = remove_small_holes(inside, max_size=int(HOLE_SHARE * inside.size))
    found: NDArray[np.bool_] = binary_dilation(inside, iterations=RIM)
    return found


def saturation_of(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """`(height, width)`, 0 to 1: what the smallest of red, green and blue lacks of the largest."""
    largest = pixels.max(axis=2).astype(np.float32)
    share: NDArray[np.float32] = (largest - pixels.min(axis=2)) / np.maximum(largest, 1)
    return share

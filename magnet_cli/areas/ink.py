"""Parts of a slide that are no tissue: strokes of a pen, black frames, and white where nothing was scanned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]

WHITE = 250
"""Nothing was scanned where all channels have one value of at least this."""
WHITE_NOISE = 2
"""Grey levels by which JPEG changes that value along the border."""
STRAIGHT_SIGMA = 4
"""Standard deviation in pixels of the blur before the direction of that border is measured."""
STRAIGHT_SLOPE = 0.1
"""Largest slope of a border that counts as running along the rows or columns."""
STRAIGHT_SHARE = 0.6
"""Smallest share of such a border. Scanned parts are rectangles, and glass between tissue is not."""
FRAME_DARKEST = 36
"""Largest value of every channel in a frame."""
FRAME_SHARE = 0.25
"""Share of one side of the slide along which a frame lies."""
DARK_FIELD_SHARE = 0.5
"""Smallest share of the overview that a dark field covers. The border of a frame is straight, that of cells is not."""
INK_SATURATION = 0.5
INK_HUES = ((75, 175), (195, 248), (350, 372))
"""Hues of pens in degrees: green, blue, red. Brown (DAB), violet (haematoxylin), pink (eosin) lie between them."""
INK_BLACK = 50
STROKE_RATIO = 20
"""Smallest ratio of a stroke's area to the square of its half width. A disk has 7, a square 9, and a line that is five
times as long as wide has 20."""
LARGEST_STROKE = 1 << 20
"""Pixels of the rectangle around a stroke whose width is measured on all of them."""
STROKE_SPREAD = 0.12
"""Largest standard deviation of brightness inside a stroke, relative to white: ink covers the structure below it."""
STROKE_HOLES = 3e-3
"""Share of the overview up to which a hole in a stroke is filled."""
STROKE_SOLID = 0.93
"""Smallest share of a stroke, without its holes, that has the colour of ink."""
STROKE_LEAST = 1e-4
"""Smallest share of the overview that a stroke covers. Smaller pieces may be dust, which is found elsewhere."""
HALO = 9
"""Pixels around ink in which its colour runs into the glass."""


def unscanned(pixels: NDArray[np.uint8]) -> Mask:
    """Return a mask `(height, width)`, True in white rectangles with which writers fill what was not scanned."""
    low, high = pixels.min(axis=2), pixels.max(axis=2)
    white: Mask = (low >= WHITE) & (high == low)
    if not white.any():
        return white
    value = int(np.bincount(low[white]).argmax())
    white = (low >= value - WHITE_NOISE) & (high <= value + WHITE_NOISE)
    white = _dilated(_eroded(white, 2), 2) & white
    return white if _is_straight(white) else np.zeros_like(white)


def _is_straight(region: Mask) -> bool:
    """Return whether most of the border of a region runs along rows or columns; True where it has no border."""
    from scipy.ndimage import gaussian_filter  # noqa: PLC0415 - takes long to import, and only slides need it

    soft = gaussian_filter(region.astype(np.float32), STRAIGHT_SIGMA, mode="nearest")
    border = (soft > 0.4) & (soft < 0.6)  # noqa: PLR2004 - around a half
    if not border.any():
        return True
    down, across = (np.abs(np.gradient(soft, axis=axis)[border]) for axis in (0, 1))
    straight = np.minimum(down, across) <= STRAIGHT_SLOPE * np.maximum(down, across)
    return bool(straight.mean() >= STRAIGHT_SHARE)


def frame(pixels: NDArray[np.uint8]) -> Mask:
    """Return a mask `(height, width)`, True in black regions along a good part of a side of the slide."""
    from scipy.ndimage import label  # noqa: PLC0415 - as above

    black: Mask = pixels.max(axis=2) < FRAME_DARKEST
    labels, count = label(black)
    if not count:
        return black
    kept = np.zeros(count + 1, bool)
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        kept |= np.bincount(side, minlength=count + 1) >= FRAME_SHARE * len(side)
    kept[0] = False
    found: Mask = kept[labels]
    return found


def is_dark_field(black: Mask) -> bool:
    """Return whether the black of a slide, as `frame` finds it, is the field of fluorescence and not a frame.

    Grey or white signal on such a field would be taken for glass, which is bright and has no colour.
    """
    return bool(black.mean() >= DARK_FIELD_SHARE) and not _is_straight(black)


def strokes(pixels: NDArray[np.uint8], scanned: Mask) -> tuple[Mask, float]:
    """Find strokes of blue, green, red and black pens, and the half width of the broadest.

    Args:
        pixels: `(height, width, 3)`, the overview.
        scanned: `(height, width)`, False where a pixel holds no data or belongs to a frame.

    Returns:
        `(height, width)`, True inside a stroke, and pixels.
    """
    from scipy.ndimage import find_objects, label  # noqa: PLC0415 - as above
    from skimage.morphology import remove_small_holes  # noqa: PLC0415 - as above

    inked = _ink_coloured(pixels) & scanned
    labels, _ = label(_eroded(_dilated(inked)), structure=np.ones((3, 3)))
    found = np.zeros_like(inked)
    broadest = 0.0
    for number, place in enumerate(find_objects(labels), start=1):
        part = labels[place] == number
        if np.count_nonzero(part) < STROKE_LEAST * inked.size:
            continue
        # Noise tears holes into a stroke, and nuclei into tissue: the width is not measured between them.
        whole = remove_small_holes(part, max_size=int(STROKE_HOLES * inked.size))
        area = int(np.count_nonzero(whole))
        half = _half_width(whole)
        inside = pixels[place][part & _eroded(part)]
        spread = float((inside.mean(axis=1) / 255).std()) if len(inside) else 1.0
        solid = np.count_nonzero(inked[place] & whole) / area
        if area >= STROKE_RATIO * half * half and spread <= STROKE_SPREAD and solid >= STROKE_SOLID:
            found[place] |= whole
            broadest = max(broadest, half)
    return found, broadest


def _half_width(part: Mask) -> float:
    """Return half the width of a stroke in pixels: the mean distance to the rim is half of it."""
    from scipy.ndimage import distance_transform_edt  # noqa: PLC0415 - as above

    # Distances take 24 bytes a pixel, so those of a stroke around the whole slide are found on every other pixel.
    step = 1 + (part.size > LARGEST_STROKE)
    coarse = np.pad(part[::step, ::step], 1)
    inside = distance_transform_edt(coarse)[coarse]
    return 2 * step * float(inside.mean()) if inside.size else 1.0


def _ink_coloured(pixels: NDArray[np.uint8]) -> Mask:
    found = np.empty(pixels.shape[:2], bool)
    for top in range(0, len(pixels), 256):
        part = pixels[top : top + 256].astype(np.float32)
        red, green, blue = part[..., 0], part[..., 1], part[..., 2]
        high, low = part.max(axis=2), part.min(axis=2)
        span = np.maximum(high - low, 1)
        # The hue of HSV: the largest channel gives a sixth of the circle, and the difference of the others the place in
        # it.
        hue = np.select(
            [high == red, high == green], [(green - blue) / span % 6, (blue - red) / span + 2], (red - green) / span + 4
        )
        hue = 60 * hue
        coloured = (span >= INK_SATURATION * high) & (high >= INK_BLACK)
        of_pen = np.zeros_like(coloured)
        for first, last in INK_HUES:
            of_pen |= ((hue >= first) & (hue <= last)) | (hue + 360 <= last)
        found[top : top + 256] = (coloured & of_pen) | (high < INK_BLACK)
    return found


def _eroded(mask: Mask, radius: int = 1) -> Mask:
    from scipy.ndimage import minimum_filter  # noqa: PLC0415 - as above

    found: Mask = minimum_filter(mask, 2 * radius + 1, mode="nearest")
    return found


def _dilated(mask: Mask, radius: int = 1) -> Mask:
    from scipy.ndimage import maximum_filter  # noqa: PLC0415 - as above

    found: Mask = maximum_filter(mask, 2 * radius + 1, mode="nearest")
    return found

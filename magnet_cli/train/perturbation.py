"""Wrong masks, made of true ones by dropping vertices of contours and by random dilations and erosions.

CascadePSP (sections 3.3 and 4.2, figure 8) trains on such masks. The paper does not say how far, where and in what
order masks are changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.ndimage import maximum_filter, minimum_filter
from skimage.draw import polygon
from skimage.measure import find_contours
from torch.nn import functional

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]

SHARES = (0.02, 0.5)
"""The range of the share of a contour's vertices that is kept in the first attempt."""
CORNERS = 3
"""The smallest number of vertices of a polygon."""
DOUBLINGS = 5
"""The most times that the share is doubled while the polygons overlap too little."""
RIM = 8
"""Pixels that a mask is continued by beyond the window, so that the window's edge is no contour."""
CHANGES = 60
"""The most dilations and erosions of a mask."""
RADII = (1, 5)
"""The range of the radius of a dilation or erosion, in pixels."""
HALF_SIDES = (4, 40)
"""The half sides of the box that one dilation or erosion changes, in pixels."""
MEAN = 0.5


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """Draws wrong masks from true ones."""

    iou: tuple[float, float]
    """The range in which the IoU with the truth is aimed at. No mask falls below its lower end."""
    coarse: float
    """Probability that the mask is made by shrinking and enlarging the true one, as from a coarse network, before it is
    dilated and eroded. Otherwise vertices of its contours are dropped."""
    shrink: float
    """The largest factor by which such a mask is shrunk."""

    def __call__(self, mask: Mask, rng: np.random.Generator) -> Mask:
        """Return a mask that is wrong near its border, `(rows, columns)`.

        Args:
            mask: The truth, `(rows, columns)`, neither empty nor full.
            rng: The generator that draws the errors.
        """
        least, most = self.iou
        target = rng.uniform(least, most)
        wrong = self.enlarged(mask, rng) if rng.random() < self.coarse else subsampled(mask, rng, least=least)
        return move_border(wrong, mask, rng, least=least, target=target)

    def enlarged(self, mask: Mask, rng: np.random.Generator) -> Mask:
        """Shrink the mask by area, enlarge it bilinearly, and threshold it at one half."""
        # Factors are drawn as logarithms, so that small ones are as likely as large ones.
        factor = exp(rng.uniform(0, log(self.shrink)))
        while (found := shrunk_and_enlarged(mask, factor=factor)) is not None:
            if iou(found, mask) >= self.iou[0]:
                return found
            factor /= 1.5
        return mask


def iou(first: Mask, second: Mask) -> float:
    """Return the intersection over union of two masks, of which one at least is not empty."""
    return float(np.count_nonzero(first & second) / np.count_nonzero(first | second))


def shrunk_and_enlarged(mask: Mask, *, factor: float) -> Mask | None:
    """Shrink a mask by a factor and enlarge it again; return None where the factor is at most 1."""
    if factor <= 1:
        return None
    found: Mask = shares(mask, factor=factor) >= MEAN
    return found


def shares(mask: Mask, *, factor: float) -> NDArray[np.float32]:
    """Shrink a mask, and enlarge the shares of its pixels that are inside: `(rows, columns)`, 0 to 1."""
    rows, columns = mask.shape
    size = (max(1, round(rows / factor)), max(1, round(columns / factor)))
    values = torch.from_numpy(mask).float()[None, None]
    small = functional.interpolate(values, size=size, mode="area")
    large = functional.interpolate(small, size=(rows, columns), mode="bilinear", align_corners=False)
    found: NDArray[np.float32] = large[0, 0].numpy()
    return found


def subsampled(mask: Mask, rng: np.random.Generator, *, least: float) -> Mask:
    """Fill the polygons that are left when each contour keeps a few random vertices.

    Args:
        mask: The true mask, `(rows, columns)`.
        rng: The generator that draws the vertices.
        least: The smallest IoU with the mask. More vertices are kept until it is reached.
    """
    # Only a frame of zeros makes every contour a closed one.
    wide = np.pad(np.pad(mask, RIM, mode="edge"), 1)
    # The largest come first: a hole has to be filled after the border around it.
    contours = sorted(closed(wide), key=extent, reverse=True)
    share = exp(rng.uniform(log(SHARES[0]), log(SHARES[1])))
    inner = slice(RIM + 1, -RIM - 1)
    for _ in range(DOUBLINGS):
        kept = [vertices(contour, rng, share=share) for contour in contours]
        found = fill_polygons(kept, shape=wide.shape)[inner, inner]
        if iou(found, mask) >= least:
            return found
        share *= 2
    return mask


def closed(mask: Mask) -> list[NDArray[np.float64]]:
    """Return the contours of a mask whose edge is empty: vertices `(n, 2)`, row and column, halfway between pixels."""
    found: list[NDArray[np.float64]] = find_contours(mask.astype(np.float32), 0.5)  # type: ignore[no-untyped-call]
    return found


def vertices(contour: NDArray[np.float64], rng: np.random.Generator, *, share: float) -> NDArray[np.float64]:
    """Draw some of a contour's vertices `(n, 2)`, at least three, and keep their order."""
    count = len(contour)
    wanted = min(count, max(CORNERS, round(share * count)))
    return contour[np.sort(rng.choice(count, wanted, replace=False))]


def area(contour: NDArray[np.float64]) -> float:
    """Return the signed area inside a contour. It is negative for holes, whose contours turn the other way."""
    y, x = contour[:, 0], contour[:, 1]
    return float(np.dot(y, np.roll(x, 1)) - np.dot(x, np.roll(y, 1))) / 2


def extent(contour: NDArray[np.float64]) -> float:
    """Return the area inside a contour."""
    return abs(area(contour))


def fill_polygons(contours: list[NDArray[np.float64]], *, shape: tuple[int, ...]) -> Mask:
    """Fill polygons from the largest to the smallest, with True inside outer borders and with False inside holes."""
    found = np.zeros(shape, np.bool_)
    for contour in contours:
        inside = polygon(contour[:, 0], contour[:, 1], shape)  # type: ignore[no-untyped-call]
        found[inside] = area(contour) > 0
    return found


def move_border(mask: Mask, truth: Mask, rng: np.random.Generator, *, least: float, target: float) -> Mask:
    """Dilate and erode a mask in boxes around its border until it overlaps as little as wanted.

    Args:
        mask: The mask, `(rows, columns)`.
        truth: The same shape.
        rng: The generator that draws places and sizes.
        least: The smallest IoU with the truth. A change that leads below it is taken back.
        target: IoU with the truth at which changes end.
    """
    places = np.argwhere(border(truth))
    # The caller keeps its mask, which is changed here box by box.
    mask = mask.copy()
    now = iou(mask, truth)
    for _ in range(CHANGES):
        if now <= target:
            break
        box = around(places[int(rng.integers(len(places)))], rng, shape=mask.shape)
        before = mask[box].copy()
        mask[box] = dilate_or_erode(before, rng)
        then = iou(mask, truth)
        if then < least:
            mask[box] = before
        else:
            now = then
    return mask


def border(mask: Mask) -> Mask:
    """Return the pixels that have a pixel of the other kind among their eight neighbours."""
    found: Mask = maximum_filter(mask, 3, mode="nearest") != minimum_filter(mask, 3, mode="nearest")
    return found


def around(place: NDArray[np.intp], rng: np.random.Generator, *, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Draw a box with a pixel in its middle, clipped at the window's edge."""
    low, high = (log(side) for side in HALF_SIDES)
    halves = [round(exp(rng.uniform(low, high))) for _ in shape]
    first, second = (
        slice(max(0, int(at) - half), min(side, int(at) + half + 1))
        for at, half, side in zip(place, halves, shape, strict=True)
    )
    return first, second


def dilate_or_erode(mask: Mask, rng: np.random.Generator) -> Mask:
    """Dilate or erode a mask with a random rectangle or ellipse."""
    rows, columns = rng.integers(RADII[0], RADII[1] + 1, 2)
    y, x = np.ogrid[-rows : rows + 1, -columns : columns + 1]
    round_one = rng.random() < MEAN
    footprint = (y / (rows + 0.5)) ** 2 + (x / (columns + 0.5)) ** 2 <= 1 if round_one else np.abs(y) + np.abs(x) >= 0
    change = maximum_filter if rng.random() < MEAN else minimum_filter
    found: Mask = change(mask, footprint=footprint, mode="nearest")
    return found

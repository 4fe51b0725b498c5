"""Wrong masks made of true ones, as CascadePSP trains on: contours subsampled, then random dilations and erosions.

CascadePSP, sections 3.3 and 4.2; its figure 8 shows some. How far, where and in what order the paper leaves open.
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
"""Least and largest share of a contour's vertices that are kept, at first."""
CORNERS = 3
"""Vertices of a polygon at least."""
DOUBLINGS = 5
"""The most times that the share is doubled while the polygons overlap too little."""
RIM = 8
"""Pixels that a mask is continued by beyond the window, so that the window's edge is no contour."""
CHANGES = 60
"""Dilations and erosions at most."""
RADII = (1, 5)
"""Pixels, of what is dilated or eroded with."""
HALF_SIDES = (4, 40)
"""The half sides of the box that one dilation or erosion changes, in pixels."""
MEAN = 0.5


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """Draws wrong masks from true ones."""

    iou: tuple[float, float]
    """Least IoU with the truth, never undercut, and the largest that is aimed at."""
    coarse: float
    """Probability that the mask is one enlarged from a smaller one, as coarse networks give it, before it is dilated
    and eroded; contours are subsampled otherwise."""
    shrink: float
    """Most that such a mask was smaller by."""

    def __call__(self, mask: Mask, rng: np.random.Generator) -> Mask:
        """A mask that is wrong near its border, `(rows, columns)`.

        Args:
            mask: The truth, `(rows, columns)`, neither empty nor full.
            rng: The generator that draws the errors.
        """
        least, most = self.iou
        target = rng.uniform(least, most)
        wrong = self.enlarged(mask, rng) if rng.random() < self.coarse else subsampled(mask, rng, least=least)
        return moved(wrong, mask, rng, least=least, target=target)

    def enlarged(self, mask: Mask, rng: np.random.Generator) -> Mask:
        """The mask made smaller by area, then enlarged bilinearly and cut at one half."""
        factor = exp(rng.uniform(0, log(self.shrink)))
        while (found := shrunk_and_enlarged(mask, factor=factor)) is not None:
            if iou(found, mask) >= self.iou[0]:
                return found
            factor /= 1.5
        return mask


def iou(first: Mask, second: Mask) -> float:
    """Intersection over union of two masks, of which one at least is not empty."""
    return float(np.count_nonzero(first & second) / np.count_nonzero(first | second))


def shrunk_and_enlarged(mask: Mask, *, factor: float) -> Mask | None:
    """A mask of as few pixels as a `factor` leaves, enlarged again; None where the factor is no factor any more."""
    if factor <= 1:
        return None
    found: Mask = shares(mask, factor=factor) >= MEAN
    return found


def shares(mask: Mask, *, factor: float) -> NDArray[np.float32]:
    """Which share of a `factor` times larger pixel is inside, enlarged bilinearly: `(rows, columns)`, 0 to 1."""
    rows, columns = mask.shape
    size = (max(1, round(rows / factor)), max(1, round(columns / factor)))
    values = torch.from_numpy(mask).float()[None, None]
    small = functional.interpolate(values, size=size, mode="area")
    large = functional.interpolate(small, size=(rows, columns), mode="bilinear", align_corners=False)
    found: NDArray[np.float32] = large[0, 0].numpy()
    return found


def subsampled(mask: Mask, rng: np.random.Generator, *, least: float) -> Mask:
    """The polygons that are left when each contour keeps a few of its vertices at random.

    Args:
        mask: The true mask, `(rows, columns)`.
        rng: Which are kept.
        least: IoU with the mask that is not undercut; more vertices are kept until it is reached.
    """
    # Only a frame of zeros makes every contour a closed one.
    wide = np.pad(np.pad(mask, RIM, mode="edge"), 1)
    contours = sorted(closed(wide), key=extent, reverse=True)
    share = exp(rng.uniform(log(SHARES[0]), log(SHARES[1])))
    inner = slice(RIM + 1, -RIM - 1)
    for _ in range(DOUBLINGS):
        kept = [vertices(contour, rng, share=share) for contour in contours]
        found = filled(kept, shape=wide.shape)[inner, inner]
        if iou(found, mask) >= least:
            return found
        share *= 2
    return mask


def closed(mask: Mask) -> list[NDArray[np.float64]]:
    """Contours of a mask whose edge is empty: vertices `(n, 2)` as row and column, halfway between pixels."""
    found: list[NDArray[np.float64]] = find_contours(mask.astype(np.float32), 0.5)  # type: ignore[no-untyped-call]
    return found


def vertices(contour: NDArray[np.float64], rng: np.random.Generator, *, share: float) -> NDArray[np.float64]:
    """Some of a contour's vertices `(n, 2)`, in order; three at least."""
    count = len(contour)
    wanted = min(count, max(CORNERS, round(share * count)))
    return contour[np.sort(rng.choice(count, wanted, replace=False))]


def area(contour: NDArray[np.float64]) -> float:
    """Signed area inside: contours of holes turn the other way."""
    y, x = contour[:, 0], contour[:, 1]
    return float(np.dot(y, np.roll(x, 1)) - np.dot(x, np.roll(y, 1))) / 2


def extent(contour: NDArray[np.float64]) -> float:
    """The area inside without its sign."""
    return abs(area(contour))


def filled(contours: list[NDArray[np.float64]], *, shape: tuple[int, ...]) -> Mask:
    """Polygons painted from the largest to the smallest: the true inside of borders, and the false of holes."""
    found = np.zeros(shape, np.bool_)
    for contour in contours:
        inside = polygon(contour[:, 0], contour[:, 1], shape)  # type: ignore[no-untyped-call]
        found[inside] = area(contour) > 0
    return found


def moved(mask: Mask, truth: Mask, rng: np.random.Generator, *, least: float, target: float) -> Mask:
    """The mask after dilations and erosions in boxes around its border, until it overlaps as little as wanted.

    Args:
        mask: The mask, `(rows, columns)`.
        truth: The same shape.
        rng: The generator that draws places and sizes.
        least: IoU with the truth that no change may undercut.
        target: IoU with the truth at which changes end.
    """
    places = np.argwhere(border(truth))
    mask = mask.copy()
    now = iou(mask, truth)
    for _ in range(CHANGES):
        if now <= target:
            break
        box = around(places[int(rng.integers(len(places)))], rng, shape=mask.shape)
        before = mask[box].copy()
        mask[box] = changed(before, rng)
        then = iou(mask, truth)
        if then < least:
            mask[box] = before
        else:
            now = then
    return mask


def border(mask: Mask) -> Mask:
    """Pixels of the mask, or around it, that have another one within a pixel."""
    found: Mask = maximum_filter(mask, 3, mode="nearest") != minimum_filter(mask, 3, mode="nearest")
    return found


def around(place: NDArray[np.intp], rng: np.random.Generator, *, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """A random box with a pixel in its middle, cut at the window's edge."""
    low, high = (log(side) for side in HALF_SIDES)
    halves = [round(exp(rng.uniform(low, high))) for _ in shape]
    first, second = (
        slice(max(0, int(at) - half), min(side, int(at) + half + 1))
        for at, half, side in zip(place, halves, shape, strict=True)
    )
    return first, second


def changed(mask: Mask, rng: np.random.Generator) -> Mask:
    """A mask dilated or eroded by a random rectangle or ellipse."""
    rows, columns = rng.integers(RADII[0], RADII[1] + 1, 2)
    y, x = np.ogrid[-rows : rows + 1, -columns : columns + 1]
    round_one = rng.random() < MEAN
    footprint = (y / (rows + 0.5)) ** 2 + (x / (columns + 0.5)) ** 2 <= 1 if round_one else np.abs(y) + np.abs(x) >= 0
    change = maximum_filter if rng.random() < MEAN else minimum_filter
    found: Mask = change(mask, footprint=footprint, mode="nearest")
    return found

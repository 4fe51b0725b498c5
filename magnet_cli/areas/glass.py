"""The glass of a slide: its colour and its brightness at every pixel of an overview.

Glass is found by its own properties, and not as the rest of a histogram of the whole slide. So neither a strongly
coloured pen nor a dark stain moves the limit between glass and pale tissue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]
    Mask = NDArray[np.bool_]

DARKEST = 150
"""The brightest channel of glass is at least this bright, of 255: a slide in a darker field is fluorescence."""
STRONGEST_TINT = 0.2
"""Share by which the darkest channel of glass lies below its brightest: lamps are yellowish or bluish."""
STRONGEST_PINK = 0.025
"""Largest share by which green lies below both red and blue in glass. Above it the pixels are pale stained tissue."""
LEAST_SHARE = 0.003
"""Smallest share of the pixels with data that glass covers."""
SMOOTH_RADIUS = 2
"""Pixels on each side over which colours are averaged before they are compared with glass."""
SAMPLES = 150_000
"""Most pixels from which glass is found."""
CELLS = 20
"""Number of cells along each side of the overview, whose brightest flat pixels give the light of the lamp."""
FEWEST = 8
"""Fewest samples from which glass or a part of it is estimated."""
BIN = 0.0025
"""Bin width of the histogram of brightness relative to the lamp's field."""
PEAK_SHARE = 0.15
"""A peak of that histogram is glass if it is the brightest that has this share of the highest peak's height. Tissue may
cover more of the slide than glass, but nothing large is brighter than glass."""
SAME_TINT = 0.012
"""Difference between the ratios of the channels up to which two pixels have one tint. The palest sections differ by
twice as much from their glass."""
SPREADS = 5
"""Standard deviations of glass that are still glass."""
WINDOW = 0.015
"""Relative difference up to which a pixel joins in the glass that was found so far."""


@dataclass(frozen=True, kw_only=True)
class Glass:
    """The colour of glass as a smooth function of place."""

    weights: Floats
    """`(6, 3)`, float32: of the terms 1, x, y, x^2, xy, y^2 for each channel, x and y in -1..1."""
    shape: tuple[int, int]
    """Height and width of the overview."""
    shade: float
    """Standard deviation of the glass around this function, relative to its brightness, after smoothing."""
    tint: float
    """Difference between the channels' ratios to this function that glass hardly exceeds, after smoothing."""

    def at(self, rows: slice) -> NDArray[np.float32]:
        """Return the colour of glass in some rows, `(height, width, 3)`."""
        y = _unit(np.arange(rows.start, rows.stop), self.shape[0])
        x = _unit(np.arange(self.shape[1]), self.shape[1])
        constant, along_x, along_y, square_x, both, square_y = self.weights
        of_rows = constant + y[:, None] * along_y + y[:, None] ** 2 * square_y
        of_columns = x[:, None] * along_x + x[:, None] ** 2 * square_x
        mixed = (y[:, None] * x[None, :])[..., None] * both
        found: NDArray[np.float32] = (of_rows[:, None] + of_columns[None, :] + mixed).astype(np.float32)
        return found


def smoothed(pixels: NDArray[np.uint8], usable: Mask, rows: slice) -> NDArray[np.float32]:
    """Return the mean colour of the usable pixels around each pixel in some rows of an overview.

    Args:
        pixels: `(height, width, 3)`, the overview.
        usable: `(height, width)`, False where a pixel holds no data, or nothing that was scanned: black beside glass
            would make the glass look dark.
        rows: The rows that are returned.

    Returns:
        `(rows, width, 3)`, in 0..255; meaningless where no pixel around is usable.
    """
    from scipy.ndimage import uniform_filter  # noqa: PLC0415 - takes long to import, and only slides need it

    top, bottom = max(0, rows.start - SMOOTH_RADIUS), min(len(pixels), rows.stop + SMOOTH_RADIUS)
    inner = slice(rows.start - top, rows.stop - top)
    side = 2 * SMOOTH_RADIUS + 1
    values, counted = pixels[top:bottom].astype(np.float32), usable[top:bottom]
    if counted.all():
        mean: NDArray[np.float32] = uniform_filter(values, (side, side, 1), mode="nearest")
        return mean[inner]
    values[~counted] = 0
    mean = uniform_filter(values, (side, side, 1), mode="nearest")[inner]
    share = uniform_filter(counted.astype(np.float32), side, mode="nearest")[inner, :, None]
    # Sums that run along a row leave rounding errors behind where no pixel is usable.
    np.divide(mean, share, out=mean, where=share > 1 / (2 * side * side))
    return mean


def find_glass(pixels: NDArray[np.uint8], usable: Mask) -> Glass | None:
    """Find the glass of a slide; None where nothing on it can be glass.

    Args:
        pixels: `(height, width, 3)`, the overview.
        usable: `(height, width)`, False where a pixel holds no data, or nothing that was scanned.
    """
    place, colour, flat = _samples(pixels, usable)
    bright = colour.max(axis=1) >= DARKEST
    place, colour, flat = place[bright], colour[bright], flat[bright]
    if len(colour) < FEWEST:
        return None
    # Glass is the flattest of what is bright, whatever the scanner's noise; two levels are flat on any scanner.
    level = colour[flat <= max(2.0, 1.5 * float(np.quantile(flat, 0.2)))]
    place = place[flat <= max(2.0, 1.5 * float(np.quantile(flat, 0.2)))]
    lamp = _lamp(place, level.mean(axis=1))
    if lamp is None:
        return None
    terms = _terms(place)
    light = terms @ lamp
    brightness = level.mean(axis=1) / light
    member = np.abs(brightness - _brightest_peak(brightness)) <= BIN * 2
    tint = _least_stained(level[member])
    weights = lamp[:, None] * np.asarray(tint / tint.mean(), np.float64)
    for _ in range(8):
        ratio = level / (terms @ weights)
        ratio /= np.median(ratio[member].mean(axis=1))
        span = ratio.max(axis=1) - ratio.min(axis=1)
        near = (np.abs(ratio.mean(axis=1) - 1) <= WINDOW) & (span <= SAME_TINT)
        if np.count_nonzero(near) < FEWEST:
            return None
        member = near
        weights = _fitted(terms[member], level[member], towards=weights)
    ratio = level[member] / (terms[member] @ weights)
    span = ratio.max(axis=1) - ratio.min(axis=1)
    found = Glass(
        weights=weights.astype(np.float32),
        shape=(usable.shape[0], usable.shape[1]),
        shade=_deviation(ratio.mean(axis=1)),
        tint=float(np.median(span)) + SPREADS * _deviation(span),
    )
    return found if _plausible(found, share=np.count_nonzero(member) / len(bright)) else None


def _deviation(values: Floats) -> float:
    """Return the standard deviation of a normal distribution with these values' median absolute deviation."""
    # 1.4826 is 1 / 0.6745, the third quartile of the standard normal distribution. A few pixels of tissue hardly move
    # it.
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def _samples(pixels: NDArray[np.uint8], usable: Mask) -> tuple[Floats, Floats, Floats]:
    """Measure regular places: places `(n, 2)`, mean colours `(n, 3)` and standard deviations `(n,)` of their pixels."""
    from scipy.ndimage import uniform_filter  # noqa: PLC0415 - as above

    height, width = usable.shape
    step = max(1, int(np.ceil(np.sqrt(height * width / SAMPLES))))
    places, colours, deviations = [], [], []
    side = 2 * SMOOTH_RADIUS + 1
    for top in range(0, height, 256):
        rows = slice(top, min(top + 256, height))
        mean = smoothed(pixels, usable, rows)
        first = -top % step
        y, x = np.meshgrid(np.arange(top + first, rows.stop, step), np.arange(0, width, step), indexing="ij")
        grey = pixels[max(0, top - 2) : rows.stop + 2].astype(np.float32).mean(axis=2)
        local = uniform_filter(grey, side, mode="nearest")
        square = uniform_filter(grey * grey, side, mode="nearest")
        # Rounding can make the difference of the two means slightly negative.
        deviation = np.sqrt(np.maximum(square - local * local, 0))[top - max(0, top - 2) :]
        kept = usable[y, x]
        y, x = y[kept], x[kept]
        places.append(np.stack([_unit(x, width), _unit(y, height)], axis=1))
        colours.append(mean[y - top, x])
        deviations.append(deviation[y - top, x])
    return np.concatenate(places), np.concatenate(colours), np.concatenate(deviations)


def _unit(index: Any, length: int) -> NDArray[np.float32]:
    found: NDArray[np.float32] = ((2 * index + 1) / length - 1).astype(np.float32)
    return found


def _terms(place: Floats) -> NDArray[np.float64]:
    x, y = place.T.astype(np.float64)
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)


def _lamp(place: Floats, brightness: Floats) -> NDArray[np.float64] | None:
    """Return the weights of a field that runs along the brightest pixels of all cells.

    The result is None where no cell has enough pixels.
    """
    index = np.minimum(((place + 1) / 2 * CELLS).astype(int), CELLS - 1) @ [1, CELLS]
    order = np.argsort(index, kind="stable")
    borders = np.flatnonzero(np.diff(index[order])) + 1
    groups = [group for group in np.split(order, borders) if len(group) >= FEWEST]
    if not groups:
        return None
    centres = _terms(np.array([place[group].mean(axis=0) for group in groups]))
    tops = np.array([np.quantile(brightness[group], 0.8) for group in groups])
    # An expectile near 1: cells full of tissue lie below the field and hardly pull it down.
    weights: NDArray[np.float64] = np.array([np.quantile(tops, 0.9), 0, 0, 0, 0, 0], np.float64)
    for _ in range(30):
        pull = np.where(tops >= centres @ weights, 1.0, 0.01)
        weights = _fitted(centres, tops[:, None], towards=weights[:, None], pull=pull)[:, 0]
    return weights


def _fitted(
    terms: NDArray[np.float64], values: Floats, *, towards: NDArray[np.float64], pull: Floats | None = None
) -> NDArray[np.float64]:
    """Return `(6, channels)`, least squares, with slopes and curvatures kept small where few pixels support them."""
    weighted = terms if pull is None else terms * pull[:, None]
    total = len(terms) if pull is None else float(pull.sum())
    damping = total * np.array([0, 1e-3, 1e-3, 1e-2, 1e-2, 1e-2])
    target = np.zeros_like(towards)
    target[0] = towards[0]
    solved = np.linalg.solve(
        weighted.T @ terms + np.diag(damping + 1e-9 * total), weighted.T @ values + damping[:, None] * target
    )
    return np.asarray(solved, np.float64)


def _brightest_peak(brightness: Floats) -> float:
    counts, edges = np.histogram(brightness, bins=np.arange(0.8, 1.15, BIN))
    smooth = np.convolve(counts, [0.25, 0.5, 0.25], mode="same")
    inner = smooth[1:-1]
    peaks = np.flatnonzero((inner >= smooth[:-2]) & (inner >= smooth[2:]) & (inner > 0)) + 1
    high = peaks[smooth[peaks] >= PEAK_SHARE * smooth.max()]
    return float(edges[high[-1]] + BIN / 2) if len(high) else 1.0


def _least_stained(colours: Floats) -> Floats:
    """Return `(3,)`, the frequent colour nearest to grey: pale tissue may be as bright as glass, but has a colour."""
    share = colours / colours.mean(axis=1, keepdims=True)
    counts, reds, blues = np.histogram2d(share[:, 0], share[:, 2], bins=np.arange(0.7, 1.3, SAME_TINT / 2))
    high = np.argwhere(counts >= PEAK_SHARE * counts.max())
    red, blue = reds[high[:, 0]] + SAME_TINT / 4, blues[high[:, 1]] + SAME_TINT / 4
    tints = np.stack([red, 3 - red - blue, blue], axis=1)
    saturation = tints.max(axis=1) - tints.min(axis=1)
    nearest = tints[int(np.argmin(saturation))]
    own = np.abs(share - nearest).max(axis=1) <= SAME_TINT
    found: Floats = np.median(share[own], axis=0) if own.any() else nearest
    return found


def _plausible(glass: Glass, *, share: float) -> bool:
    height = glass.shape[0]
    red, green, blue = glass.at(slice(height // 2, height // 2 + 1))[0, glass.shape[1] // 2]
    brightest, darkest = max(red, green, blue), min(red, green, blue)
    pink = 1 - green / min(red, blue)
    return bool(
        share >= LEAST_SHARE and brightest >= DARKEST and darkest >= (1 - STRONGEST_TINT) * brightest
        and pink <= STRONGEST_PINK
    )  # fmt: skip

"""Whether a stored picture shows the same as a finer level: a few blocks of both are compared."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from magnet_cli.geometry import LEVEL0, Box, Pitch
from magnet_cli.images.protocol import Request
from magnet_cli.images.reader import fetch_reflected
from magnet_cli.images.sampler import Sampler

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.geometry import Size
    from magnet_cli.images.protocol import Level
    from magnet_cli.images.store import Store

WHOLE_PIXELS = 8 << 20
"""A finer level of at most so many pixels is compared as a whole: a needle biopsy is a thin line on a large glass."""

LATTICE = 12
"""Blocks along each axis where the finer level is larger."""

BLOCK, SMALL_BLOCK = 32, 8
"""Pixels of the coarser picture along a block's side; the smaller one where these cover much of the finer level."""

PART = 256
"""Pixels of the coarser picture along the side of what is compared at a time where all of it is compared; fewer where
each covers more than eight pixels of the finer level."""

CELL = 4
"""Pixels of the coarser picture along the side of a cell whose means are compared.

Programs reduce by the mean, by the nearest pixel, or by longer filters, and compress the result: their cells agree
where their pixels do not.
"""

HALF = Fraction(1, 2)

LEAST_CORRELATION, MOST_ERROR = 0.75, 2.0
"""Limits for the correlation and error of cell means, relative to those of a reduction that picks single pixels."""

LEAST_CELLS = 24
"""Fewest cells that decide: two pictures of fewer pixels may agree by chance."""

SHARE_OF_SPREAD, SHARE_OF_RANGE = 0.15, 0.02
"""Error that compression may add: of the spread of the means, and of the range of the values."""

MOST_MISSED = 0.5
"""Share of the contrast of either picture to its background that may differ (root mean square)."""


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """Measures of how well a picture agrees with a finer level."""

    alike: bool
    decided: bool
    """Whether the pictures had enough cells to be compared."""
    error: float
    """Root mean square of the differences between means of cells, in stored values."""


def compare(
    store: Store, fine: tuple[int, Level], coarse: tuple[int, Level], *, dtype: np.dtype[Any], bands: int
) -> Likeness:
    """Compare a picture with the finer level that it may be a reduction of.

    Args:
        store: Store that holds both levels.
        fine: Index in the store and place of the finer level.
        coarse: Index in the store of the picture, and the level that it would be.
        dtype: NumPy dtype of the pixels.
        bands: Number of bands.

    Returns:
        Not alike where too little can be compared.
    """
    ratio = Pitch(x=coarse[1].downsample.x / fine[1].downsample.x, y=coarse[1].downsample.y / fine[1].downsample.y)
    cells = []
    for box in _blocks(coarse[1].size, ratio, fine[1].size):
        found = store.fetch(coarse[0], box)
        mean, valid, nearest = _reduced(store, fine, Request(pitch=ratio, box=box), dtype=dtype, bands=bands)
        if found.valid is not None:
            valid = valid & np.atleast_3d(found.valid).all(axis=2)
        stacked = np.stack([_cells(values) for values in (found.values, mean, nearest)])
        cells.append(stacked[:, _cells(valid[:, :, None])[:, 0] == 1])
    together = np.concatenate(cells, axis=1) if cells else np.empty((3, 0, bands))
    return _judged(*together[:, np.isfinite(together).all(axis=(0, 2))], dtype=dtype)


def _judged(found: NDArray[Any], mean: NDArray[Any], nearest: NDArray[Any], *, dtype: np.dtype[Any]) -> Likeness:
    """Judge the means of cells, `(cells, bands)` each: of the picture, and of the finer level reduced in two ways."""
    if len(found) < LEAST_CELLS:
        return Likeness(alike=False, decided=False, error=float("inf"))
    error, spread = _rms(found - mean), float(mean.std())
    slight = SHARE_OF_RANGE * (255.0 if dtype == np.uint8 else float(max(np.abs(mean).max(), 1e-9)))
    # The error of picking single pixels says how much detail the finer level has: that a picture differs by as much
    # from area means is no sign of another content.
    allowed = MOST_ERROR * _rms(nearest - mean) + SHARE_OF_SPREAD * spread + slight
    follows = spread <= slight or _correlation(found, mean) >= LEAST_CORRELATION * _correlation(nearest, mean)
    alike = error <= allowed and follows and _missed(found, mean, nearest, slight=slight) <= 1
    return Likeness(alike=alike, decided=True, error=error)


def _missed(found: NDArray[Any], mean: NDArray[Any], nearest: NDArray[Any], *, slight: float) -> float:
    """Return how much of what stands out from the background the picture lacks or adds; at most 1."""
    ground = np.median(mean, axis=0)
    standing = np.maximum(np.abs(found - ground), np.abs(mean - ground))
    some = standing > slight
    if not some.any():
        return 0.0
    whole = _rms(standing[some])
    allowed = max(MOST_MISSED, MOST_ERROR * _rms((nearest - mean)[some]) / whole)
    return _rms((found - mean)[some]) / whole / allowed


def _blocks(size: Size, ratio: Pitch, fine: Size) -> list[Box]:
    """Return all of a picture in parts, or blocks spread evenly over it, at its edges too."""
    largest = float(max(ratio.x, ratio.y))
    if min(size.width, size.height) < CELL:
        return []
    if fine.pixels <= WHOLE_PIXELS:
        side = max(CELL, int(PART * 8 / max(8, largest)) // CELL * CELL)
        return [
            Box(x=x, y=y, width=side, height=side).intersection(Box.whole(size))
            for y in range(0, size.height, side)
            for x in range(0, size.width, side)
        ]
    side = BLOCK if largest <= BLOCK // 2 else SMALL_BLOCK
    width, height = min(side, size.width), min(side, size.height)
    along = min(LATTICE, int((WHOLE_PIXELS / (ceil(width * ratio.x) * ceil(height * ratio.y))) ** 0.5))
    if along < 2:  # noqa: PLR2004 (opposite corners)
        return []
    # A set, because blocks of a small picture may coincide.
    columns = {round(index * (size.width - width) / (along - 1)) for index in range(along)}
    rows = {round(index * (size.height - height) / (along - 1)) for index in range(along)}
    return [Box(x=x, y=y, width=width, height=height) for y in sorted(rows) for x in sorted(columns)]


def _reduced(
    store: Store, fine: tuple[int, Level], request: Request, *, dtype: np.dtype[Any], bands: int
) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[Any]]:
    """Return a box of the finer level at the coarser pitch: area means, their validity, and single pixels."""
    sampler = Sampler(request, level=fine[0], downsample=LEVEL0, shape=(bands, dtype), masked=True)
    pixels = fetch_reflected(store, fine[0], fine[1].size, sampler.box, None)
    sampler.add(sampler.box, pixels, tuple(range(bands)))
    region, box, ratio = sampler.region(), request.box, request.pitch
    valid = np.ones((box.height, box.width), np.bool_) if region.valid is None else region.valid
    rows = [int((y + HALF) * ratio.y) - sampler.box.y for y in range(box.y, box.bottom)]
    columns = [int((x + HALF) * ratio.x) - sampler.box.x for x in range(box.x, box.right)]
    return region.pixels, valid, pixels.values[np.ix_(rows, columns)]


def _cells(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the means of the whole cells of `(height, width, bands)`: `(cells, bands)`."""
    height, width, bands = values.shape
    rows, columns = height // CELL, width // CELL
    whole = values[: rows * CELL, : columns * CELL].astype(np.float64)
    means: NDArray[np.float64] = whole.reshape(rows, CELL, columns, CELL, bands).mean(axis=(1, 3))
    return means.reshape(-1, bands)


def _rms(values: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _correlation(one: NDArray[Any], other: NDArray[Any]) -> float:
    deviations = one.std() * other.std()
    return float(((one - one.mean()) * (other - other.mean())).mean() / deviations) if deviations else 0.0

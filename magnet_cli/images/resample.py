"""Weights of one axis of a sampling grid, and sums over them.

Area: a pixel is the mean over what it covers, fractions of pixels included. Bilinear: two taps an axis at the pixel's
centre, aligned as OpenCV's `INTER_LINEAR`, no antialias. All weights are integers over a common total, so sums of
integers are exact and no result depends on how a read was cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fractions import Fraction

    from numpy.typing import NDArray

FEW = 3
"""Taps that are added one by one; of more, those of equal weight are summed first."""

TOLERANCE = 1e-6
"""A stored level may be this share coarser than the pitch asked for and still serve it without interpolation."""


@dataclass(frozen=True, kw_only=True)
class Taps:
    """Which source pixels each output pixel of an axis takes, and with what weight."""

    start: NDArray[np.int64]
    """First source pixel of each output pixel; never falls."""
    stop: NDArray[np.int64]
    """One past the last."""
    first: NDArray[np.int64]
    """Weight of the first source pixel."""
    last: NDArray[np.int64]
    """Weight of the last source pixel, `inner` where it is also the first."""
    inner: int
    """Weight of those between."""
    total: int
    """Sum of the weights of every output pixel."""

    @property
    def exact_copy(self) -> bool:
        """Whether each output pixel is one source pixel."""
        return bool(np.all(self.stop - self.start == 1))


@lru_cache(maxsize=64)
def area_taps(ratio: Fraction, begin: int, end: int) -> Taps:
    """Weights for output pixels `[begin, end)`, each covering `ratio` source pixels."""
    numerator, denominator = ratio.as_integer_ratio()
    edges = [index * numerator for index in range(begin, end + 1)]
    start = [edge // denominator for edge in edges[:-1]]
    stop = [-(-edge // denominator) for edge in edges[1:]]
    first, last = [], []
    for index, (low, high) in enumerate(zip(start, stop, strict=True)):
        alone = high - low == 1
        first.append(numerator if alone else (low + 1) * denominator - edges[index])
        last.append(denominator if alone else edges[index + 1] - (high - 1) * denominator)
    return _taps(start, stop, first, last, inner=denominator, total=numerator)


@lru_cache(maxsize=64)
def bilinear_taps(ratio: Fraction, begin: int, end: int) -> Taps:
    """Weights for output pixels `[begin, end)` whose centres lie `ratio` source pixels apart."""
    numerator, denominator = ratio.as_integer_ratio()
    total = 2 * denominator
    start, stop, first, last = [], [], [], []
    for index in range(begin, end):
        low, rest = divmod((2 * index + 1) * numerator - denominator, total)
        start.append(low)
        stop.append(low + 2 if rest else low + 1)
        first.append(total - rest)
        last.append(rest)
    return _taps(start, stop, first, last, inner=0, total=total)


def taps_for(ratio: Fraction, begin: int, end: int, *, resample: str) -> Taps:
    """The weights for a resampling method; enlarging is always bilinear.

    Args:
        ratio: Source pixels between neighbouring output pixels.
        begin: First output pixel.
        end: One past the last.
        resample: `area` or `bilinear`.
    """
    if resample == "bilinear" or ratio < 1 - TOLERANCE:
        return bilinear_taps(ratio, begin, end)
    return area_taps(ratio, begin, end)


def accumulator(dtype: np.dtype[Any], *totals: int) -> np.dtype[Any]:
    """The narrowest dtype that holds a weighted sum, and half a weight for rounding, exactly; float64 as the last."""
    if dtype.kind in "iub":
        bits = 8 * dtype.itemsize + sum(total.bit_length() for total in totals)
        for wide in (np.int32, np.int64):
            if bits < 8 * np.dtype(wide).itemsize - 2:
                return np.dtype(wide)
    return np.dtype(np.float64)


def weighted_sums(source: NDArray[Any], taps: Taps, *, origin: int, dtype: np.dtype[Any]) -> tuple[slice, NDArray[Any]]:
    """Sums along the first axis of a piece of the source.

    Args:
        source: `(n, k)`: source pixels `[origin, origin + n)`.
        taps: The weights.
        origin: Index of the piece's first source pixel.
        dtype: Of the sums, from `accumulator`.

    Returns:
        Which output pixels the piece contributes to, and their partial sums `(m, k)`.
    """
    end = origin + len(source)
    low = int(np.searchsorted(taps.stop, origin, side="right"))
    high = int(np.searchsorted(taps.start, end, side="left"))
    high = max(low, high)
    sums = np.empty((high - low, source.shape[1]), dtype)
    for row, index in zip(sums, range(low, high), strict=True):
        _weigh(source, taps, index, origin, row)
    return slice(low, high), sums


def divide(sums: NDArray[Any], weights: NDArray[Any] | int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Weighted sums divided by their weights: rounded half up for integers, as they are for floats; uses `sums` up."""
    if dtype.kind == "f":
        return (sums / weights).astype(dtype)
    if sums.dtype.kind == "f":
        return np.floor(sums / weights + 0.5).astype(dtype)
    if isinstance(weights, int):
        sums += weights // 2
        sums //= weights
    else:
        sums = (sums + weights // 2) // weights
    return sums.astype(dtype)


def _taps(start: list[int], stop: list[int], first: list[int], last: list[int], *, inner: int, total: int) -> Taps:
    return Taps(
        start=np.array(start, np.int64),
        stop=np.array(stop, np.int64),
        first=np.array(first, np.int64),
        last=np.array(last, np.int64),
        inner=inner,
        total=total,
    )


def _weigh(source: NDArray[Any], taps: Taps, index: int, origin: int, out: NDArray[Any]) -> None:
    start, stop = int(taps.start[index]) - origin, int(taps.stop[index]) - origin
    first, last = int(taps.first[index]), int(taps.last[index])
    if stop - start <= FEW:
        weights = (first, *[taps.inner] * (stop - start - 2), last)[: stop - start]
        _weigh_few(source, start, weights, out)
        return
    np.add.reduce(source[max(start, 0) : min(stop, len(source))], axis=0, dtype=out.dtype, out=out)
    if taps.inner != 1:
        out *= taps.inner
    if first != taps.inner and start >= 0:
        out += source[start] * out.dtype.type(first - taps.inner)
    if last != taps.inner and stop <= len(source):
        out += source[stop - 1] * out.dtype.type(last - taps.inner)


def _weigh_few(source: NDArray[Any], start: int, weights: tuple[int, ...], out: NDArray[Any]) -> None:
    out[...] = 0
    for row, weight in enumerate(weights, start):
        if 0 <= row < len(source):
            out += source[row] * out.dtype.type(weight)

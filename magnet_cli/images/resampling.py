"""Weights of one axis of a sampling grid, as sparse matrices, and what becomes of sums over them.

Area: a pixel is the mean over what it covers, fractions of pixels included. Bilinear: two taps an axis at the pixel's
centre, aligned as OpenCV's `INTER_LINEAR`, no antialias. All weights are integers over a common total, so sums of
integers are exact and no result depends on how a read was cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array

if TYPE_CHECKING:
    from fractions import Fraction

    from numpy.typing import NDArray

TOLERANCE = 1e-6
"""A stored level may be this share coarser than the pitch asked for and still serve it without interpolation."""

EXACT_BITS: tuple[tuple[type[np.generic], int], ...] = ((np.float32, 24), (np.float64, 53), (np.int64, 63))
"""Numbers that hold every integer of so many bits, the quickest first."""


@dataclass(frozen=True, kw_only=True)
class Taps:
    """Source pixels of each output pixel along an axis, with their weights."""

    first: NDArray[np.int64]
    """First source pixel of each output pixel; never falls."""
    counts: NDArray[np.int64]
    """Number of source pixels of each output pixel; they are neighbours."""
    weights: NDArray[np.int64]
    """Weights of all source pixels, one output pixel after the other."""
    total: int
    """Sum of the weights of every output pixel."""

    @property
    def start(self) -> int:
        """First source pixel of all output pixels together."""
        return int(self.first[0])

    @property
    def stop(self) -> int:
        """One past the last source pixel of all output pixels together."""
        return int(self.first[-1] + self.counts[-1])

    @property
    def exact_copy(self) -> bool:
        """Whether each output pixel is one source pixel."""
        return bool(np.all(self.counts == 1))

    def within(self, begin: int, end: int) -> tuple[slice, csr_array]:
        """Return the output pixels that source pixels `[begin, end)` contribute to, and with what weights.

        Returns:
            Output pixels, and a matrix of whole numbers by which the source pixels are multiplied to give their share.
        """
        low = int(np.searchsorted(self.first + self.counts, begin, side="right"))
        high = int(np.searchsorted(self.first, end, side="left"))
        return slice(low, high), self._matrix[low:high, begin - self.start : end - self.start]

    @cached_property
    def _matrix(self) -> csr_array:
        """A row an output pixel and a column a source pixel from `start` on."""
        ends = np.concatenate(([0], np.cumsum(self.counts)))
        sources = np.arange(ends[-1]) + np.repeat(self.first - self.start - ends[:-1], self.counts)
        return csr_array((self.weights, sources, ends), shape=(len(self.first), self.stop - self.start))


@lru_cache(maxsize=64)
def area_taps(ratio: Fraction, begin: int, end: int) -> Taps:
    """Return the weights for output pixels `[begin, end)`, each covering `ratio` source pixels."""
    numerator, denominator = ratio.as_integer_ratio()
    first: list[int] = []
    counts: list[int] = []
    weights: list[int] = []
    for edge in range(begin * numerator, end * numerator, numerator):
        low, high = edge // denominator, -(-(edge + numerator) // denominator)
        first.append(low)
        counts.append(high - low)
        cuts = [edge, *range((low + 1) * denominator, high * denominator, denominator), edge + numerator]
        weights.extend(after - before for before, after in pairwise(cuts))
    return _taps(first, counts, weights, total=numerator)


@lru_cache(maxsize=64)
def bilinear_taps(ratio: Fraction, begin: int, end: int) -> Taps:
    """Return the weights for output pixels `[begin, end)` whose centres lie `ratio` source pixels apart."""
    numerator, denominator = ratio.as_integer_ratio()
    total = 2 * denominator
    first: list[int] = []
    counts: list[int] = []
    weights: list[int] = []
    for index in range(begin, end):
        # The centre of output pixel i lies at (i + 1/2) ratio - 1/2 in source pixels; both sides are times 2
        # denominator.
        low, rest = divmod((2 * index + 1) * numerator - denominator, total)
        first.append(low)
        counts.append(2 if rest else 1)
        weights.extend((total - rest, rest) if rest else (total,))
    return _taps(first, counts, weights, total=total)


def taps_for(ratio: Fraction, begin: int, end: int, *, resample: str) -> Taps:
    """Return the weights for a resampling method; enlarging is always bilinear.

    Args:
        ratio: Source pixels between neighbouring output pixels.
        begin: First output pixel.
        end: One past the last output pixel.
        resample: `area` or `bilinear`.
    """
    if resample == "bilinear" or ratio < 1 - TOLERANCE:
        return bilinear_taps(ratio, begin, end)
    return area_taps(ratio, begin, end)


def accumulator(dtype: np.dtype[Any], *totals: int) -> np.dtype[Any]:
    """Return the quickest dtype that holds weighted sums, and half a weight for rounding, exactly.

    The last choice is float64.
    """
    if dtype.kind in "iub":
        most = 1 if dtype.kind == "b" else int(np.iinfo(dtype).max) + 1
        # float32 sums are several times as quick as integers of 64 bits, and exact as long as every partial sum fits
        # its 24 bits.
        bits = (most * prod(totals)).bit_length()
        for wide, exact in EXACT_BITS:
            if bits < exact:
                return np.dtype(wide)
    return np.dtype(np.float64)


def divide(sums: NDArray[Any], weights: NDArray[Any] | int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Divide weighted sums by their weights, in place: rounded half up for integers, unrounded for floats."""
    if dtype.kind == "f":
        return (sums / weights).astype(dtype)
    # Half the weight makes the floor below a rounding half up.
    sums += weights // 2
    if sums.dtype.kind == "f":
        # This is exact: a quotient of integers that such a float holds is rounded to a whole number only where it is
        # one.
        sums /= weights
        np.floor(sums, out=sums)
    else:
        sums //= weights
    return sums.astype(dtype)


def _taps(first: list[int], counts: list[int], weights: list[int], *, total: int) -> Taps:
    return Taps(
        first=np.array(first, np.int64),
        counts=np.array(counts, np.int64),
        weights=np.array(weights, np.int64),
        total=total,
    )

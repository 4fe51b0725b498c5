"""Choosing points by a score's median without computing that median: where it exceeds a number is a majority.

The median over a square exceeds t exactly where more than half of the square's values do. A threshold is one such vote;
a count brackets the cut by a few of them, and medians are computed for the pixels inside the bracket alone. The result
is that of computing the median everywhere and sorting it, ties included.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from magnet_cli.arithmetic.scores import MEDIAN_STRIP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

GOLDEN_RATIO = (sqrt(5) - 1) / 2

UNDECIDED = 1 << 12
"""Pixels inside the bracket of a cut that are few enough to compute their medians."""
SAMPLE = 1 << 12
"""Number of pixels from whose medians the threshold is first estimated."""


@dataclass(frozen=True, kw_only=True)
class SmoothedScore:
    """The median of a score over squares, its borders replicated."""

    bordered: Tensor
    """The score and `side // 2` pixels around it, `(height + side - 1, width + side - 1)` float32. A padded copy of the
    score would take as much memory again, where a run has most of it in use."""
    side: int
    """The side of the square in pixels, an odd number."""

    @classmethod
    def zeros(cls, height: int, width: int, *, side: int, device: torch.device) -> Self:
        """Return the medians of a score that is still to be filled in."""
        rim = side - 1
        return cls(bordered=torch.zeros((height + rim, width + rim), dtype=torch.float32, device=device), side=side)

    @property
    def score(self) -> Tensor:
        """The score, `(height, width)` float32 in [0, 1], a view. It is filled in before a median is asked for."""
        reach = self.side // 2
        height, width = self.bordered.shape
        return self.bordered[reach : height - reach, reach : width - reach]

    @cached_property
    def _padded(self) -> Tensor:
        """The score with its border repeated around it."""
        padded, reach = self.bordered, self.side // 2
        for dim in (1, 0):
            length = padded.shape[dim]
            for rim, nearest in ((0, reach), (length - reach, length - reach - 1)):
                padded.narrow(dim, rim, reach).copy_(padded.narrow(dim, nearest, 1))
        return padded

    def above(self, threshold: float) -> Tensor:
        """Return where the median exceeds a number; `(height, width)` bool."""
        over = self._padded > threshold
        if self.side == 1:
            return over
        half = self.side * self.side // 2
        votes = over.view(torch.uint8) if 2 * half + 1 < 1 << 8 else over.int()
        # Votes are counted along rows and then along columns. For squares of up to 255 pixels a byte holds the count,
        # and bytes take a quarter of the memory traffic.
        sums = _moving_sum(_moving_sum(votes, self.side, dim=0), self.side, dim=1)
        # The comparison is done in place: on a CPU one of bytes into a tensor of another type takes ten times as long.
        return sums.gt_(half).view(torch.bool) if sums.dtype == torch.uint8 else sums > half

    def at(self, pixels: Tensor) -> Tensor:
        """Return the median at pixels given as row-major indices; `(count,)` int64 to `(count,)` float32."""
        if self.side == 1:
            return self.score.reshape(-1)[pixels]
        width, stride = self.score.shape[1], self._padded.stride(0)
        steps = torch.arange(self.side, device=pixels.device)
        square = (steps[:, None] * stride + steps).reshape(-1)
        corners = torch.div(pixels, width, rounding_mode="floor") * stride + pixels % width
        flat = self._padded.reshape(-1)
        # Unfolded squares take side * side values a pixel, so pixels are taken in strips.
        strips = torch.split(corners, max(1, MEDIAN_STRIP // len(square)))
        return torch.cat([_medians(flat.take(strip[:, None] + square)) for strip in strips])


def _medians(squares: Tensor) -> Tensor:
    """Return the median of each row of `(count, side * side)`; `(count,)`."""
    if squares.device.type != "cpu":
        return squares.median(dim=1).values
    # NumPy sorts short rows with vector instructions: a sixth of the time of `median`.
    return torch.from_numpy(np.sort(squares.numpy(), axis=1)[:, squares.shape[1] // 2])


def _moving_sum(values: Tensor, side: int, *, dim: int) -> Tensor:
    """Return the sums of `side` neighbours along a dimension, joined from sums of powers of two."""
    count = values.shape[dim] - side + 1
    total, offset, size, sums = None, 0, 1, values
    while size <= side:
        if side & size:
            part = sums.narrow(dim, offset, count)
            total = part if total is None else total + part
            offset += size
        size *= 2
        if size <= side:
            shorter = sums.shape[dim] - size // 2
            sums = sums.narrow(dim, 0, shorter) + sums.narrow(dim, size // 2, shorter)
    return values if total is None else total


def choose_points(
    smoothed: SmoothedScore, count: int, *, ranked: tuple[slice, slice], allowed: Tensor | None
) -> Tensor:
    """Return the `count` pixels of largest median; ties go to the lowest row-major index and zeros are never chosen.

    Args:
        smoothed: The score and its median.
        count: How many to choose at most.
        ranked: Rows and columns that compete. Elsewhere a pixel is chosen where its median reaches the cut.
        allowed: `(height, width)` bool, pixels that may be chosen; None where all may.

    Returns:
        `(height, width)` bool.
    """
    count = min(count, smoothed.score[ranked].numel())
    bracket = _Bracket(smoothed=smoothed, count=count, ranked=ranked, allowed=allowed)
    return bracket.narrowed()


@dataclass(frozen=True, kw_only=True)
class _Side:
    """The pixels whose median exceeds a number."""

    threshold: np.float32
    over: Tensor
    """`(height, width)` bool."""
    pixels: int
    ranked: int
    """The pixels that compete."""


@dataclass(frozen=True, kw_only=True)
class _Bracket:
    """Looks for two numbers between which the cut lies."""

    smoothed: SmoothedScore
    count: int
    ranked: tuple[slice, slice]
    allowed: Tensor | None

    def narrowed(self) -> Tensor:
        # Medians are at least 0 and at most 1, so these two numbers bracket every cut. A median of 0 is never above 0,
        # so it is never chosen.
        none = torch.zeros_like(self.smoothed.score, dtype=torch.bool)
        if self.count == 0:
            return none
        low, high = self._side(np.float32(0)), _Side(threshold=np.float32(1), over=none, pixels=0, ranked=0)
        if self.count > low.ranked:
            return low.over
        guesses = self._guesses()
        while low.pixels - high.pixels > UNDECIDED:
            ends = low.threshold, high.threshold
            middle = next((guess for guess in guesses if ends[0] < guess < ends[1]), np.float32(sum(ends) / 2))
            # No float32 number lies between the ends: all pixels between them have one median, a tie that `_decided`
            # breaks.
            if middle in ends:
                break
            side = self._side(middle)
            low, high = (side, high) if side.ranked >= self.count else (low, side)
        return self._decided(low.over & ~high.over, high)

    def _side(self, threshold: np.float32) -> _Side:
        over = self.smoothed.above(float(threshold))
        over = over if self.allowed is None else over & self.allowed
        pixels, inside = int(over.count_nonzero()), over[self.ranked]
        ranked = pixels if inside.shape == over.shape else int(inside.count_nonzero())
        return _Side(threshold=threshold, over=over, pixels=pixels, ranked=ranked)

    def _guesses(self) -> Iterator[np.float32]:
        """Yield a number below and one above the cut: medians of a sample, and three standard errors."""
        score = self.smoothed.score
        height, width = score[self.ranked].shape
        competing = height * width
        # Steps of the golden ratio spread over rows and columns alike, whatever the width.
        places = torch.arange(SAMPLE, device=score.device) * round(competing * GOLDEN_RATIO) % competing
        rows = torch.div(places, width, rounding_mode="floor") + (self.ranked[0].start or 0)
        pixels = rows * score.shape[1] + places % width + (self.ranked[1].start or 0)
        medians = self.smoothed.at(pixels)
        if self.allowed is not None:
            medians = medians * self.allowed.reshape(-1)[pixels]
        share = self.count / competing
        spread = 3 * sqrt(share * (1 - share) / SAMPLE)
        shares = torch.tensor([1 - share - spread, 1 - share + spread], device=score.device)
        yield from medians.quantile(shares.clamp(0, 1)).cpu().numpy()

    def _decided(self, undecided: Tensor, high: _Side) -> Tensor:
        """Sort the pixels inside the bracket."""
        competes = torch.zeros_like(undecided)
        competes[self.ranked] = True
        pixels = undecided.reshape(-1).nonzero().reshape(-1)
        medians, competing = self.smoothed.at(pixels), competes.reshape(-1)[pixels]
        # A stable sort leaves equal medians in row-major order, which is the rule for ties.
        order = medians[competing].sort(descending=True, stable=True)
        left = self.count - high.ranked
        cut = float(order.values[left - 1])
        flat = high.over.reshape(-1)
        flat[pixels[competing][order.indices[:left]]] = True
        # The rim does not compete: neighbouring blocks rank its pixels. It follows the cut, so that later windows read
        # a rim that was treated alike.
        flat[pixels[~competing & (medians >= cut)]] = True
        return high.over

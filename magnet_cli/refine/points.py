"""Choosing points by a score's median without computing that median: where it exceeds a number is a majority.

The median over a square exceeds t exactly where more than half of the square's values do. A threshold is one such vote;
a count brackets the cut by a few of them, and medians are computed for the pixels inside the bracket alone. The result
is that of computing the median everywhere and sorting it, ties included.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name all of torch's documentation uses

from magnet_cli.refine.scores import MEDIAN_STRIP

if TYPE_CHECKING:
    from torch import Tensor

UNDECIDED = 1 << 12
"""Pixels inside the bracket of a cut that are few enough to compute their medians."""


@dataclass(frozen=True, kw_only=True)
class Smoothed:
    """The median of a score over squares, its borders replicated."""

    score: Tensor
    """`(height, width)` float32 in [0, 1]."""
    side: int
    """Of the square in pixels, odd."""

    @cached_property
    def _padded(self) -> Tensor:
        reach = self.side // 2
        return F.pad(self.score[None, None], (reach, reach, reach, reach), mode="replicate")[0, 0]

    def above(self, threshold: float) -> Tensor:
        """Where the median exceeds a number; `(height, width)` bool."""
        over = self._padded > threshold
        if self.side == 1:
            return over
        half = self.side * self.side // 2
        votes = over.to(torch.uint8 if 2 * half + 1 < 1 << 8 else torch.int32)
        return _moving_sum(_moving_sum(votes, self.side, dim=0), self.side, dim=1) > half

    def at(self, pixels: Tensor) -> Tensor:
        """The median at pixels given as row-major indices; `(count,)` int64 to `(count,)` float32."""
        if self.side == 1:
            return self.score.reshape(-1)[pixels]
        width, stride = self.score.shape[1], self._padded.shape[1]
        steps = torch.arange(self.side, device=pixels.device)
        square = (steps[:, None] * stride + steps).reshape(-1)
        corners = torch.div(pixels, width, rounding_mode="floor") * stride + pixels % width
        flat = self._padded.reshape(-1)
        strips = torch.split(corners, max(1, MEDIAN_STRIP // len(square)))
        return torch.cat([flat[strip[:, None] + square].median(dim=1).values for strip in strips])


def _moving_sum(values: Tensor, side: int, *, dim: int) -> Tensor:
    """Sums of `side` neighbours along a dimension, `side - 1` fewer of them: of powers of two, joined."""
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


def choose_points(smoothed: Smoothed, count: int, *, ranked: tuple[slice, slice], allowed: Tensor | None) -> Tensor:
    """The `count` pixels of largest median; ties go to the lowest row-major index and zeros are never chosen.

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


@dataclass(kw_only=True)
class _Bracket:
    """Two numbers between which the cut lies, and who is above them."""

    smoothed: Smoothed
    count: int
    ranked: tuple[slice, slice]
    allowed: Tensor | None

    def narrowed(self) -> Tensor:
        low, high = np.float32(0), np.float32(1)
        over_low = self._above(low)
        over_high = torch.zeros_like(over_low)
        if self.count == 0:
            return over_high
        if self.count > self._ranked(over_low):
            return over_low
        while int((over_low & ~over_high).count_nonzero()) > UNDECIDED:
            middle = np.float32((low + high) / 2)
            if middle in (low, high):
                break
            over = self._above(middle)
            if self._ranked(over) >= self.count:
                low, over_low = middle, over
            else:
                high, over_high = middle, over
        return self._decided(over_low & ~over_high, over_high)

    def _above(self, threshold: np.float32) -> Tensor:
        over = self.smoothed.above(float(threshold))
        return over if self.allowed is None else over & self.allowed

    def _ranked(self, over: Tensor) -> int:
        return int(over[self.ranked].count_nonzero())

    def _decided(self, undecided: Tensor, chosen: Tensor) -> Tensor:
        """Sort the pixels inside the bracket."""
        competes = torch.zeros_like(undecided)
        competes[self.ranked] = True
        pixels = undecided.reshape(-1).nonzero().reshape(-1)
        medians, competing = self.smoothed.at(pixels), competes.reshape(-1)[pixels]
        order = medians[competing].sort(descending=True, stable=True)
        left = self.count - self._ranked(chosen)
        cut = float(order.values[left - 1])
        flat = chosen.reshape(-1)
        flat[pixels[competing][order.indices[:left]]] = True
        flat[pixels[~competing & (medians >= cut)]] = True
        return chosen

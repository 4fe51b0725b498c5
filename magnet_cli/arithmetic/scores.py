"""Choosing the pixels and windows that a stage changes, by certainty and the smoothed score (MagNet, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - the name all of torch's documentation uses

if TYPE_CHECKING:
    from fractions import Fraction

    from torch import Tensor

MEDIAN_STRIP = 1 << 22
"""Values that one step of the median may unfold; they take 16 MiB, unless one square alone takes more."""


def certainty(probs: Tensor) -> Tensor:
    """Return the largest minus the second largest probability.

    Args:
        probs: `(..., classes, height, width)`, two classes or more.

    Returns:
        `(..., height, width)` in [0, 1].
    """
    if probs.device.type != "cpu":
        return certainty_reduced(probs)
    # One pass over the classes finds both: on a CPU it is several times quicker than `topk` over the first of three
    # dimensions.
    classes = probs.unbind(-3)
    best, second = torch.maximum(*classes[:2]), torch.minimum(*classes[:2])
    for values in classes[2:]:
        second = torch.maximum(second, torch.minimum(best, values))
        best = torch.maximum(best, values)
    return best - second


def certainty_reduced(probs: Tensor) -> Tensor:
    """Return `certainty` in few operations, because launching each one on a GPU takes time of the host.

    Args:
        probs: Probabilities `(..., classes, height, width)` of two classes or more.
    """
    best, first = probs.max(dim=-3, keepdim=True)
    # Where two classes are the largest, only one of them is taken out, and the other is the second.
    second = probs.scatter(-3, first, -torch.inf).amax(dim=-3)
    return best.squeeze(-3) - second


def uncertainty(probs: Tensor) -> Tensor:
    """Return one minus `certainty`; same shapes."""
    return 1 - certainty(probs)


def median_blur(score: Tensor, side: int) -> Tensor:
    """Return the median over a square, with replicated borders.

    Args:
        score: The smoothed score, `(height, width)`.
        side: Odd side of the square, in pixels.

    Returns:
        `(height, width)`, each value one of `score`.
    """
    if side == 1:
        return score
    height, width = score.shape
    reach = side // 2
    padded = F.pad(score[None, None], (reach, reach, reach, reach), mode="replicate")[0, 0]
    out = torch.empty_like(score)
    columns = min(width, max(1, MEDIAN_STRIP // (side * side)))
    rows = max(1, MEDIAN_STRIP // (side * side * columns))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        for left in range(0, width, columns):
            right = min(left + columns, width)
            around = padded[top : bottom + 2 * reach, left : right + 2 * reach]
            squares = around.unfold(0, side, 1).unfold(1, side, 1).reshape(bottom - top, right - left, side * side)
            out[top:bottom, left:right] = squares.median(dim=-1).values
    return out


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The pixels of a block whose value is replaced, and the cut that chose them."""

    chosen: Tensor
    """`(height, width)` bool."""
    cut: float
    """A pixel outside the ranked area is chosen where its score is at least this, and positive."""


def choose_largest(score: Tensor, count: int) -> Choice:
    """Return the `count` largest scores; ties go to the lowest row-major index and zeros are never chosen.

    Args:
        score: `(height, width)`, zero or more: the pixels that are ranked.
        count: How many to choose at most.
    """
    flat = score.reshape(-1)
    count = min(count, flat.numel())
    chosen = torch.zeros(flat.shape, dtype=torch.bool, device=flat.device)
    if count == 0:
        return Choice(chosen=chosen.reshape(score.shape), cut=float("inf"))
    # kthvalue counts from the smallest value, and finds the cut without sorting all scores.
    cut = flat.kthvalue(flat.numel() - count + 1).values
    above = flat > cut
    tied = (flat == cut).nonzero().reshape(-1)[: count - int(above.sum())]
    chosen |= above
    chosen[tied] = True
    # A score of 0 says that the map so far is certain or the refinement unsure: nothing is gained by a change.
    chosen &= flat > 0
    return Choice(chosen=chosen.reshape(score.shape), cut=float(cut))


def choose_above(score: Tensor, threshold: Fraction) -> Tensor:
    """Return where a score exceeds a threshold; `(height, width)` bool."""
    return score > float(threshold)


def rank_windows(means: list[float], count: int) -> list[int]:
    """Return the indices of the `count` largest means, ascending; ties go to the lowest index."""
    # The index in the key makes the order of equal means explicit, on every platform.
    order = sorted(range(len(means)), key=lambda index: (-means[index], index))
    return sorted(order[:count])


def share_of(amount: Fraction, share: Fraction) -> int:
    """Return a count scaled by an exact share, rounded down."""
    return floor(amount * share)

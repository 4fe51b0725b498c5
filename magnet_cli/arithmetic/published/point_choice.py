"""Choosing the pixels that the published programs refine: certainty, the zero-padded median, counts and ties."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from magnet_cli.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from magnet_cli.geometry import Size

_ROWS_AT_ONCE = 64


def certainty(probabilities: Tensor) -> Tensor:
    """Return the largest minus the second largest probability: (classes, H, W) float gives (H, W), in 0..1."""
    largest: Tensor = probabilities.topk(2, dim=0).values
    return largest[0] - largest[1]


def check_median(k: int) -> None:
    """Accept a width that the published median can have.

    Raises:
        UsageError: If it is even or not positive.
    """
    if k < 1 or k % 2 == 0:
        raise UsageError(
            "the published median has an odd width", value=k, advice="Use an odd number, as 5 or 11; 1 turns it off"
        )


def median_zero_padded(scores: Tensor, *, k: int) -> Tensor:
    """Return the median of the k x k neighbours of each value of (H, W), with zeros beyond the border.

    Raises:
        UsageError: If `k` is even or not positive.
    """
    check_median(k)
    height, width = scores.shape
    padded = functional.pad(scores, (k // 2,) * 4)
    result = torch.empty_like(scores)
    for start in range(0, height, _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, height)
        neighbours = padded[start : stop + k - 1].unfold(0, k, 1).unfold(1, k, 1)
        result[start:stop] = neighbours.reshape(stop - start, width, k * k).median(dim=2).values
    return result


def blocky_median(scores: Tensor, *, grid: Size, k: int) -> Tensor:
    """Return the median at the network's input size: (H, W) taken down to `grid` and back by nearest neighbours."""
    small = functional.interpolate(scores[None, None], (grid.height, grid.width), mode="nearest")
    blurred = median_zero_padded(small[0, 0], k=k)
    return functional.interpolate(blurred[None, None], tuple(scores.shape), mode="nearest")[0, 0]


def point_count(points: float, *, stage: Size, selected: int, windows: int) -> int:
    """Return how many pixels of a stage are refined.

    Args:
        points: An integer is a count for the whole stage; any other number, in (0, 1], a share of its pixels.
        stage: Size of the whole stage.
        selected: Windows that are refined: a count is limited to their share of the stage, a share multiplied by it.
        windows: All windows of the stage.
    """
    if isinstance(points, int):
        return min(points, stage.pixels * selected // windows)
    # The operations are in the order of the published program, so that both round alike.
    return int(stage.pixels * points * selected / windows)


def choose_points(scores: Tensor, *, count: int) -> Tensor:
    """Return the `count` pixels of highest score; ties go to the lowest row-major index.

    Args:
        scores: (H, W), float.
        count: The number of points, at most H * W.

    Returns:
        (H, W) bool.
    """
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    flat = scores.flatten()
    cut = flat.topk(count, sorted=False).values.min()
    chosen = flat > cut
    # topk breaks ties as it likes, and otherwise on each device. So it only gives the cut, and ties are taken in
    # row-major order.
    ties = (flat == cut).nonzero()[:, 0]
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen.view_as(scores)

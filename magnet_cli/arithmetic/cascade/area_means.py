"""Exact means over the pixels of a coarser grid."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from fractions import Fraction

    from torch import Tensor


def area_mean(values: Tensor, *, dim: int, pitch: Fraction, count: int) -> Tensor:
    """Return the mean of what each pixel of a coarser grid covers, along one dimension.

    Args:
        values: Any shape, float32.
        dim: The dimension that shrinks.
        pitch: The pitch of the coarser grid, at least 1.
        count: Its pixels; the last one may reach beyond the values, and is the mean of those that are there.

    Returns:
        float32, `count` long in that dimension.
    """
    length, unit = values.shape[dim], pitch.denominator
    # Edges are integers in units of 1 / denominator of an input pixel, so that neighbouring pixels share an edge
    # exactly and no input counts twice.
    edges = np.minimum(np.arange(count + 1, dtype=np.int64) * pitch.numerator, length * unit)
    begin, end = edges[:-1], edges[1:]
    shape = [1] * values.dim()
    shape[dim] = -1

    def share(tap: int) -> Tensor:
        """Return what the pixel's first, second, ... input pixel adds to it."""
        index = begin // unit + tap
        covered = np.clip(np.minimum(end, (index + 1) * unit) - np.maximum(begin, index * unit), 0, None)
        weight = torch.from_numpy((covered / (end - begin)).astype(np.float32)).to(values.device).reshape(shape)
        chosen = torch.from_numpy(np.minimum(index, length - 1)).to(values.device)
        return values.index_select(dim, chosen).mul_(weight)

    total = share(0)
    # A pixel of the coarser grid reaches into at most ceil(pitch) + 1 input pixels.
    for tap in range(1, ceil(pitch) + 1):
        total += share(tap)
    return total

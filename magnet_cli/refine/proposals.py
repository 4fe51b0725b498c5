"""Scores of windows from scores of the places of a patch that shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from magnet_cli.geometry import Size


def mean_scores(scores: Tensor, boxes: Tensor, *, size: Size) -> Tensor:
    """The mean of a coarse map over boxes of the patch that it was made of; a place counts by its share in the box.

    Args:
        scores: `(n, h', w')` float32, one value a place, which tile the patch.
        boxes: `(n, k, 4)` float32: left, top, right and bottom in pixels of the patch, with an area.
        size: Of the patch.

    Returns:
        `(n, k)` float32.
    """
    left, top, right, bottom = boxes.unbind(dim=2)
    rows = _shares(top, bottom, count=scores.shape[1], length=size.height)
    columns = _shares(left, right, count=scores.shape[2], length=size.width)
    return torch.einsum("nkh,nhw,nkw->nk", rows, scores, columns)


def _shares(start: Tensor, end: Tensor, *, count: int, length: int) -> Tensor:
    """How much of `[start, end)`, `(n, k)`, lies in each of `count` equal parts of a length: `(n, k, count)`."""
    edges = torch.arange(count + 1, dtype=torch.float32, device=start.device) * (length / count)
    overlap = torch.minimum(end[..., None], edges[1:]) - torch.maximum(start[..., None], edges[:-1])
    return overlap.clamp_min(0) / (end - start)[..., None]

"""What a selector says of the places of a block: one more channel of its canvas."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from magnet_cli.geometry import Size

LARGEST = 6e4
"""Scores beyond are cut: canvases are float16."""


def spread(scores: Tensor, size: Size) -> Tensor:
    """Scores of places over the pixels that each place stands for.

    Every pixel takes the value of one place, so that the mean over places is the mean over their pixels.

    Args:
        scores: `(h', w')`, of a patch.
        size: Of the patch.

    Returns:
        `(1, size.height, size.width)` float16.
    """
    rows = torch.arange(size.height, device=scores.device) * len(scores) // size.height
    columns = torch.arange(size.width, device=scores.device) * scores.shape[1] // size.width
    return scores.clamp(-LARGEST, LARGEST).half()[rows][:, columns][None]

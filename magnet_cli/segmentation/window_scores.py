"""What windows are compared by: how much computing one may be worth, from what is known before it is computed."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING

import torch

from magnet_cli.arithmetic.scores import uncertainty

if TYPE_CHECKING:
    from torch import Tensor

    from magnet_cli.arithmetic.canvas import Canvas
    from magnet_cli.geometry import Box, Pitch, Size
    from magnet_cli.options.rules import Select


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


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the stages so far say of a part of the image."""

    canvas: Canvas
    """Y' before it is resampled."""
    moved: Canvas | None = None
    """`(1, height, width)`, how far the last step moved each pixel of it; None where there was no step before."""
    scored: Canvas | None = None
    """`(1, height, width)`, what a selector says of each pixel of it: the lower, the more a look is worth; None where
    no selector is asked."""
    against: float = 0.0
    """What such scores are compared with."""


def difference(one: Tensor, other: Tensor) -> Tensor:
    """Half the sum of the differences between two sets of probabilities: 0 where equal, 1 between sure classes.

    Args:
        one: `(classes, height, width)`.
        other: The same shape.

    Returns:
        `(height, width)` float32 in [0, 1].
    """
    return (one.float() - other.float()).abs().sum(dim=0) / 2


def window_score(known: Known, box: Box, pitch: Pitch, *, by: Select) -> float:
    """What a window of the next stage may be worth.

    Args:
        known: Before that stage.
        box: The window's own part, on the next stage's grid.
        pitch: Of that grid.
        by: Mean uncertainty, mean change, or their product; uncertainty also where nothing has changed yet. Or a
            selector: sigmoid(G - P), P being its mean score (Wu and others, AAAI 2020) and G what it is compared with.

    Returns:
        A number in [0, 1].
    """
    if by == "ppn":
        return _proposed(known, box, pitch)
    unsure = float(uncertainty(known.canvas.sample(box, pitch)).mean())
    if by == "uncertainty" or known.moved is None:
        return unsure
    change = float(known.moved.sample(box, pitch).mean())
    return change if by == "change" else change * unsure


def _proposed(known: Known, box: Box, pitch: Pitch) -> float:
    if known.scored is None:
        message = "a selector scores every stage but the last"
        raise RuntimeError(message)
    logit = known.against - float(known.scored.sample(box, pitch).mean())
    # Of the two forms of a sigmoid the one that cannot overflow.
    return 1 / (1 + exp(-logit)) if logit >= 0 else exp(logit) / (1 + exp(logit))

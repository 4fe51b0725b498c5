"""Scores of windows, by which `--select` compares them before they are computed."""

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
"""Bound to which scores are clamped, because the canvas that keeps them is float16 (at most 65504)."""


def spread(scores: Tensor, size: Size) -> Tensor:
    """Expand the scores of a patch's places to its pixels.

    Every pixel takes the value of one place: interpolation would change the mean over a window.

    Args:
        scores: The scores of the places of a patch, `(h', w')`.
        size: The size of the patch in pixels.

    Returns:
        `(1, size.height, size.width)` float16.
    """
    rows = torch.arange(size.height, device=scores.device) * len(scores) // size.height
    columns = torch.arange(size.width, device=scores.device) * scores.shape[1] // size.width
    return scores.clamp(-LARGEST, LARGEST).half()[rows][:, columns][None]


@dataclass(frozen=True, kw_only=True)
class Known:
    """The result of the stages so far over a part of the image."""

    canvas: Canvas
    """Probabilities: Y' of the next stage, before it is resampled."""
    moved: Canvas | None = None
    """Change of the probabilities in the last stage, `(1, height, width)` in [0, 1]. None before the second stage, and
    where `--select` does not need it."""
    scored: Canvas | None = None
    """Scores P of a patch proposal network, `(1, height, width)`; a low score proposes a place. None without one."""
    against: float = 0.0
    """G, the number with which P is compared."""


def difference(one: Tensor, other: Tensor) -> Tensor:
    """Return the total variation between two sets of probabilities: 0 if equal, 1 between two certain classes.

    Args:
        one: Probabilities `(classes, height, width)`.
        other: Probabilities of the same shape.

    Returns:
        `(height, width)` float32 in [0, 1].
    """
    return (one.float() - other.float()).abs().sum(dim=0) / 2


def window_score(known: Known, box: Box, pitch: Pitch, *, by: Select) -> float:
    """Return the score of a window of the next stage.

    Args:
        known: The result before that stage.
        box: The window's own part, on the next stage's grid.
        pitch: The pitch of the next stage's grid.
        by: `uncertainty`, `change` or `both`: the mean uncertainty, the mean change, or the product of both means.
            Before the second stage there is no change, and uncertainty takes its place. `ppn`: sigmoid(G - P), where P
            is the mean score of the patch proposal network (Wu and others, AAAI 2020).

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
        message = "the patch proposal network scores every stage but the last"
        raise RuntimeError(message)
    logit = known.against - float(known.scored.sample(box, pitch).mean())
    # math.exp raises OverflowError above 709, so the form of the sigmoid with a negative exponent is used.
    return 1 / (1 + exp(-logit)) if logit >= 0 else exp(logit) / (1 + exp(logit))

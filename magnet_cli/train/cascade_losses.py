"""The losses of a cascade in training: CascadePSP, section 3.1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from magnet_cli.models.architectures.cascade_base import CascadeOutputs
    from magnet_cli.train.precision import Arithmetic

BANDS = 3
UNKNOWN = 255
"""The label of unlabelled pixels."""
REACH = 2
"""Pixels on each side that the gradient at a pixel depends on: a Sobel operator of 3 x 3 follows a mean of 3 x 3."""
SMALLEST = 1e-6
"""Added under the root of a gradient's magnitude, because the root has no finite slope at zero."""
HALF = 0.5


@dataclass(frozen=True, kw_only=True)
class LevelObjective:
    """Loss of a cascade: cross-entropy at stride 8, L1 + L2 and gradients at stride 1, the mean of both at stride 4.

    Inputs are the normalised image and, as the last channel, the mask as -1 and 1; labels are 1 in the object, 0
    around it, 255 where nothing is known.
    """

    gradient: float
    """Weight of the L1 loss on gradient magnitudes, the paper's alpha."""
    finest: float = 0.0
    """Weight of the cross-entropy of stride 1, which the paper does not have."""

    def __call__(self, network: nn.Module, inputs: Tensor, labels: Tensor, arithmetic: Arithmetic) -> Tensor:
        """Return the loss of inputs `(n, 4, h, w)` with labels `(n, h, w)` int64."""
        with arithmetic.autocast():
            levels: CascadeOutputs = network(inputs[:, :BANDS], inputs[:, BANDS:])
        return self.total(levels, labels)

    def total(self, levels: CascadeOutputs, labels: Tensor) -> Tensor:
        """Return the paper's sum over the strides. A stride that several passes give counts as their mean."""
        truth, known = (labels == 1).float().unsqueeze(1), (labels != UNKNOWN).unsqueeze(1)
        s8 = mean([cross_entropy(logits.float(), truth, known) for logits in levels.s8])
        s4 = mean([both(logits.float(), truth, known) for logits in levels.s4])
        probs = levels.s1.float().sigmoid()
        s1 = distances(probs, truth, known) + self.gradient * gradients(probs, truth, known)
        if self.finest:
            s1 = s1 + self.finest * cross_entropy(levels.s1.float(), truth, known)
        return s8 + s4 + s1


def mean(losses: Sequence[Tensor]) -> Tensor:
    """Return the mean of the losses of several passes."""
    return torch.stack(list(losses)).mean()


def over(values: Tensor, known: Tensor) -> Tensor:
    """Return the mean over labelled pixels; 0 where there is none."""
    return values.where(known, 0).sum() / known.sum().clamp_min(1)


def cross_entropy(logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Return the mean binary cross-entropy, with the natural logarithm.

    Args:
        logits: `(n, 1, h, w)` float32.
        truth: `(n, 1, h, w)` float32, 0 or 1.
        known: `(n, 1, h, w)` bool.
    """
    return over(functional.binary_cross_entropy_with_logits(logits, truth, reduction="none"), known)


def distances(probs: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Return L1 + L2: the mean absolute plus the mean squared difference of probability and truth."""
    # The squared difference is the square of the absolute one, so one difference serves both.
    far = (probs - truth).abs()
    return over(far + far.square(), known)


def both(logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Return the mean of `cross_entropy` and `distances`."""
    return HALF * (cross_entropy(logits, truth, known) + distances(logits.sigmoid(), truth, known))


def gradients(probs: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Return L1 on gradient magnitudes, over pixels whose gradient depends on labelled pixels alone."""
    width = 2 * REACH + 1
    unknown = functional.max_pool2d((~known).float(), width, stride=1, padding=REACH) > 0
    return over((magnitude(probs) - magnitude(truth)).abs(), ~unknown)


def magnitude(values: Tensor) -> Tensor:
    """Return the gradient magnitude of `(n, 1, h, w)`: a mean of 3 x 3, then a Sobel operator that gives 1 for a step.

    Edge pixels are repeated, so that a window's edge is no gradient.
    """
    ramp = values.new_tensor([1.0, 0.0, -1.0])
    smooth = values.new_tensor([0.25, 0.5, 0.25])
    sobel = torch.stack((smooth[:, None] * ramp, ramp[:, None] * smooth)).unsqueeze(1)
    means = functional.avg_pool2d(bordered(values), 3, stride=1)
    slopes = functional.conv2d(bordered(means), sobel)
    return (slopes.square().sum(dim=1, keepdim=True) + SMALLEST).sqrt()


def bordered(values: Tensor) -> Tensor:
    """Repeat the pixels of the edge once on each side."""
    return functional.pad(values, (1, 1, 1, 1), mode="replicate")

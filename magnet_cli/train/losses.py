"""Objectives of trainings: sums over the labelled pixels, each weighted by its class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor, nn

    from magnet_cli.train.config import LoopConfig
    from magnet_cli.train.precision import Arithmetic

SMALLEST = 1e-12
"""The smallest of 1 - p in the focal loss: below, a power less than one has no finite slope."""


class Objective(Protocol):
    """The objective of a loop."""

    def __call__(self, network: nn.Module, inputs: Tensor, labels: Tensor, arithmetic: Arithmetic) -> Tensor:
        """Return the loss of a batch, a scalar.

        Args:
            network: The network that is fitted, on the device.
            inputs: The first tensor of a batch, on the device, channels last.
            labels: The second tensor of a batch, on the device.
            arithmetic: Device and precision in which the network computes.
        """


@dataclass(frozen=True, kw_only=True)
class PixelObjective:
    """The mean loss of the labelled pixels' classes, for networks that return logits."""

    weights: Tensor
    """The weights of the classes, `(classes,)` float32."""
    config: LoopConfig
    """The loop, whose `loss` is used."""
    ignore: int
    """The label of pixels without a class."""

    def __call__(self, network: nn.Module, inputs: Tensor, labels: Tensor, arithmetic: Arithmetic) -> Tensor:
        """Return the loss with labels `(n, h, w)` int64."""
        with arithmetic.autocast():
            logits = network(inputs)
        weights = self.weights.to(logits.device)
        total = summed_loss(logits.float(), labels, weights, config=self.config, ignore=self.ignore)
        return total / max(1, int((labels != self.ignore).sum()))


def summed_loss(logits: Tensor, labels: Tensor, weights: Tensor, *, config: LoopConfig, ignore: int) -> Tensor:
    """Return the loss that a loop names, summed over pixels.

    Args:
        logits: `(n, classes, h, w)` float32.
        labels: `(n, h, w)` int64.
        weights: The weights of the classes, `(classes,)` float32.
        config: Names the loss, and how far the probabilities follow the weights.
        ignore: The label of pixels without a class.
    """
    if config.logit_adjustment:
        logits = logits + config.logit_adjustment * weights.log()[:, None, None]
    if config.loss == "focal":
        return focal(logits, labels, weights, gamma=config.focal_gamma, ignore=ignore)
    return functional.cross_entropy(
        logits, labels, weights, ignore_index=ignore, reduction="sum", label_smoothing=config.smoothing
    )


def focal(logits: Tensor, labels: Tensor, weights: Tensor, *, gamma: float, ignore: int) -> Tensor:
    """Return the sum of -w (1 - p)^gamma log p, p being the softmaxed probability of a pixel's own class.

    Lin et al. 2017, "Focal loss for dense object detection", equations 4 and 5, with several classes instead of two.
    """
    labelled = labels != ignore
    own = labels.where(labelled, 0)
    log_p = logits.log_softmax(dim=1).gather(1, own.unsqueeze(1)).squeeze(1)
    # 1 - exp(log p) would lose all digits where p is near 1.
    missing = -torch.expm1(log_p)
    losses = -weights[own] * missing.clamp_min(SMALLEST).pow(gamma) * log_p
    return losses.where(labelled, 0).sum()

"""Networks that merge a stage's own probabilities with the field below it."""

from __future__ import annotations

from math import log
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from magnet_cli.models.architectures.resnet import Bottleneck

MOMENTUM = 0.01
SMALLEST = 1e-6
"""Probabilities below this count as this, so that their logarithm is finite."""


class RefinementMagNet(nn.Module):
    """The refinement network of the published MagNet program, with its parameter names.

    Args:
        classes: Number of classes; the input has twice as many channels.
        bn0: Whether the input is normalised by batch statistics.
    """

    reach = 4
    """Pixels around a pixel that its value depends on: four convolutions of three pixels."""

    def __init__(self, *, classes: int, bn0: bool = True) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(2 * classes, momentum=MOMENTUM) if bn0 else None
        self.conv1 = nn.Conv2d(2 * classes, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64, momentum=MOMENTUM)
        self.conv2 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64, momentum=MOMENTUM)
        self.relu = nn.ReLU(inplace=True)
        self.residual = nn.Sequential(
            Bottleneck(inputs=64, width=32, momentum=MOMENTUM), Bottleneck(inputs=128, width=32, momentum=MOMENTUM)
        )
        self.seg_conv = nn.Conv2d(128, classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map probabilities `(n, 2 * classes, h, w)` to logits `(n, classes, h, w)`."""
        if self.bn0 is not None:
            x = self.bn0(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return cast("Tensor", self.seg_conv(self.residual(x)))


class SharedRefiner(nn.Module):
    """One small network that is applied to every class alike; untrained, it gives the mean of its two inputs.

    Its weights are shared by all classes, so it cannot learn one scene's mix of classes. It adds a change to the
    logarithm of the mean. The change of a class is computed from the probabilities of the class, those of the best
    other class and the certainties, at a fraction of the resolution, and is enlarged bilinearly.

    Args:
        classes: Number of classes.
        width: Channels of the hidden layers.
        stride: Side of the squares of pixels that are averaged first.
        full: Whether its input also has logarithms, entropies, and the agreement of the two inputs.
        gate: Let the network weigh the two inputs against each other at each pixel, instead of equally, before it
            adds its change.
        bound: Most that the change of a class's logarithm may come to; 0 is no bound.
    """

    def __init__(
        self,
        *,
        classes: int,
        width: int = 16,
        stride: int = 2,
        full: bool = False,
        gate: bool = False,
        bound: float = 0.0,
    ) -> None:
        super().__init__()
        self.classes, self.stride, self.full, self.bound = classes, stride, full, bound
        self.conv1 = nn.Conv2d(11 if full else 6, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=2, dilation=2)
        self.conv3 = nn.Conv2d(width, width, 3, padding=4, dilation=4)
        self.change = nn.Conv2d(width, 1, 1)
        self.gate = nn.Conv2d(width, 1, 1) if gate else None
        for last in filter(None, (self.change, self.gate)):
            # With zeros in the last layers a training starts from the mean of the two inputs.
            nn.init.zeros_(last.weight)
            nn.init.zeros_(cast("Tensor", last.bias))

    def forward(self, x: Tensor) -> Tensor:
        """Map probabilities `(n, 2 * classes, h, w)` to logits `(n, classes, h, w)`."""
        own, field = x.chunk(2, dim=1)
        features = (*against(own), *against(field), *(compared(own, field) if self.full else ()))
        seen = torch.stack(features, dim=2).flatten(0, 1)
        if self.stride > 1:
            # Squares that the edge of the patch cuts count only the pixels that are there.
            seen = functional.avg_pool2d(seen, self.stride, ceil_mode=True, count_include_pad=False)
        y = functional.relu(self.conv1(seen))
        y = functional.relu(self.conv2(y))
        y = functional.relu(self.conv3(y))
        share: Tensor | float = 0.5
        if self.gate is not None:
            share = self.enlarged(self.gate(y), like=own).mean(dim=1, keepdim=True).sigmoid()
        change = self.enlarged(self.change(y), like=own)
        if self.bound:
            change = self.bound * (change / self.bound).tanh()
        return (share * own + (1 - share) * field).clamp_min(SMALLEST).log() + change

    def enlarged(self, y: Tensor, *, like: Tensor) -> Tensor:
        """Return `(n * classes, 1, h / stride, w / stride)` as `(n, classes, h, w)`."""
        count, classes, height, width = like.shape
        if self.stride > 1:
            y = functional.interpolate(y, scale_factor=self.stride, mode="bilinear", align_corners=False)
        # The squares at the lower and right edge were rounded up, so that the enlarged map may reach beyond the patch.
        return y[..., :height, :width].reshape(count, classes, height, width)


def against(probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each class its probability, the largest of the others, and the pixel's certainty."""
    top = probs.topk(2, dim=1).values
    best, second = top[:, :1], top[:, 1:]
    # For the best class the largest of the others is the second best.
    return probs, torch.where(probs >= best, second, best), (best - second).expand_as(probs)


def compared(own: Tensor, field: Tensor) -> tuple[Tensor, ...]:
    """Compare two sets of probabilities, `(n, classes, h, w)` each, by features of about 1 at most in size.

    For each class the logarithms of its probabilities; for the pixel the entropies and the chance that a class drawn
    from each is the same.
    """
    logs = [probs.clamp_min(SMALLEST).log() for probs in (own, field)]
    most = log(own.shape[1])
    entropies = [
        -(probs * one).sum(dim=1, keepdim=True).expand_as(probs) / most
        for probs, one in zip((own, field), logs, strict=True)
    ]
    agreement = (own * field).sum(dim=1, keepdim=True).expand_as(own)
    return (*(one / -log(SMALLEST) for one in logs), *entropies, agreement)

"""Convolutions that follow one another with nothing between them, computed as one."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

LANES = 16
"""Channels that a CPU computes together: a convolution with fewer outputs takes as long as one with this many."""


class ConvChain(nn.Module):
    """Convolutions of stride 1 that keep the size by zero padding, as a single one with a larger kernel.

    Convolutions compose to a convolution wherever no padding is met. On a frame as wide as the chain reaches, where
    each of them pads anew, they are computed one after the other, so that the result is the same up to rounding.

    Args:
        convs: The convolutions in their order. Each has a bias, an odd kernel and half the kernel's side as padding.
    """

    def __init__(self, convs: Sequence[nn.Conv2d]) -> None:
        super().__init__()
        self.convs = nn.Sequential(*convs)
        weight, bias = composed(convs)
        self.whole = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2])
        self.whole.weight = nn.Parameter(weight.to(convs[0].weight.dtype))
        self.whole.bias = nn.Parameter(bias.to(convs[0].weight.dtype))
        self.reach = weight.shape[2] // 2

    def forward(self, x: Tensor) -> Tensor:
        """Map `(n, channels, h, w)` to `(n, outputs, h, w)`."""
        edge = self.reach
        # A patch this small consists of the frame alone.
        if min(x.shape[-2:]) <= 2 * edge:
            return cast("Tensor", self.convs(x))
        top = self.convs(x[:, :, : 2 * edge])[:, :, :edge]
        bottom = self.convs(x[:, :, -2 * edge :])[:, :, edge:]
        left = self.convs(x[..., : 2 * edge])[:, :, edge:-edge, :edge]
        right = self.convs(x[..., -2 * edge :])[:, :, edge:-edge, edge:]
        middle = torch.cat((left, self.whole(x), right), dim=3)
        return torch.cat((top, middle, bottom), dim=2)


def composed(convs: Sequence[nn.Conv2d]) -> tuple[Tensor, Tensor]:
    """Return the kernel `(outputs, inputs, k, k)` and bias `(outputs,)` of the chain away from its padding, float64."""
    # It is computed in float64, because the rounding of the kernels' products would otherwise add to that of every
    # pixel.
    weight, bias = (cast("Tensor", part).double() for part in (convs[0].weight, convs[0].bias))
    for conv in convs[1:]:
        then = conv.weight.double()
        bias = then.sum(dim=(2, 3)) @ bias + cast("Tensor", conv.bias).double()
        reach = then.shape[2] - 1
        # torch's conv2d correlates, so one kernel is flipped to convolve the two.
        weight = functional.conv2d(weight.transpose(0, 1), then.flip(2, 3), padding=reach).transpose(0, 1)
    return weight.detach().contiguous(), bias.detach()


def saves_work(convs: Sequence[nn.Conv2d]) -> bool:
    """Return whether one convolution takes less than half the work of the chain, so that it is the faster one."""
    side = 1 + sum(conv.weight.shape[2] - 1 for conv in convs)
    first, last = convs[0].weight.shape[1], convs[-1].weight.shape[0]
    whole = side * side * first * max(last, LANES)
    return 2 * whole < sum(prod(conv.weight.shape) for conv in convs)

"""One convolution: the smallest network that fits each role, to prove the plumbing and to measure memory with."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn


class ConvNetwork(nn.Module):
    """A convolution with bias, edge pixels repeated.

    Args:
        inputs: Channels that it takes.
        outputs: Logits that it gives.
        kernel: Its side, odd.
    """

    def __init__(self, *, inputs: int, outputs: int, kernel: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, padding_mode="replicate")

    def forward(self, x: Tensor) -> Tensor:
        """`(n, inputs, h, w)` to `(n, outputs, h, w)`."""
        return cast("Tensor", self.conv(x))


def conv_backbone(*, classes: int, bands: int = 3, kernel: int = 1) -> ConvNetwork:
    """A convolution from bands to logits."""
    return ConvNetwork(inputs=bands, outputs=classes, kernel=kernel)


def conv_refiner(*, classes: int, kernel: int = 1) -> ConvNetwork:
    """A convolution from the probabilities of both inputs to logits."""
    return ConvNetwork(inputs=2 * classes, outputs=classes, kernel=kernel)

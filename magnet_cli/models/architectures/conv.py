"""One convolution: the smallest network that fits each role, for tests of the pipeline and measurements of memory."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from magnet_cli.models.architectures.cascade_base import BANDS, MASKS, CascadeModule


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
        """Map `(n, inputs, h, w)` to `(n, outputs, h, w)`."""
        return cast("Tensor", self.conv(x))


def conv_backbone(*, classes: int, bands: int = 3, kernel: int = 1) -> ConvNetwork:
    """Return a convolution from bands to logits."""
    return ConvNetwork(inputs=bands, outputs=classes, kernel=kernel)


def conv_refiner(*, classes: int, kernel: int = 1) -> ConvNetwork:
    """Return a convolution from the probabilities of both inputs to logits."""
    return ConvNetwork(inputs=2 * classes, outputs=classes, kernel=kernel)


class ConvCascade(CascadeModule):
    """A convolution of the image and three masks, whose logit is every output.

    Args:
        kernel: Its side, odd.
    """

    def __init__(self, *, kernel: int = 1) -> None:
        super().__init__()
        self.network = ConvNetwork(inputs=BANDS + MASKS, outputs=1, kernel=kernel)

    def first(self, images: Tensor, masks: Tensor, s8: Tensor, s4: Tensor) -> Tensor:
        """Run the first pass, which stops at output stride 8."""
        return cast("Tensor", self.network(torch.cat((images, masks, s8, s4), dim=1)))

    def middle(self, images: Tensor, masks: Tensor, s8: Tensor, s4: Tensor) -> tuple[Tensor, Tensor]:
        """Run the middle pass, which stops at output stride 4."""
        logits = self.first(images, masks, s8, s4)
        return logits, logits

    def last(self, images: Tensor, masks: Tensor, s8: Tensor, s4: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the last pass, up to output stride 1."""
        logits = self.first(images, masks, s8, s4)
        return logits, logits, logits

    @torch.no_grad()
    def raise_finest(self, by: float) -> None:
        """Raise the logits by a number; every output is the same one."""
        cast("Tensor", self.network.conv.bias).add_(by)


def conv_cascade(*, kernel: int = 1) -> ConvCascade:
    """Return a convolution as a cascade."""
    return ConvCascade(kernel=kernel)

"""DeepLabV3+: dilated convolutions of several rates over a dilated encoder, and one finer level for the borders."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from magnet_cli.models.architectures.fpn import enlarge
from magnet_cli.models.architectures.hrnet import unit
from magnet_cli.models.architectures.resnet import Bottleneck, ResNet

if TYPE_CHECKING:
    from collections.abc import Sequence

RATES = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}
"""Dilations, by the stride of the map that they work on: the same distance in pixels of the input."""


def separable(*, inputs: int, outputs: int, dilation: int = 1) -> nn.Sequential:
    """Return a 3 x 3 convolution of each channel alone, a 1 x 1 convolution, a batch norm and a ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, padding=dilation, dilation=dilation, groups=inputs, bias=False),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class ASPP(nn.Module):
    """Surroundings of several sizes, up to the whole patch, side by side.

    The branch of the whole patch has no batch norm: its one value a channel leaves nothing to take statistics of when
    a training batch holds one patch.

    Args:
        inputs: Channels of the input.
        width: Channels of each branch and of the result.
        rates: Dilations of the 3 x 3 branches.
    """

    def __init__(self, *, inputs: int, width: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.local = unit(inputs=inputs, outputs=width, side=1)
        self.dilated = nn.ModuleList(separable(inputs=inputs, outputs=width, dilation=rate) for rate in rates)
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, width, 1), nn.ReLU(inplace=True))
        self.project = unit(inputs=width * (len(rates) + 2), outputs=width, side=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(n, inputs, h, w)` to `(n, width, h, w)`."""
        whole = self.whole(x)
        everywhere = whole.expand(-1, -1, x.shape[2], x.shape[3])
        branches = (self.local(x), *(branch(x) for branch in self.dilated), everywhere)
        return cast("Tensor", self.project(torch.cat(branches, dim=1)))


class DeepLabV3Plus(nn.Module):
    """DeepLabV3+ with separable convolutions over any residual encoder.

    Args:
        encoder: The encoder. Its last map goes through the dilated convolutions, its first one gives borders.
        classes: Number of logits.
        output_stride: The output stride of the encoder's last map.
        width: Channels of the decoder.
        low: Channels that the finer level is reduced to.
    """

    def __init__(
        self, encoder: ResNet, *, classes: int, output_stride: int = 16, width: int = 256, low: int = 48
    ) -> None:
        super().__init__()
        fine, *_, deep = encoder.channels
        self.encoder = encoder
        self.aspp = ASPP(inputs=deep, width=width, rates=RATES[output_stride])
        self.smooth = separable(inputs=width, outputs=width)
        self.reduce = unit(inputs=fine, outputs=low, side=1)
        self.merge = separable(inputs=width + low, outputs=width)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(n, bands, h, w)`, normalised, to logits `(n, classes, h, w)`."""
        fine, *_, deep = self.encoder(x)
        wide = enlarge(self.smooth(self.aspp(deep)), fine)
        merged = self.merge(torch.cat((wide, self.reduce(fine)), dim=1))
        return enlarge(cast("Tensor", self.classify(merged)), x)


def deeplabv3plus_resnet50(*, classes: int, bands: int = 3, output_stride: int = 16) -> DeepLabV3Plus:
    """Build DeepLabV3+ over ResNet-50. An output stride of 8 instead of 16 takes three times the operations."""
    encoder = ResNet(block=Bottleneck, depths=(3, 4, 6, 3), bands=bands, output_stride=output_stride)
    return DeepLabV3Plus(encoder, classes=classes, output_stride=output_stride)

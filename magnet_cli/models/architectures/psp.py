"""Pyramid scene parsing: the whole patch, pooled in several grids, beside every position's own features."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from magnet_cli.models.architectures.fpn import enlarge
from magnet_cli.models.architectures.resnet import Bottleneck, ResNet

if TYPE_CHECKING:
    from collections.abc import Sequence

AUXILIARY = 0.4
"""Weight of the auxiliary head's logits; the main head has weight 1."""


def mixed(main: Tensor, auxiliary: Tensor) -> Tensor:
    """Return the weighted mean of two heads' logits."""
    return (main + AUXILIARY * auxiliary) / (1 + AUXILIARY)


class PyramidPooling(nn.Module):
    """Averages over grids of several sizes, each through its own 1 x 1 convolution, joined with what they were made of.

    Args:
        channels: The channels of the input.
        outputs: Channels of the result.
        sizes: Cells on a side of each grid.
    """

    def __init__(self, *, channels: int, outputs: int = 1024, sizes: Sequence[int] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), nn.Conv2d(channels, channels, 1, bias=False)) for size in sizes
        )
        self.bottleneck = nn.Conv2d(channels * (len(sizes) + 1), outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(n, channels, h, w)` to `(n, outputs, h, w)`."""
        pooled = [enlarge(stage(x), x) for stage in self.stages]
        return functional.relu(self.bottleneck(torch.cat((*pooled, x), dim=1)))


class Doubling(nn.Module):
    """Bilinear enlargement by two and a 3 x 3 convolution."""

    def __init__(self, *, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.PReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Map `(n, inputs, h, w)` to `(n, outputs, 2 * h, 2 * w)`."""
        larger = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return cast("Tensor", self.conv(larger))


class PSPNet(nn.Module):
    """The published MagNet program's PSPNet, with its parameter names, over any residual encoder.

    Args:
        encoder: Its last map, of stride 32, is pooled.
        classes: Number of logits.
    """

    def __init__(self, encoder: ResNet, *, classes: int) -> None:
        super().__init__()
        channels = encoder.channels[-1]
        self.feats = encoder
        self.psp = PyramidPooling(channels=channels)
        self.up_1 = Doubling(inputs=1024, outputs=256)
        self.up_2 = Doubling(inputs=256, outputs=64)
        self.up_3 = Doubling(inputs=64, outputs=64)
        self.final = nn.Conv2d(64, classes, 1)
        self.classifier = nn.Conv2d(channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(n, bands, h, w)`, normalised, to logits `(n, classes, h, w)`."""
        last = self.feats(x)[-1]
        main = self.final(self.up_3(self.up_2(self.up_1(self.psp(last)))))
        return mixed(enlarge(main, x), enlarge(self.classifier(last), x))


def psp_resnet101(*, classes: int, bands: int = 3) -> PSPNet:
    """Build PSPNet over a ResNet-101 that is not dilated, as the published program has it."""
    return PSPNet(ResNet(block=Bottleneck, depths=(3, 4, 23, 3), bands=bands), classes=classes)

"""Feature pyramid networks: a residual encoder, a top-down path, one classifier over all levels."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from magnet_cli.models.resnet import BasicBlock, Bottleneck, ResNet

if TYPE_CHECKING:
    from collections.abc import Sequence


def enlarge(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, pixel centres aligned, to the height and width of another tensor."""
    return functional.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class FPN(nn.Module):
    """The published MagNet program's pyramid, with its parameter names, over any residual encoder.

    Each level is smoothed by two 3 x 3 convolutions without norm or activation; the levels are joined, coarsest
    first, at stride 4 and classified by one 3 x 3 convolution.

    Args:
        encoder: Gives four feature maps, of strides 4 to 32.
        classes: Number of logits.
        lateral: Channels of the top-down path.
        head: Channels that each level gives to the classifier.
    """

    def __init__(self, encoder: ResNet, *, classes: int, lateral: int = 256, head: int = 128) -> None:
        super().__init__()
        self.resnet_backbone = encoder
        c2, c3, c4, c5 = encoder.channels
        self.toplayer = nn.Conv2d(c5, lateral, 1)
        self.latlayer1 = nn.Conv2d(c4, lateral, 1)
        self.latlayer2 = nn.Conv2d(c3, lateral, 1)
        self.latlayer3 = nn.Conv2d(c2, lateral, 1)
        self.smooth1_1 = nn.Conv2d(lateral, lateral, 3, padding=1)
        self.smooth2_1 = nn.Conv2d(lateral, lateral, 3, padding=1)
        self.smooth3_1 = nn.Conv2d(lateral, lateral, 3, padding=1)
        self.smooth4_1 = nn.Conv2d(lateral, lateral, 3, padding=1)
        self.smooth1_2 = nn.Conv2d(lateral, head, 3, padding=1)
        self.smooth2_2 = nn.Conv2d(lateral, head, 3, padding=1)
        self.smooth3_2 = nn.Conv2d(lateral, head, 3, padding=1)
        self.smooth4_2 = nn.Conv2d(lateral, head, 3, padding=1)
        self.classify = nn.Conv2d(4 * head, classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, bands, h, w)`, normalised, to logits `(n, classes, h, w)`."""
        c2, c3, c4, c5 = self.resnet_backbone(x)
        p5 = self.toplayer(c5)
        p4 = enlarge(p5, c4) + self.latlayer1(c4)
        p3 = enlarge(p4, c3) + self.latlayer2(c3)
        p2 = enlarge(p3, c2) + self.latlayer3(c2)
        levels = [
            self.smooth1_2(self.smooth1_1(p5)),
            self.smooth2_2(self.smooth2_1(p4)),
            self.smooth3_2(self.smooth3_1(p3)),
            self.smooth4_2(self.smooth4_1(p2)),
        ]
        joined = torch.cat([enlarge(level, p2) for level in levels], dim=1)
        return enlarge(cast("Tensor", self.classify(joined)), x)


def fpn_resnet50(*, classes: int, bands: int = 3) -> FPN:
    """The backbone of the published program: FPN over ResNet-50."""
    return FPN(ResNet(block=Bottleneck, depths=(3, 4, 6, 3), bands=bands), classes=classes)


def fpn_small(
    *,
    classes: int,
    bands: int = 3,
    width: int = 32,
    depths: Sequence[int] = (2, 2, 2, 2),
    lateral: int = 64,
    head: int = 32,
) -> FPN:
    """A slim FPN over basic blocks, for machines without an accelerator; 3 million parameters by default."""
    encoder = ResNet(block=BasicBlock, depths=depths, width=width, bands=bands)
    return FPN(encoder, classes=classes, lateral=lateral, head=head)

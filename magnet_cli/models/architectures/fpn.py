"""Feature pyramid networks: an encoder, a top-down path, one classifier over all levels."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from magnet_cli.models.architectures.chain import ConvChain, saves_work
from magnet_cli.models.architectures.efficientnet import EfficientNetLite, efficientnet_lite0, efficientnet_lite2
from magnet_cli.models.architectures.resnet import BasicBlock, Bottleneck, ResNet
from magnet_cli.models.architectures.timm_encoder import TimmEncoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magnet_cli.models.architectures.resnet import Features


Encoder = ResNet | EfficientNetLite | TimmEncoder
"""An encoder that returns the four feature maps of an FPN, of strides 4, 8, 16 and 32."""


def enlarge(x: Tensor, like: Tensor) -> Tensor:
    """Resize maps to the height and width of another tensor, bilinear, with pixel centres aligned."""
    return functional.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class FPN(nn.Module):
    """The published MagNet program's pyramid, with its parameter names, over any encoder.

    Each level is smoothed by two 3 x 3 convolutions without norm or activation; the levels are joined, coarsest
    first, at stride 4 and classified by one 3 x 3 convolution.

    Args:
        encoder: Gives four feature maps, of strides 4 to 32.
        classes: Number of logits.
        lateral: Channels of the top-down path.
        head: Channels that each level gives to the classifier.
    """

    def __init__(self, encoder: Encoder, *, classes: int, lateral: int = 256, head: int = 128) -> None:
        super().__init__()
        self.resnet_backbone = encoder
        c2, c3, c4, c5 = encoder.channels
        self.toplayer = nn.Conv2d(c5, lateral, 1)
        self.latlayer1 = nn.Conv2d(c4, lateral, 1)
        self.latlayer2 = nn.Conv2d(c3, lateral, 1)
        self.latlayer3 = nn.Conv2d(c2, lateral, 1)
        # The names have to stay as they are: published weights are loaded by them.
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
        """Map `(n, bands, h, w)`, normalised, to logits `(n, classes, h, w)`."""
        p5, p4, p3, p2 = self.pyramid(x)
        joined = torch.cat((*self.coarse(p5, p4, p3, like=p2), self.smooth4_2(self.smooth4_1(p2))), dim=1)
        return enlarge(cast("Tensor", self.classify(joined)), x)

    def pyramid(self, x: Tensor) -> Features:
        """Return the top-down path: `(n, lateral, h / s, w / s)` for s = 32, 16, 8, 4."""
        c2, c3, c4, c5 = self.resnet_backbone(x)
        p5 = self.toplayer(c5)
        p4 = enlarge(p5, c4) + self.latlayer1(c4)
        p3 = enlarge(p4, c3) + self.latlayer2(c3)
        return p5, p4, p3, enlarge(p3, c2) + self.latlayer3(c2)

    def coarse(self, p5: Tensor, p4: Tensor, p3: Tensor, *, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the three coarser levels give to the classifier, `(n, head, h / 4, w / 4)`."""
        return (
            enlarge(self.smooth1_2(self.smooth1_1(p5)), like),
            enlarge(self.smooth2_2(self.smooth2_1(p4)), like),
            enlarge(self.smooth3_2(self.smooth3_1(p3)), like),
        )

    @property
    def encoder(self) -> Encoder:
        """The encoder, whose published parameter names begin with `resnet_backbone` whatever it is."""
        return self.resnet_backbone

    def simplified(self) -> nn.Module:
        """Return an equal network with one convolution where the finest level has three with nothing between them."""
        finest = (self.smooth4_1, self.smooth4_2, _part(self.classify, self.classify.in_channels * 3 // 4, None))
        return SimplifiedFPN(self, finest) if saves_work(finest) else self


class SimplifiedFPN(nn.Module):
    """An FPN whose finest level goes through one convolution, its classifier's share included; for inference.

    The classifier is linear in the levels that are joined, so each level's share can be computed by itself; and at the
    finest level, a third of the network's work, no other layer stands between the convolutions.

    Args:
        network: The feature pyramid network.
        finest: Its convolutions at the finest level, and the classifier's part that reads them.
    """

    def __init__(self, network: FPN, finest: Sequence[nn.Conv2d]) -> None:
        super().__init__()
        self.network = network
        self.finest = ConvChain(finest)
        self.classify = _part(network.classify, 0, finest[-1].in_channels * 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(n, bands, h, w)`, normalised, to logits `(n, classes, h, w)`."""
        p5, p4, p3, p2 = self.network.pyramid(x)
        joined = torch.cat(self.network.coarse(p5, p4, p3, like=p2), dim=1)
        return enlarge(self.classify(joined) + self.finest(p2), x)


def _part(conv: nn.Conv2d, start: int, stop: int | None, *, bias: bool = True) -> nn.Conv2d:
    """Return a convolution's share from some of its input channels, with its bias or without."""
    weight = conv.weight[:, start:stop]
    side = conv.kernel_size[0]
    part = nn.Conv2d(weight.shape[1], weight.shape[0], side, padding=side // 2, bias=bias)
    part.weight = nn.Parameter(weight.detach())
    if bias:
        part.bias = conv.bias
    return part


def fpn_resnet50(*, classes: int, bands: int = 3) -> FPN:
    """Return the backbone of the published program: FPN over ResNet-50."""
    return FPN(ResNet(block=Bottleneck, depths=(3, 4, 6, 3), bands=bands), classes=classes)


def fpn_resnet18(*, classes: int, bands: int = 3) -> FPN:
    """Return the refinement branch of the GRNet paper ("Training"): FPN over ResNet-18."""
    return FPN(ResNet(block=BasicBlock, depths=(2, 2, 2, 2), bands=bands), classes=classes)


def fpn_small(
    *,
    classes: int,
    bands: int = 3,
    width: int = 32,
    depths: Sequence[int] = (2, 2, 2, 2),
    lateral: int = 64,
    head: int = 32,
) -> FPN:
    """Return a slim FPN over basic blocks, for machines without an accelerator; 3 million parameters by default."""
    encoder = ResNet(block=BasicBlock, depths=depths, width=width, bands=bands)
    return FPN(encoder, classes=classes, lateral=lateral, head=head)


def fpn_lite0(*, classes: int, bands: int = 3, lateral: int = 64, head: int = 48) -> FPN:
    """Return a slim FPN over EfficientNet-Lite0, for encoders that were trained on ImageNet; 3.3 million parameters."""
    return FPN(efficientnet_lite0(bands=bands), classes=classes, lateral=lateral, head=head)


def fpn_lite2(*, classes: int, bands: int = 3, lateral: int = 64, head: int = 48) -> FPN:
    """Return a slim FPN over EfficientNet-Lite2; 4.7 million parameters."""
    return FPN(efficientnet_lite2(bands=bands), classes=classes, lateral=lateral, head=head)


def fpn_timm(*, classes: int, encoder: str, bands: int = 3, lateral: int = 64, head: int = 48) -> FPN:
    """Return a slim FPN over any encoder of the package timm that has feature maps of strides 4 to 32."""
    return FPN(TimmEncoder(encoder, bands=bands), classes=classes, lateral=lateral, head=head)

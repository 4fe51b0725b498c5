"""CascadePSP's refinement module: a pyramid pooling over image and masks, outputs of three strides."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from magnet_cli.models.architectures.cascade_base import BANDS, MASKS, STRIDE, CascadeModule
from magnet_cli.models.architectures.efficientnet import EfficientNetLite, efficientnet_lite0
from magnet_cli.models.architectures.fpn import enlarge
from magnet_cli.models.architectures.psp import PyramidPooling
from magnet_cli.models.architectures.resnet import BasicBlock, Bottleneck, ResNet

if TYPE_CHECKING:
    from collections.abc import Sequence


class ResidualEncoder(nn.Module):
    """A residual encoder with the two maps that the module takes beside the last one; its parameters keep their names.

    Args:
        network: The network of output stride 8.
    """

    def __init__(self, network: ResNet) -> None:
        super().__init__()
        self.channels = (network.conv1.out_channels, network.channels[0], network.channels[-1])
        """The number of channels of the maps of strides 2, 4 and 8."""
        self.conv1, self.bn1, self.relu, self.maxpool = network.conv1, network.bn1, network.relu, network.maxpool
        # The layers are taken over one by one: a wrapped network would put a prefix before the names of the published
        # weights.
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            network.layer1,
            network.layer2,
            network.layer3,
            network.layer4,
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the stem's convolution, before its norm, the first layer and the last: strides 2, 4 and 8."""
        stem = self.conv1(x)
        first = self.layer1(self.maxpool(self.relu(self.bn1(stem))))
        return stem, first, self.layer4(self.layer3(self.layer2(first)))


class LiteEncoder(nn.Module):
    """An EfficientNet-Lite whose maps of strides 8, 16 and 32 are joined, coarse to fine, to one of stride 8.

    The residual encoders are dilated instead, so that their deepest map has stride 8. Here that would take sixteen
    times the work of the two deepest stages.

    Args:
        network: The encoder.
        lateral: Channels of the joined map.
    """

    def __init__(self, network: EfficientNetLite, *, lateral: int) -> None:
        super().__init__()
        fourth, *coarse = network.channels
        self.channels = (network.stem_channels, fourth, lateral)
        """The number of channels of the maps of strides 2, 4 and 8."""
        self.network = network
        self.lateral8, self.lateral16, self.lateral32 = (nn.Conv2d(channels, lateral, 1) for channels in coarse)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the stem's map, that of stride 4 and the joined one: strides 2, 4 and 8."""
        stem, fourth, eighth, c16, c32 = self.network.maps(x)
        y = enlarge(self.lateral32(c32), c16) + self.lateral16(c16)
        return stem, fourth, enlarge(y, eighth) + self.lateral8(eighth)


class Rise(nn.Module):
    """Bilinear enlargement by two, joined with a finer map, through two residual pairs of 3 x 3 convolutions.

    Args:
        inputs: Channels of the coarser map.
        beside: Channels of the finer one.
        outputs: Channels of the result.
    """

    def __init__(self, *, inputs: int, beside: int, outputs: int) -> None:
        super().__init__()
        self.conv = pair(inputs=inputs + beside, outputs=outputs)
        self.conv2 = pair(inputs=outputs, outputs=outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, finer: Tensor) -> Tensor:
        """Map `(n, inputs, h, w)` and `(n, beside, 2 h, 2 w)` to `(n, outputs, 2 h, 2 w)`."""
        larger = grown(x, 2)
        y = self.conv(torch.cat((larger, finer), dim=1)) + self.shortcut(larger)
        return cast("Tensor", y + self.conv2(y))


def pair(*, inputs: int, outputs: int) -> nn.Sequential:
    """Return two 3 x 3 convolutions, each after a norm and ReLU."""
    return nn.Sequential(
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1),
    )


def head(*, inputs: int, width: int) -> nn.Sequential:
    """Return the head, which maps features to one logit."""
    return nn.Sequential(nn.Conv2d(inputs, width, 1), nn.ReLU(inplace=True), nn.Conv2d(width, 1, 1))


def grown(x: Tensor, factor: int) -> Tensor:
    """Enlarge maps by a whole factor, bilinear, with pixel centres aligned."""
    return functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


class CascadePSP(CascadeModule):
    """The refinement module of the published CascadePSP program, with its parameter names, over any encoder.

    Args:
        encoder: The encoder: it takes six channels, and its output stride is 8.
        pooled: Channels after the pyramid pooling.
        widths: Channels at strides 4, 2 and 1.
        hidden: Channels inside the heads.
        sees: Whether the finest level sees the masks too, beside the image; the published one sees them at stride 2
            alone.
    """

    def __init__(
        self,
        encoder: ResidualEncoder | LiteEncoder,
        *,
        pooled: int = 1024,
        widths: Sequence[int] = (512, 256, 32),
        hidden: int = 32,
        sees: bool = False,
    ) -> None:
        super().__init__()
        self.sees = sees
        finest = BANDS + MASKS if sees else BANDS
        fourth, second, whole = widths
        stem, fine, last = encoder.channels
        # The names are those of the published weights: a window of 224 pixels has 28 pixels at stride 8 and 56 at
        # stride 4.
        self.feats = encoder
        self.psp = PyramidPooling(channels=last, outputs=pooled)
        self.up_1 = Rise(inputs=pooled, beside=fine, outputs=fourth)
        self.up_2 = Rise(inputs=fourth, beside=stem, outputs=second)
        self.up_3 = Rise(inputs=second, beside=finest, outputs=whole)
        self.final_28 = head(inputs=pooled, width=hidden)
        self.final_56 = head(inputs=fourth, width=hidden)
        self.final_11 = nn.Conv2d(whole + finest, hidden, 1)
        self.final_21 = nn.Conv2d(hidden, 1, 1)

    def first(self, images: Tensor, masks: Tensor, s8: Tensor, s4: Tensor) -> Tensor:
        """Run the first pass, which stops at output stride 8."""
        pooled, _, _ = self.features(images, masks, s8, s4)
        return grown(self.final_28(pooled), STRIDE)

    def middle(self, images: Tensor, masks: Tensor, s8: Tensor, s4: Tensor) -> tuple[Tensor, Tensor]:
        """Run the middle pass, which stops at output stride 4."""
        pooled, layer, _ = self.features(images, masks, s8, s4)
        fourth = self.final_56(self.up_1(pooled, layer))
        return grown(self.final_28(pooled), STRIDE), grown(fourth, STRIDE // 2)

    def last(self, images: Tensor, masks: Tensor, s8: Tensor, s4: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the last pass, up to output stride 1."""
        pooled, layer, stem = self.features(images, masks, s8, s4)
        fourth = self.up_1(pooled, layer)
        finest = torch.cat((images, masks, s8, s4), dim=1) if self.sees else images
        whole = self.up_3(self.up_2(fourth, stem), finest)
        logits = self.final_21(functional.relu(self.final_11(torch.cat((whole, finest), dim=1))))
        return grown(self.final_28(pooled), STRIDE), grown(self.final_56(fourth), STRIDE // 2), logits

    @torch.no_grad()
    def raise_finest(self, by: float) -> None:
        """Raise the logits of output stride 1 by a number."""
        cast("Tensor", self.final_21.bias).add_(by)

    def features(self, images: Tensor, *masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what every output is made of: the pooled pyramid, and the encoder's maps of strides 4 and 2."""
        stem, layer, last = self.feats(torch.cat((images, *masks), dim=1))
        return self.psp(last), layer, stem


def cascadepsp_resnet50() -> CascadePSP:
    """Return the published module, over a ResNet-50: 67.7 million parameters."""
    encoder = ResNet(
        block=Bottleneck, depths=(3, 4, 6, 3), bands=BANDS + MASKS, output_stride=STRIDE, first_dilated=False
    )
    return CascadePSP(ResidualEncoder(encoder))


def cascadepsp_light(
    *,
    width: int = 32,
    depths: Sequence[int] = (2, 2, 2, 2),
    pooled: int = 128,
    widths: Sequence[int] = (64, 32, 16),
    hidden: int = 32,
    sees: bool = False,
) -> CascadePSP:
    """Return the same over a slim ResNet-18, for machines without an accelerator."""
    encoder = ResNet(block=BasicBlock, depths=depths, width=width, bands=BANDS + MASKS, output_stride=STRIDE)
    return CascadePSP(ResidualEncoder(encoder), pooled=pooled, widths=widths, hidden=hidden, sees=sees)


def cascadepsp_lite0(
    *,
    lateral: int = 96,
    pooled: int = 96,
    widths: Sequence[int] = (48, 32, 16),
    hidden: int = 16,
    sees: bool = True,
) -> CascadePSP:
    """Return the same over EfficientNet-Lite0, which can begin with weights of ImageNet; 3.3 million parameters."""
    encoder = LiteEncoder(efficientnet_lite0(bands=BANDS + MASKS), lateral=lateral)
    return CascadePSP(encoder, pooled=pooled, widths=widths, hidden=hidden, sees=sees)

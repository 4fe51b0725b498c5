"""U-Net: an encoder, and a decoder that takes up the encoder's map at every stride."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from magnet_cli.models.architectures.efficientnet import EfficientNetLite, efficientnet_lite0
from magnet_cli.models.architectures.hrnet import unit
from magnet_cli.models.architectures.resnet import BasicBlock, ResNet

if TYPE_CHECKING:
    from collections.abc import Sequence


class UpBlock(nn.Module):
    """Enlargement to the next finer map, and two 3 x 3 convolutions over both.

    Args:
        inputs: Channels of the coarser map.
        beside: Channels of the finer one, 0 where there is none.
        outputs: Channels of the result.
    """

    def __init__(self, *, inputs: int, beside: int, outputs: int) -> None:
        super().__init__()
        self.first = unit(inputs=inputs + beside, outputs=outputs)
        self.second = unit(inputs=outputs, outputs=outputs)

    def forward(self, x: Tensor, finer: Tensor | None, size: torch.Size) -> Tensor:
        """Map `(n, inputs, h, w)` to `(n, outputs, *size)`; the finer map has that size too."""
        # The map is enlarged to the size of the finer one and not by two, because the halves of odd sides are rounded
        # up.
        larger = functional.interpolate(x, size=size, mode="nearest")
        joined = larger if finer is None else torch.cat((larger, finer), dim=1)
        return cast("Tensor", self.second(self.first(joined)))


class UNet(nn.Module):
    """A U-Net over any encoder that has a map of stride 2 as well; inputs of any size are taken.

    Args:
        encoder: Gives five feature maps, of strides 2 to 32.
        classes: Number of logits.
        widths: Channels of the decoder at strides 16, 8, 4, 2 and 1.
    """

    def __init__(
        self, encoder: ResNet | EfficientNetLite, *, classes: int, widths: Sequence[int] = (256, 128, 64, 32, 16)
    ) -> None:
        super().__init__()
        self.encoder = encoder
        c2, c3, c4, c5 = encoder.channels
        rows = zip((c5, *widths[:-1]), (c4, c3, c2, encoder.stem_channels, 0), widths, strict=True)
        self.decoder = nn.ModuleList(UpBlock(inputs=n, beside=beside, outputs=outputs) for n, beside, outputs in rows)
        self.classify = nn.Conv2d(widths[-1], classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(n, bands, h, w)`, normalised, to logits `(n, classes, h, w)`."""
        c1, c2, c3, c4, y = self.encoder.maps(x)
        for rise, finer in zip(self.decoder, (c4, c3, c2, c1, None), strict=True):
            y = rise(y, finer, (x if finer is None else finer).shape[2:])
        return cast("Tensor", self.classify(y))


def unet_resnet34(
    *,
    classes: int,
    bands: int = 3,
    width: int = 64,
    depths: Sequence[int] = (3, 4, 6, 3),
    widths: Sequence[int] = (256, 128, 64, 32, 16),
) -> UNet:
    """Return a U-Net over basic blocks; ResNet-34 by default."""
    encoder = ResNet(block=BasicBlock, depths=depths, width=width, bands=bands)
    return UNet(encoder, classes=classes, widths=widths)


def unet_lite0(*, classes: int, bands: int = 3, widths: Sequence[int] = (96, 64, 48, 32, 16)) -> UNet:
    """Return a slim U-Net over EfficientNet-Lite0, for thin structures; 3.6 million parameters.

    Its decoder goes on to stride 1, where that of `fpn-lite0` ends at stride 4.
    """
    return UNet(efficientnet_lite0(bands=bands), classes=classes, widths=widths)

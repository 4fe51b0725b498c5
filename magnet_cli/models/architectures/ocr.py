"""Object-contextual representations over HRNet: attention of each pixel over the mean features of the classes."""

from __future__ import annotations

from typing import TypedDict, Unpack, cast

import torch
from torch import Tensor, nn

from magnet_cli.models.architectures.fpn import enlarge
from magnet_cli.models.architectures.hrnet import HRNet
from magnet_cli.models.architectures.psp import mixed

WIDTH = 512
"""Channels of pixels and regions."""

KEYS = 256
"""Channels in which pixels and regions are compared."""

DROPOUT = 0.05


def pointwise(*, inputs: int, outputs: int) -> list[nn.Module]:
    """Return a 1 x 1 convolution without bias, and a batch norm with ReLU as one module."""
    return [
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.Sequential(nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)),
    ]


def regions(features: Tensor, logits: Tensor) -> Tensor:
    """Return the mean features of each class, with positions weighted by the softmax of its logits over all positions.

    Args:
        features: `(n, channels, h, w)`.
        logits: `(n, classes, h, w)`.

    Returns:
        `(n, channels, classes, 1)`.
    """
    weights = logits.flatten(2).softmax(dim=2)
    return torch.matmul(features.flatten(2), weights.transpose(1, 2)).unsqueeze(3)


class ObjectContext(nn.Module):
    """Attention of pixels over regions."""

    def __init__(self) -> None:
        super().__init__()
        self.f_pixel = nn.Sequential(*pointwise(inputs=WIDTH, outputs=KEYS), *pointwise(inputs=KEYS, outputs=KEYS))
        self.f_object = nn.Sequential(*pointwise(inputs=WIDTH, outputs=KEYS), *pointwise(inputs=KEYS, outputs=KEYS))
        self.f_down = nn.Sequential(*pointwise(inputs=WIDTH, outputs=KEYS))
        self.f_up = nn.Sequential(*pointwise(inputs=KEYS, outputs=WIDTH))

    def forward(self, features: Tensor, proxies: Tensor) -> Tensor:
        """Map pixels `(n, 512, h, w)` and regions `(n, 512, classes, 1)` to context `(n, 512, h, w)`."""
        queries = self.f_pixel(features).flatten(2).transpose(1, 2)
        keys = self.f_object(proxies).flatten(2)
        values = self.f_down(proxies).flatten(2).transpose(1, 2)
        # Scaled as in attention: the spread of a dot product grows with the number of channels, and would saturate the
        # softmax.
        likeness = torch.matmul(queries, keys) * KEYS**-0.5
        context = torch.matmul(likeness.softmax(dim=2), values).transpose(1, 2)
        return cast("Tensor", self.f_up(context.reshape(-1, KEYS, features.shape[2], features.shape[3])))


class OCRHead(nn.Module):
    """Joins the features of pixels with their context."""

    def __init__(self) -> None:
        super().__init__()
        self.object_context_block = ObjectContext()
        self.conv_bn_dropout = nn.Sequential(*pointwise(inputs=2 * WIDTH, outputs=WIDTH), nn.Dropout2d(DROPOUT))

    def forward(self, features: Tensor, proxies: Tensor) -> Tensor:
        """Map pixels `(n, 512, h, w)` and regions `(n, 512, classes, 1)` to pixels `(n, 512, h, w)`."""
        both = torch.cat((self.object_context_block(features, proxies), features), dim=1)
        return cast("Tensor", self.conv_bn_dropout(both))


class HRNetSize(TypedDict):
    """The size of an HRNet, as `HRNet` takes it."""

    widths: tuple[int, int, int, int]
    modules: tuple[int, int, int]
    blocks: int
    bottlenecks: int


class HRNetOCR(HRNet):
    """The published MagNet program's HRNet with OCR, with its parameter names.

    Args:
        classes: Number of logits.
        bands: The number of bands, as `HRNet` takes it.
        stem_stride: The stride of the stem's convolutions, as `HRNet` takes it.
        size: The widths and numbers of `HRNet`'s parts.
    """

    def __init__(self, *, classes: int, bands: int = 3, stem_stride: int = 1, **size: Unpack[HRNetSize]) -> None:
        super().__init__(**size, bands=bands, stem_stride=stem_stride)
        joined = sum(size["widths"])
        self.conv3x3_ocr = nn.Sequential(
            nn.Conv2d(joined, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH), nn.ReLU(inplace=True)
        )
        self.ocr_distri_head = OCRHead()
        self.cls_head = nn.Conv2d(WIDTH, classes, 1)
        self.aux_head = nn.Sequential(
            nn.Conv2d(joined, joined, 1), nn.BatchNorm2d(joined), nn.ReLU(inplace=True), nn.Conv2d(joined, classes, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `(n, bands, h, w)`, normalised, to logits `(n, classes, h, w)`."""
        joined = self.features(x)
        auxiliary = self.aux_head(joined)
        features = self.conv3x3_ocr(joined)
        main = self.cls_head(self.ocr_distri_head(features, regions(features, auxiliary)))
        # The published test program averages both heads with the weights of their losses, so inference needs the
        # auxiliary one.
        return mixed(enlarge(main, x), enlarge(auxiliary, x))


def hrnet18_ocr(*, classes: int, bands: int = 3, stem_stride: int = 1) -> HRNetOCR:
    """Build OCR over HRNetV2-W18-Small-v2, which the published program calls `hrnet18`."""
    size: HRNetSize = {"widths": (18, 36, 72, 144), "modules": (1, 3, 2), "blocks": 2, "bottlenecks": 2}
    return HRNetOCR(classes=classes, **size, bands=bands, stem_stride=stem_stride)


def hrnet48_ocr(*, classes: int, bands: int = 3, stem_stride: int = 1) -> HRNetOCR:
    """Build OCR over HRNetV2-W48."""
    size: HRNetSize = {"widths": (48, 96, 192, 384), "modules": (1, 4, 3), "blocks": 4, "bottlenecks": 4}
    return HRNetOCR(classes=classes, **size, bands=bands, stem_stride=stem_stride)

"""EfficientNet-Lite encoders (Tan and Le, ICML 2019; the Lite variants of 2020), which give feature maps.

The Lite variants leave out squeeze-and-excitation and use ReLU6, so that they run well on CPUs and in few bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from magnet_cli.models.architectures.resnet import Features

STEM = 32
"""Channels of the stem, in every Lite variant."""
DIVISOR = 8
"""The number of channels of every stage is a multiple of this."""
LEAST_KEPT = 0.9
"""A width that was rounded down keeps this share of its channels at least."""
EPSILON = 1e-3
"""Epsilon of every batch normalisation, as in the published weights."""
MOMENTUM = 0.01


@dataclass(frozen=True, kw_only=True)
class MBConvStage:
    """A stage of EfficientNet-B0 (Table 1 of the paper): blocks of one kind, the first of which may have a stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    outputs: int


STAGES = (
    MBConvStage(repeats=1, kernel=3, stride=1, expansion=1, outputs=16),
    MBConvStage(repeats=2, kernel=3, stride=2, expansion=6, outputs=24),
    MBConvStage(repeats=2, kernel=5, stride=2, expansion=6, outputs=40),
    MBConvStage(repeats=3, kernel=3, stride=2, expansion=6, outputs=80),
    MBConvStage(repeats=3, kernel=5, stride=1, expansion=6, outputs=112),
    MBConvStage(repeats=4, kernel=5, stride=2, expansion=6, outputs=192),
    MBConvStage(repeats=1, kernel=3, stride=1, expansion=6, outputs=320),
)
LAST_OF_STRIDE = (1, 2, 4, 6)
"""The last stage of strides 4, 8, 16 and 32."""


def scaled_width(channels: int, factor: float) -> int:
    """Return the channels times a factor, rounded to a multiple of 8 that is not less than nine tenths of it."""
    wanted = channels * factor
    rounded = max(DIVISOR, int(wanted + DIVISOR / 2) // DIVISOR * DIVISOR)
    # The rule of MobileNetV2 and EfficientNet, by which the published shapes were made.
    return rounded + DIVISOR if rounded < LEAST_KEPT * wanted else rounded


def same_padded(x: Tensor, *, kernel: int, stride: int) -> Tensor:
    """Pad as TensorFlow's SAME does: a strided convolution of an even size gets one row more below than above.

    The published weights were trained with it, and a symmetric padding shifts every feature map by a pixel.
    """
    if stride == 1:
        return x
    # The size's parity stays symbolic, so that a traced network takes every size.
    above, left = ((kernel - 3) // 2 + x.shape[axis] % 2 for axis in (-2, -1))
    after = (kernel - 1) // 2
    return functional.pad(x, [left, after, above, after])


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project (Sandler and others, CVPR 2018), beside a shortcut where shapes agree."""

    def __init__(self, *, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.kernel, self.stride = kernel, stride
        self.expand = None if expansion == 1 else nn.Conv2d(inputs, inner, 1, bias=False)
        self.expand_norm = None if expansion == 1 else norm(inner)
        padding = (kernel - 1) // 2 if stride == 1 else 0
        self.depthwise = nn.Conv2d(inner, inner, kernel, stride, padding, groups=inner, bias=False)
        self.depthwise_norm = norm(inner)
        self.project = nn.Conv2d(inner, outputs, 1, bias=False)
        self.project_norm = norm(outputs)
        self.relu = nn.ReLU6(inplace=True)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map `(n, inputs, h, w)` to `(n, outputs, ceil(h / stride), ceil(w / stride))`."""
        y = x
        if self.expand is not None and self.expand_norm is not None:
            y = self.relu(self.expand_norm(self.expand(y)))
        y = self.filtered(same_padded(y, kernel=self.kernel, stride=self.stride))
        y = self.project_norm(self.project(self.relu(self.depthwise_norm(y))))
        return x + y if self.has_shortcut else cast("Tensor", y)

    def filtered(self, x: Tensor) -> Tensor:
        """Return the depthwise convolution, in float32 while a CPU trains in bfloat16.

        Its backward pass in bfloat16 is the slower one on CPUs: with it, a whole step took 1.6 times as long.
        """
        if not (self.training and x.device.type == "cpu"):
            return cast("Tensor", self.depthwise(x))
        with torch.autocast("cpu", enabled=False):
            return cast("Tensor", self.depthwise(x.float()))


class EfficientNetLite(nn.Module):
    """An EfficientNet-Lite without its classifier.

    Args:
        width: Factor of the channels of every stage.
        depth: Factor of the blocks of every stage but the first and the last.
        bands: Channels of the input.
    """

    def __init__(self, *, width: float, depth: float, bands: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(bands, STEM, 3, 2, bias=False)
        self.stem_norm = norm(STEM)
        self.relu = nn.ReLU6(inplace=True)
        inputs, stages, channels = STEM, [], []
        for index, stage in enumerate(STAGES):
            ends = index in {0, len(STAGES) - 1}
            outputs = scaled_width(stage.outputs, width)
            blocks = []
            for position in range(stage.repeats if ends else ceil(stage.repeats * depth)):
                blocks.append(
                    InvertedResidual(
                        inputs=inputs,
                        outputs=outputs,
                        kernel=stage.kernel,
                        stride=1 if position else stage.stride,
                        expansion=stage.expansion,
                    )
                )
                inputs = outputs
            stages.append(nn.Sequential(*blocks))
            channels.append(outputs)
        self.stages = nn.ModuleList(stages)
        self.channels = tuple(channels[index] for index in LAST_OF_STRIDE)

    @property
    def stem_channels(self) -> int:
        """Channels of the map of stride 2."""
        return self.stem.out_channels

    def forward(self, x: Tensor) -> Features:
        """Map `(n, bands, h, w)` to four feature maps of strides 4, 8, 16 and 32, finest first."""
        return self.maps(x)[1:]

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Map `(n, bands, h, w)` to five feature maps, finest first: the stem's, of stride 2, and the four others."""
        halves = y = self.relu(self.stem_norm(self.stem(same_padded(x, kernel=3, stride=2))))
        found = []
        for index, stage in enumerate(self.stages):
            y = stage(y)
            if index in LAST_OF_STRIDE:
                found.append(y)
        finest, fine, coarse, coarsest = found
        return halves, finest, fine, coarse, coarsest


def norm(channels: int) -> nn.BatchNorm2d:
    """Return a batch normalisation with the constants that the published weights were trained with."""
    return nn.BatchNorm2d(channels, eps=EPSILON, momentum=MOMENTUM)


def efficientnet_lite0(*, bands: int = 3) -> EfficientNetLite:
    """Build EfficientNet-Lite0, which has 3.0 million parameters without its classifier."""
    return EfficientNetLite(width=1.0, depth=1.0, bands=bands)


def efficientnet_lite2(*, bands: int = 3) -> EfficientNetLite:
    """Build EfficientNet-Lite2, which is a tenth wider and a fifth deeper than Lite0."""
    return EfficientNetLite(width=1.1, depth=1.2, bands=bands)

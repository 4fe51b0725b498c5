"""Residual encoders that give four feature maps, with the usual names of their parameters."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, ClassVar, cast

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

Features = tuple[Tensor, Tensor, Tensor, Tensor]
"""Maps of strides 4, 8, 16 and 32; the last ones are finer where the encoder is dilated."""

PACES = {
    8: ((1, 1), (2, 1), (1, 2), (1, 2)),
    16: ((1, 1), (2, 1), (2, 1), (1, 2)),
    32: ((1, 1), (2, 1), (2, 1), (2, 1)),
}
"""Stride of each layer's first block, and the factor of the dilation after that block, by output stride and layer.

A first block keeps the dilation before it: at the strided positions, bottlenecks then give the values of strided ones.
"""


LEAST_STRIDED = 8
"""Channels that a strided 1 x 1 convolution has at least: with fewer, oneDNN writes beyond its memory while it computes
the gradient of the weights on a CPU with AVX2 alone (https://github.com/uxlfoundation/oneDNN/issues/6035)."""


def shortcut(*, inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """Return the projection beside a block: None where the block keeps its input's shape."""
    if stride == 1 and inputs == outputs:
        return None
    norm = nn.BatchNorm2d(outputs)
    if stride == 1 or inputs >= LEAST_STRIDED:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm)
    conv = nn.Conv2d(inputs, outputs, 1, bias=False)
    # Values and keys are the same: a maximum over one pixel leaves out the others.
    return nn.Sequential(OrderedDict([("pixels", nn.MaxPool2d(1, stride)), ("0", conv), ("1", norm)]))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    expansion: ClassVar[int] = 1

    def __init__(self, *, inputs: int, width: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(inputs=inputs, outputs=width, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(n, inputs, h, w)` to `(n, width, h / stride, w / stride)`."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        beside = x if self.downsample is None else self.downsample(x)
        return cast("Tensor", self.relu(y + beside))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 convolutions beside a shortcut; the stride is on the 3 x 3."""

    expansion: ClassVar[int] = 4

    def __init__(self, *, inputs: int, width: int, stride: int = 1, dilation: int = 1, momentum: float = 0.1) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width, momentum=momentum)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width, momentum=momentum)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs, momentum=momentum)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(inputs=inputs, outputs=outputs, stride=stride)
        if self.downsample is not None:
            cast("nn.BatchNorm2d", self.downsample[-1]).momentum = momentum

    def forward(self, x: Tensor) -> Tensor:
        """Map `(n, inputs, h, w)` to `(n, 4 * width, h / stride, w / stride)`."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        beside = x if self.downsample is None else self.downsample(x)
        return cast("Tensor", self.relu(y + beside))


class ResNet(nn.Module):
    """A residual encoder without its classifier.

    Args:
        block: Kind of block.
        depths: Blocks in each of the four layers.
        width: Channels of the stem; layer k has `width * 2 ** k` times the block's expansion.
        bands: Channels of the input.
        output_stride: Stride of the last map, 8, 16 or 32; layers that would go beyond it are dilated instead.
        first_dilated: Whether the first block of a dilated layer keeps the dilation before it; in the published
            CascadePSP it has none.
    """

    def __init__(
        self,
        *,
        block: type[BasicBlock | Bottleneck],
        depths: Sequence[int],
        width: int = 64,
        bands: int = 3,
        output_stride: int = 32,
        first_dilated: bool = True,
    ) -> None:
        super().__init__()
        if output_stride not in PACES:
            raise ValueError(f"output_stride must be 8, 16 or 32, not {output_stride}")
        self.conv1 = nn.Conv2d(bands, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.channels = tuple(width * 2**index * block.expansion for index in range(4))
        inputs = (width, *self.channels)
        layers, dilation = [], 1
        for index, (depth, (stride, wider)) in enumerate(zip(depths, PACES[output_stride], strict=True)):
            inner = width * 2**index
            first = block(inputs=inputs[index], width=inner, stride=stride, dilation=dilation if first_dilated else 1)
            dilation *= wider
            rest = [block(inputs=self.channels[index], width=inner, dilation=dilation) for _ in range(depth - 1)]
            layers.append(nn.Sequential(first, *rest))
        self.layer1, self.layer2, self.layer3, self.layer4 = layers

    def stem(self, x: Tensor) -> Tensor:
        """Map `(n, bands, h, w)` to `(n, width, h / 2, w / 2)`."""
        return cast("Tensor", self.relu(self.bn1(self.conv1(x))))

    def layers(self, x: Tensor) -> Features:
        """Map the stem's output to four feature maps, finest first."""
        c2 = self.layer1(self.maxpool(x))
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return c2, c3, c4, self.layer4(c4)

    @property
    def stem_channels(self) -> int:
        """Channels of the map of stride 2."""
        return self.conv1.out_channels

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Map `(n, bands, h, w)` to five feature maps, finest first: the stem's, of stride 2, and the four others."""
        finest = self.stem(x)
        return finest, *self.layers(finest)

    def forward(self, x: Tensor) -> Features:
        """Map `(n, bands, h, w)` to four feature maps, finest first."""
        return self.layers(self.stem(x))

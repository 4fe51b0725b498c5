"""High-resolution networks: branches of several strides side by side that exchange features again and again."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from magnet_cli.models.architectures.resnet import BasicBlock, Bottleneck

if TYPE_CHECKING:
    from collections.abc import Sequence


def enlarge_corners(x: Tensor, like: Tensor) -> Tensor:
    """Resize maps to the height and width of another tensor, bilinear, with the centres of corner pixels aligned."""
    return functional.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=True)


def unit(*, inputs: int, outputs: int, side: int = 3, stride: int = 1, active: bool = True) -> nn.Sequential:
    """Return a convolution without bias, a batch norm and, where active, a ReLU."""
    conv = nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([nn.ReLU(inplace=True)] if active else []))


def descent(*, inputs: int, outputs: int, steps: int) -> nn.Sequential:
    """Return the halvings from one branch to a coarser one; the last changes the channels and has no ReLU."""
    halvings = [unit(inputs=inputs, outputs=inputs, stride=2) for _ in range(steps - 1)]
    return nn.Sequential(*halvings, unit(inputs=inputs, outputs=outputs, stride=2, active=False))


def path(widths: Sequence[int], *, source: int, target: int) -> nn.Module:
    """Return the layers from branch `source` to branch `target`; a coarser source is enlarged afterwards."""
    if source == target:
        return nn.Identity()
    if source > target:
        return unit(inputs=widths[source], outputs=widths[target], side=1, active=False)
    return descent(inputs=widths[source], outputs=widths[target], steps=target - source)


class Exchange(nn.Module):
    """Residual blocks on every branch, after which each branch adds the maps of all others at its own resolution.

    Args:
        widths: Channels of the branches, finest first.
        blocks: Residual blocks on each branch.
    """

    def __init__(self, *, widths: Sequence[int], blocks: int) -> None:
        super().__init__()
        every = range(len(widths))
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(inputs=width, width=width) for _ in range(blocks))) for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(path(widths, source=source, target=target) for source in every) for target in every
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Exchange maps between all branches, finest first, and return as many of the same shapes."""
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        return [self.fused(maps, target=target) for target in range(len(maps))]

    def fused(self, maps: Sequence[Tensor], *, target: int) -> Tensor:
        """Sum the maps of all branches at the resolution of one of them."""
        layers = cast("nn.ModuleList", self.fuse_layers[target])
        paths = (layer(x) for layer, x in zip(layers, maps, strict=True))
        # Coarser maps are enlarged after their convolution, where they have fewer pixels.
        near = (enlarge_corners(x, maps[target]) if source > target else x for source, x in enumerate(paths))
        return functional.relu(reduce(torch.add, near))


class HRNet(nn.Module):
    """HRNetV2 without a head, with the usual names of its parameters.

    Args:
        widths: Channels of the four branches, finest first.
        modules: Exchanges in stages 2, 3 and 4.
        blocks: Residual blocks on each branch of an exchange.
        bottlenecks: Blocks of the first stage.
        bands: Channels of the input.
        stem_stride: The stride of each of the first two convolutions; the finest branch has its square as stride. The
            published MagNet program has 1, the HRNet paper 2.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        modules: Sequence[int],
        blocks: int,
        bottlenecks: int,
        bands: int = 3,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        if stem_stride not in (1, 2):
            raise ValueError(f"stem_stride must be 1 or 2, not {stem_stride}")
        self.conv1 = nn.Conv2d(bands, 64, 3, stem_stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, stem_stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        first = Bottleneck(inputs=64, width=64)
        self.layer1 = nn.Sequential(first, *(Bottleneck(inputs=256, width=64) for _ in range(bottlenecks - 1)))
        second, third, fourth = modules
        # The second path lies in one more Sequential, as in the published HRNet: weights are loaded by parameter names.
        self.transition1 = nn.ModuleList(
            (
                unit(inputs=256, outputs=widths[0]),
                nn.Sequential(unit(inputs=256, outputs=widths[1], stride=2)),
            )
        )
        self.stage2 = stage(widths[:2], modules=second, blocks=blocks)
        self.transition2 = another_branch(widths[:3])
        self.stage3 = stage(widths[:3], modules=third, blocks=blocks)
        self.transition3 = another_branch(widths[:4])
        self.stage4 = stage(widths[:4], modules=fourth, blocks=blocks)

    def features(self, x: Tensor) -> Tensor:
        """Map `(n, bands, h, w)` to all branches' maps, finest first, joined at the finest one's size."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer1(self.relu(self.bn2(self.conv2(x))))
        maps = self.stage2([layer(x) for layer in self.transition1])
        maps = self.stage3([*maps, self.transition2[-1](maps[-1])])
        maps = self.stage4([*maps, self.transition3[-1](maps[-1])])
        finest, *coarser = maps
        return torch.cat((finest, *(enlarge_corners(x, finest) for x in coarser)), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of the last stage, as `features` describes them."""
        return self.features(x)


def stage(widths: Sequence[int], *, modules: int, blocks: int) -> nn.Sequential:
    """Chain several exchanges."""
    return nn.Sequential(*(Exchange(widths=widths, blocks=blocks) for _ in range(modules)))


def another_branch(widths: Sequence[int]) -> nn.ModuleList:
    """Return the layers that add a branch: the others stay, and the coarsest of them makes the new one."""
    *kept, coarsest, new = widths
    stay = [nn.Identity() for _ in (*kept, coarsest)]
    return nn.ModuleList((*stay, nn.Sequential(unit(inputs=coarsest, outputs=new, stride=2))))

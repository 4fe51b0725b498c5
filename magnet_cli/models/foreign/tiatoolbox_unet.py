"""The U-Nets of TIAToolbox are rebuilt from the names and shapes in their state dicts.

The class `UNetModel` of TIAToolbox joins the maps of an encoder with those of its decoder by a sum or side by side. Its
decoder doubles maps by repetition of each pixel. Parameters have the same names here, so that a state dict fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn

from magnet_cli.errors import WeightsError
from magnet_cli.models.architectures.resnet import Bottleneck, ResNet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

FIRST_OF_RESNET, FIRST_OF_PLAIN = "backbone.conv1.weight", "backbone.blocks.0.0.0.weight"
"""The first convolution of each encoder has its weights under this name."""
LAST = "clf.weight"
FEWEST_LEVELS = 2
WITHOUT_USE = ("backbone.fc.weight", "backbone.fc.bias", "upsample2x.unpool_mat")
"""These tensors of the state dict change no score: torchvision's unused classifier, and the four ones by which
TIAToolbox repeats pixels."""
RESNET50 = (3, 4, 6, 3)


@dataclass(frozen=True, kw_only=True)
class UNetVariant:
    """The architecture of a U-Net of TIAToolbox, derived from the names and shapes of its tensors."""

    encoder: Literal["resnet50", "unet"]
    """`resnet50` begins at half of the patch's sides, `unet` (plain blocks of two convolutions) at all of them."""
    levels: tuple[int, ...]
    """The number of channels of each map of the encoder, finest first."""
    kernels: tuple[int, ...]
    """The sides of the kernels in each step of the decoder."""
    joined: Literal["add", "concat"]
    bands: int
    channels: int
    biased: bool
    """Whether the first convolution of `resnet50` has a bias, as TIAToolbox builds it for any but three bands."""

    @property
    def multiple(self) -> int:
        """Return the number that has to divide the sides of patches, so that the maps of two levels fit together."""
        return int(2 ** (len(self.levels) - (self.encoder == "unet")))


def unet_variant(state: Mapping[str, Tensor], *, file: Path) -> UNetVariant:
    """Return the U-Net that a state dict belongs to.

    Raises:
        WeightsError: The state dict belongs to no U-Net of TIAToolbox.
    """
    first = next((state[key] for key in (FIRST_OF_RESNET, FIRST_OF_PLAIN) if key in state), None)
    turn, last = state.get("conv1x1.weight"), state.get(LAST)
    steps = [tensor for key, tensor in state.items() if key.startswith("uplist.0.") and tensor.ndim == 4]  # noqa: PLR2004 - weights of convolutions
    if first is None or turn is None or last is None or not steps or any(t.ndim != 4 for t in (first, turn, last)):  # noqa: PLR2004 - as above
        raise WeightsError(
            "the names of these weights are those of none of TIAToolbox's U-Nets (its class UNetModel)",
            value=", ".join(list(state)[:4]),
            file=file,
            advice="Choose a state dict of TIAToolbox's class UNetModel",
        )
    plain = FIRST_OF_RESNET not in state
    levels = [64, 256, 512, 1024, 2048]
    if plain:
        levels = [
            len(state[key])
            for number in range(len(state))
            if (key := f"backbone.blocks.{number}.0.0.weight") in state
        ]  # fmt: skip
    if len(levels) < FEWEST_LEVELS:
        raise WeightsError(
            "a U-Net has at least two levels",
            value=len(levels),
            file=file,
            advice="Correct the YAML that describes the network",
        )
    return UNetVariant(
        encoder="unet" if plain else "resnet50",
        levels=tuple(levels),
        kernels=tuple(each.shape[2] for each in steps),
        joined="add" if steps[0].shape[1] == turn.shape[0] else "concat",
        bands=first.shape[1],
        channels=len(last),
        biased="backbone.conv1.bias" in state,
    )


class PlainEncoder(nn.Module):
    """An encoder of blocks of two convolutions, with average pooling of 2 x 2 pixels between them.

    Args:
        bands: The number of channels of the input.
        levels: The number of channels of each block's output.
    """

    def __init__(self, *, bands: int, levels: Sequence[int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleList([nn.Sequential(*_normed(inputs, outputs, 3), *_normed(outputs, outputs, 3)), nn.AvgPool2d(2)])
            for inputs, outputs in pairwise((bands, *levels))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map `(n, bands, h, w)` to a map of each level, finest first."""
        found: list[Tensor] = []
        for block in self.blocks:
            convolutions, pool = cast("nn.ModuleList", block)
            x = convolutions(pool(found[-1]) if found else x)
            found.append(x)
        return found


class ResNetEncoder(ResNet):
    """A ResNet-50 as an encoder, whose stem gives the finest level.

    Args:
        bands: The number of channels of the input.
        biased: Whether the first convolution has a bias.
    """

    def __init__(self, *, bands: int, biased: bool) -> None:
        super().__init__(block=Bottleneck, depths=RESNET50, bands=bands)
        if biased:
            self.conv1 = nn.Conv2d(bands, 64, 7, 2, 3)

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]  # the stem's map comes first
        """Map `(n, bands, h, w)` to a map of each level, finest first."""
        stem = self.stem(x)
        return [stem, *self.layers(stem)]


class ToolboxUNet(nn.Module):
    """A U-Net of TIAToolbox that returns probabilities of each pixel of a patch.

    Args:
        variant: The architecture that the state dict describes.
    """

    def __init__(self, variant: UNetVariant) -> None:
        super().__init__()
        self._joined = variant.joined
        self.backbone: nn.Module
        if variant.encoder == "resnet50":
            self.backbone, step = ResNetEncoder(bands=variant.bands, biased=variant.biased), _activated
        else:
            self.backbone, step = PlainEncoder(bands=variant.bands, levels=variant.levels), _normed
        coarsest_first = variant.levels[::-1]
        self.conv1x1 = nn.Conv2d(coarsest_first[0], coarsest_first[1], 1, bias=False)
        outputs = (*coarsest_first[2:], coarsest_first[-1])
        self.uplist = nn.ModuleList()
        for beside, wanted in zip(coarsest_first[1:], outputs, strict=True):
            inputs, layers = beside * (2 if variant.joined == "concat" else 1), []
            for kernel in variant.kernels:
                layers += step(inputs, wanted, kernel)
                inputs = wanted
            self.uplist.append(nn.Sequential(*layers))
        self.clf = nn.Conv2d(outputs[-1], variant.channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map patches `(n, bands, h, w)`, values from 0 to 1, to probabilities `(n, channels, h, w)`.

        Logits of half of the sides are activated first and enlarged then, as TIAToolbox does.
        """
        *finer, coarsest = self.backbone(x)
        found: Tensor = self.conv1x1(coarsest)
        for beside, step in zip(reversed(finer), self.uplist, strict=True):
            found = nn.functional.interpolate(found, scale_factor=2, mode="nearest")
            found = step(found + beside if self._joined == "add" else torch.cat((found, beside), dim=1))
        probs = self.clf(found).softmax(dim=1)
        if probs.shape[2:] == x.shape[2:]:
            return cast("Tensor", probs)
        return nn.functional.interpolate(probs, scale_factor=2, mode="bilinear", align_corners=False)


def _normed(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    """Return a convolution with normalisation and activation after it."""
    return [
        nn.Conv2d(inputs, outputs, kernel, padding=(kernel - 1) // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


def _activated(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    """Return a convolution with normalisation and activation before it."""
    return [
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, kernel, padding=(kernel - 1) // 2, bias=False),
    ]

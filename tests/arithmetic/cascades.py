"""Cascades with known results, for tests of the code around them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Echo:
    """A cascade that returns its mask as probabilities and keeps its inputs."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    wide: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Images and masks that the global steps got."""
    close: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    """Images, masks and coarse masks that the local steps got."""

    def three_levels(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        self.wide.append((images, masks))
        return self.answer(images, masks, masks)

    def two_levels(self, images: Tensor, masks: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        self.close.append((images, masks, coarse))
        return self.answer(images, masks, coarse)

    def answer(self, images: Tensor, masks: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        del images
        return (coarse + 1) / 2, (masks + 1) / 2


@dataclass(frozen=True)
class Fixed(Echo):
    """A cascade that returns the next number of a list at each step, whatever it gets."""

    values: list[float] = field(default_factory=list)

    def answer(self, images: Tensor, masks: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        del images, coarse
        value = torch.full_like(masks, self.values[len(self.wide) + len(self.close) - 1])
        return value / 2, value


@dataclass(frozen=True)
class Brightness(Echo):
    """A cascade that returns the image's first band as the mask, so that a shift of the image shows."""

    def answer(self, images: Tensor, masks: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        del masks, coarse
        return images[:, :1] / 2, images[:, :1]

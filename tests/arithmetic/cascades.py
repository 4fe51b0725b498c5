"""Cascades whose answers are known, for tests of what is done around them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Echo:
    """Gives its mask back as probabilities, and remembers what it was given."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    wide: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Images and masks of the global steps."""
    close: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    """Images, masks and coarse masks of the local steps."""

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
    """Gives numbers of its own, whatever it sees: the next of a list at each step."""

    values: list[float] = field(default_factory=list)

    def answer(self, images: Tensor, masks: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        del images, coarse
        value = torch.full_like(masks, self.values[len(self.wide) + len(self.close) - 1])
        return value / 2, value


@dataclass(frozen=True)
class Brightness(Echo):
    """Takes the image's first band for the mask: what lies in the image has to come out in its place."""

    def answer(self, images: Tensor, masks: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        del masks, coarse
        return images[:, :1] / 2, images[:, :1]

"""A cascade: one network, run over the same pixels two or three times, with a finer output each time."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

STRIDE = 8
"""The stride of the coarsest output; sides of what a cascade takes are multiples of it."""
BANDS = 3
MASKS = 3
"""Channels beside the image: the mask, and the outputs of strides 8 and 4 of the passes before."""


@dataclass(frozen=True, kw_only=True)
class CascadeOutputs:
    """Every output of a cascade, coarse to fine: logits `(n, 1, h, w)`, enlarged to the input's size."""

    s8: tuple[Tensor, ...]
    """The outputs of stride 8: one a pass."""
    s4: tuple[Tensor, ...]
    """The outputs of stride 4: one a pass, without the pass that stops at stride 8."""
    s1: Tensor
    """The output of stride 1 of the last pass."""


class CascadeModule(nn.Module):
    """A network that sharpens a mask in passes.

    Each pass takes the image, the mask to be refined, and two masks that stand for the outputs of strides 8 and 4 of
    the passes before, as the hyperbolic tangent of their logits; what is not there yet is replaced by the mask before
    it. Masks are -1 outside and 1 inside.
    """

    def forward(self, images: Tensor, masks: Tensor) -> CascadeOutputs:
        """Return three passes, the global step: every output, each of which has its loss in training.

        Args:
            images: `(n, 3, h, w)`, normalised; sides are multiples of 8.
            masks: `(n, 1, h, w)`, -1 outside to 1 inside.

        Returns:
            Three outputs of stride 8, two of stride 4, one of stride 1.
        """
        s8 = self.first(images, masks, masks, masks)
        later = self.two_passes(images, masks, s8.tanh())
        return CascadeOutputs(s8=(s8, *later.s8), s4=later.s4, s1=later.s1)

    def two_passes(self, images: Tensor, masks: Tensor, coarse: Tensor) -> CascadeOutputs:
        """Return the last two passes, the local step: two outputs of stride 8, two of stride 4, one of stride 1.

        Args:
            images: The image, as `forward` takes it.
            masks: The mask, as `forward` takes it.
            coarse: The map that takes the place of the first pass's output, `(n, 1, h, w)`, -1 to 1.
        """
        s8, s4 = self.middle(images, masks, coarse, coarse)
        last8, last4, s1 = self.last(images, masks, s8.tanh(), s4.tanh())
        return CascadeOutputs(s8=(s8, last8), s4=(s4, last4), s1=s1)

    def first(self, images: Tensor, masks: Tensor, s8: Tensor, s4: Tensor) -> Tensor:
        """Return a pass as far as stride 8: its logits, enlarged."""
        raise NotImplementedError

    def middle(self, images: Tensor, masks: Tensor, s8: Tensor, s4: Tensor) -> tuple[Tensor, Tensor]:
        """Return a pass as far as stride 4: logits of strides 8 and 4, enlarged."""
        raise NotImplementedError

    def last(self, images: Tensor, masks: Tensor, s8: Tensor, s4: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a whole pass: logits of strides 8, 4 and 1, enlarged."""
        raise NotImplementedError

    def raise_finest(self, by: float) -> None:
        """Add to every logit of stride 1."""
        raise NotImplementedError

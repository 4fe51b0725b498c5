"""The interface of a cascade's network, as the arithmetic of CascadePSP calls it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class CascadeNetwork(Protocol):
    """The refinement module; every value that it gives is the probability of being inside."""

    @property
    def device(self) -> torch.device:
        """The device on which the network takes its tensors."""

    def three_levels(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Run the three passes of the global step.

        Args:
            images: `(n, 3, h, w)` float32, normalised; h and w are multiples of 8.
            masks: `(n, 1, h, w)` float32, -1 outside to 1 inside.

        Returns:
            The last pass's outputs of stride 4, enlarged, and of stride 1: `(n, 1, h, w)` float32 each.
        """

    def two_levels(self, images: Tensor, masks: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """Run the two passes of the local step.

        Args:
            images: `(n, 3, h, w)` float32, normalised; h and w are multiples of 8.
            masks: The output of stride 1 of the step before, scaled to -1 to 1.
            coarse: The output of stride 4 of the step before, scaled to -1 to 1.

        Returns:
            The last pass's outputs of stride 4, enlarged, and of stride 1: `(n, 1, h, w)` float32 each.
        """

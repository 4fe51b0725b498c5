"""Merging what a stage sees (O) with what the stages before it said (Y') into R."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from magnet_cli.geometry import Size
    from magnet_cli.options import Merge


class Refiner(Protocol):
    """A network that refines a field by a stage's own prediction."""

    def refine(self, own: Tensor, field: Tensor, scale: Size) -> Tensor:
        """`(n, classes, h, w)` probabilities from two of the same shape (MagNet, section 3.2)."""


def merge(own: Tensor, field: Tensor, *, how: Merge, networks: Refiner, scale: Size) -> Tensor:
    """R for a batch of patches.

    Args:
        own: O, `(n, classes, h, w)` float32 probabilities of this stage alone.
        field: Y', same shape: the stages before it, resampled to the patch.
        how: `refiner` asks the network; `mean` is (O + Y') / 2.
        networks: Where the refiner lives.
        scale: The stage's window side, in working-grid pixels.
    """
    if how == "mean":
        return (own + field) / 2
    return networks.refine(own, field, scale)

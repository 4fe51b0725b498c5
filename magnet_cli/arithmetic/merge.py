"""Merging a stage's own probabilities (O) with those of the stages before it (Y') into R."""

from __future__ import annotations

from math import e, log2
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from magnet_cli.arithmetic.scores import certainty

if TYPE_CHECKING:
    from torch import Tensor

    from magnet_cli.geometry import Size
    from magnet_cli.options.segment import Merge


OWN = 0.7
"""The weight of O in `geometric`. Of the weights 0.5, 0.6 and 0.7 it is the one at which borders on scenes that a
network was not trained on are nearly as exact as those of O alone, and most of the gain of Y' is kept
(docs/accuracy.md)."""
FLOOR = 1 / 512
"""The least probability in `geometric`: a logarithm of 0 would let O or Y' alone rule a class out."""
LOG2E = log2(e)


class Refiner(Protocol):
    """A network that refines a field by a stage's own prediction."""

    def refine(self, own: Tensor, field: Tensor, scale: Size) -> Tensor:
        """Return `(n, classes, h, w)` probabilities from two of the same shape (MagNet, section 3.2)."""


def merge(own: Tensor, field: Tensor, *, how: Merge, networks: Refiner, scale: Size) -> Tensor:
    """Return R for a batch of patches.

    Args:
        own: O, `(n, classes, h, w)` float32 probabilities of this stage alone.
        field: Y', same shape: the stages before it, resampled to the patch.
        how: `refiner` calls the network; `mean` is (O + Y') / 2; `certainty` is `by_certainty`;
            `geometric` is `geometric`.
        networks: The networks of a bundle, with the refiner.
        scale: The stage's window side, in working-grid pixels.
    """
    if how == "mean":
        return (own + field) / 2
    if how == "certainty":
        return by_certainty(own, field)
    if how == "geometric":
        return geometric(own, field)
    return networks.refine(own, field, scale)


def by_certainty(own: Tensor, field: Tensor) -> Tensor:
    """Return the mean of two sets of probabilities, each weighted by its certainty at the pixel.

    Both weights are equal where both certainties are 0.

    Args:
        own: O, `(..., classes, height, width)` float32.
        field: Y', the same shape.
    """
    mine, theirs = certainty(own), certainty(field)
    total = mine + theirs
    # Where both are uniform, total is 0 and the quotient NaN, which torch.where then drops.
    share = torch.where(total > 0, mine / total, 0.5).unsqueeze(-3)
    return own * share + field * (1 - share)


def geometric(own: Tensor, field: Tensor) -> Tensor:
    """Return the weighted geometric mean of two sets of probabilities (`OWN` is the weight of O), scaled to sum 1.

    Args:
        own: O, `(..., classes, height, width)` float32.
        field: Y', the same shape.
    """
    powers, total = geometric_parts(own, share_of_field(field.clone()))
    return powers.div_(total.unsqueeze(-3))


def geometric_parts(own: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `geometric` does before it is scaled, and the sum of each pixel, by which it is to be divided.

    Args:
        own: O, `(..., classes, height, width)` float32.
        share: `share_of_field` of Y', the same shape.

    Returns:
        `(..., classes, height, width)` and `(..., height, width)` float32.
    """
    # No probability is less than `FLOOR`, so no power is so small or so large that it needs the shift of a softmax.
    # Powers of two take a third of the time of those of e on a CPU.
    logs = _logs_(own.clamp_min(FLOOR))
    powers = torch.add(share, logs, alpha=OWN * LOG2E, out=logs).exp2_()
    return powers, powers.sum(dim=-3)


def share_of_field(field: Tensor) -> Tensor:
    """Return the part that Y' has in the logarithms to base 2 of their weighted geometric mean.

    Args:
        field: Y', `(..., classes, height, width)` float32. It is overwritten.

    Returns:
        The same shape, zero or less.
    """
    return _logs_(field.clamp_min_(FLOOR)).mul_((1 - OWN) * LOG2E)


def _logs_(numbers: Tensor) -> Tensor:
    """Replace positive float32 numbers by their natural logarithms."""
    if numbers.device.type != "cpu":
        return numbers.log_()
    # NumPy's logarithm takes a third of the time of PyTorch's.
    values = numbers.numpy()
    np.log(values, out=values)
    return numbers

"""Further errors of a mask that a cascade is trained on: pieces are missing, or the mask is unsure."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import label as connected

from magnet_cli.train.binary_objects import DIAGONAL
from magnet_cli.train.perturbation import shares

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]

STEPS = (1.2, 4.0)
"""The range of the factor by which the level of an unsure mask is coarser. A refinement at most doubles the resolution,
but its first levels get masks that are coarser themselves."""


@dataclass(frozen=True, kw_only=True)
class Spoiling:
    """Draws further errors of a wrong mask."""

    dropped: float
    """Largest share of connected pieces that are left out; one always stays."""
    soft: float
    """Probability that the mask is unsure."""

    def __call__(self, mask: Mask, rng: np.random.Generator) -> NDArray[np.float32]:
        """Return the mask as a cascade gets it, `(rows, columns)`, 0 to 1.

        Args:
            mask: `(rows, columns)`, not empty.
            rng: The generator that draws the errors.
        """
        if self.dropped:
            mask = thinned(mask, rng, share=rng.uniform(0, self.dropped))
        if self.soft and rng.random() < self.soft:
            low, high = (log(step) for step in STEPS)
            return shares(mask, factor=exp(rng.uniform(low, high)))
        return mask.astype(np.float32)


def thinned(mask: Mask, rng: np.random.Generator, *, share: float) -> Mask:
    """Return a mask without some of its connected pieces, each as likely to go as the others; one stays.

    Args:
        mask: The mask, `(rows, columns)`.
        rng: The generator that draws the pieces.
        share: About the share of the pieces that is dropped.
    """
    numbers, count = connected(mask, structure=DIAGONAL)
    stays = rng.random(count + 1) >= share
    if count and not stays[1:].any():
        stays[1 + int(rng.integers(count))] = True
    # Component 0 is the background.
    stays[0] = False
    found: Mask = stays[numbers]
    return found

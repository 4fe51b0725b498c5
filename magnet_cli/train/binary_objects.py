"""Binary objects of label maps: a class in a window, or one connected piece of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import label as connected

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Labels = NDArray[np.uint8]
    Mask = NDArray[np.bool_]

DIAGONAL = np.ones((3, 3), np.bool_)
"""Pixels that touch at a corner belong together."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """An object in a window."""

    label: int
    inside: Mask
    """`(rows, columns)`, neither empty nor full."""
    whole: bool
    """Whether the object is all of its class."""

    def in_mask(self, mask: Labels) -> Mask:
        """Return the object in another mask: all of its class, or the class's connected pieces that overlap the object.

        Args:
            mask: The other mask of the window, `(rows, columns)` class indices.
        """
        alike: Mask = mask == self.label
        if self.whole:
            return alike
        numbers, count = connected(alike, structure=DIAGONAL)
        touching = np.zeros(count + 1, np.bool_)
        touching[numbers[self.inside]] = True
        # Component 0 is everything outside the pieces.
        touching[0] = False
        found: Mask = touching[numbers]
        return found


@dataclass(frozen=True, kw_only=True)
class BinaryObjects:
    """Draws objects, whatever their class."""

    ignore: int
    """The label of unlabelled pixels."""
    only: tuple[int, ...] = ()
    """The classes of the objects. Empty takes all classes."""
    pieces: float
    """Probability that one connected piece of a class is taken instead of all of it."""
    smallest: int
    """The smallest number of pixels of an object, and of labelled pixels around it."""

    def drawn(self, labels: Labels, rng: np.random.Generator) -> Drawn | None:
        """Draw an object; return None where no class is large enough, and leaves enough other pixels.

        Args:
            labels: `(rows, columns)`, class indices.
            rng: The generator that chooses the object.
        """
        classes = self.classes(labels)
        if not classes:
            return None
        label = classes[int(rng.integers(len(classes)))]
        mask = labels == label
        piece = self.piece(mask, rng) if rng.random() < self.pieces else mask
        return Drawn(label=label, inside=piece, whole=piece is mask)

    def classes(self, labels: Labels) -> list[int]:
        """Return the classes that have enough pixels, and leave enough of other labelled ones around them."""
        counts = np.bincount(labels.reshape(-1), minlength=self.ignore + 1)
        counts[self.ignore] = 0
        most = int(counts.sum()) - self.smallest
        fit = np.flatnonzero((counts >= self.smallest) & (counts <= most))
        return [int(value) for value in fit if not self.only or value in self.only]

    def piece(self, mask: Mask, rng: np.random.Generator) -> Mask:
        """Draw one connected piece; return the mask itself where all pieces are too small."""
        numbers, _ = connected(mask, structure=DIAGONAL)
        # Component 0 is the background.
        sizes = np.bincount(numbers.reshape(-1))[1:]
        large = np.flatnonzero(sizes >= self.smallest)
        if not large.size:
            return mask
        found: Mask = numbers == 1 + large[int(rng.integers(large.size))]
        return found

"""Scenes: large pictures with their label maps."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.errors import SourceError
from magnet_cli.images import InputStates
from magnet_cli.train.stores import HeldLabels, HeldPixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.geometry import Size
    from magnet_cli.train.stores import LabelStore, PixelStore

    Pixels = NDArray[np.uint8]

BANDED = 3
"""Axes of a picture: rows, columns, bands."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledScene:
    """One picture with its label map."""

    name: str
    pixels: PixelStore
    labels: LabelStore
    digest: str
    """A hash of picture, labels and mask."""
    mask: LabelStore | None = None
    """Class indices that something else found in the picture, which a cascade learns to sharpen."""
    held: bool = True
    """Whether pixels, labels and mask are in memory."""
    inputs: InputStates = field(default_factory=InputStates)
    """The states of the scene's files before they were read. Empty for a scene that is made of arrays."""

    @property
    def size(self) -> Size:
        """The size of level 0, in pixels."""
        return self.labels.size

    @classmethod
    def of(
        cls,
        name: str,
        *,
        pixels: Pixels,
        labels: Pixels,
        mask: Pixels | None = None,
        valid: NDArray[np.bool_] | None = None,
        filling: tuple[int, ...] | None = None,
        inputs: InputStates | None = None,
    ) -> LabelledScene:
        """Make a scene that is held in memory.

        Args:
            name: The name of the scene, which folds and validation use.
            pixels: `(rows, columns, bands)` uint8.
            labels: `(rows, columns)` uint8.
            mask: `(rows, columns)` uint8, where there is one.
            valid: `(rows, columns)`, True where the picture has data; None where all of it is.
            filling: Value that each band has where it has none; None for 0.
            inputs: The states of the files that were read, before they were read.

        Raises:
            SourceError: Pixels, labels and mask differ in size.
        """
        if pixels.ndim != BANDED or pixels.shape[:2] != labels.shape:
            raise SourceError(
                "picture and label map differ in size",
                value=f"{pixels.shape} and {labels.shape}",
                file=name,
                advice="Choose the label map of this picture",
            )
        digest = hashlib.sha256(repr(pixels.shape).encode())
        for array in (pixels, labels, mask, valid):
            if array is not None:
                digest.update(np.ascontiguousarray(array).data)
        return cls(
            name=name,
            pixels=HeldPixels(pixels, valid, filling=filling),
            labels=HeldLabels(labels),
            digest=digest.hexdigest(),
            mask=None if mask is None else HeldLabels(mask),
            inputs=InputStates() if inputs is None else inputs,
        )

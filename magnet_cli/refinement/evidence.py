"""Class probabilities before refinement: from the mask itself, or from the probabilities that `segment` has kept."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from magnet_cli.arithmetic.canvas import Canvas
from magnet_cli.errors import SourceError, UsageError
from magnet_cli.geometry import LEVEL0, Box
from magnet_cli.images.protocol import NODATA
from magnet_cli.masks.codec import STEPS
from magnet_cli.masks.kept_field import FieldFile

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.arithmetic.classical import Tool
    from magnet_cli.geometry import Pitch
    from magnet_cli.refinement.input_mask import InputMask

FIELD_BYTES = 16
"""Host memory that a value of a field takes, in bytes: float32 on its grid, and three copies while it is resampled."""
RIM = 1
"""Pixels of a field's grid around a box that bilinear interpolation needs."""


@dataclass(frozen=True, kw_only=True)
class ClassProbabilities:
    """Probabilities of the classes that may be the largest somewhere in a box."""

    labels: tuple[int, ...]
    """The classes in rising order."""
    probs: NDArray[np.float32]
    """Their probabilities, `(len(labels), height, width)` in [0, 1]; all equal where nothing is known."""
    known: NDArray[np.bool_]
    """`(height, width)`, True for pixels with a label and a probability."""


class Evidence(Protocol):
    """A source of class probabilities."""

    @property
    def channels(self) -> int:
        """The largest number of classes that `read` returns."""

    @property
    def bytes_a_pixel(self) -> int:
        """Host memory that a pixel takes while it is read, in bytes, besides the result."""

    @property
    def is_mask(self) -> bool:
        """Whether the probabilities follow from the mask's labels alone."""

    def read(self, box: Box, labels: NDArray[np.uint8]) -> ClassProbabilities:
        """Read the probabilities in a box of level 0.

        Args:
            box: A box inside the image.
            labels: Labels of the mask, `(height, width)` uint8; 255 where nothing is known.

        Raises:
            SourceError: The probabilities cannot be read.
        """


@dataclass(frozen=True, kw_only=True)
class LabelEvidence:
    """A mask whose labels are all equally certain."""

    channels: int
    bytes_a_pixel: int = 2
    is_mask: bool = True

    def read(self, box: Box, labels: NDArray[np.uint8]) -> ClassProbabilities:
        """Return probability 1 for the label of each pixel."""
        del box
        present = tuple(int(label) for label in np.unique(labels) if label != NODATA)
        if not present:
            return _nothing(labels)
        probs = np.stack([labels == label for label in present]).astype(np.float32)
        return _where_known(present, probs, labels)


@dataclass(frozen=True, kw_only=True)
class ProbabilityEvidence:
    """A mask that stores the probability of one object."""

    mask: InputMask
    channels: int = 2
    bytes_a_pixel: int = 12
    is_mask: bool = False

    def read(self, box: Box, labels: NDArray[np.uint8]) -> ClassProbabilities:
        """Return the probabilities of the background and of the object."""
        inside = self.mask.read_probability(box)
        return _where_known((0, 1), np.stack([1 - inside, inside]), labels)


@dataclass(frozen=True, kw_only=True)
class FieldEvidence:
    """Class probabilities that `segment` has kept in a Zarr store."""

    field: FieldFile
    is_mask: bool = False

    @property
    def channels(self) -> int:
        """The number of classes in the field."""
        return self.field.bands

    @property
    def bytes_a_pixel(self) -> int:
        """Host memory that a pixel takes while it is read, in bytes, besides the result."""
        return kept_bytes(self.field.bands, self.field.pitch)

    def read(self, box: Box, labels: NDArray[np.uint8]) -> ClassProbabilities:
        """Resample the field to level 0, as `segment` does before it labels pixels."""
        pitch = self.field.pitch
        area = pitch.around(box, LEVEL0).grown(RIM).intersection(Box.whole(self.field.size))
        stored = self.field.read(area)
        # 255 marks pixels that were not computed. As a number it would be the largest probability.
        stored[stored == NODATA] = 0
        # Only classes that occur here are resampled and refined: a tool takes as long for a class without pixels.
        present = tuple(int(label) for label in np.flatnonzero(stored.any(axis=(1, 2))))
        if not present:
            return _nothing(labels)
        values = torch.from_numpy(stored[list(present)].astype(np.float32) / np.float32(STEPS))
        probs = Canvas(values=values, box=area, pitch=pitch).sample(box, LEVEL0).numpy()
        return _where_known(present, probs, labels)


def kept_bytes(classes: int, pitch: Pitch) -> int:
    """Return the bytes that a pixel of level 0 takes while kept probabilities are read.

    Args:
        classes: The number of classes.
        pitch: The pitch of their grid. A finer grid than the image's has several values for each pixel.
    """
    return ceil(FIELD_BYTES * classes * max(Fraction(1), 1 / (pitch.x * pitch.y)))


def open_evidence(mask: InputMask, kept: Path | None, tool: Tool) -> Evidence:
    """Open the probabilities for a mask: kept ones, or else those that follow from the mask itself.

    Raises:
        SourceError: The kept probabilities belong to another mask.
        UsageError: The tool needs probabilities, and the mask holds labels.
    """
    if kept is not None:
        return kept_evidence(mask, kept)
    if mask.reading.kind == "probability":
        return ProbabilityEvidence(mask=mask)
    if tool.needs_doubt:
        raise UsageError(
            f"{tool.title} changes only uncertain pixels, and labels alone are all equally certain",
            value=mask.path,
            advice="Give --evidence, which 'segment --probabilities' keeps, or a probability as the mask, or use "
            "--method guided",
        )
    return LabelEvidence(channels=len(mask.reading.classes))


def kept_evidence(mask: InputMask, kept: Path) -> Evidence:
    """Open the class probabilities that `segment` has kept with a mask.

    Raises:
        SourceError: The probabilities have another size or other classes than the mask.
    """
    field, names = FieldFile.open(kept), tuple(entry.name for entry in mask.reading.classes)
    if field.level0 != mask.size or field.classes != names:
        raise SourceError(
            f"probabilities have the size and the classes of their mask, {mask.path}: {mask.size}, {', '.join(names)}",
            value=f"{field.level0}, {', '.join(field.classes)}",
            file=kept,
            advice="Give the probabilities that were made with the mask, or leave out --evidence",
        )
    return FieldEvidence(field=field)


def _nothing(labels: NDArray[np.uint8]) -> ClassProbabilities:
    known = np.zeros(labels.shape, np.bool_)
    return ClassProbabilities(labels=(), probs=np.empty((0, *labels.shape), np.float32), known=known)


def _where_known(present: tuple[int, ...], probs: NDArray[np.float32], labels: NDArray[np.uint8]) -> ClassProbabilities:
    """Return probabilities that are all equal where the mask has no label or no class has a probability."""
    known = (labels != NODATA) & probs.any(axis=0)
    probs[:, ~known] = np.float32(1 / len(probs))
    return ClassProbabilities(labels=present, probs=probs, known=known)

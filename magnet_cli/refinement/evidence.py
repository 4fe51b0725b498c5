"""How probable each class is before a classical tool looks: by the mask, or by what `segment` has kept."""

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
"""Memory that a value of a field takes: of the grid, and three copies while it is resampled."""
RIM = 1
"""Pixels of a field's grid around a box that are interpolated from."""


@dataclass(frozen=True, kw_only=True)
class ClassProbabilities:
    """Probabilities of the classes that may win somewhere in a box."""

    labels: tuple[int, ...]
    """Which classes, rising."""
    probs: NDArray[np.float32]
    """`(len(labels), height, width)`; all alike where nothing is known."""
    known: NDArray[np.bool_]
    """`(height, width)`."""


class Evidence(Protocol):
    """Where probabilities come from."""

    @property
    def channels(self) -> int:
        """The most classes that `read` gives."""

    @property
    def bytes_a_pixel(self) -> int:
        """Memory that a pixel takes while it is read, beside what is given."""

    @property
    def is_mask(self) -> bool:
        """Whether the mask's labels say everything."""

    def read(self, box: Box, labels: NDArray[np.uint8]) -> ClassProbabilities:
        """The probabilities in a box of level 0.

        Args:
            box: Inside the image.
            labels: Of the mask, `(height, width)`; 255 where nothing is known.

        Raises:
            SourceError: They cannot be read.
        """


@dataclass(frozen=True, kw_only=True)
class LabelEvidence:
    """A mask whose labels are all equally sure."""

    channels: int
    bytes_a_pixel: int = 2
    is_mask: bool = True

    def read(self, box: Box, labels: NDArray[np.uint8]) -> ClassProbabilities:
        """See `Evidence`."""
        del box
        present = tuple(int(label) for label in np.unique(labels) if label != NODATA)
        if not present:
            return _nothing(labels)
        probs = np.stack([labels == label for label in present]).astype(np.float32)
        return _where_known(present, probs, labels)


@dataclass(frozen=True, kw_only=True)
class ProbabilityEvidence:
    """A mask that holds the probability of one object."""

    mask: InputMask
    channels: int = 2
    bytes_a_pixel: int = 12
    is_mask: bool = False

    def read(self, box: Box, labels: NDArray[np.uint8]) -> ClassProbabilities:
        """See `Evidence`."""
        inside = self.mask.read_probability(box)
        return _where_known((0, 1), np.stack([1 - inside, inside]), labels)


@dataclass(frozen=True, kw_only=True)
class FieldEvidence:
    """The class probabilities that `segment` has kept."""

    field: FieldFile
    is_mask: bool = False

    @property
    def channels(self) -> int:
        """See `Evidence`."""
        return self.field.bands

    @property
    def bytes_a_pixel(self) -> int:
        """See `Evidence`."""
        return kept_bytes(self.field.bands, self.field.pitch)

    def read(self, box: Box, labels: NDArray[np.uint8]) -> ClassProbabilities:
        """See `Evidence`."""
        pitch = self.field.pitch
        area = pitch.around(box, LEVEL0).grown(RIM).intersection(Box.whole(self.field.size))
        stored = self.field.read(area)
        stored[stored == NODATA] = 0
        present = tuple(int(label) for label in np.flatnonzero(stored.any(axis=(1, 2))))
        if not present:
            return _nothing(labels)
        values = torch.from_numpy(stored[list(present)].astype(np.float32) / np.float32(STEPS))
        probs = Canvas(values=values, box=area, pitch=pitch).sample(box, LEVEL0).numpy()
        return _where_known(present, probs, labels)


def kept_bytes(classes: int, pitch: Pitch) -> int:
    """Memory that a pixel of level 0 takes while kept probabilities are read.

    Args:
        classes: How many there are.
        pitch: Of their grid: a finer one than the image's holds several values a pixel.
    """
    return ceil(FIELD_BYTES * classes * max(Fraction(1), 1 / (pitch.x * pitch.y)))


def open_evidence(mask: InputMask, kept: Path | None, tool: Tool) -> Evidence:
    """The evidence for a mask: what was kept, else what the mask itself says.

    Raises:
        SourceError: What was kept belongs to another mask.
        UsageError: The tool could do nothing with what the mask says.
    """
    if kept is not None:
        return kept_evidence(mask, kept)
    if mask.reading.kind == "probability":
        return ProbabilityEvidence(mask=mask)
    if tool.needs_doubt:
        raise UsageError(
            f"{tool.title} turns only what is doubtful, and labels alone are all equally sure",
            value=mask.path,
            advice="Give --evidence, which 'segment --probabilities' keeps, or a probability as the mask, or take "
            "--method guided",
        )
    return LabelEvidence(channels=len(mask.reading.classes))


def kept_evidence(mask: InputMask, kept: Path) -> Evidence:
    """The class probabilities that `segment` has kept with a mask.

    Raises:
        SourceError: They belong to another mask.
    """
    field, names = FieldFile.open(kept), tuple(entry.name for entry in mask.reading.classes)
    if field.level0 != mask.size or field.classes != names:
        raise SourceError(
            f"probabilities have the size and the classes of their mask, {mask.path}: {mask.size}, {', '.join(names)}",
            value=f"{field.level0}, {', '.join(field.classes)}",
            file=kept,
            advice="Give those that were made with the mask, or leave --evidence out",
        )
    return FieldEvidence(field=field)


def _nothing(labels: NDArray[np.uint8]) -> ClassProbabilities:
    known = np.zeros(labels.shape, np.bool_)
    return ClassProbabilities(labels=(), probs=np.empty((0, *labels.shape), np.float32), known=known)


def _where_known(present: tuple[int, ...], probs: NDArray[np.float32], labels: NDArray[np.uint8]) -> ClassProbabilities:
    """The probabilities, all alike where the mask says nothing or they are all nothing."""
    known = (labels != NODATA) & probs.any(axis=0)
    probs[:, ~known] = np.float32(1 / len(probs))
    return ClassProbabilities(labels=present, probs=probs, known=known)

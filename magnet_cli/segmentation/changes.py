"""What a stage changed in a block, from a sample of the pixels that it computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.masks import codec
from magnet_cli.report.maps import subdivision
from magnet_cli.segmentation.canvas_output import largest
from magnet_cli.segmentation.window_scores import difference

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.arithmetic.canvas import Canvas
    from magnet_cli.geometry import Box
    from magnet_cli.plan.windows import Stage


SAMPLES = 16
"""Pixels along the side of a cell: means over all of them would cost as much as labels."""


def sampled(length: int, cell: int, parts: int) -> tuple[slice, NDArray[np.int64]]:
    """Which pixels of a block's side are sampled, and the part that each lies in.

    Args:
        length: Of the side, in pixels.
        cell: The side of a cell.
        parts: That a cell's side is divided into.
    """
    step = max(1, cell // max(SAMPLES, 2 * parts))
    places = slice(min(step // 2, length - 1), length, step)
    return places, np.arange(length)[places] * parts // cell


def means(
    values: NDArray[np.generic],
    known: NDArray[np.bool_],
    row_of: NDArray[np.int64],
    column_of: NDArray[np.int64],
    *,
    shape: tuple[int, int],
) -> NDArray[np.float32]:
    """Means over parts; NaN for those of which nothing is known.

    Args:
        values: `(rows, columns)`, sampled.
        known: Which of them count.
        row_of: The part that each row lies in.
        column_of: Likewise.
        shape: Rows and columns of parts.
    """
    sums, counts = np.zeros(shape, np.float32), np.zeros(shape, np.int32)
    np.add.at(sums, (row_of[:, None], column_of[None]), np.where(known, values, 0))
    np.add.at(counts, (row_of[:, None], column_of[None]), known)
    found: NDArray[np.float32] = np.where(counts > 0, sums / np.maximum(counts, 1), np.float32("nan"))
    return found


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Some pixels of a block before and after a stage, still where they were computed; `(rows, columns)` each."""

    before: Tensor
    """Classes, uint8."""
    valid: Tensor | None
    """Bool; None where every pixel holds data."""
    after: Tensor
    moved: Tensor
    """How far the probabilities moved, float32 in [0, 1]."""

    @classmethod
    def of(cls, before: Canvas, after: Canvas, valid: Tensor | None, *, own: Box, stage: Stage) -> Sample:
        """Take it.

        Args:
            before: Y'.
            after: Of the stage.
            valid: Over the same box as `after`.
            own: What the block decides.
            stage: That made `after`.
        """
        parts = subdivision(stage)
        rows, _ = sampled(own.height, stage.cell.height, parts)
        columns, _ = sampled(own.width, stage.cell.width, parts)
        field, found = before.spots(own, stage.pitch, rows=rows, columns=columns), after.view(own)[:, rows, columns]
        inside = own.shifted(x=-after.box.x, y=-after.box.y).slices
        return cls(
            before=largest(field),
            after=largest(found),
            moved=difference(found, field),
            valid=None if valid is None else valid[inside][rows, columns],
        )


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What a stage changed in the windows of a block that it computed."""

    compared: int
    """Sampled pixels with data."""
    changed: int
    """Those that got another class."""
    moved: int
    """How far their probabilities moved, in thousandths: whole numbers have one sum, whatever their order."""
    shares: NDArray[np.uint8]
    """Share of pixels that got another class, in each part of the block's cells; quantised as fields are, 255 where
    nothing was compared."""

    @classmethod
    def of(cls, sample: Sample, run: NDArray[np.bool_], *, own: Box, stage: Stage) -> Changes:
        """Add a sample up.

        Args:
            sample: Of the block.
            run: Which of the block's windows were computed, `(rows, columns)`.
            own: What the block decides.
            stage: Of the sample.
        """
        parts = subdivision(stage)
        _, row_of = sampled(own.height, stage.cell.height, parts)
        _, column_of = sampled(own.width, stage.cell.width, parts)
        known = run[row_of[:, None] // parts, column_of[None] // parts]
        if sample.valid is not None:
            known = known & sample.valid.cpu().numpy()
        changed = (sample.before != sample.after).cpu().numpy() & known
        moved = sample.moved.cpu().numpy()[known].sum(dtype=np.float64)
        shape = run.shape[0] * parts, run.shape[1] * parts
        return cls(
            compared=int(known.sum()),
            changed=int(changed.sum()),
            moved=round(float(moved) * 1000),
            shares=codec.quantise(means(changed, known, row_of, column_of, shape=shape)),
        )

    def describe(self) -> dict[str, int]:
        """The numbers, as JSON values."""
        return {"compared": self.compared, "changed": self.changed, "moved_thousandths": self.moved}

"""The change that a stage makes to the classes and probabilities of a block, measured on a sample of its pixels."""

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
"""Sampled pixels along the side of a cell. Comparing all pixels would cost as much as making labels."""


def sampled(length: int, cell: int, parts: int) -> tuple[slice, NDArray[np.int64]]:
    """Choose evenly spaced pixels along one side of a block.

    Args:
        length: The side of the block, in canvas pixels.
        cell: The side of a cell, in canvas pixels.
        parts: The number of parts that the side of a cell is divided into.

    Returns:
        The sampled pixels, and for each of them the index of its part, counted from the block's edge.
    """
    # Parts of a cell have at least two samples along each side.
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
    """Average sampled values over the parts of a block's cells.

    Args:
        values: Sampled values, `(rows, columns)`.
        known: `(rows, columns)`, True for values that count.
        row_of: The part that each row lies in.
        column_of: The part that each column lies in.
        shape: The numbers of rows and columns of parts.

    Returns:
        One mean for each part, float32; NaN where no value of the part counts.
    """
    sums, places = np.zeros(shape, np.float32), (row_of[:, None] * shape[1] + column_of[None]).reshape(-1)
    # `sums[...] += ...` would count one sample of each part, because an indexed addition writes each place once. With
    # one axis `add.at` is ten times as fast as with two, and adds in the same order.
    np.add.at(sums.reshape(-1), places, np.where(known, values, 0).astype(np.float32, copy=False).reshape(-1))
    counts = np.bincount(places[known.reshape(-1)], minlength=sums.size).reshape(shape)
    found: NDArray[np.float32] = np.where(counts > 0, sums / np.maximum(counts, 1), np.float32("nan"))
    return found


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Sampled pixels of a block before and after a stage: `(rows, columns)` tensors on the device."""

    before: Tensor
    """Classes before the stage, uint8."""
    valid: Tensor | None
    """True for pixels that hold data. None where every pixel does."""
    after: Tensor
    """Classes after the stage, uint8."""
    moved: Tensor
    """Change of the probabilities (total variation), float32 in [0, 1]."""

    @classmethod
    def of(cls, before: Canvas, after: Canvas, valid: Tensor | None, *, own: Box, stage: Stage) -> Sample:
        """Sample a block before and after a stage.

        Args:
            before: The canvas Y' that the stage refined.
            after: The canvas of the stage.
            valid: Which pixels of `after` hold data, `(height, width)` bool. None where every pixel does.
            own: The block's own part, on the grid of the stage.
            stage: The stage that made `after`.
        """
        parts = subdivision(stage)
        rows, _ = sampled(own.height, stage.cell.height, parts)
        columns, _ = sampled(own.width, stage.cell.width, parts)
        field = before.spots(own, stage.pitch, rows=rows, columns=columns)
        # The samples lie far apart in memory, so they are read once.
        found = after.view(own)[:, rows, columns].contiguous()
        inside = own.shifted(x=-after.box.x, y=-after.box.y).slices
        return cls(
            before=largest(field),
            after=largest(found),
            moved=difference(found, field),
            valid=None if valid is None else valid[inside][rows, columns],
        )


@dataclass(frozen=True, kw_only=True)
class Changes:
    """The change that a stage made to the windows of a block that it computed."""

    compared: int
    """Sampled pixels with data."""
    changed: int
    """Compared pixels that got another class."""
    moved: int
    """Sum of the changes of the compared pixels' probabilities, in thousandths. A sum of integers over all groups does
    not depend on the order in which they finish."""
    shares: NDArray[np.uint8]
    """Share of compared pixels that got another class, for each part of the block's cells: `(rows, columns)` uint8,
    quantised like fields (v / 254), 255 where no pixel was compared."""

    @classmethod
    def of(cls, sample: Sample, run: NDArray[np.bool_], *, own: Box, stage: Stage) -> Changes:
        """Count the changes in a sample.

        Args:
            sample: The sample of the block.
            run: `(rows, columns)` bool, True for the block's computed windows.
            own: The block's own part, on the grid of the stage.
            stage: The stage before and after which the sample was taken.
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
        """Return the numbers as JSON values."""
        return {"compared": self.compared, "changed": self.changed, "moved_thousandths": self.moved}

"""What windows are compared by: how much computing one may be worth, from what is known before it is computed."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from math import floor
from typing import TYPE_CHECKING, Any

import numpy as np

from magnet_cli.refine.scores import uncertainty

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from fractions import Fraction

    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.geometry import Box, Pitch
    from magnet_cli.options import Select
    from magnet_cli.plan import Plan
    from magnet_cli.refine.canvas import Canvas
    from magnet_cli.windows import Index, Pass, Stage

STEPS = 65534
"""A stored worth v stands for v / STEPS."""
NOTHING = 65535
"""Of a cell under which nothing is known: it has no data, or lies outside the area that is looked at."""


def difference(one: Tensor, other: Tensor) -> Tensor:
    """Half the sum of the differences between two sets of probabilities: 0 where equal, 1 between sure classes.

    Args:
        one: `(classes, height, width)`.
        other: The same shape.

    Returns:
        `(height, width)` float32 in [0, 1].
    """
    return (one.float() - other.float()).abs().sum(dim=0) / 2


def window_worth(canvas: Canvas, moved: Canvas | None, box: Box, pitch: Pitch, *, by: Select) -> float:
    """What a window of the next stage may be worth.

    Args:
        canvas: What is known: Y' before it is resampled.
        moved: `(1, height, width)`, how far the last step moved each pixel of it; None where there was no step before,
            and uncertainty serves instead.
        box: The window's own part, on the next stage's grid.
        pitch: Of that grid.
        by: Mean uncertainty, mean change, or their product.

    Returns:
        A number in [0, 1].
    """
    unsure = float(uncertainty(canvas.sample(box, pitch)).mean())
    if by == "uncertainty" or moved is None:
        return unsure
    change = float(moved.sample(box, pitch).mean())
    return change if by == "change" else change * unsure


def pack_worths(worths: list[float | None]) -> str:
    """Worths of the next stage's cells in a group's blocks, row-major in each, as text; None where there is no data."""
    values = [NOTHING if worth is None else round(worth * STEPS) for worth in worths]
    return base64.b64encode(zlib.compress(np.array(values, "<u2").tobytes())).decode()


def next_cells(step: Pass, after: Stage, block: Index) -> Iterator[Index]:
    """The cells of the next pass's only stage that lie in a block, row-major.

    Args:
        step: A pass of one stage, whose cells hold whole ones of the next.
        after: The next pass's stage.
        block: Of the pass.
    """
    scale = step.stages[0].scale
    across, down = scale.width // after.scale.width, scale.height // after.scale.height
    for row in range(block.row * down, min((block.row + 1) * down, after.cells.height)):
        for column in range(block.column * across, min((block.column + 1) * across, after.cells.width)):
            yield type(block)(column=column, row=row)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The windows of a pass that a budget pays for, found once the pass before is finished."""

    cells: NDArray[np.bool_]
    """`(rows, columns)` of the stage's cells."""

    @classmethod
    def of(cls, plan: Plan, step: Pass, finished: Mapping[int, Mapping[str, Any]]) -> Chosen:
        """Choose the best windows of the image: those above one number, at most the budget's share of all with data.

        Args:
            plan: With a budget.
            step: The pass to be computed, of one stage.
            finished: The counts of each group of the pass before, with the worths that it has found.
        """
        stage, before = step.stages[0], plan.passes[step.number - 1]
        worths = np.full((stage.cells.height, stage.cells.width), NOTHING, np.uint16)
        for group, counts in finished.items():
            packed = np.frombuffer(zlib.decompress(base64.b64decode(counts["worths"])), "<u2")
            cells = (cell for block in plan.blocks(before, group) for cell in next_cells(before, stage, block))
            for cell, worth in zip(cells, packed, strict=True):
                worths[cell.row, cell.column] = worth
        known = worths != NOTHING
        return cls(cells=known & (worths > _cut(worths[known], plan.settings.patches.values[0])))

    def has(self, cell: Index) -> bool:
        """Whether a window is computed."""
        return bool(self.cells[cell.row, cell.column])


def _cut(worths: NDArray[np.uint16], share: Fraction) -> int:
    """The number that the worths of at most a share of them exceed."""
    count = floor(share * len(worths))
    if count >= len(worths):
        return -1
    return int(np.sort(worths)[len(worths) - count - 1])

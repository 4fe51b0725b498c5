"""Scores of the windows of the next pass, kept with each group for a budget that is spent over the whole image."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import TYPE_CHECKING, Any

import numpy as np

from magnet_cli.masks import codec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from fractions import Fraction

    from numpy.typing import NDArray

    from magnet_cli.plan import Plan
    from magnet_cli.plan.windows import Index, Pass, Stage

STORED = "<u2"
"""The type of a stored score: journals are read on machines of either byte order."""
STEPS = 65534
"""A stored score v stands for v / STEPS."""
NOTHING = 65535
"""Of a cell under which nothing is known: it has no data, or lies outside the area that is looked at."""


def pack_scores(scores: list[float | None]) -> str:
    """Worths of the next stage's cells in a group's blocks, row-major in each, as text; None where there is no data."""
    values = [NOTHING if score is None else round(score * STEPS) for score in scores]
    return codec.encode_text([np.array(values, STORED)])


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
class BudgetCells:
    """The cells of a pass of one stage that a budget allows to be computed: those of the image's highest scores."""

    cells: NDArray[np.bool_]
    """`(rows, columns)` of the stage's cells."""

    @classmethod
    def of(cls, plan: Plan, step: Pass, finished: Mapping[int, Mapping[str, Any]]) -> BudgetCells:
        """Choose the windows above one score, at most the stage's share of all windows with data.

        Args:
            plan: With a budget.
            step: The pass to be computed, of one stage.
            finished: The counts of each group of the pass before, with the scores that it found.
        """
        stage, before = step.stages[0], plan.passes[step.number - 1]
        scores = np.full((stage.cells.height, stage.cells.width), NOTHING, np.uint16)
        for group, counts in finished.items():
            packed = codec.decode_text(counts["scores"], dtype=STORED)
            cells = (cell for block in plan.blocks(before, group) for cell in next_cells(before, stage, block))
            for cell, score in zip(cells, packed, strict=True):
                scores[cell.row, cell.column] = score
        known = scores != NOTHING
        return cls(cells=known & (scores > _cut(scores[known], plan.paid(stage))))

    def has(self, cell: Index) -> bool:
        """Whether a cell's window is computed."""
        return bool(self.cells[cell.row, cell.column])


def _cut(scores: NDArray[np.uint16], share: Fraction) -> int:
    """The number that the scores of at most a share of them exceed."""
    count = floor(share * len(scores))
    if count >= len(scores):
        return -1
    return int(np.sort(scores)[len(scores) - count - 1])

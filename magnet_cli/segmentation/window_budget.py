"""Selection of windows by `--budget`: scores that each group stores for the next pass, and the highest of the image."""

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
"""The type of a stored score, little-endian, because journals are read on machines of either byte order."""
STEPS = 65534
"""A stored score v stands for v / STEPS."""
NOTHING = 65535
"""The stored value of a cell without a score, because it has no data or lies outside the area."""


def pack_scores(scores: list[float | None]) -> str:
    """Encode the scores of the next stage's cells in a group as text.

    Args:
        scores: Scores in [0, 1] of the cells of each block in turn, row-major in the block; None for a cell without
            data or outside the area.
    """
    values = [NOTHING if score is None else round(score * STEPS) for score in scores]
    return codec.encode_text([np.array(values, STORED)])


def next_cells(step: Pass, after: Stage, block: Index) -> Iterator[Index]:
    """Yield the cells of the next pass's only stage that lie in a block, row-major.

    Args:
        step: A pass of one stage, whose scale is a multiple of that of `after`.
        after: The only stage of the next pass.
        block: A block of `step`.
    """
    scale = step.stages[0].scale
    across, down = scale.width // after.scale.width, scale.height // after.scale.height
    for row in range(block.row * down, min((block.row + 1) * down, after.cells.height)):
        for column in range(block.column * across, min((block.column + 1) * across, after.cells.width)):
            yield type(block)(column=column, row=row)


@dataclass(frozen=True, kw_only=True)
class BudgetCells:
    """The cells of a pass of one stage that a budget selects: those with the highest scores of the image."""

    cells: NDArray[np.bool_]
    """`(rows, columns)`, True for selected cells of the stage."""
    known: NDArray[np.bool_]
    """Which cells the budget has compared, in the same form: those with data, inside the area."""

    @classmethod
    def of(cls, plan: Plan, step: Pass, finished: Mapping[int, Mapping[str, Any]]) -> BudgetCells:
        """Select the windows above one score: at most the stage's share of all windows with data.

        Windows of equal score are selected together or not at all, so that the choice does not depend on the order of
        groups. A few windows less than the share may therefore be selected.

        Args:
            plan: A plan with a budget.
            step: The pass that is computed next, of one stage.
            finished: The counts of each group of the pass before, with the scores that it stored.
        """
        stage, before = step.stages[0], plan.passes[step.number - 1]
        scores = np.full((stage.cells.height, stage.cells.width), NOTHING, np.uint16)
        for group, counts in finished.items():
            packed = codec.decode_text(counts["scores"], dtype=STORED)
            cells = (cell for block in plan.blocks(before, group) for cell in next_cells(before, stage, block))
            for cell, score in zip(cells, packed, strict=True):
                scores[cell.row, cell.column] = score
        known = scores != NOTHING
        return cls(cells=known & (scores > _cut(scores[known], plan.budget_share(stage))), known=known)

    def has(self, cell: Index) -> bool:
        """Return whether the budget selects a cell's window."""
        return bool(self.cells[cell.row, cell.column])

    def leaves_out(self, cell: Index) -> bool:
        """Return whether the budget was spent on others than a cell; False for cells outside the image."""
        rows, columns = self.cells.shape
        if not (0 <= cell.row < rows and 0 <= cell.column < columns):
            return False
        return bool(self.known[cell.row, cell.column]) and not self.has(cell)


def _cut(scores: NDArray[np.uint16], share: Fraction) -> int:
    """Return the lowest score that at most a share of all scores exceeds; -1 if all of them are selected."""
    count = floor(share * len(scores))
    if count >= len(scores):
        return -1
    return int(np.sort(scores)[len(scores) - count - 1])

"""Scores of the windows of the next pass, kept with each group for a budget that is spent over the whole image."""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magnet_cli.plan.windows import Index, Pass, Stage

STEPS = 65534
"""A stored worth v stands for v / STEPS."""
NOTHING = 65535
"""Of a cell under which nothing is known: it has no data, or lies outside the area that is looked at."""


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

"""Records of windows that a group stores for the report's maps: statuses, changes and uncertainty."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.arithmetic.scores import uncertainty
from magnet_cli.masks import codec
from magnet_cli.report.maps import NOTHING, subdivision
from magnet_cli.segmentation.changes import means, sampled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from magnet_cli.plan.windows import Pass, Stage
    from magnet_cli.segmentation.block import BlockState
    from magnet_cli.segmentation.bound_pass import BoundPass
    from magnet_cli.segmentation.changes import Changes


def window_records(
    bound: BoundPass, states: Sequence[BlockState], changes: Sequence[Mapping[int, Changes]]
) -> dict[str, object]:
    """Return the counts of a group from which the report's maps are made, as JSON values of a few bytes a window.

    Args:
        bound: The pass that was computed.
        states: The blocks of the group after the pass.
        changes: Changes of each block's stages, by their number. Stages without a sample are left out.
    """
    step = bound.step
    found: dict[str, object] = {
        "statuses": {
            str(stage.number): "".join(state.statuses[stage.number] for state in states) for stage in step.stages
        },
        "changes": {
            str(stage.number): codec.encode_text(
                block[stage.number].shares if stage.number in block else _unchanged(step, stage, state)
                for state, block in zip(states, changes, strict=True)
            )
            for stage in step.stages
            if not bound.is_first(stage)
        },
    }
    if bound.is_last:
        found["unsure"] = codec.encode_text(block_uncertainty(step, state) for state in states)
    return found


def _unchanged(step: Pass, stage: Stage, state: BlockState) -> NDArray[np.uint8]:
    """Return the record of a block in which a stage compared no pixel."""
    count = len(step.cells(state.pixels.block, stage)) * subdivision(stage) ** 2
    return np.full(count, NOTHING, np.uint8)


def block_uncertainty(step: Pass, state: BlockState) -> NDArray[np.uint8]:
    """Average the uncertainty over the parts of a block's cells, from a sample of their pixels.

    Returns:
        `(rows, columns)` uint8, quantised like fields (v / 254); 255 where no sampled pixel was computed.
    """
    stage, canvas = step.stages[-1], state.canvas
    own = step.own(state.pixels.block, stage)
    parts = subdivision(stage)
    rows, row_of = sampled(own.height, stage.cell.height, parts)
    columns, column_of = sampled(own.width, stage.cell.width, parts)
    # Samples lie far apart in memory, so they are read once.
    sample = canvas.view(own)[:, rows, columns].contiguous().cpu().float()
    known = (sample.amax(dim=0) > 0).numpy()
    valid = state.pixels.kept_valid
    if valid is not None:
        known &= valid[own.shifted(x=-canvas.box.x, y=-canvas.box.y).slices][rows, columns]
    # Rounded as the uncertainty that is stored beside a mask.
    unsure = uncertainty(sample).half().float().numpy()
    cells = step.cells(state.pixels.block, stage)
    first, last = cells[0], cells[-1]
    shape = (last.row - first.row + 1) * parts, (last.column - first.column + 1) * parts
    return codec.quantise(means(unsure, known, row_of, column_of, shape=shape))

"""What a group's blocks leave for the maps of the report: which windows were looked at, and how sure the result is."""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.masks import codec
from magnet_cli.report.maps import NOTHING, subdivision
from magnet_cli.segmentation.changes import means, sampled
from magnet_cli.segmentation.results import own_uncertainty

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from magnet_cli.plan import Plan
    from magnet_cli.plan.windows import Pass, Stage
    from magnet_cli.segmentation.block import BlockState
    from magnet_cli.segmentation.changes import Changes


def group_looks(
    plan: Plan, step: Pass, states: Sequence[BlockState], changes: Sequence[Mapping[int, Changes]]
) -> dict[str, object]:
    """What `maps` reads of a group's counts, as JSON values: a few bytes a window.

    Args:
        plan: Of the run.
        step: The pass.
        states: Blocks of the group, after it.
        changes: For each of them, what each stage changed that had something to change.
    """
    found: dict[str, object] = {
        "fates": {str(stage.number): "".join(state.fates[stage.number] for state in states) for stage in step.stages},
        "changes": {
            str(stage.number): packed(
                block[stage.number].shares if stage.number in block else _unchanged(step, stage, state)
                for state, block in zip(states, changes, strict=True)
            )
            for stage in step.stages
            if not plan.is_first(step, stage)
        },
    }
    if step is plan.passes[-1]:
        found["unsure"] = packed(block_uncertainty(step, state) for state in states)
    return found


def _unchanged(step: Pass, stage: Stage, state: BlockState) -> NDArray[np.uint8]:
    """Of a block where the stage compared nothing."""
    count = len(step.cells(state.pixels.block, stage)) * subdivision(stage) ** 2
    return np.full(count, NOTHING, np.uint8)


def packed(arrays: Iterable[NDArray[np.uint8]]) -> str:
    """Arrays one after another, as text."""
    return base64.b64encode(zlib.compress(b"".join(array.tobytes() for array in arrays))).decode()


def block_uncertainty(step: Pass, state: BlockState) -> NDArray[np.uint8]:
    """Mean uncertainty of the parts of a block's cells, from a sample of their pixels.

    Returns:
        `(rows, columns)` uint8, quantised as fields are; 255 where no sampled pixel was computed.
    """
    stage, canvas = step.stages[-1], state.canvas
    if canvas is None:
        message = "a block that ran has a canvas"
        raise RuntimeError(message)
    own = step.own(state.pixels.block, stage)
    parts = subdivision(stage)
    rows, row_of = sampled(own.height, stage.cell.height, parts)
    columns, column_of = sampled(own.width, stage.cell.width, parts)
    values = canvas.view(own)[:, rows, columns].cpu().numpy()
    known = np.asarray((values > 0).any(axis=0))
    valid = state.pixels.kept_valid
    if valid is not None:
        known &= valid[own.shifted(x=-canvas.box.x, y=-canvas.box.y).slices][rows, columns]
    unsure = own_uncertainty(np.where(known, values, np.float16("nan")))[0].astype(np.float32)
    cells = step.cells(state.pixels.block, stage)
    first, last = cells[0], cells[-1]
    shape = (last.row - first.row + 1) * parts, (last.column - first.column + 1) * parts
    return codec.quantise(means(unsure, known, row_of, column_of, shape=shape))

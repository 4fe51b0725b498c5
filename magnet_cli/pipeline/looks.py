"""What a group's blocks leave for the maps of the report: which windows were looked at, and how sure the result is."""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.maps import subdivision
from magnet_cli.masks import codec
from magnet_cli.pipeline.labels import own_uncertainty

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from magnet_cli.pipeline.block import BlockState
    from magnet_cli.plan import Plan
    from magnet_cli.windows import Pass

SAMPLES = 16
"""Pixels along the side of a cell that its mean uncertainty is taken of: all of them would cost as much as labels."""


def group_looks(plan: Plan, step: Pass, states: Sequence[BlockState]) -> dict[str, object]:
    """What `maps` reads of a group's counts, as JSON values: a few bytes a window."""
    found: dict[str, object] = {
        "fates": {str(stage.number): "".join(state.fates[stage.number] for state in states) for stage in step.stages}
    }
    if step is plan.passes[-1]:
        unsure = b"".join(block_uncertainty(step, state).tobytes() for state in states)
        found["unsure"] = base64.b64encode(zlib.compress(unsure)).decode()
    return found


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
    rows, row_of = _sampled(own.height, stage.cell.height, parts)
    columns, column_of = _sampled(own.width, stage.cell.width, parts)
    values = canvas.view(own)[:, rows, columns].cpu().numpy()
    known = (values > 0).any(axis=0)
    valid = state.pixels.kept_valid
    if valid is not None:
        known &= valid[own.shifted(x=-canvas.box.x, y=-canvas.box.y).slices][rows, columns]
    unsure = own_uncertainty(np.where(known, values, np.float16("nan")))[0].astype(np.float32)
    cells = step.cells(state.pixels.block, stage)
    shape = tuple(
        (last - first + 1) * parts
        for first, last in ((cells[0].row, cells[-1].row), (cells[0].column, cells[-1].column))
    )
    sums, counts = np.zeros(shape, np.float32), np.zeros(shape, np.int32)
    np.add.at(sums, (row_of[:, None], column_of[None]), np.where(known, unsure, 0))
    np.add.at(counts, (row_of[:, None], column_of[None]), known)
    return codec.quantise(np.where(counts > 0, sums / np.maximum(counts, 1), np.float32("nan")))


def _sampled(length: int, cell: int, parts: int) -> tuple[slice, NDArray[np.int64]]:
    """Which pixels of a block's side are sampled, and the part that each lies in."""
    step = max(1, cell // max(SAMPLES, 2 * parts))
    places = slice(min(step // 2, length - 1), length, step)
    return places, np.arange(length)[places] * parts // cell

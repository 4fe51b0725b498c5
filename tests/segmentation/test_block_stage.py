"""A block's stage keeps its rules on the order of its steps, whatever a method does with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan import make_plan
from magnet_cli.segmentation.block import BlockState
from magnet_cli.segmentation.block_stage import BlockStage
from magnet_cli.segmentation.bound_pass import BoundPass
from magnet_cli.segmentation.group_reader import read_block
from tests.segmentation.support import MACHINE, ArrayImage, facts, sides

if TYPE_CHECKING:
    from magnet_cli.plan.windows import Window
    from magnet_cli.segmentation.window_scores import Known

CLASSES = 3


@pytest.fixture
def state() -> BlockState:
    """Return a block before its first stage."""
    image = ArrayImage(np.full((64, 64, 3), 80, np.uint8))
    plan = make_plan(
        image.info, facts(CLASSES, input_side=32), SegmentOptions(scales=sides(64, 32), overlap=0), MACHINE
    )
    bound = BoundPass(plan=plan, step=plan.passes[0], device=torch.device("cpu"))
    pixels = read_block(image, bound, bound.blocks(0)[0])
    return BlockState(bound=bound, pixels=pixels, known=None)


def filled(state: BlockState, number: int, label: int) -> BlockStage:
    """Return a stage in which every window is certain of one class."""
    stage = BlockStage(state, state.bound.step.stages[number])
    for window in stage.windows:
        under = None if stage.is_start else stage.field_under(window)
        stage.put(window, sure(window, label), under)
    return stage


def sure(window: Window, label: int) -> torch.Tensor:
    probs = torch.zeros((CLASSES, window.box.height, window.box.width))
    probs[label] = 1
    return probs


def test_nothing_is_known_before_a_stage_is_finished(state: BlockState) -> None:
    stage = filled(state, 0, 1)
    assert state.known is None
    with pytest.raises(RuntimeError, match="once a stage is finished"):
        _ = state.canvas
    stage.finish()
    assert (state.canvas.values.argmax(dim=0) == 1).all()


def test_a_stage_that_is_finished_takes_no_window_and_is_finished_once(state: BlockState) -> None:
    stage = filled(state, 0, 1)
    stage.finish()
    with pytest.raises(RuntimeError, match="stage 1 of the block is finished"):
        stage.put(stage.windows[0], sure(stage.windows[0], 2), None)
    with pytest.raises(RuntimeError, match="stage 1 of the block is finished"):
        stage.finish()
    assert (state.canvas.values.argmax(dim=0) == 1).all()


def test_a_stage_is_scored_once_it_is_finished(state: BlockState) -> None:
    stage = filled(state, 0, 1)
    with pytest.raises(RuntimeError, match="stage 1 of the block is not finished"):
        stage.take_scores([])
    stage.finish()
    stage.take_scores([(window, torch.ones(4, 4)) for window in stage.windows])
    assert state.known is not None
    assert state.known.scored is not None
    assert (state.known.scored.values == 1).all()


def test_the_next_stage_starts_from_what_is_known(state: BlockState) -> None:
    filled(state, 0, 1).finish()
    second = filled(state, 1, 2)
    assert not second.is_start
    assert (second.field_under(second.windows[0]).argmax(dim=0) == 1).all()
    second.finish()
    assert (state.canvas.values.argmax(dim=0) == 2).all()
    assert [state.counts[number].run for number in (1, 2)] == [1, 4]
    assert sum(changes.changed for changes in state.changes().values()) > 0


def test_the_pixels_of_a_stage_are_dropped_before_its_points_are_chosen(
    state: BlockState, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[list[int]] = []
    choose = BlockStage._choose

    def noted(stage: BlockStage, before: Known | None) -> None:
        held.append([pixels.size for pixels in state.pixels.stages])
        choose(stage, before)

    monkeypatch.setattr(BlockStage, "_choose", noted)
    first = filled(state, 0, 1)
    first.finish()
    with pytest.raises(RuntimeError, match="whose windows are computed"):
        first.patch(first.windows[0], torch.zeros(32, 32, 3))
    second = filled(state, 1, 2)
    assert second.patch(second.windows[0], torch.zeros(32, 32, 3)) is None
    second.finish()
    assert held == [[0, 64 * 64 * 3], [0, 0]]

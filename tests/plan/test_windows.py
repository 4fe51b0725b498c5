"""Cells, windows, blocks and passes keep their properties at sizes that nothing divides."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import pairwise
from math import ceil, floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magnet_cli.geometry import Box, Pitch, Size
from magnet_cli.plan.windows import Index, Pass, Stage, group_scales, needed_margin, nests


@st.composite
def passes(draw: st.DrawFn) -> Pass:
    """Return a pass of one to four stages over an image of any size, with the margin that its median needs."""
    side = draw(st.integers(16, 40))
    median = draw(st.sampled_from([1, 3, 5]))
    finest = Size(width=draw(st.integers(5, 60)), height=draw(st.integers(5, 60)))
    factors = draw(st.sampled_from([(1,), (2, 1), (4, 2, 1), (6, 2, 1), (8, 4, 2, 1), (3, 1)]))
    scales = [Size(width=finest.width * f, height=finest.height * f) for f in factors]
    image = Size(width=draw(st.integers(1, 400)), height=draw(st.integers(1, 400)))
    working = Pitch.square(draw(st.sampled_from([Fraction(1), Fraction(2), Fraction(1, 2), Fraction(997, 1000)])))
    margin = needed_margin(scales, median)
    stages = tuple(
        Stage(
            number=n + 1,
            scale=scale,
            input=Size(width=side, height=side + 3),
            margin=margin,
            image=image,
            working=working,
        )
        for n, scale in enumerate(scales)
        if side > 2 * margin
    )
    return Pass(number=0, stages=stages or (stages_without_margin(scales[-1], image, working),))


def stages_without_margin(scale: Size, image: Size, working: Pitch) -> Stage:
    return Stage(number=1, scale=scale, input=Size(width=16, height=16), margin=0, image=image, working=working)


def all_blocks(step: Pass) -> list[Index]:
    return [step.block(n) for n in range(step.blocks.pixels)]


@given(passes())
@settings(max_examples=120, deadline=None)
def test_every_level0_pixel_belongs_to_exactly_one_block(step: Pass) -> None:
    image = step.stages[0].image
    count = np.zeros((image.height, image.width), np.int64)
    for block in all_blocks(step):
        count[step.level0(block).slices] += 1
    assert (count == 1).all()


@given(passes())
@settings(max_examples=120, deadline=None)
def test_cells_of_every_stage_tile_its_canvas_grid(step: Pass) -> None:
    for stage in step.stages:
        count = np.zeros((stage.extent.height, stage.extent.width), np.int64)
        for block in all_blocks(step):
            for window in step.windows(block, stage):
                count[window.own.slices] += 1
                assert step.own(block, stage).contains(window.own)
        assert (count == 1).all()


@given(passes())
@settings(max_examples=120, deadline=None)
def test_kept_boxes_tile_the_block_canvas_and_lie_in_their_windows(step: Pass) -> None:
    for stage in step.stages:
        for block in all_blocks(step):
            canvas = step.canvas(block, stage)
            count = np.zeros((canvas.height, canvas.width), np.int64)
            for window in step.windows(block, stage):
                assert window.box.contains(window.kept)
                assert window.kept.contains(window.own)
                count[window.kept.shifted(x=-canvas.x, y=-canvas.y).slices] += 1
            assert (count == 1).all()


@given(passes())
@settings(max_examples=120, deadline=None)
def test_what_a_child_needs_lies_in_its_parent_canvas(step: Pass) -> None:
    """By this law blocks never depend on their neighbours, whatever the edges do."""
    for parent, child in pairwise(step.stages):
        rx = Fraction(parent.scale.width, child.scale.width)
        ry = Fraction(parent.scale.height, child.scale.height)
        for block in all_blocks(step):
            have, need = step.canvas(block, parent), step.canvas(block, child)
            half = Fraction(1, 2)
            left = floor((need.x + half) / rx - half)
            right = ceil((need.right - half) / rx - half)
            top = floor((need.y + half) / ry - half)
            bottom = ceil((need.bottom - half) / ry - half)
            assert left >= have.x or have.x == 0
            assert top >= have.y or have.y == 0
            assert right < have.right or have.right == parent.extent.width
            assert bottom < have.bottom or have.bottom == parent.extent.height


@given(passes())
@settings(max_examples=120, deadline=None)
def test_no_block_has_two_windows_at_one_place(step: Pass) -> None:
    for stage in step.stages:
        found = [list(step.windows(block, stage)) for block in all_blocks(step)]
        for block, windows in zip(all_blocks(step), found, strict=True):
            assert len({window.box for window in windows}) == len(windows)
            cells = [cell for window in windows for cell in window.cells]
            assert sorted(cells, key=lambda cell: (cell.row, cell.column)) == step.cells(block, stage)
            for window in windows:
                assert {stage.window(cell) for cell in window.cells} == {window.box}
                assert window.own.area == sum(stage.own(cell).area for cell in window.cells)
        assert step.windows_by_block(stage) == Counter(map(len, found))
        assert step.window_count(stage) == sum(map(len, found))


@given(passes())
@settings(max_examples=60, deadline=None)
def test_windows_stay_inside_and_reach_less_than_one_pixel_beyond(step: Pass) -> None:
    for stage in step.stages:
        for block in all_blocks(step):
            for window in step.windows(block, stage):
                assert window.box.x >= 0
                assert window.box.right <= max(stage.extent.width, stage.input.width)
                assert window.own.area > 0


def test_published_order_groups_from_the_finest_upward() -> None:
    def sides(*values: int) -> list[Size]:
        return [Size(width=value, height=value) for value in values]

    assert group_scales(sides(5000, 2500, 1250, 625)) == [sides(5000, 2500, 1250, 625)]
    assert group_scales(sides(4096, 2048, 1024, 512, 256)) == [sides(4096), sides(2048, 1024, 512, 256)]
    assert group_scales(sides(900, 600, 300)) == [sides(900), sides(600, 300)]
    assert not nests(Size(width=512, height=256), Size(width=256, height=256))


@pytest.mark.parametrize(("ratio", "median", "margin"), [(2, 11, 12), (2, 1, 2), (4, 11, 8), (8, 5, 4)])
def test_needed_margin_is_the_formula(ratio: int, median: int, margin: int) -> None:
    fine = Size(width=100, height=100)
    coarse = Size(width=100 * ratio, height=100 * ratio)
    assert needed_margin([coarse, fine], median) == margin


def test_boxes_of_the_last_window_end_at_the_edge() -> None:
    scale, patch, image = Size(width=100, height=100), Size(width=64, height=64), Size(width=1001, height=333)
    stage = Stage(number=1, scale=scale, input=patch, margin=4, image=image, working=Pitch.square(1))
    assert stage.extent == Size(width=641, height=214)
    last = Index(column=stage.cells.width - 1, row=stage.cells.height - 1)
    assert stage.window(last) == Box(x=577, y=150, width=64, height=64)

"""Weights of overlapping windows and blocks sum to one at every pixel, also at the image's edge."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import floor
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magnet_cli.geometry import Box, Pitch, Size
from magnet_cli.plan.falloff import rising
from magnet_cli.plan.windows import Pass, Stage, frame_boxes
from tests.plan.test_windows import all_blocks, passes

if TYPE_CHECKING:
    from magnet_cli.options.segment import Blend

BLENDS = st.sampled_from(["linear", "spline", "none"])


def blended(step: Pass, blend: Blend, span: int) -> Pass:
    """Return the pass with overlapping windows joined, and blocks of several cells if it has one stage."""
    stages = tuple(replace(stage, blend=blend) for stage in step.stages)
    return Pass(number=0, stages=stages, span=span if len(stages) == 1 else 1)


@given(passes(), BLENDS, st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_weights_of_the_windows_of_a_block_sum_to_one(step: Pass, blend: Blend, span: int) -> None:
    step = blended(step, blend, span)
    for stage in step.stages:
        for block in all_blocks(step)[:6]:
            canvas = step.canvas(block, stage)
            total = np.zeros((canvas.height, canvas.width))
            for window in step.windows(block, stage):
                assert window.box.contains(window.reach)
                assert window.reach.contains(window.kept)
                rows, columns = window.weights
                assert min(rows.min(), columns.min()) > 0
                total[window.reach.shifted(x=-canvas.x, y=-canvas.y).slices] += rows[:, None] * columns
            np.testing.assert_allclose(total, 1, atol=1e-6)


@given(passes(), BLENDS, st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_weights_of_blocks_sum_to_one_and_lie_in_what_they_compute(step: Pass, blend: Blend, span: int) -> None:
    step = blended(step, blend, span)
    stage = step.stages[-1]
    whole = Box.whole(stage.extent)
    total = np.zeros((whole.height, whole.width))
    for layer in step.layers:
        rows, columns = layer.weights(whole)
        total += rows[:, None] * columns
        parts = np.zeros(total.shape, np.int64)
        for down, across in layer.parts(whole):
            parts[down, across] += 1
        assert ((rows[:, None] * columns > 0) == parts).all()
        has = np.zeros(total.shape, np.int64)
        for block in all_blocks(step):
            if step.layer(block) is layer:
                assert step.canvas(block, stage).contains(step.reach(block))
                has[step.reach(block).slices] += 1
        assert has.max() <= 1
        if step.fade:
            assert (has[(rows[:, None] * columns) > 0] == 1).all()
    np.testing.assert_allclose(total, 1, atol=1e-6)
    for block in all_blocks(step):
        rows, columns = step.layer(block).weights(step.inner(block))
        assert (rows == 1).all()
        assert (columns == 1).all()


@given(passes(), BLENDS, st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_what_is_kept_near_borders_is_all_that_labels_there_are_made_of(step: Pass, blend: Blend, span: int) -> None:
    step = blended(step, blend, span)
    stage = step.stages[-1]
    extent = Box.whole(stage.extent)
    kept = np.zeros((extent.height, extent.width), bool)
    for block in all_blocks(step):
        for box in step.kept(block):
            kept[box.slices] = True
    assert sum(count for _, count in step.alike()) == step.blocks.pixels
    assert max(step.kept_area(block) for block, _ in step.alike()) == max(map(step.kept_area, all_blocks(step)))
    seen = np.zeros((stage.image.height, stage.image.width), np.int64)
    for block in all_blocks(step):
        level0, inner = step.level0(block), step.inner_level0(block)
        seen[inner.slices] += 1
        if inner.area and step.fade:
            assert step.inner(block).contains(taps(inner, stage.pitch).intersection(extent))
        for box in frame_boxes(inner, level0):
            seen[box.slices] += 1
            if step.fade:
                assert kept[taps(box, stage.pitch).intersection(extent).slices].all()
    assert (seen == 1).all()


def taps(box: Box, pitch: Pitch) -> Box:
    """Return the canvas pixels that bilinear interpolation of a level-0 box reads."""
    half = Fraction(1, 2)

    def ends(start: int, stop: int, size: Fraction) -> tuple[int, int]:
        first, last = (start + half) / size - half, (stop - half) / size - half
        # A pixel at the very centre of a canvas pixel is that pixel alone.
        return floor(first), floor(last) + (1 if last == floor(last) else 2)

    left, right = ends(box.x, box.right, pitch.x)
    top, bottom = ends(box.y, box.bottom, pitch.y)
    return Box.between(left=left, top=top, right=right, bottom=bottom)


@pytest.mark.parametrize("blend", ["linear", "spline"])
def test_weights_rise_over_the_fade_alone_and_are_alike_on_both_sides(blend: str) -> None:
    found = rising(0, 40, border=20, fade=8, blend=cast("Blend", blend))
    assert (found[:12] == 0).all()
    assert (found[28:] == 1).all()
    assert (np.diff(found[11:29]) > 0).all()
    np.testing.assert_allclose(found + found[::-1], 1, atol=1e-12)


def test_a_spline_is_flat_at_both_ends_and_a_line_is_not() -> None:
    line, spline = (rising(0, 40, border=20, fade=20, blend=blend) for blend in ("linear", "spline"))
    assert spline[0] < line[0] / 5
    assert spline[20] - spline[19] > 1.4 * (line[20] - line[19])


def test_cells_that_are_smaller_than_the_overlap_are_blended_over_half_of_themselves() -> None:
    side = Size(width=32, height=32)
    stage = Stage(
        number=1, scale=side, input=side, margin=12, image=Size(width=99, height=99), working=Pitch.square(1),
        blend="spline",
    )  # fmt: skip
    assert stage.cell == Size(width=8, height=8)
    assert stage.fade == 4
    assert replace(stage, blend="none").fade == 0

"""Levels of CascadePSP at most double the resolution, and their windows cover every pixel."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from magnet_cli.arithmetic.cascade.area_means import area_mean
from magnet_cli.arithmetic.cascade.pyramid import CascadeLevel, LevelPart, cascade_levels, level_parts, local_windows
from magnet_cli.errors import UsageError
from magnet_cli.geometry import LEVEL0, Box, Pitch, Size

if TYPE_CHECKING:
    from fractions import Fraction

sizes = st.builds(Size, width=st.integers(1, 240), height=st.integers(1, 240))
sides = st.integers(100, 200)


@given(size=st.builds(Size, width=st.integers(1, 60_000), height=st.integers(1, 60_000)), side=st.integers(66, 1000))
def test_each_local_step_at_most_doubles_the_resolution_up_to_full_size(size: Size, side: int) -> None:
    levels, longest = cascade_levels(size, side=side), max(size.width, size.height)
    assert (levels[-1].pitch, levels[-1].size) == (LEVEL0, size)
    if longest < side:
        assert len(levels) == 1
        return
    first, *finer = levels
    assert max(first.size.width, first.size.height) == side
    assert len(finer) >= 1
    assert all(1 <= coarse.pitch.x / fine.pitch.x <= 2 for coarse, fine in pairwise(levels))
    assert [level.pitch.x for level in finer] == [2**power for power in reversed(range(len(finer)))]


def test_the_paper_takes_both_steps_from_l_on() -> None:
    assert len(cascade_levels(Size(width=899, height=10), side=900)) == 1
    assert len(cascade_levels(Size(width=10, height=900), side=900)) == 2


@example(size=Size(width=80, height=75), side=66)
@given(size=sizes, side=sides)
def test_every_pixel_is_kept_by_a_window_and_windows_stay_inside(size: Size, side: int) -> None:
    count, whole = np.zeros((size.height, size.width), int), Box.whole(size)
    for window in local_windows(size, side=side):
        assert whole.contains(window.box)
        assert window.box.contains(window.kept)
        assert (window.box.width, window.box.height) == (min(side, size.width), min(side, size.height))
        count[window.kept.slices] += 1
    assert count.min() >= 1


@example(size=Size(width=80, height=75), side=66)
@given(size=sizes, side=sides)
def test_windows_are_where_the_published_package_has_them(size: Size, side: int) -> None:
    """The expected windows have fixed steps, are moved back at the end, occur once, and are cut by 16 pixels inside."""
    step, places = side // 2 - 32, []
    for column in range(size.width // step + 1):
        for row in range(size.height // step + 1):
            right, bottom = min(size.width, column * step + side), min(size.height, row * step + side)
            places.append((max(0, right - side), max(0, bottom - side), right, bottom))
    expected = []
    for left, top, right, bottom in dict.fromkeys(places):
        kept = (
            left + 16 * (left > 0),
            top + 16 * (top > 0),
            right - 16 * (right < size.width),
            bottom - 16 * (bottom < size.height),
        )
        expected.append(((left, top, right, bottom), kept))
    found = [(edges(window.box), edges(window.kept)) for window in local_windows(size, side=side)]
    assert found == expected


@example(size=Size(width=80, height=75), side=66)
@given(size=sizes, side=sides)
def test_weights_of_windows_sum_to_one_and_vanish_at_rims_inside(size: Size, side: int) -> None:
    part = LevelPart.whole(CascadeLevel(pitch=LEVEL0, size=size), side=side)
    total, steepest = np.zeros((size.height, size.width)), 0.0
    for window in part.windows:
        rows, columns = part.weights(window)
        assert min(rows.min(), columns.min()) > 0
        total[window.kept.slices] += rows[:, None] * columns
        if window.kept.right < size.width:
            steepest = max(steepest, float(columns[-1]))
        if window.kept.y > 0:
            steepest = max(steepest, float(rows[0]))
    np.testing.assert_allclose(total, 1, atol=1e-5)
    assert steepest < 0.2


def edges(box: Box) -> tuple[int, int, int, int]:
    return box.x, box.y, box.right, box.bottom


@given(size=sizes, side=sides, reach=st.integers(1, 3))
def test_every_window_belongs_to_one_part_which_knows_what_it_needs(size: Size, side: int, reach: int) -> None:
    level = CascadeLevel(pitch=LEVEL0, size=size)
    grid = level_parts(level, side=side, reach=reach)
    parts = [part for row in grid for part in row]
    windows = [window for part in parts for window in part.windows]
    assert sorted(map(repr, windows)) == sorted(map(repr, local_windows(size, side=side)))
    for part in parts:
        assert all(part.area.contains(window.box) for window in part.windows)
        assert part.box == Box.between(
            left=min(window.kept.x for window in part.windows),
            top=min(window.kept.y for window in part.windows),
            right=max(window.kept.right for window in part.windows),
            bottom=max(window.kept.bottom for window in part.windows),
        )
        assert max(part.area.width, part.area.height) <= (reach + 1) * side
    # The journal keeps every other block of a row and of a column in one field.
    for row in grid:
        assert all(one.box.right <= other.box.x for one, other in zip(row, row[2:], strict=False))
    for one, other in zip(grid, grid[2:], strict=False):
        assert one[0].box.bottom <= other[0].box.y


@given(size=sizes, side=sides)
def test_shares_of_parts_sum_to_one(size: Size, side: int) -> None:
    level, box = CascadeLevel(pitch=LEVEL0, size=size), Box.whole(size)
    total = np.zeros((size.height, size.width))
    for part in (part for row in level_parts(level, side=side, reach=1) for part in row):
        rows, columns = part.shares(box)
        total += rows[:, None] * columns
        assert rows[part.box.y : part.box.bottom].min() > 0
        assert columns[part.box.x : part.box.right].min() > 0
        assert int(np.count_nonzero(rows)) == part.box.height
        assert int(np.count_nonzero(columns)) == part.box.width
    np.testing.assert_allclose(total, 1, atol=1e-5)


def test_a_side_without_room_between_windows_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 66"):
        cascade_levels(Size(width=200, height=200), side=65)


@given(
    length=st.integers(1, 60),
    pitch=st.fractions(min_value=1, max_value=9, max_denominator=12),
    seed=st.integers(0, 99),
)
def test_an_area_mean_is_the_mean_of_what_a_pixel_covers(length: int, pitch: Fraction, seed: int) -> None:
    """Input pixels are cut into as many parts as the pitch has in its denominator, so outputs are whole parts."""
    values = np.random.default_rng(seed).random((2, length), dtype=np.float32)
    parts = np.repeat(values, pitch.denominator, axis=1)
    count = Pitch.square(pitch).cover(Size(width=length, height=1)).width
    expected = [
        parts[:, start : start + pitch.numerator].mean(axis=1) for start in range(0, parts.shape[1], pitch.numerator)
    ]
    found = area_mean(torch.from_numpy(values), dim=1, pitch=pitch, count=count).numpy()
    np.testing.assert_allclose(found, np.stack(expected, axis=1), rtol=1e-5, atol=1e-6)

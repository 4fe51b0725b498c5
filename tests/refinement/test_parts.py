"""The parts of a refinement are right by themselves: which objects, which levels, which shares."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from magnet_cli.errors import UsageError
from magnet_cli.geometry import Box, Size
from magnet_cli.options.forms import parse_classes
from magnet_cli.options.refine import RefineOptions, parse_padding
from magnet_cli.refinement.census import Census
from magnet_cli.refinement.refinement_plan import FusionPass, LevelPass, RefineSettings, SharesPass, make_passes
from magnet_cli.refinement.shares import shares_of
from magnet_cli.refinement.survey import MaskObject

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE = Size(width=5000, height=3000)


def settings(*, fast: bool = False, compat: str = "paper") -> RefineSettings:
    return RefineSettings(
        side=128,
        fast=fast,
        compat=compat,
        kind="auto",
        threshold=Fraction(1, 2),
        stuff=(),
        min_area=10,
        padding=Fraction(1, 8),
    )


def census(*boxes: Box, label: int = 1) -> Census:
    found = Census(size=SIZE, padding=Fraction(1, 8), min_area=10, unit=settings().unit)
    found.take(MaskObject(label=label, area=box.area, box=box, seed=(box.y, box.x)) for box in boxes)
    return found


def test_objects_are_left_refined_alone_or_refined_together() -> None:
    speck = Box(x=0, y=0, width=3, height=3)
    one = Box(x=100, y=80, width=40, height=17)
    wide, high = Box(x=900, y=0, width=3000, height=900), Box(x=50, y=500, width=700, height=2500)
    found = census(speck, one, wide, high)
    assert (found.found, found.left, found.small) == (4, 1, 1)
    assert found.at(0) == MaskObject(label=1, area=680, box=one, seed=(80, 100))
    assert found.region(one) == Box(x=95, y=77, width=50, height=23)
    assert found.region(speck) == Box(x=0, y=0, width=4, height=4)
    assert (found.large[1].objects, found.large[1].box) == (2, Box(x=50, y=0, width=3850, height=3000))


@pytest.mark.parametrize("fast", [False, True])
def test_levels_of_a_large_object_lie_on_grids_of_the_image(*, fast: bool) -> None:
    steps = make_passes(census(Box(x=1357, y=1001, width=2999, height=1777)), settings(fast=fast))
    levels = [step for step in steps if isinstance(step, LevelPass)]
    assert isinstance(steps[-1], FusionPass)
    assert [step.number for step in steps] == list(range(len(steps)))
    assert [level.groups for level in levels] == [len(level.blocks) for level in levels]
    shares = next(step for step in steps if isinstance(step, SharesPass))
    assert shares.pitches == ((16,) if fast else (2, 4, 8, 16))
    assert shares.groups == len(shares.blocks)
    first, *finer = levels
    assert max(first.level.size.width, first.level.size.height) <= 128
    assert [int(level.level.pitch.x) for level in finer] == ([1] if fast else [16, 8, 4, 2, 1])
    for level in levels:
        assert level.region.x % level.reading == level.region.y % level.reading == 0
        assert level.region.contains(Box(x=1357, y=1001, width=2999, height=1777))
        inside = level.on_image(Box(x=0, y=0, width=1, height=1))
        assert (inside.x * level.reading, inside.y * level.reading) == (level.region.x, level.region.y)
    assert 1 <= first.level.pitch.x / first.reading < 2


def test_the_published_arithmetic_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(UsageError, match="--compat paper"):
        make_passes(census(Box(x=0, y=0, width=2000, height=2000)), settings(compat="published"))


@given(
    inside=arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40))),
    pitches=st.sets(st.sampled_from([1, 2, 4, 16, 64]), min_size=1),
)
def test_shares_are_means_over_what_is_there(inside: NDArray[np.bool_], pitches: set[int]) -> None:
    found = shares_of(inside, tuple(pitches))
    assert found.keys() == pitches
    for pitch, shares in found.items():
        assert shares.shape == (-(-inside.shape[0] // pitch), -(-inside.shape[1] // pitch))
        for row, col in np.ndindex(shares.shape):
            part = inside[row * pitch : (row + 1) * pitch, col * pitch : (col + 1) * pitch]
            assert shares[row, col] == np.float32(part.mean())


def test_words_become_values() -> None:
    assert parse_padding("12.5%") == parse_padding("0.125") == Fraction(1, 8)
    assert parse_classes(" sky, 3 ,", "--stuff") == ("sky", "3")
    for text in ("a", "-1", "1e9", "%"):
        with pytest.raises(UsageError, match="--padding"):
            parse_padding(text)
    for wrong in ({"side": 5000}, {"padding": Fraction(2)}, {"threshold": Fraction(1)}, {"min_area": -1}):
        with pytest.raises(UsageError):
            RefineOptions(**wrong)

"""A region is refined as the paper describes it, step by step, with networks whose results are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from magnet_cli.arithmetic.canvas import Canvas
from magnet_cli.arithmetic.cascade.pyramid import CascadeLevel, LevelPart, cascade_levels, level_parts, local_windows
from magnet_cli.arithmetic.cascade.steps import (
    S1,
    S4,
    CascadeSettings,
    at_level,
    global_step,
    holds_border,
    local_step,
    refine_region,
)
from magnet_cli.errors import UsageError, WeightsError
from magnet_cli.geometry import LEVEL0, Box, Pitch, Size
from tests.arithmetic.cascades import Brightness, Echo, Fixed

SIDE = CascadeSettings(side=72, least=1)
"""Side with which windows lie 4 pixels apart."""
WIDER = CascadeSettings(side=96, least=1)
"""Side with which windows lie 16 pixels apart."""


def half(height: int, width: int) -> Tensor:
    """Return a mask whose left half is the object."""
    mask = torch.zeros(height, width)
    mask[:, : width // 2] = 1
    return mask


def disc(height: int, width: int) -> Tensor:
    rows, columns = torch.arange(height)[:, None] - height / 2, torch.arange(width)[None] - width / 2
    return (rows.square() + columns.square() < (min(height, width) / 3) ** 2).float()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 71), (50, 33), (71, 71)])
def test_below_l_there_is_the_global_step_alone_at_full_size(height: int, width: int) -> None:
    network, mask = Echo(), half(height, width)
    found = refine_region(torch.zeros(3, height, width), mask, network, SIDE)
    assert torch.equal(found, mask)
    assert network.close == []
    ((images, masks),) = network.wide
    assert images.shape[2:] == masks.shape[2:] == (height + -height % 8, width + -width % 8)


def test_a_network_that_changes_nothing_leaves_the_border_where_it_is() -> None:
    """An echo keeps the border of the mask to a pixel of the global step, also over several levels and at odd sizes."""
    mask = disc(301, 517)
    found = refine_region(torch.zeros(3, 301, 517), mask, Echo(), WIDER)
    assert found.shape == mask.shape
    assert float(((found > 0.5) != (mask > 0.5)).float().mean()) < 0.01
    # What differs lies on both sides alike: nothing is shifted.
    more, less = (found > 0.5) & (mask < 0.5), (found < 0.5) & (mask > 0.5)
    columns, rows = torch.arange(517.0), torch.arange(301.0)[:, None]
    weight = found.sum()
    assert float((found * columns).sum() / weight) == pytest.approx(float((mask * columns).sum() / mask.sum()), abs=0.1)
    assert float((found * rows).sum() / weight) == pytest.approx(float((mask * rows).sum() / mask.sum()), abs=0.1)
    assert abs(int(more.sum()) - int(less.sum())) < 0.5 * int((more | less).sum()) + 5


def test_the_image_comes_out_in_its_place_at_full_size() -> None:
    """The network returns the image, so the last level's result has to be the image, pixel by pixel."""
    image = torch.rand(3, 143, 211, generator=torch.Generator().manual_seed(2))
    found = refine_region(image, half(143, 211), Brightness(), WIDER)
    torch.testing.assert_close(found, image[0], rtol=0, atol=1e-6)


def test_each_level_hands_both_outputs_on() -> None:
    """The network halves the output of stride 4 at each level, so that its value shows the level that made it."""
    network = Halving()
    refine_region(torch.zeros(3, 400, 96), disc(400, 96), network, WIDER)
    coarse = [round(float(coarse.max()), 6) for _, _, coarse in network.close]
    levels = cascade_levels(Size(width=96, height=400), side=96)
    assert len(levels) == 4
    # Probabilities 1/2, 1/4 and 1/8 as -1 to 1.
    assert sorted(set(coarse), reverse=True) == [0, -0.5, -0.75]


class Halving(Echo):
    """A cascade that returns its mask, and as the output of stride 4 half of the largest value that it got."""

    def answer(self, images: Tensor, masks: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        s4, s1 = super().answer(images, masks, coarse)
        return torch.full_like(s4, float(s4.max()) / 2), s1


def test_the_local_step_takes_probabilities_not_a_cut_mask() -> None:
    network = Echo()
    refine_region(torch.zeros(3, 80, 100), half(80, 100), network, SIDE)
    masks = torch.cat([masks.flatten() for _, masks, _ in network.close])
    assert float(masks.abs().min()) < 0.9
    assert len(set(masks.tolist())) > 2


def test_windows_without_a_border_are_not_looked_at() -> None:
    network, mask = Echo(), half(90, 400)
    refine_region(torch.zeros(3, 90, 400), mask, network, SIDE)
    level = cascade_levels(Size(width=400, height=90), side=72)[-1]
    every = list(local_windows(level.size, side=72))
    shown = [masks for _, masks, _ in network.close]
    assert 0 < len(shown) < len(every)
    assert all(bool((masks > 0).any()) and bool((masks <= 0).any()) for masks in shown)


def test_a_hair_is_looked_at_though_it_fills_no_tenth_of_a_window() -> None:
    """The published rule would skip most windows of vessels and roads, which are less than a tenth full."""
    mask = torch.zeros(72, 72)
    mask[:, 30] = 1
    assert mask.mean() < 0.1
    network = Echo()
    refine_region(torch.zeros(3, 72, 72), mask, network, SIDE)
    assert len(network.close) == 1
    other = Echo()
    published = CascadeSettings(side=72, published=True)
    refine_region(torch.zeros(3, 72, 72), mask, other, published)
    assert other.close == []


def test_windows_are_blended_where_they_overlap() -> None:
    level = CascadeLevel(pitch=LEVEL0, size=Size(width=80, height=72))
    windows = list(local_windows(level.size, side=72))
    assert len(windows) == 3
    before = Canvas(values=half(72, 80).expand(2, -1, -1), box=Box.whole(level.size), pitch=LEVEL0)
    part = LevelPart.whole(level, side=72)
    values = np.array([0.2, 0.4, 0.9])
    found = local_step(torch.zeros(3, 72, 80), before, Fixed(values=values.tolist()), part)
    # Kept columns are 0 to 56, 20 to 60 and 24 to 80. Weights fall from the middle of them to their ends, but not at
    # the ends of the level.
    centres = np.arange(80) + 0.5
    weights = np.stack(
        [
            np.clip((56 - centres) / 28, 0, 1),
            np.clip(np.minimum(centres - 20, 60 - centres) / 20, 0, 1),
            np.clip((centres - 24) / 28, 0, 1),
        ]
    )
    expected = (values @ weights) / weights.sum(axis=0)
    np.testing.assert_allclose(found.values[S1, 0].numpy(), expected, atol=1e-6)
    torch.testing.assert_close(found.values[S4], found.values[S1] / 2)
    assert np.abs(np.diff(expected)).max() < 0.05


def test_a_window_without_a_border_leaves_no_edge_beside_one_that_runs() -> None:
    level = CascadeLevel(pitch=LEVEL0, size=Size(width=300, height=72))
    values = torch.full((2, 72, 300), 0.3)
    values[:, :, :10] = 0.7
    before = Canvas(values=values, box=Box.whole(level.size), pitch=LEVEL0)
    part = LevelPart.whole(level, side=72)
    found = local_step(torch.zeros(3, 72, 300), before, Fixed(values=[0.6] * 99), part)
    assert float(found.values[S1, 0, 0]) == pytest.approx(0.6)
    assert float(found.values[S1, 0, 299]) == pytest.approx(0.3)
    # Three windows hold the border; the kept part of the last one ends at 64.
    row = found.values[S1, 0, 10:].numpy()
    assert np.abs(np.diff(row)).max() < 0.05


@settings(max_examples=8)
@given(width=st.integers(120, 200), height=st.integers(80, 130), reach=st.integers(1, 2))
def test_a_level_in_parts_is_the_level_as_a_whole(width: int, height: int, reach: int) -> None:
    """A level that does not fit in memory is the mean of its blocks by their shares, and computes each window once."""
    side, pitch = 104, Pitch.square(2)
    level = CascadeLevel(pitch=pitch, size=Size(width=width, height=height))
    torch.manual_seed(width * 1000 + height)
    image = torch.rand(3, height, width)
    coarse = CascadeLevel(pitch=Pitch.square(4), size=Pitch.square(2).cover(level.size))
    before = Canvas(
        values=torch.rand(2, coarse.size.height, coarse.size.width), box=Box.whole(coarse.size), pitch=coarse.pitch
    )
    network, other = Brightness(), Brightness()
    whole = local_step(image, before, network, LevelPart.whole(level, side=side))
    found = torch.zeros_like(whole.values)
    for part in (part for row in level_parts(level, side=side, reach=reach) for part in row):
        values = local_step(image[:, *part.area.slices], before, other, part)
        assert values.box == part.box
        down, across = (torch.from_numpy(share) for share in part.shares(whole.box))
        found[:, *part.box.slices] += values.values * (down[:, None] * across)[part.box.slices]
        assert float((down[:, None] * across).sum()) == pytest.approx(
            float((down[:, None] * across)[part.box.slices].sum())
        )
    assert len(other.close) == len(network.close)
    torch.testing.assert_close(found, whole.values, atol=1e-5, rtol=0)


def test_fast_is_the_global_step_enlarged() -> None:
    network = Echo()
    fast = CascadeSettings(side=72, least=1, fast=True)
    found = refine_region(torch.zeros(3, 100, 200), half(100, 200), network, fast)
    assert network.close == []
    ((_, masks),) = network.wide
    assert masks.shape[2:] == (40, 72)  # 36 rows, and 4 more to a multiple of 8
    assert found.shape == (100, 200)
    assert float(found.min()) >= 0


def test_the_longer_side_of_the_global_step_is_l_exactly() -> None:
    """The published package turns 1129 pixels at 900 into 899."""
    network = Echo()
    mask = half(10, 1129)
    refine_region(torch.zeros(3, 10, 1129), mask, network, CascadeSettings(fast=True))
    ((images, _),) = network.wide
    assert images.shape[3] == 904  # 900, and 4 more to a multiple of 8
    other = Echo()
    refine_region(torch.zeros(3, 10, 1129), mask, other, CascadeSettings(fast=True, published=True))
    ((images, masks),) = other.wide
    assert images.shape[3] == 904
    assert bool((images[..., :899] == 0).all())
    assert bool((masks[..., 899:] == -1).all())
    assert bool((masks[:, :, :7, 0] == 1).all())


def test_small_regions_are_enlarged_to_what_the_network_was_trained_on() -> None:
    network = Echo()
    found = refine_region(torch.zeros(3, 20, 56), half(20, 56), network, CascadeSettings(side=900, least=224))
    ((images, _),) = network.wide
    assert images.shape[2:] == (80, 224)
    assert found.shape == (20, 56)
    assert torch.equal(found > 0.5, half(20, 56) > 0.5)


def test_masks_enter_as_minus_one_to_one() -> None:
    network = Echo()
    refine_region(torch.zeros(3, 8, 8), torch.full((8, 8), 0.25), network, SIDE)
    assert set(network.wide[0][1].flatten().tolist()) == {-0.5}


def test_padding_repeats_the_last_pixel_and_only_where_it_must() -> None:
    network, image = Echo(), torch.rand(3, 16, 13)
    global_step(image, torch.ones(16, 13), network, pitch=LEVEL0)
    ((images, masks),) = network.wide
    assert images.shape == (1, 3, 16, 16)
    assert torch.equal(images[0, :, :, 13:], image[:, :, -1:].expand(-1, -1, 3))
    assert bool((masks == 1).all())


def test_a_level_is_the_mean_of_what_its_pixels_cover() -> None:
    values = torch.arange(6.0).reshape(1, 2, 3)
    level = CascadeLevel(pitch=Pitch.square(2), size=Size(width=2, height=1))
    assert at_level(values, level).tolist() == [[[2.0, 3.5]]]


def test_what_holds_a_border() -> None:
    assert holds_border(torch.tensor([[0.4, 0.6]]))
    assert not holds_border(torch.tensor([[0.4, 0.5]]))
    assert not holds_border(torch.tensor([[0.6, 0.7]]))


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(WeightsError, match="not finite"):
        refine_region(torch.zeros(3, 8, 8), torch.ones(8, 8), Fixed(values=[float("nan")]), SIDE)


@pytest.mark.parametrize("published", [False, True])
def test_a_side_that_is_too_small_is_refused(published: bool) -> None:  # noqa: FBT001
    with pytest.raises(UsageError, match="at least 66"):
        refine_region(torch.zeros(3, 8, 8), torch.ones(8, 8), Echo(), CascadeSettings(side=60, published=published))

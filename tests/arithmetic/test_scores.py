"""Certainty, the smoothed score and the choice of points follow their formulas."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from magnet_cli.arithmetic import scores
from magnet_cli.arithmetic.scores import (
    certainty,
    certainty_reduced,
    choose_above,
    choose_largest,
    median_blur,
    rank_windows,
    uncertainty,
)
from magnet_cli.segmentation.canvas_output import largest, largest_reduced


def test_certainty_is_the_gap_between_the_two_best() -> None:
    probs = torch.tensor([[0.7, 0.2], [0.2, 0.5], [0.1, 0.3]]).reshape(3, 1, 2)
    torch.testing.assert_close(certainty(probs), torch.tensor([[0.5, 0.2]]))
    torch.testing.assert_close(uncertainty(probs), torch.tensor([[0.5, 0.8]]))


@pytest.mark.parametrize("strip", [11 * 11 * 40 * 3, 11 * 11 * 7, 1])
@pytest.mark.parametrize("side", [1, 3, 5, 11])
def test_median_agrees_with_an_independent_one(side: int, strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "MEDIAN_STRIP", strip)
    score = torch.rand((37, 40), generator=torch.Generator().manual_seed(3))
    expected = ndimage.median_filter(score.numpy(), size=side, mode="nearest")
    np.testing.assert_array_equal(median_blur(score, side).numpy(), expected)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 70))
def test_the_largest_are_chosen_and_ties_go_to_the_lowest_index(values: list[int], count: int) -> None:
    score = torch.tensor(values, dtype=torch.float32).reshape(1, -1)
    order = sorted(range(len(values)), key=lambda index: (-values[index], index))
    expected = {index for index in order[:count] if values[index] > 0}
    choice = choose_largest(score, count)
    assert set(choice.chosen.reshape(-1).nonzero().reshape(-1).tolist()) == expected


def test_a_threshold_is_exclusive() -> None:
    score = torch.tensor([[0.0, 0.25, 0.5]])
    assert choose_above(score, Fraction(1, 4)).tolist() == [[False, False, True]]


def test_windows_are_ranked_by_mean_and_ties_go_to_the_lowest_index() -> None:
    assert rank_windows([0.1, 0.9, 0.9, 0.3, 0.9], 2) == [1, 2]
    assert rank_windows([0.5], 3) == [0]


@pytest.mark.parametrize("classes", [2, 3, 7, 19])
def test_the_ways_of_other_devices_give_the_same_bits(classes: int) -> None:
    """The maps have so few values that many pixels have several largest ones, or none at all."""
    values = torch.randint(0, 4, (classes, 61, 47), generator=torch.Generator().manual_seed(classes)).float() / 8
    values[:, :5] = 0
    for probs in (values, values.half(), torch.rand(classes, 40, 30)):
        assert torch.equal(certainty_reduced(probs), certainty(probs))
        assert torch.equal(certainty_reduced(probs[None].expand(3, -1, -1, -1)), certainty(probs).expand(3, -1, -1))
        assert torch.equal(largest_reduced(probs), largest(probs))

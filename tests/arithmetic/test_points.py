"""Points are chosen without the values of all medians, and are those that sorting the medians would choose."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from magnet_cli.arithmetic import points
from magnet_cli.arithmetic.points import SmoothedScore, choose_points
from magnet_cli.arithmetic.scores import choose_largest, median_blur


def score_of(height: int, width: int, *, levels: int, seed: int) -> torch.Tensor:
    """Return values in 0..1, of so few levels that many are equal; 0 levels means all different."""
    score = torch.rand(height, width, generator=torch.Generator().manual_seed(seed))
    return (score * levels).floor() / levels if levels else score


SIDES = st.sampled_from([1, 3, 5, 11, 17])


def smoothed_of(score: torch.Tensor, side: int) -> SmoothedScore:
    """Return the medians of a score."""
    found = SmoothedScore.zeros(*score.shape, side=side, device=score.device)
    found.score.copy_(score)
    return found


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    side=SIDES,
    threshold=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    levels=st.sampled_from([0, 2, 5]),
)
def test_a_majority_is_a_median_above(height: int, width: int, side: int, threshold: float, levels: int) -> None:
    score = score_of(height, width, levels=levels, seed=height)
    smoothed = smoothed_of(score, side)
    expected = median_blur(score, side)
    assert torch.equal(smoothed.above(threshold), expected > threshold)
    assert torch.equal(smoothed.at(torch.arange(score.numel())), expected.reshape(-1))


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, tuple[slice, slice], torch.Tensor | None, int]:
    """Return a score, the pixels that compete, those that may be chosen, and how many to choose."""
    height, width, rim = draw(st.integers(2, 40)), draw(st.integers(2, 40)), draw(st.integers(0, 6))
    score = score_of(height, width, levels=draw(st.sampled_from([0, 1, 2, 7])), seed=width)
    own = (slice(min(rim, height - 1), height), slice(0, max(1, width - rim)))
    allowed = score_of(height, width, levels=2, seed=1) > 0 if draw(st.booleans()) else None
    return score, own, allowed, int(draw(st.floats(0, 1.2)) * score[own].numel())


@settings(deadline=None, max_examples=80)
@given(
    case=cases(), side=SIDES, undecided=st.sampled_from([1, 40, 1 << 12]), sample=st.sampled_from([1, 5, 100, 1 << 12])
)
def test_it_is_what_sorting_the_medians_would_give(
    case: tuple[torch.Tensor, tuple[slice, slice], torch.Tensor | None, int], side: int, undecided: int, sample: int
) -> None:
    score, own, allowed, count = case
    smooth = median_blur(score, side) * (1 if allowed is None else allowed)
    choice = choose_largest(smooth[own], count)
    expected = (smooth >= choice.cut) & (smooth > 0)
    expected[own] = choice.chosen
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(points, "UNDECIDED", undecided)
        patch.setattr(points, "SAMPLE", sample)
        found = choose_points(smoothed_of(score, side), count, ranked=own, allowed=allowed)
    assert torch.equal(found, expected)


def test_a_flat_score_takes_the_first_pixels() -> None:
    found = choose_points(
        smoothed_of(torch.full((90, 100), 0.5), 11),
        150,
        ranked=(slice(0, 90), slice(0, 100)),
        allowed=None,
    )
    assert found.reshape(-1).nonzero().reshape(-1).tolist() == list(range(150))


def test_a_sample_saves_most_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each vote reads the whole canvas about ten times."""
    votes, vote = [], SmoothedScore.above

    def counted(smoothed: SmoothedScore, threshold: float) -> torch.Tensor:
        votes.append(threshold)
        return vote(smoothed, threshold)

    monkeypatch.setattr(SmoothedScore, "above", counted)
    smoothed = smoothed_of(score_of(700, 900, levels=0, seed=2), 11)
    found = choose_points(smoothed, 450_000, ranked=(slice(20, 680), slice(20, 880)), allowed=None)
    assert int(found[20:680, 20:880].count_nonzero()) == 450_000
    assert len(votes) <= 8

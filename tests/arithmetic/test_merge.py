"""Merges without a network give their formulas."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from magnet_cli.arithmetic.merge import FLOOR, OWN, by_certainty, geometric, merge
from magnet_cli.geometry import Size

SCALE = Size(width=8, height=8)


class NoRefiner:
    """A refiner that must not be called."""

    def refine(self, own: torch.Tensor, field: torch.Tensor, scale: Size) -> torch.Tensor:
        raise AssertionError(own.shape, field.shape, scale)


def pixel(*probs: float) -> torch.Tensor:
    return torch.tensor(probs).reshape(1, -1, 1, 1)


def probabilities(seed: int, *, sharpness: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(2, 4, 5, 6, generator=generator)).softmax(dim=1)


def test_the_surer_map_weighs_more() -> None:
    own, field = pixel(0.7, 0.1, 0.2), pixel(0.3, 0.4, 0.3)
    merged = merge(own, field, how="certainty", networks=NoRefiner(), scale=SCALE)
    torch.testing.assert_close(merged, (0.5 * own + 0.1 * field) / 0.6)
    torch.testing.assert_close(merge(own, field, how="mean", networks=NoRefiner(), scale=SCALE), (own + field) / 2)


def test_what_is_not_sure_at_all_has_no_say_unless_neither_is() -> None:
    sure, unsure, other = pixel(0.1, 0.8, 0.1), pixel(0.4, 0.4, 0.2), pixel(0.0, 0.5, 0.5)
    assert torch.equal(by_certainty(sure, unsure), sure)
    assert torch.equal(by_certainty(unsure, sure), sure)
    torch.testing.assert_close(by_certainty(unsure, other), (unsure + other) / 2)


def test_a_field_without_opinion_leaves_the_stage_its_own() -> None:
    own = pixel(0.2, 0.5, 0.3)
    assert torch.equal(by_certainty(own, torch.zeros_like(own)), own)


@given(st.integers(0, 1000), st.floats(0.1, 30), st.floats(0.1, 30))
def test_the_weighted_mean_is_a_mean(seed: int, mine: float, theirs: float) -> None:
    own, field = probabilities(seed, sharpness=mine), probabilities(seed + 1, sharpness=theirs)
    merged = by_certainty(own, field)
    torch.testing.assert_close(merged.sum(dim=1), torch.ones(2, 5, 6))
    assert bool((merged >= torch.minimum(own, field) - 1e-6).all())
    assert bool((merged <= torch.maximum(own, field) + 1e-6).all())
    torch.testing.assert_close(by_certainty(field, own), merged)


def test_ratios_of_classes_are_weighted_means_of_both_ratios_on_a_logarithmic_scale() -> None:
    own, field = pixel(0.7, 0.1, 0.2), pixel(0.3, 0.4, 0.3)
    merged = merge(own, field, how="geometric", networks=NoRefiner(), scale=SCALE)
    expected = own**OWN * field ** (1 - OWN)
    torch.testing.assert_close(merged, expected / expected.sum(dim=1, keepdim=True))


def test_the_stage_itself_weighs_more() -> None:
    own, field = pixel(0.6, 0.4), pixel(0.4, 0.6)
    assert int(geometric(own, field).argmax(dim=1)) == 0
    assert int(geometric(field, own).argmax(dim=1)) == 1


def test_no_class_is_ruled_out_by_one_side_alone() -> None:
    """A logarithm of zero would give the class of the other side a probability of zero, or NaN."""
    own, field = pixel(1.0, 0.0, 0.0), pixel(0.0, 1.0, 0.0)
    merged = geometric(own, field)
    expected = pixel(FLOOR ** (1 - OWN), FLOOR**OWN, FLOOR)
    torch.testing.assert_close(merged, expected / expected.sum(dim=1, keepdim=True))
    assert torch.equal(geometric(own, torch.zeros_like(own)).argmax(dim=1), own.argmax(dim=1))


@given(st.integers(0, 1000), st.floats(0.1, 30), st.floats(0.1, 30))
def test_the_geometric_mean_is_a_distribution(seed: int, mine: float, theirs: float) -> None:
    own, field = probabilities(seed, sharpness=mine), probabilities(seed + 1, sharpness=theirs)
    merged = geometric(own, field)
    torch.testing.assert_close(merged.sum(dim=1), torch.ones(2, 5, 6))
    agreed = own.argmax(dim=1) == field.argmax(dim=1)
    assert torch.equal(merged.argmax(dim=1)[agreed], own.argmax(dim=1)[agreed])
    floored = own.clamp_min(FLOOR)
    torch.testing.assert_close(geometric(own, own), floored / floored.sum(dim=1, keepdim=True))

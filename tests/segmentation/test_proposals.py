"""With `--select ppn` a network scores the windows of the next stage."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import torch

from magnet_cli.arithmetic.scores import uncertainty
from magnet_cli.errors import UsageError, WeightsError
from magnet_cli.geometry import Size
from magnet_cli.options.rules import ALL, parse_patches
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan import SelectorFacts, make_plan
from magnet_cli.segmentation.window_scores import spread
from tests.segmentation.support import MACHINE, ArrayImage, CodedNetworks, computed, facts, run, run_in_turns, sides

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.plan import ModelFacts

INPUT, MARGIN = 32, 4
CELL = INPUT - 2 * MARGIN
COUNT = 4
"""Squares along each side of the image. Each is a cell of the stage with windows of 64 pixels."""
SQUARE = 2 * CELL


class Proposing(CodedNetworks):
    """Networks whose selector scores each pixel by its brightness, for any size of the next stage."""

    def __init__(self, score: Callable[[Tensor, Tensor | None], Tensor] | None = None, *, after: int = 1000) -> None:
        super().__init__(4)
        self.score = score or (lambda patches, _: -patches[:, 1])
        self.after = after
        self.asked: list[tuple[int, bool]] = []

    def predict(self, patches: Tensor, scale: Size) -> Tensor:
        if len(self.batches) >= self.after:
            raise KeyboardInterrupt
        return super().predict(patches, scale)

    def score_map(self, patches: Tensor, field: Tensor | None) -> Tensor:
        self.asked.append((len(patches), field is not None))
        return self.score(patches, field)


def squares(*, square: int = SQUARE, valid: bool = False) -> tuple[ArrayImage, NDArray[np.int64]]:
    """Return an image of plain squares with different greys, and these greys. With `valid`, a quarter lacks data."""
    greys = np.random.default_rng(2).permutation(COUNT * COUNT).reshape(COUNT, COUNT) * 12
    pixels = np.kron(greys, np.ones((square, square), int))
    holding = np.ones(pixels.shape, bool)
    holding[pixels.shape[0] // 2 :, : pixels.shape[1] // 2] = False
    image = np.repeat(pixels[..., None], 3, axis=2).astype(np.uint8)
    return ArrayImage(image, valid=holding if valid else None), greys


def model(
    against: Literal["image", "constant"] = "constant", *, constant: float = 0, field: bool = False
) -> ModelFacts:
    selector = SelectorFacts(against=against, constant=constant, sees_field=field, activation_bytes=1 << 20)
    return replace(facts(4, input_side=INPUT), selector=selector)


def options(**more: Any) -> SegmentOptions:
    usual = {"scales": sides(128, 64), "method": "magnet-fast", "select": "ppn", "points": ALL, "num_workers": 0}
    return SegmentOptions(**{**usual, "overlap": 2 * MARGIN, "batch_size": 3, **more})


@pytest.mark.parametrize("places", [INPUT, CELL // 3])
def test_a_place_stands_for_its_pixels(places: int) -> None:
    scores = torch.arange(places * places, dtype=torch.float32).reshape(places, places) / 8
    found = spread(scores, Size(width=96, height=96))
    assert found.shape == (1, 96, 96)
    side = 96 // places
    torch.testing.assert_close(found[0].float().reshape(places, side, places, side).mean(dim=(1, 3)), scores)


def test_a_budget_buys_what_the_selector_says() -> None:
    image, greys = squares()
    coarse, fine = (COUNT // 2) ** 2, COUNT**2
    outcome = run(image, model(), options(budget=Fraction(coarse + fine // 4, coarse + fine)), Proposing())
    best = greys > np.sort(greys.ravel())[-COUNT * COUNT // 4 - 1]
    assert best.sum() == COUNT * COUNT // 4
    np.testing.assert_array_equal(computed(outcome, 2), best)


def test_a_count_takes_the_best_of_each_block() -> None:
    image, greys = squares()
    outcome = run(image, model(), options(patches=parse_patches("1")), Proposing())
    blocks = greys.reshape(COUNT // 2, 2, COUNT // 2, 2).transpose(0, 2, 1, 3).reshape(-1, 4)
    found = computed(outcome, 2).reshape(COUNT // 2, 2, COUNT // 2, 2).transpose(0, 2, 1, 3).reshape(-1, 4)
    np.testing.assert_array_equal(found.argmax(axis=1), blocks.argmax(axis=1))
    assert (found.sum(axis=1) == 1).all()


@pytest.mark.parametrize("grey", [24, 96])
def test_a_limit_is_one_of_probabilities(grey: int) -> None:
    """With a score P of minus the brightness, sigmoid(constant - P) > 1/2 means that P is below the constant."""
    image, greys = squares()
    constant = -(grey + 6) / 255
    outcome = run(image, model(constant=constant), options(patches=parse_patches("u>0.5")), Proposing())
    np.testing.assert_array_equal(computed(outcome, 2), greys > grey)


def test_the_papers_selector_compares_with_the_image() -> None:
    """sigmoid(G - P) >= 1/2 means that a cell's score P is not above the score G of the whole image."""
    side = COUNT * 2 * INPUT
    image, greys = squares(square=2 * INPUT)
    given = options(scales=sides(side, 64), overlap=0, patches=parse_patches("u>0.5"))
    outcome = run(image, model("image"), given, Proposing())
    assert len(outcome.plan.passes) == 1
    np.testing.assert_array_equal(computed(outcome, 2), greys > greys.mean())


def test_a_window_that_was_not_computed_keeps_what_was_said_before() -> None:
    """The finer stage gives low scores. Windows that it did not compute keep the scores of the first stage."""

    class Quieter(Proposing):
        """Networks whose scores depend on the scale."""

        def predict(self, patches: Tensor, scale: Size) -> Tensor:
            self.score = lambda seen, _: -seen[:, 1] + (50 if scale.width == 2 * INPUT else 0)
            return super().predict(patches, scale)

    image, _ = squares()
    given = options(scales=sides(128, 64, 32), patches=parse_patches("1,4"))
    outcome = run(image, model(), given, Quieter())
    second, third = computed(outcome, 2), computed(outcome, 3)
    assert second.sum() == COUNT * COUNT // 4
    assert third.sum() == COUNT * COUNT
    under = np.kron(second, np.ones((2, 2), bool))
    assert not (third & under).any()


def test_a_selector_may_see_the_field() -> None:
    image, _ = squares()
    seen: list[Tensor] = []

    def score(patches: Tensor, field: Tensor | None) -> Tensor:
        assert field is not None
        assert field.shape == (len(patches), 4, INPUT, INPUT)
        torch.testing.assert_close(field.sum(dim=1), torch.ones(len(patches), INPUT, INPUT), atol=2e-3, rtol=0)
        seen.append(uncertainty(field))
        return -seen[-1]

    networks = Proposing(score)
    outcome = run(image, model(field=True), options(patches=parse_patches("1")), networks)
    by_uncertainty = run(image, model(), options(patches=parse_patches("1"), select="uncertainty"), CodedNetworks(4))
    assert networks.asked
    assert all(saw for _, saw in networks.asked)
    # Uncertainty of what is between two pixels is not what lies between their uncertainties: a few windows differ.
    assert (computed(outcome, 2) == computed(by_uncertainty, 2)).mean() > 0.8
    assert len({float(part.mean()) for part in seen}) > 1


def test_a_selector_is_asked_of_every_computed_window_but_the_last_stage() -> None:
    image, _ = squares(valid=True)
    networks = Proposing()
    outcome = run(image, model(), options(scales=sides(128, 64, 32), patches=parse_patches("2")), networks)
    asked = sum(count for count, _ in networks.asked)
    assert asked == computed(outcome, 1).sum() + computed(outcome, 2).sum()
    assert not computed(outcome, 2)[COUNT // 2 :, : COUNT // 2].any()


@pytest.mark.parametrize(
    ("given", "after"),
    [
        ({"budget": Fraction(2, 5), "scales": sides(128, 64, 32)}, 4),
        ({"scales": sides(144, 96, 48)}, 1),
        ({"scales": sides(144, 96, 48)}, 4),
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_mask(given: dict[str, Any], after: int) -> None:
    """Scores that are kept on disk with the field of a pass do not change."""
    image, _ = squares(valid=True)
    asked = options(**given)
    whole = run(image, model(), asked, Proposing())
    assert len(whole.plan.passes) > 1
    resumed = run_in_turns(image, model(), asked, (Proposing(after=after), Proposing()))
    np.testing.assert_array_equal(resumed.labels, whole.labels)
    assert 0 < computed(whole, len(whole.plan.stages)).mean() < 1


def test_scores_that_are_no_numbers_end_the_run() -> None:
    image, _ = squares()
    broken = Proposing(lambda patches, _: patches[:, 1] * float("nan"))
    with pytest.raises(WeightsError, match="not numbers in stage 1"):
        run(image, model(), options(), broken)


@pytest.mark.parametrize(
    ("facts_of", "more", "error", "message"),
    [
        (facts(4, input_side=INPUT), {}, WeightsError, "has no selector"),
        (model("image"), {}, UsageError, "compares windows with the whole image"),
        (
            model("image"),
            {"scales": sides(512, 256, 128), "budget": Fraction(1, 5)},
            UsageError,
            "one block of one pass",
        ),
        (model(), {"method": "magnet"}, UsageError, "--select is for magnet-fast"),
    ],
)
def test_what_a_selector_cannot_say_is_refused(
    facts_of: ModelFacts, more: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_plan(squares()[0].info, facts_of, options(**more), MACHINE)

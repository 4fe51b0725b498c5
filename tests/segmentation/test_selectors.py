"""Each selector of a stage leaves windows out for a reason, and those that all selectors keep are computed."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from magnet_cli.arithmetic.canvas import Canvas
from magnet_cli.geometry import Box
from magnet_cli.options.rules import ALL, Rule, parse_patches, parse_points
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan import make_plan
from magnet_cli.segmentation.bound_pass import BoundPass
from magnet_cli.segmentation.group_reader import BlockPixels
from magnet_cli.segmentation.selection import Candidates, select, selectors
from magnet_cli.segmentation.window_budget import BudgetCells
from tests.segmentation.support import MACHINE, ArrayImage, facts, sides

if TYPE_CHECKING:
    from magnet_cli.options.method_settings import MethodSettings
    from magnet_cli.plan import Plan
    from magnet_cli.plan.windows import Stage

INPUT = 16
LETTERS = {
    "InArea": "o",
    "WithData": "n",
    "Best": "u",
    "Above": "u",
    "Flagged": "u",
    "WithinBudget": "b",
    "Unsettled": "s",
}


def plan_of(patches: Rule, points: Rule = ALL) -> Plan:
    """Return the plan of an image of one block with 4 x 4 windows in its last stage."""
    image = ArrayImage(np.zeros((64, 64, 3), np.uint8))
    asked = SegmentOptions(
        scales=sides(64, 16), method="magnet-fast", patches=patches, points=points, overlap=0, median=1
    )
    return make_plan(image.info, facts(2, input_side=INPUT), asked, MACHINE)


def settings_of(patches: Rule, points: Rule = ALL) -> MethodSettings:
    return plan_of(patches, points).settings


BUDGET = BudgetCells(cells=np.zeros((4, 4), bool), known=np.ones((4, 4), bool))


@pytest.mark.parametrize(
    ("patches", "points", "budget", "names"),
    [
        (ALL, ALL, None, []),
        (parse_patches("3"), ALL, None, ["Best"]),
        (parse_patches("30%"), ALL, None, ["Best"]),
        (parse_patches("u>0.1"), ALL, None, ["Above"]),
        (ALL, parse_points("q>0.2"), None, ["Unsettled"]),
        (parse_patches("u>0.1"), parse_points("q>0.2"), None, ["Above", "Unsettled"]),
        (Rule(kind="budget", values=(Fraction(1, 5),)), ALL, BUDGET, ["WithinBudget"]),
        (Rule(kind="selector"), ALL, None, ["Flagged"]),
    ],
)
def test_a_run_has_the_selectors_that_its_options_name(
    patches: Rule, points: Rule, budget: BudgetCells | None, names: list[str]
) -> None:
    asked = replace(settings_of(ALL, points), patches=patches)
    found = selectors(asked, first=False, budget=budget)
    assert [type(selector).__name__ for selector in found] == ["InArea", "WithData", *names]
    assert [selector.status for selector in found] == [LETTERS[type(selector).__name__] for selector in found]
    assert [type(selector).__name__ for selector in selectors(asked, first=True, budget=budget)] == [
        "InArea",
        "WithData",
    ]


def candidates(seed: int, plan: Plan) -> tuple[Candidates, dict[str, np.ndarray]]:
    """Return the windows of a block and four maps of them, `(4, 4)` each.

    The maps tell which windows lie inside the area, hold data and are uncertain, and how high they score.
    """
    rng = np.random.default_rng(seed)
    step, stage = plan.passes[0], plan.stages[1]
    block = step.block(0)
    inside, holding, unsure = (rng.random((4, 4)) < share for share in (0.8, 0.7, 0.6))
    worth = rng.permutation(16).reshape(4, 4) / 16
    windows = tuple(step.windows(block, stage))
    valid = np.kron(holding, np.ones((INPUT, INPUT), bool))
    needed = frozenset(window.cell for window in windows if inside[window.cell.row, window.cell.column])
    pixels = BlockPixels(
        block=block,
        stages=[],
        valid=(None, valid),
        level0_valid=None,
        kept_valid=None,
        needed=(frozenset({block}), needed),
    )
    middle = np.pad(np.ones((INPUT - 8, INPUT - 8)), 4)
    first = torch.from_numpy(np.where(np.kron(unsure, middle), 0.5, 1.0))
    canvas = Canvas(values=torch.stack((first, 1 - first)).half(), box=Box.whole(stage.extent), pitch=stage.pitch)
    among = Candidates(
        bound=BoundPass(plan=plan, step=step, device=torch.device("cpu")),
        stage=stage,
        pixels=pixels,
        box=step.canvas(block, stage),
        windows=windows,
        canvas=canvas,
        score=lambda own: _at(worth, own, stage),
    )
    return among, {"inside": inside, "holding": holding, "unsure": unsure, "worth": worth}


def _at(worth: np.ndarray, own: Box, stage: Stage) -> float:
    return float(worth[own.y // stage.cell.height, own.x // stage.cell.width])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_what_is_computed_is_the_intersection_and_each_other_window_has_one_reason(seed: int) -> None:
    among, is_ = candidates(seed, ABOVE)
    found = select(among)
    reasons = np.array(list(found.statuses)).reshape(4, 4)
    worthy = is_["worth"] > 0.4
    expected = np.full((4, 4), "r")
    expected[~is_["unsure"]] = "s"
    expected[~worthy] = "u"
    expected[~is_["holding"]] = "n"
    expected[~is_["inside"]] = "o"
    np.testing.assert_array_equal(reasons, expected)
    computed = np.zeros((4, 4), bool)
    for window in found.windows:
        computed[window.cell.row, window.cell.column] = True
    np.testing.assert_array_equal(computed, is_["inside"] & is_["holding"] & is_["unsure"] & worthy)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_count_is_filled_with_windows_that_can_be_computed(seed: int) -> None:
    """Windows without data or outside the area do not count among the best."""
    among, is_ = candidates(seed, BEST)
    found = select(among)
    possible = is_["inside"] & is_["holding"]
    assert len(found.windows) == min(5, int(possible.sum()))
    least = min((is_["worth"][w.cell.row, w.cell.column] for w in found.windows), default=2)
    assert (is_["worth"][possible] > least).sum() == max(0, len(found.windows) - 1)


ABOVE = plan_of(parse_patches("u>0.4"), parse_points("q>0.2"))
BEST = plan_of(parse_patches("5"))

"""Overlapping windows and blocks are joined by their weights, and a selected window leaves no edge beside others."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from magnet_cli.geometry import LEVEL0, Box, Size
from magnet_cli.options.rules import ALL, parse_patches, parse_points
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan.windows import RISE, Pass, Sides, Stage
from tests.segmentation.support import ArrayImage, CodedNetworks, computed, facts, run, sides
from tests.segmentation.test_differences import Numbering, flat

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from tests.segmentation.support import Outcome

INPUT, MARGIN = 32, 4
CELL = INPUT - 2 * MARGIN
WIDTH, HEIGHT = 6 * CELL - 10, 5 * CELL - 5


def field_of(outcome: Outcome) -> NDArray[np.float64]:
    """Return the probabilities of the last stage, `(classes, height, width)`."""
    return outcome.sink.read_field("probabilities", Box.whole(outcome.plan.stages[-1].extent)).astype(np.float64)


def ramp(pixels: NDArray[np.int64], border: int, blend: str) -> NDArray[np.float64]:
    """Return the weights of the window to the right of a border, as docs/method.md defines them."""
    share = np.clip((pixels + 0.5 - (border - MARGIN)) / (2 * MARGIN), 0, 1)
    return {"linear": share, "spline": 3 * share**2 - 2 * share**3, "none": (share > 0.5).astype(float)}[blend]


def weights(cell: int, cells: int, length: int, blend: str) -> NDArray[np.float64]:
    """Return the weights of a window along one axis of the whole image."""
    pixels = np.arange(length)
    left = ramp(pixels, cell * CELL, blend) if cell else np.ones(length)
    right = ramp(pixels, (cell + 1) * CELL, blend) if cell < cells - 1 else np.zeros(length)
    return left - right


@pytest.mark.parametrize("blend", ["linear", "spline", "none"])
def test_every_window_counts_by_its_weight_inside_blocks_and_across_them(blend: str) -> None:
    """Each window has a class of its own, so the probability of that class is the window's weight."""
    words: dict[str, Any] = {"overlap": 2 * MARGIN, "blend": blend, "probabilities": True, "num_workers": 0}
    options = SegmentOptions(scales=sides(INPUT), method="patch", **words)
    outcome = run(flat(WIDTH, HEIGHT), facts(30, input_side=INPUT), options, Numbering(30))
    (step,) = outcome.plan.passes
    assert step.blocks == (Size(width=6, height=5) if blend == "none" else Size(width=2, height=2))
    stage, found = step.stages[0], field_of(outcome)
    cells = [cell for number in range(step.blocks.pixels) for cell in step.cells(step.block(number), stage)]
    assert len(cells) == 30
    for number, cell in enumerate(cells):
        rows, columns = weights(cell.row, 5, HEIGHT, blend), weights(cell.column, 6, WIDTH, blend)
        np.testing.assert_allclose(found[number], rows[:, None] * columns, atol=0.001)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=0.002)
    assert (outcome.sink.touched == 1).all()
    best = found.max(axis=0)
    is_clear = np.partition(found, -2, axis=0)[-2] < best - 0.01
    assert (outcome.labels == found.argmax(axis=0))[is_clear].all()


class Opposed(CodedNetworks):
    """Networks that predict class 0 at the coarse scale, the surer the brighter, and class 1 at the fine one."""

    def predict(self, patches: Tensor, scale: Size) -> Tensor:
        first = 0.8 + 0.15 * patches[:, 0] if scale.width > INPUT else torch.full_like(patches[:, 0], 0.1)
        return torch.stack((first, 1 - first), dim=1)


def falling(blend: str) -> NDArray[np.float64]:
    """Return the weights of a window across the end of its cell beside one that is not computed and differs."""
    away = np.arange(-CELL // 2, MARGIN) + 0.5
    share = (MARGIN - away) / (MARGIN + min((1 + RISE) * MARGIN, CELL // 2))
    straight, blended = (1 - ramp(np.arange(-CELL // 2, MARGIN), 0, name) for name in ("linear", blend))
    return share**1.5 * blended / straight


SELECTIONS: dict[str, dict[str, Any]] = {
    "count": {"patches": parse_patches("1")},
    "share": {"patches": parse_patches("30%")},
    "threshold": {"patches": parse_patches("u>0.25")},
    "budget": {"budget": Fraction(1, 2)},
}


@pytest.mark.parametrize("rule", list(SELECTIONS))
@pytest.mark.parametrize("blend", ["linear", "spline", "none"])
def test_a_window_that_is_computed_leaves_no_edge_beside_others(blend: str, rule: str) -> None:
    """The weight of a window falls to nothing beside one that was not selected, also at the border of a block."""
    words: dict[str, Any] = {
        "overlap": 2 * MARGIN,
        "blend": blend,
        "probabilities": True,
        "num_workers": 0,
        "median": 1,
        **SELECTIONS[rule],
    }
    options = SegmentOptions(scales=sides(2 * INPUT, INPUT), method="magnet-fast", points=ALL, **words)
    image = np.broadcast_to(np.linspace(0, 255, 4 * CELL)[None, :, None], (4 * CELL, 4 * CELL, 3)).astype(np.uint8)
    outcome = run(ArrayImage(image), facts(2, input_side=INPUT), options, Opposed(2))
    chosen = computed(outcome, 2)
    assert 0 < chosen.sum() < chosen.size
    second = field_of(outcome)[1]
    assert second.max() == pytest.approx(0.9, abs=0.001)
    gaps = [
        abs(0.9 - second[row * CELL + CELL // 2, column * CELL + CELL // 2])
        for row, column in np.argwhere(~chosen)
        if beside(chosen, row, column)
    ]
    steepest = {"linear": 1.0, "spline": 1.5, "none": 2.0 * MARGIN}[blend] / (2 * MARGIN)
    far = np.abs(np.diff(falling(blend))).max() if blend != "none" else 0
    is_known = blend != "none" and rule in ("threshold", "budget")
    # In the middle of cells, where no corner of a third one lies.
    middles = np.arange(4) * CELL + CELL // 2
    lines = np.concatenate((second[middles], second[:, middles].T))
    largest = np.abs(np.diff(lines, axis=1)).max(axis=0)
    # With a count or a share, each block selects its darkest column, and the rim of the column beyond the border to the
    # left is darker yet: the block takes it for computed, so that the weight falls as between computed windows.
    assert largest.max() == pytest.approx((far if is_known else steepest) * max(gaps), rel=0.15)
    inside = np.abs(np.arange(1, 4 * CELL) - 2 * CELL) > MARGIN
    if blend != "none" and largest[inside].max() > 0.01:
        assert largest[inside].max() <= 1.1 * far * max(gaps)


def test_results_of_coarse_windows_are_blended_over_all_that_both_saw() -> None:
    """The canvas of a block ends where its finest windows do, and its coarse windows overlap by more pixels of it."""
    words: dict[str, Any] = {"overlap": 2 * MARGIN, "probabilities": True, "num_workers": 0, "median": 1}
    options = SegmentOptions(
        scales=sides(4 * INPUT, 2 * INPUT, INPUT),
        method="magnet-fast",
        points=ALL,
        patches=parse_patches("u>0.99"),
        **words,
    )
    outcome = run(flat(8 * CELL, 4 * CELL), facts(2, input_side=INPUT), options, Numbering(2))
    assert [step.blocks for step in outcome.plan.passes] == 3 * [Size(width=2, height=1)]
    assert not computed(outcome, 3).any()
    second = field_of(outcome)[1]
    expected = np.clip((np.arange(8 * CELL) + 0.5 - 4 * CELL + 4 * MARGIN) / (8 * MARGIN), 0, 1)
    np.testing.assert_allclose(second, np.broadcast_to(expected, second.shape), atol=0.03)


class Parted(CodedNetworks):
    """Networks whose fine result differs from the coarse one everywhere; the coarse one is surer of bright pixels."""

    def predict(self, patches: Tensor, scale: Size) -> Tensor:
        coarse = torch.where(patches[:, 0] > 0.5, 0.9, 0.55)
        first = coarse if scale.width > INPUT else torch.full_like(coarse, 0.1)
        return torch.stack((first, 1 - first), dim=1)


@pytest.mark.parametrize(("patches", "beyond"), [("1", 2), ("1", 3), ("u>0.5", 2), ("u>0.5", 3)])
def test_a_block_judges_by_its_rim_whether_a_cell_beyond_it_is_left_out(patches: str, beyond: int) -> None:
    """Towards a cell that is as unsure a weight falls as between computed windows, and further towards another one."""
    image = np.full((2 * CELL, 4 * CELL, 3), 255, np.uint8)
    for column in (1, beyond):
        image[:CELL, column * CELL : (column + 1) * CELL] = 0
    words: dict[str, Any] = {"overlap": 2 * MARGIN, "probabilities": True, "num_workers": 0, "median": 1}
    options = SegmentOptions(
        scales=sides(2 * INPUT, INPUT), method="magnet-fast", points=ALL, patches=parse_patches(patches), **words
    )
    outcome = run(ArrayImage(image), facts(2, input_side=INPUT), options, Parted(2))
    assert np.array_equal(np.argwhere(computed(outcome, 2)), [[0, 1], [0, beyond]])
    across = field_of(outcome)[0][2, CELL + CELL // 2 : 2 * CELL - MARGIN]
    if beyond == 2:
        np.testing.assert_allclose(across, 0.1, atol=0.01)
    else:
        assert (np.diff(across) > 0).all()
        assert across[-1] > 0.2


def test_points_are_chosen_by_scores_that_no_weight_lowers() -> None:
    """Where every pixel of a window passes, the result has its slope beside other windows, and no edge inside of it."""
    image = np.broadcast_to(np.linspace(0, 255, 4 * CELL)[None, :, None], (4 * CELL, 4 * CELL, 3)).astype(np.uint8)
    words: dict[str, Any] = {"overlap": 2 * MARGIN, "probabilities": True, "num_workers": 0, "median": 1}
    fields = []
    for rule in (ALL, parse_points("q>0.06")):
        options = SegmentOptions(
            scales=sides(2 * INPUT, INPUT), method="magnet-fast", points=rule, patches=parse_patches("1"), **words
        )
        outcome = run(ArrayImage(image), facts(2, input_side=INPUT), options, Opposed(2))
        assert 0 < computed(outcome, 2).sum() < 16
        fields.append(field_of(outcome))
    np.testing.assert_allclose(fields[1], fields[0], atol=0.002)


def test_a_weight_falls_far_towards_a_window_that_is_not_computed() -> None:
    """It falls to the end of the window, and last most slowly."""
    stage = Stage(
        number=1,
        scale=Size(width=256, height=256),
        input=Size(width=256, height=256),
        margin=16,
        image=Size(width=2000, height=2000),
        working=LEVEL0,
        blend="linear",
    )
    step = Pass(number=0, stages=(stage,), span=9)
    window = next(one for one in step.windows(step.block(0), stage) if (one.cell.column, one.cell.row) == (3, 3))
    rows, columns = window.weights_beside(Sides(right=64, top=40))
    away = window.own.right - (window.reach.x + np.arange(256) + 0.5)
    assert np.array_equal(columns[:100], window.weights[1][:100])
    np.testing.assert_allclose(columns[100:], np.clip((16 + away[100:]) / 80, 0, 1) ** 1.5, atol=1e-6)
    below = window.reach.y + np.arange(256) + 0.5 - window.own.y
    np.testing.assert_allclose(rows[:100], np.clip((16 + below[:100]) / 56, 0, 1) ** 1.5, atol=1e-6)
    small = replace(stage, margin=64)
    assert (small.fade, small.fall, small.widest_fall) == (64, 64, 64)


class Striped(CodedNetworks):
    """Networks that predict class 0 at the coarse scale, and class 1 at the fine one where the image is bright."""

    def predict(self, patches: Tensor, scale: Size) -> Tensor:
        first = torch.where(patches[:, 0] > 0, 0.2 if scale.width == INPUT else 0.6, 0.6)
        return torch.stack((first, 1 - first), dim=1)


def test_a_weight_falls_the_further_the_more_results_differ_at_a_border() -> None:
    """Where both have one class, the fine result is kept as far as between computed windows."""
    image = np.zeros((4 * CELL, 4 * CELL, 3), np.uint8)
    image[: CELL - MARGIN, : CELL + MARGIN] = 255
    words: dict[str, Any] = {"overlap": 2 * MARGIN, "probabilities": True, "num_workers": 0, "median": 1}
    options = SegmentOptions(
        scales=sides(4 * INPUT, INPUT), method="magnet-fast", points=ALL, patches=parse_patches("1"), **words
    )
    outcome = run(ArrayImage(image), facts(2, input_side=INPUT), options, Striped(2))
    assert np.array_equal(np.argwhere(computed(outcome, 2)), [[0, 0]])
    share = (0.6 - field_of(outcome)[0]) / 0.4
    right = CELL - (np.arange(CELL + MARGIN) + 0.5)
    wide = np.clip((MARGIN + right) / (MARGIN + CELL // 2), 0, 1) ** 1.5
    np.testing.assert_allclose(share[6, : CELL + MARGIN], wide, atol=0.01)
    np.testing.assert_allclose(share[: CELL - MARGIN, 6], 1, atol=0.01)


def beside(chosen: NDArray[np.bool_], row: int, column: int) -> bool:
    """Return whether a chosen cell lies at one of the sides of a cell."""
    padded = np.pad(chosen, 1)
    row, column = row + 1, column + 1
    return bool(padded[row - 1 : row + 2, column].any() or padded[row, column - 1 : column + 2].any())

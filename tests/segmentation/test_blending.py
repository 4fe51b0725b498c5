"""Overlapping windows and blocks are joined by their weights, and a selected window leaves no edge beside others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from magnet_cli.geometry import Box, Size
from magnet_cli.options.rules import ALL, parse_patches
from magnet_cli.options.segment import SegmentOptions
from tests.segmentation.support import CodedNetworks, computed, facts, run, sides
from tests.segmentation.test_differences import Numbering, flat

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from tests.segmentation.support import Outcome

INPUT, MARGIN = 32, 4
CELL = INPUT - 2 * MARGIN
WIDTH, HEIGHT = 6 * CELL - 10, 5 * CELL - 5


def field_of(outcome: Outcome) -> NDArray[np.float64]:
    """The probabilities of the last stage, `(classes, height, width)`."""
    return outcome.sink.read_field("probabilities", Box.whole(outcome.plan.stages[-1].extent)).astype(np.float64)


def ramp(pixels: NDArray[np.int64], border: int, blend: str) -> NDArray[np.float64]:
    """Weights of what lies right of a border, as the documentation defines them."""
    share = np.clip((pixels + 0.5 - (border - MARGIN)) / (2 * MARGIN), 0, 1)
    return {"linear": share, "spline": 3 * share**2 - 2 * share**3, "none": (share > 0.5).astype(float)}[blend]


def weights(cell: int, cells: int, length: int, blend: str) -> NDArray[np.float64]:
    """Weights of a window along an axis of the whole image."""
    pixels = np.arange(length)
    left = ramp(pixels, cell * CELL, blend) if cell else np.ones(length)
    right = ramp(pixels, (cell + 1) * CELL, blend) if cell < cells - 1 else np.zeros(length)
    return left - right


@pytest.mark.parametrize("blend", ["linear", "spline", "none"])
def test_every_window_counts_by_its_weight_inside_blocks_and_across_them(blend: str) -> None:
    """Each window says its own number, so a probability is the weight of that window: no network could hide a seam."""
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
    """Says the first class at the coarse scale, and the second one at the fine scale."""

    def predict(self, patches: Tensor, scale: Size) -> Tensor:
        probs = torch.full((len(patches), 2, *patches.shape[2:]), 0.1)
        probs[:, 0 if scale.width > INPUT else 1] = 0.9
        return probs


@pytest.mark.parametrize(("blend", "steepest"), [("spline", 0.8 * 1.5 / (2 * MARGIN)), ("none", 0.8)])
def test_a_window_that_is_computed_leaves_no_edge_beside_others(blend: str, steepest: float) -> None:
    """Of each block of four windows the first is computed: its weight falls to nothing, also at the block's border."""
    words: dict[str, Any] = {
        "overlap": 2 * MARGIN,
        "blend": blend,
        "probabilities": True,
        "num_workers": 0,
        "median": 1,
    }
    options = SegmentOptions(
        scales=sides(2 * INPUT, INPUT), method="magnet-fast", patches=parse_patches("1"), points=ALL, **words
    )
    outcome = run(flat(4 * CELL, 4 * CELL), facts(2, input_side=INPUT), options, Opposed(2))
    assert computed(outcome, 2).sum() == 4
    second = field_of(outcome)[1]
    assert second.min() == pytest.approx(0.1, abs=0.001)
    assert second.max() == pytest.approx(0.9, abs=0.001)
    largest = max(np.abs(np.diff(second, axis=axis)).max() for axis in (0, 1))
    assert largest == pytest.approx(steepest, rel=0.1)

"""Windows in which no score can pass a threshold cost no forward pass, and the mask is the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from magnet_cli.arithmetic.canvas import Canvas
from magnet_cli.arithmetic.scores import uncertainty
from magnet_cli.geometry import Box, Pitch, Size
from magnet_cli.options.rules import parse_points
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.segmentation.selection import Settled, Unsettled
from tests.segmentation.support import STEP, ArrayImage, CodedNetworks, facts, run, sides

if TYPE_CHECKING:
    from torch import Tensor

pytestmark = pytest.mark.full


class Doubtful(CodedNetworks):
    """Networks whose refiner is certain of another class everywhere, so that every chosen point changes the mask."""

    def refine(self, own: Tensor, field: Tensor, scale: Size) -> Tensor:
        del field, scale
        return own.roll(1, dims=1)


def patchy(size: int) -> ArrayImage:
    """Return an image of two plain halves with a few uncertain spots."""
    rng = np.random.default_rng(3)
    grey = np.zeros((size, size))
    grey[:, size // 2 + 5 :] = STEP
    for row, column in rng.integers(0, size, (3, 2)):
        grey[row : row + 25, column : column + 25] = STEP / 2 + 3
    return ArrayImage(np.repeat(grey[..., None], 3, axis=2).astype(np.uint8))


@pytest.mark.parametrize("points", ["q>0.05", "q>0.3"])
@pytest.mark.parametrize("median", [1, 5, 11])
def test_the_mask_is_that_of_looking_everywhere(points: str, median: int, monkeypatch: pytest.MonkeyPatch) -> None:
    margin = 2 * (1 + median // 2)
    options = SegmentOptions(
        scales=sides(256, 128, 64), points=parse_points(points), median=median, overlap=2 * margin, num_workers=0
    )
    pruned = run(patchy(400), facts(3, input_side=64), options, Doubtful(3))
    everywhere = Doubtful(3)
    monkeypatch.setattr(Unsettled, "keep", lambda _self, windows, _among: list(windows))
    whole = run(patchy(400), facts(3, input_side=64), options, everywhere)
    np.testing.assert_array_equal(pruned.labels, whole.labels)
    assert (pruned.labels == 2).any(), "the refiner has changed something"


def test_a_median_that_reaches_around_a_corner(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window without an uncertain pixel has three uncertain neighbours, which decide the median in its corner."""
    grey = np.full((128, 128), STEP / 2 + 3)
    grey[60:, 60:] = STEP
    image = ArrayImage(np.repeat(grey[..., None], 3, axis=2).astype(np.uint8))
    options = SegmentOptions(scales=sides(128, 64), points=parse_points("q>0.05"), median=21, overlap=0, num_workers=0)
    pruned = run(image, facts(3, input_side=64), options, Doubtful(3))
    monkeypatch.setattr(Unsettled, "keep", lambda _self, windows, _among: list(windows))
    whole = run(image, facts(3, input_side=64), options, Doubtful(3))
    assert whole.labels[64, 64] != whole.labels[127, 127]
    np.testing.assert_array_equal(pruned.labels, whole.labels)


def test_a_plain_image_costs_its_coarsest_stage_alone() -> None:
    networks = Doubtful(3)
    image = ArrayImage(np.full((256, 256, 3), STEP, np.uint8))
    options = SegmentOptions(
        scales=sides(256, 128, 64), points=parse_points("q>0.2"), median=3, overlap=0, num_workers=0
    )
    outcome = run(image, facts(3, input_side=64), options, networks)
    assert sum(networks.batches) == 1
    counts = [dict(group["stages"]) for group in outcome.sink.groups[0].values()]  # type: ignore[call-overload]
    assert [counts[0][stage]["settled"] for stage in ("1", "2", "3")] == [0, 4, 16]
    np.testing.assert_array_equal(outcome.labels, 1)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), up=st.integers(1, 9), down=st.integers(1, 9), threshold=st.floats(0.02, 0.98))
def test_nothing_in_a_settled_box_passes(seed: int, up: int, down: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    logits = (
        torch.from_numpy(rng.normal(0, 1, (3, 12, 12)).astype(np.float32)) + torch.tensor([3.0, 0, 0])[:, None, None]
    )
    canvas = Canvas(values=logits.softmax(0).half(), box=Box(x=0, y=0, width=12, height=12), pitch=Pitch.square(up))
    settled = Settled.of(canvas, threshold)
    count = 12 * up // down
    for start in range(0, count, max(1, count // 4)):
        box = Box(x=start, y=0, width=min(3, count - start), height=min(3, count))
        if box.area and settled.at(box, Pitch.square(down)):
            assert float(uncertainty(canvas.sample(box, Pitch.square(down))).max()) <= threshold

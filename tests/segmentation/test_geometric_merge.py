"""The geometric mean of a stage with those before it, made window by window on a CPU."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from magnet_cli.arithmetic.canvas import Canvas
from magnet_cli.arithmetic.merge import geometric
from magnet_cli.errors import WeightsError
from magnet_cli.geometry import Box
from magnet_cli.options.rules import ALL, parse_patches, parse_points
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.segmentation.block_stage import BlockStage
from tests.segmentation.support import ArrayImage, CodedNetworks, coded, computed, facts, run, sides

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.geometry import Pitch, Size
    from magnet_cli.plan.windows import Window
    from tests.segmentation.support import Outcome

INPUT, MARGIN = 32, 4
MODEL = facts(3, input_side=INPUT)


def segmented(width: int, height: int, networks: CodedNetworks | None = None, **more: Any) -> Outcome:
    """Segment an image of three classes in two stages, of overlapping windows."""
    labels = np.random.default_rng(4).integers(0, 3, (height, width), dtype=np.uint8)
    words: dict[str, Any] = {"merge": "geometric", "overlap": 2 * MARGIN, "num_workers": 0, "probabilities": True}
    words["median"] = 1
    options = SegmentOptions(scales=sides(2 * INPUT, INPUT), **{**words, **more})
    return run(ArrayImage(coded(labels)), MODEL, options, networks or CodedNetworks(3, sharpness=5))


def field_of(outcome: Outcome) -> NDArray[np.float64]:
    """Return the probabilities of the last stage."""
    return outcome.sink.read_field("probabilities", Box.whole(outcome.plan.stages[-1].extent)).astype(np.float64)


SELECTIONS: dict[str, dict[str, Any]] = {
    "all": {},
    "points": {"points": parse_points("30%")},
    "windows": {"method": "magnet-fast", "points": ALL, "patches": parse_patches("1")},
    "smaller than a window": {"width": 20, "height": 50},
}


@pytest.mark.parametrize("case", list(SELECTIONS))
def test_the_result_is_that_of_the_mean_added_by_its_weights(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed for a row of windows at once, and of a window where it has a share, is that of the formula."""
    words = {"width": 150, "height": 110, **SELECTIONS[case]}
    found = segmented(**words)

    def plainly(at: BlockStage, window: Window, own: Tensor) -> Tensor:
        field = at.field_under(window)
        result = geometric(own, field)
        at.put(window, result, field)
        return result.sum()

    with monkeypatch.context() as plain:
        plain.setattr(BlockStage, "merge", plainly)
        expected = segmented(**words)
    np.testing.assert_array_equal(computed(found, 2), computed(expected, 2))
    np.testing.assert_allclose(field_of(found), field_of(expected), rtol=0, atol=2**-10)


def test_the_field_is_resampled_once_for_a_row_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of a row overlap: resampling each takes a quarter more time, and as many more calls as it has windows."""
    sampled: Counter[Box] = Counter()
    real = Canvas.sample

    def noted(canvas: Canvas, box: Box, pitch: Pitch) -> Tensor:
        sampled[box] += 1
        return real(canvas, box, pitch)

    monkeypatch.setattr(Canvas, "sample", noted)
    outcome = segmented(150, 110)
    last = outcome.plan.passes[-1]
    blocks = [last.block(number) for number in range(last.blocks.pixels)]
    rows = {
        (block, window.box.y) for block in blocks for stage in last.stages[1:] for window in last.windows(block, stage)
    }
    windows = sum(len(last.cells(block, stage)) for block in blocks for stage in last.stages[1:])
    assert sum(sampled.values()) == len(rows) < windows


def test_a_network_that_gives_no_numbers_is_named_by_its_block() -> None:
    class Broken(CodedNetworks):
        def predict(self, patches: Tensor, scale: Size) -> Tensor:
            probs = super().predict(patches, scale)
            if scale.width == INPUT:
                probs[-1, 1, INPUT // 2, INPUT // 2] = torch.nan
            return probs

    with pytest.raises(WeightsError, match="not numbers in stage 2, block"):
        segmented(150, 110, Broken(3))

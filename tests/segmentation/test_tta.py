"""With `--tta` every window is computed as often as the option says, and the options hash changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from magnet_cli.errors import UsageError
from magnet_cli.geometry import Size
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan import make_plan
from magnet_cli.segmentation.image_planner import windows_planned
from magnet_cli.segmentation.segment_job import options_hash
from tests.segmentation.support import MACHINE, ArrayImage, CodedNetworks, coded, facts, run, sides

IMAGE = ArrayImage(coded(np.random.default_rng(1).integers(0, 5, (90, 90), dtype=np.uint8)))


def test_every_window_takes_as_many_forward_passes() -> None:
    options = SegmentOptions(scales=sides(64, 32), num_workers=0, tta="none")
    networks = {tta: CodedNetworks(5) for tta in ("none", "2", "8")}
    outcomes = {
        tta: run(IMAGE, facts(5, input_side=32), replace(options, tta=tta), given) for tta, given in networks.items()
    }
    windows = sum(networks["none"].batches)
    assert windows == windows_planned(outcomes["none"].plan)
    for tta in ("2", "8"):
        assert sum(networks[tta].batches) == int(tta) * windows == windows_planned(outcomes[tta].plan)
        # A network that looks at single pixels says the same of every image.
        np.testing.assert_array_equal(outcomes[tta].labels, outcomes["none"].labels)
        assert options_hash(outcomes[tta].plan) != options_hash(outcomes["none"].plan)
        assert outcomes[tta].plan.memory.compute > outcomes["none"].plan.memory.compute


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"method": "magnet", "compat": "published", "tta": "2"}, "--compat published computes no mirror images"),
        ({"method": "patch", "tta": "8"}, "--tta 8 turns windows by a quarter"),
    ],
)
def test_images_that_are_not_computed_are_refused(given: dict[str, Any], match: str) -> None:
    model = replace(facts(5, input_side=32), input=Size(width=32, height=16))
    with pytest.raises(UsageError, match=match):
        make_plan(IMAGE.info, model, SegmentOptions(scales=sides(32), **given), MACHINE)

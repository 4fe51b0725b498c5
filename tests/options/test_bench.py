"""Options of a bench are taken from text and from Python values."""

from __future__ import annotations

from typing import Any

import pytest

import magnet_cli
from magnet_cli import BenchOptions, RefineOptions, SegmentOptions
from magnet_cli.errors import UsageError


def test_texts_and_values_make_the_same_options() -> None:
    texts = BenchOptions(sizes="4096, 512", methods="patch,magnet", yardsticks="naive,ceiling", repeats="2")
    values = BenchOptions(sizes=[512, 4096], methods=["patch", "magnet"], yardsticks=("ceiling", "naive"), repeats=2)
    assert texts == values
    assert texts.sizes == (512, 4096)  # smallest first
    assert texts.yardsticks == ("ceiling", "naive")
    assert BenchOptions(yardsticks="none").yardsticks == BenchOptions(yardsticks=[]).yardsticks == ()


def test_the_method_follows_from_the_command_that_is_measured() -> None:
    assert BenchOptions().measured == SegmentOptions(tissue="none")
    assert BenchOptions().chosen_methods == ("magnet",)
    assert BenchOptions(measured=RefineOptions()).chosen_methods == ("cascadepsp",)
    assert BenchOptions(methods="cascadepsp", measured=RefineOptions()).refines


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"sizes": "0"}, "whole numbers from 1"),
        ({"sizes": [64, 64]}, "once"),
        ({"sizes": [True]}, "whole numbers from 1"),
        ({"yardsticks": "none,ceiling"}, "--yardsticks are"),
        ({"methods": "best"}, "best"),
        ({"methods": "magnet,cascadepsp"}, "by itself"),
        ({"methods": "cascadepsp"}, "options of refine"),
        ({"methods": "patch", "measured": RefineOptions()}, "SegmentOptions"),
        ({"repeats": 0}, "--repeats is at least 1"),
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_refused(given: dict[str, Any], part: str) -> None:
    with pytest.raises(UsageError, match=part):
        BenchOptions(**given)


def test_a_mask_goes_with_a_cascade_alone() -> None:
    with pytest.raises(UsageError, match="a cascade sharpens a mask"):
        magnet_cli.run_bench("image.tif", options=BenchOptions(measured=RefineOptions()))
    with pytest.raises(UsageError, match="predicts classes"):
        magnet_cli.run_bench("image.tif", "mask.tif")

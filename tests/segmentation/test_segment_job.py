"""The work of each pass of a segmentation, by which the bar of a run moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from magnet_cli.options.rules import parse_patches
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan import make_plan
from magnet_cli.run.workload import PASSING_A_PIXEL
from magnet_cli.segmentation.segment_job import SegmentJob
from tests.plan.test_plan import MACHINE, facts, image

if TYPE_CHECKING:
    from magnet_cli.plan import Plan


def works(plan: Plan) -> list[float]:
    """Return the work of the passes that run networks, of a job of which nothing but its plan is asked."""
    nothing = cast("Any", None)
    job = SegmentJob(plan=plan, bundle=nothing, networks=nothing, normalisation=nothing)
    return list(job.work[: len(plan.passes)])


def test_pixels_of_a_pass_are_work_however_few_of_its_windows_are_computed() -> None:
    few = make_plan(
        image(4000, 4000), facts(), SegmentOptions(method="magnet-fast", patches=parse_patches("4,1")), MACHINE
    )
    more = make_plan(
        image(4000, 4000), facts(), SegmentOptions(method="magnet-fast", patches=parse_patches("4,2")), MACHINE
    )
    first, last = works(few)
    assert works(more)[0] == first
    stage = few.passes[1].stages[0]
    windows = few.windows(few.passes[1], stage)
    assert works(more)[1] - last == pytest.approx(windows * stage.input.pixels)
    assert last - windows * stage.input.pixels == pytest.approx(stage.extent.pixels * PASSING_A_PIXEL)
    # One window of 16 is computed, and all pixels are read, resampled and stored.
    assert last > 2 * windows * stage.input.pixels


def test_mirror_images_are_work_of_the_networks_alone() -> None:
    one, four = (make_plan(image(), facts(), SegmentOptions(method="patch", tta=tta), MACHINE) for tta in ("none", "4"))
    stage = one.passes[0].stages[0]
    more = 3 * one.windows(one.passes[0], stage) * stage.input.pixels
    assert works(four)[0] - works(one)[0] == pytest.approx(more)

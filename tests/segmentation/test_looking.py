"""A run that keeps to an area computes all windows on which a label inside depends, and few others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import shapely
import torch

from magnet_cli.areas.polygons import Polygons
from magnet_cli.geometry import Box, Size
from magnet_cli.options.rules import ALL, parse_patches, parse_points
from magnet_cli.options.scales import parse_scales
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan import make_plan
from magnet_cli.plan.windows import Index
from magnet_cli.segmentation.bound_pass import BoundPass
from magnet_cli.segmentation.group_reader import needed_cells
from tests.segmentation.support import MACHINE, ArrayImage, facts

if TYPE_CHECKING:
    from magnet_cli.options.rules import Rule
    from magnet_cli.plan import Plan
    from magnet_cli.plan.windows import Pass, Stage, Window


def chosen(plan: Plan, step: Pass, area: Polygons) -> dict[tuple[Index, int], list[Window]]:
    """Return the computed windows by block and stage."""
    # It remembers what blocks of the next pass read.
    bound = BoundPass(plan=plan, step=step, device=torch.device("cpu"), area=area)
    found = {}
    for number in range(step.blocks.pixels):
        block = step.block(number)
        cells = needed_cells(bound, block, area)
        for stage, wanted in zip(step.stages, cells, strict=True):
            found[block, stage.number] = [w for w in step.windows(block, stage) if w.cell in wanted]
    return found


def reads(stage: Stage, window: Window, coarse: Stage, rim: int) -> Box:
    """Return the box of a coarser stage's canvas from which the field under a window is interpolated."""
    box = stage.pitch.level0(window.box.intersection(Box(x=0, y=0, width=10**6, height=10**6)))
    left, top = int(box.x / coarse.pitch.x) - rim, int(box.y / coarse.pitch.y) - rim
    right, bottom = int(box.right / coarse.pitch.x) + 1 + rim, int(box.bottom / coarse.pitch.y) + 1 + rim
    return Box.between(left=left, top=top, right=right, bottom=bottom).intersection(Box.whole(coarse.extent))


def check_whatever_a_chosen_window_reads(
    size: Size, options: SegmentOptions, roi: tuple[int, int, int, int], rim: int
) -> None:
    """Check that windows cover what chosen windows of the next stage read, and the area, and not much more."""
    image = ArrayImage(np.zeros((size.height, size.width, 3), np.uint8))
    plan = make_plan(image.info, facts(3, input_side=32), options, MACHINE)
    area = Polygons(shapely.box(*roi), image.info.size)
    last, following = plan.passes[-1], None
    for step in reversed(plan.passes):
        found = chosen(plan, step, area)
        covered = {stage.number: np.zeros((stage.extent.height, stage.extent.width), bool) for stage in step.stages}
        for block, number in found:
            mine = next(stage for stage in step.stages if stage.number == number)
            canvas = np.zeros_like(covered[number])
            for window in found[block, number]:
                canvas[window.kept.slices] = True
                covered[number][window.own.slices] = True
            finer = [stage for stage in step.stages if stage.number == number + 1]
            here = step.canvas(block, mine)
            for window in found[block, number + 1] if finer else ():
                wanted = reads(finer[0], window, mine, rim).intersection(here)
                assert canvas[wanted.slices].all()
        if following is not None:
            coarse = step.stages[-1]
            for window in following[1]:
                assert covered[coarse.number][reads(following[0], window, coarse, rim).slices].all()
        if step is last:
            stage = step.stages[-1]
            box = Box.between(left=roi[0], top=roi[1], right=roi[2], bottom=roi[3])
            labelled = Box.between(
                left=int(box.x / stage.pitch.x),
                top=int(box.y / stage.pitch.y),
                right=-int(-box.right // stage.pitch.x),
                bottom=-int(-box.bottom // stage.pitch.y),
            ).intersection(Box.whole(stage.extent))
            assert covered[stage.number][labelled.slices].all()
            assert covered[stage.number].mean() < 0.4
        first = step.stages[0]
        following = (first, [w for (_, number), many in found.items() if number == first.number for w in many])


@pytest.mark.parametrize("scales", ["32,64", "32,48,72", "32,72"])
@pytest.mark.parametrize(("points", "median"), [("all", 3), ("q>0.1", 11)])
@pytest.mark.parametrize("roi", [(110, 80, 111, 81), (0, 150, 20, 160)])
def test_whatever_a_chosen_window_reads_is_computed(
    scales: str, points: str, median: int, roi: tuple[int, int, int, int]
) -> None:
    options = SegmentOptions(scales=parse_scales(scales), points=parse_points(points), median=median, overlap=26)
    rim = 1 if points == "all" else 1 + median // 2
    check_whatever_a_chosen_window_reads(Size(width=220, height=160), options, roi, rim)


@pytest.mark.parametrize("scales", ["64,32", "128,64,32", "96,32"])
@pytest.mark.parametrize("roi", [(40, 200, 43, 203), (199, 201, 200, 202), (897, 0, 900, 3)])
def test_whatever_a_chosen_window_reads_is_computed_where_windows_are_left_out(
    scales: str, roi: tuple[int, int, int, int]
) -> None:
    """A window that may lower the weights of one beside it is chosen, too, and reads further from the area."""
    options = SegmentOptions(
        scales=parse_scales(scales),
        method="magnet-fast",
        patches=parse_patches("u>0.2"),
        points=ALL,
        median=1,
        overlap=2,
    )
    check_whatever_a_chosen_window_reads(Size(width=900, height=900), options, roi, 1)


@pytest.mark.parametrize(
    ("roi", "expected"),
    [
        # Inside of a block, and where four blocks meet.
        ((60, 60, 66, 66), [[1, 4, 4], [4]]),
        ((221, 221, 227, 227), [[4, 4, 4], [4]]),
    ],
)
def test_no_coarse_window_is_needed_that_no_needed_window_reads(
    roi: tuple[int, int, int, int], expected: list[list[int]]
) -> None:
    """Stages whose windows are all computed need no others beside them, and a pass needs what the next one reads."""
    image = ArrayImage(np.zeros((600, 600, 3), np.uint8))
    options = SegmentOptions(
        scales=parse_scales("256,128,64,32"),
        method="magnet-fast",
        patches=parse_patches("4,16,1"),
        points=ALL,
        median=1,
        overlap=4,
    )
    plan = make_plan(image.info, facts(3, input_side=32), options, MACHINE)
    assert [len(step.stages) for step in plan.passes] == [3, 1]
    area = Polygons(shapely.box(*roi), image.info.size)
    found = []
    for step in plan.passes:
        windows = chosen(plan, step, area)
        blocks = [step.block(number) for number in range(step.blocks.pixels)]
        found.append([sum(len(windows[block, stage.number]) for block in blocks) for stage in step.stages])
    assert found == expected


@pytest.mark.parametrize(("patches", "is_needed"), [(ALL, False), (parse_patches("u>0.2"), True)])
def test_a_window_is_needed_where_it_would_lower_the_weights_beside_it(patches: Rule, *, is_needed: bool) -> None:
    """Its own result ends before the area, but whether it is computed changes labels inside."""
    image = ArrayImage(np.zeros((200, 300, 3), np.uint8))
    options = SegmentOptions(
        scales=parse_scales("128,64"), method="magnet-fast", patches=patches, points=ALL, median=1, overlap=8
    )
    plan = make_plan(image.info, facts(3, input_side=64), options, MACHINE)
    step = plan.passes[-1]
    stage = step.stages[-1]
    left, beside = Index(column=0, row=0), Index(column=1, row=0)
    border = stage.own(left).right
    assert stage.fade + 2 < stage.widest_fall
    begins = border - stage.widest_fall
    area = Polygons(shapely.box(begins + 1, 10, begins + 3, 12), image.info.size)
    cells = needed_cells(BoundPass(plan=plan, step=step, device=torch.device("cpu"), area=area), step.block(0), area)
    assert left in cells[-1]
    assert (beside in cells[-1]) == is_needed

"""The changes that a report states for a stage, compared with fields of the whole image."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from magnet_cli.arithmetic.canvas import Canvas
from magnet_cli.geometry import LEVEL0, Box, Pitch, Size
from magnet_cli.plan.windows import Stage
from magnet_cli.report.maps import NOTHING, ROUNDED, STEPS, change_map, subdivision
from magnet_cli.segmentation.changes import Changes, Sample, sampled
from tests.segmentation.support import computed, facts, run, sides
from tests.segmentation.test_selection import INPUT, Growing, options, textured

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.segmentation.support import Outcome

CLASSES = 4


def field_of(outcome: Outcome) -> NDArray[np.float32]:
    """Return the probabilities of the last stage, `(classes, height, width)`."""
    field = outcome.sink.read_field("probabilities", Box.whole(outcome.plan.stages[-1].extent))
    return field.astype(np.float32)


@pytest.mark.parametrize("given", [{"patches": None}, {"budget": Fraction(1, 2)}])
def test_changes_are_those_between_two_stages(given: dict[str, Any]) -> None:
    image, model = textured(), facts(CLASSES, input_side=INPUT)
    one, two = (options(scales=sides(*scales), probabilities=True, blend="none") for scales in ((128,), (128, 64)))
    first = run(image, model, one, Growing(CLASSES))
    both = run(image, model, replace(two, **given), Growing(CLASSES))
    before = torch.nn.functional.interpolate(torch.from_numpy(field_of(first))[None], scale_factor=2, mode="bilinear")
    after = field_of(both)
    step, stage = both.plan.passes[-1], both.plan.stages[-1]
    own = np.kron(computed(both, 2), np.ones((stage.cell.height, stage.cell.width), bool))
    own = own[: after.shape[1], : after.shape[2]]
    assert 0 < own.mean() < 1
    changed = (before[0].numpy().argmax(axis=0) != after.argmax(axis=0)) & own
    moved = np.abs(before[0].numpy() - after).sum(axis=0)[own].mean() / 2
    groups = both.sink.groups[step.number].values()
    counts = [dict(group["stages"])["2"] for group in groups]  # type: ignore[call-overload]
    compared = sum(count.get("compared", 0) for count in counts)
    assert compared == own.sum()
    assert sum(count.get("changed", 0) for count in counts) == changed.sum() > 0
    thousandths = sum(count.get("moved_thousandths", 0) for count in counts)
    assert thousandths / 1000 / compared == pytest.approx(moved, abs=2e-3)
    parts = subdivision(stage)
    found = change_map(both.plan, step, stage, both.sink.groups[step.number])
    assert found is not None
    assert parts == stage.cell.width, "a part is a pixel"
    # A map pixel is the mean of a square of pixels, rounded to a multiple of `ROUNDED`.
    side = round(found.pixel[0] / float(stage.pitch.x))
    assert side > 1
    for row, column in np.ndindex(found.values.shape):
        square = np.s_[row * side : (row + 1) * side, column * side : (column + 1) * side]
        if own[square].any():
            mean = changed[square][own[square]].mean() * STEPS
            assert abs(found.values[row, column] - mean) <= ROUNDED / 2
        else:
            assert found.values[row, column] == NOTHING


def test_a_first_stage_changes_nothing() -> None:
    outcome = run(textured(), facts(CLASSES, input_side=INPUT), options(scales=sides(128)), Growing(CLASSES))
    step = outcome.plan.passes[0]
    assert change_map(outcome.plan, step, step.stages[0], outcome.sink.groups[0]) is None
    assert all("compared" not in dict(g["stages"])["1"] for g in outcome.sink.groups[0].values())  # type: ignore[call-overload]


def test_a_part_of_a_canvas_is_sampled_as_the_whole() -> None:
    values = torch.rand((2, 30, 40), generator=torch.Generator().manual_seed(1))
    canvas = Canvas(values=values, box=Box(x=0, y=0, width=40, height=30), pitch=Pitch.square(3))
    box = Box(x=5, y=7, width=60, height=50)
    rows, columns = sampled(50, 25, 4)[0], sampled(60, 30, 4)[0]
    whole = canvas.sample(box, Pitch.square(1))
    torch.testing.assert_close(canvas.spots(box, Pitch.square(1), rows=rows, columns=columns), whole[:, rows, columns])


def test_a_cell_too_thin_for_a_sample_says_nothing() -> None:
    """A cell that the image's edge cuts may be thinner than the distance of two sampled pixels."""
    size = Size(width=128, height=128)
    stage = Stage(number=2, scale=size, input=size, margin=0, image=Size(width=129, height=128), working=LEVEL0)
    own = Box.whole(stage.image)
    before, after = torch.zeros((2, 128, 129)), torch.zeros((2, 128, 129))
    before[0], after[1] = 1, 1
    first, second = (Canvas(values=values.half(), box=own, pitch=LEVEL0) for values in (before, after))
    sample = Sample.of(first, second, None, own=own, stage=stage)
    found = Changes.of(sample, np.array([[True, True]]), own=own, stage=stage)
    assert found.compared == found.changed == 64 * 64
    assert found.moved == 1000 * 64 * 64
    parts = subdivision(stage)
    assert found.shares.shape == (parts, 2 * parts)
    assert (found.shares[:, :parts] == STEPS).all()
    assert (found.shares[:, parts:] == NOTHING).all()

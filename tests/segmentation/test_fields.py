"""A pass reads all pixels of the previous pass's field that its interpolation uses."""

from __future__ import annotations

from math import floor
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
import torch

from magnet_cli.geometry import Box
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan import make_plan
from magnet_cli.segmentation.block_borders import field_name
from magnet_cli.segmentation.bound_pass import BoundPass
from magnet_cli.segmentation.pass_runner import PassRunner
from tests.segmentation.support import MACHINE, ArrayImage, facts, sides

if TYPE_CHECKING:
    from fractions import Fraction

    from magnet_cli.plan.windows import Index
    from magnet_cli.run.job import Resources
    from magnet_cli.segmentation.computer import Computer


class Asked:
    """A stand-in for the resources of a run. It keeps which boxes of fields are read."""

    def __init__(self) -> None:
        self.results = self
        self.boxes: list[tuple[str, Box]] = []

    def read_field(self, name: str, box: Box) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
        self.boxes.append((name, box))
        return np.zeros((5, box.height, box.width), np.float16)

    def covers(self, field: str, box: Box) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Return which pixels of a box were read from a field."""
        found = np.zeros((box.height, box.width), np.bool_)
        for name, read in self.boxes:
            part = read.intersection(box)
            if name == field and part.area:
                found[part.y - box.y : part.bottom - box.y, part.x - box.x : part.right - box.x] = True
        return found


def taps(start: int, stop: int, ratio: Fraction) -> tuple[int, int]:
    """Return the first pixel that bilinear interpolation of pixels `start` to `stop` uses, and one past the last."""
    return floor((start + 0.5) * ratio - 0.5), floor((stop - 0.5) * ratio - 0.5) + 2


@pytest.mark.parametrize("scales", [(48, 32), (64, 32, 12), (128, 8), (100, 48, 8)])
def test_every_pixel_that_is_interpolated_is_read(scales: tuple[int, ...]) -> None:
    image = ArrayImage(np.zeros((301, 397, 3), np.uint8))
    plan = make_plan(image.info, facts(5, input_side=32), SegmentOptions(scales=sides(*scales)), MACHINE)
    assert len(plan.passes) > 1
    for before, step in zip(plan.passes[:-1], plan.passes[1:], strict=True):
        coarse, fine = before.stages[-1], step.stages[0]
        whole = Box.whole(coarse.extent)
        for number in range(step.blocks.pixels):
            block: Index = step.block(number)
            asked, need = Asked(), step.canvas(block, fine)
            bound = BoundPass(plan=plan, step=step, device=torch.device("cpu"))
            runner = PassRunner(bound, cast("Computer", None), cast("Resources", asked))
            runner.recall_block(block)
            left, right = taps(need.x, need.right, fine.pitch.x / coarse.pitch.x)
            top, bottom = taps(need.y, need.bottom, fine.pitch.y / coarse.pitch.y)
            assert {name for name, _ in asked.boxes} <= {field_name(before.number, layer) for layer in before.layers}
            needed = Box.between(left=left, top=top, right=right, bottom=bottom).intersection(whole)
            shares = np.zeros((needed.height, needed.width))
            for layer in before.layers:
                rows, columns = layer.weights(needed)
                share = rows[:, None] * columns
                assert asked.covers(field_name(before.number, layer), needed)[share > 0].all()
                shares += share
            assert np.allclose(shares, 1)

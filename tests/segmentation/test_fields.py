"""A pass reads all pixels of the previous pass's field that its interpolation uses."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from math import floor
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
import torch

from magnet_cli.geometry import Box, Size
from magnet_cli.options.rules import parse_patches
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan import make_plan
from magnet_cli.segmentation import block_borders
from magnet_cli.segmentation.block_borders import field_name
from magnet_cli.segmentation.bound_pass import BoundPass
from magnet_cli.segmentation.pass_runner import PassRunner
from tests.segmentation.support import MACHINE, ArrayImage, facts, sides

if TYPE_CHECKING:
    from fractions import Fraction

    from magnet_cli.plan import Plan
    from magnet_cli.plan.windows import Index, Pass
    from magnet_cli.run.job import Resources
    from magnet_cli.segmentation.computer import Computer


class Asked:
    """A stand-in for the resources of a run. It keeps which boxes of fields are read."""

    def __init__(self, bands: int = 5) -> None:
        self.results = self
        self.bands = bands
        self.boxes: list[tuple[str, Box]] = []

    def read_field(self, name: str, box: Box) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
        self.boxes.append((name, box))
        return np.zeros((self.bands, box.height, box.width), np.float16)

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


def fast(kind: str) -> Plan:
    """Return a plan of two passes over the same blocks, whose field is most of the memory."""
    options = SegmentOptions(
        method="magnet-fast", scales=sides(1024, 512, 256), patches=parse_patches("4,2"), overlap="12.5%", batch_size=1
    )
    model = replace(facts(19, input_side=256), activation_bytes=0)
    machine = replace(MACHINE, device=kind, gpu_memory=None if kind == "cpu" else 64 << 30, memory=16 << 30)
    image = replace(ArrayImage(np.zeros((1, 1, 3), np.uint8)).info, size=Size(width=2900, height=2700))
    return make_plan(image, model, options, machine)


def recalled(
    plan: Plan, step: Pass, monkeypatch: pytest.MonkeyPatch, device: torch.device | None = None
) -> tuple[int, int]:
    """Recall every block of a pass, and return the most bytes of the host meanwhile, and the most of a block after it.

    Args:
        plan: The plan.
        step: A pass of the plan.
        monkeypatch: Lets NumPy hold what PyTorch would.
        device: The device that takes what was joined. None is the CPU.
    """
    # Only memory of NumPy is traced, so it takes PyTorch's place.
    monkeypatch.setattr(block_borders, "_single", lambda values: values.astype(np.float32))
    bound = BoundPass(plan=plan, step=step, device=device or torch.device("cpu"))
    runner = PassRunner(bound, cast("Computer", None), cast("Resources", Asked(plan.classes)))
    most = kept = 0
    for number in range(step.blocks.pixels):
        tracemalloc.start()
        found = runner.recall_block(step.block(number))
        most = max(most, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        kept = max(kept, found.canvas.values.nbytes)
        del found
    return most, kept


def test_a_field_that_is_joined_on_the_host_is_in_the_planned_memory_of_an_accelerator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = fast("cuda:0")
    assert len(plan.passes) == 2
    most, kept = recalled(plan, plan.passes[1], monkeypatch)
    assert most > 4 * kept
    assert most <= plan.memory.compute < 1.1 * most


def test_the_plan_of_a_processor_counts_the_field_that_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare two plans that differ in the bytes of the field alone, because everything else is the same in both."""
    plan = fast("cpu")
    step = plan.passes[1]
    most, kept = recalled(plan, step, monkeypatch)
    assert plan.group[1] == 1
    monkeypatch.setattr("magnet_cli.plan.footprint._field_bands", lambda *_: 0)
    without = fast("cpu")
    held = plan.memory.compute - without.memory.compute
    assert kept <= held < 1.1 * kept
    # While it is joined nothing else of the group is held: canvases and patches come after it.
    assert most < plan.memory.compute

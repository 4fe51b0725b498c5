"""A pass of a segmentation for the engine: what is read, recalled, computed and stored for a group of blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from typing_extensions import override

from magnet_cli.arithmetic.canvas import Canvas
from magnet_cli.geometry import Box
from magnet_cli.masks.spec import PROBABILITIES, UNCERTAINTY
from magnet_cli.run.job import Runner
from magnet_cli.segmentation.canvas_output import count_labels, labels_of, own_uncertainty, own_values
from magnet_cli.segmentation.group_reader import read_group
from magnet_cli.segmentation.window_budget import next_cells, pack_scores
from magnet_cli.segmentation.window_records import window_records
from magnet_cli.segmentation.window_scores import Known

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from magnet_cli.masks.spec import GroupId
    from magnet_cli.plan.windows import Index
    from magnet_cli.run.job import Resources
    from magnet_cli.segmentation.block import BlockState
    from magnet_cli.segmentation.bound_pass import BoundPass
    from magnet_cli.segmentation.changes import Changes
    from magnet_cli.segmentation.computer import Computer
    from magnet_cli.segmentation.group_reader import GroupPixels


def field_name(number: int) -> str:
    """What the journal calls the field that a pass leaves for the next."""
    return f"pass{number}"


class PassRunner(Runner):
    """A pass over an image, block by block.

    Args:
        bound: The pass.
        computer: Runs the stages of the pass.
        resources: The image, what is finished, and where results go.
    """

    def __init__(self, bound: BoundPass, computer: Computer, resources: Resources) -> None:
        self.bound = bound
        self._computer = computer
        self._resources = resources

    @override
    def read(self, group: int) -> GroupPixels:
        return read_group(self._resources.image, self.bound, group)

    @override
    def recall(self, given: GroupPixels) -> list[Known | None]:
        """What the pass before says about each block and one pixel around it; None in the first pass."""
        return [None if self.bound.number == 0 else self.recall_block(pixels.block) for pixels in given.blocks]

    @override
    def compute(self, given: GroupPixels, known: Sequence[Known | None]) -> list[BlockState]:
        return self._computer.run(given, known)

    @override
    def store(self, group: GroupId, found: list[BlockState]) -> dict[str, object]:
        changes = [state.changes() for state in found]
        labels, nodata = [0] * self.bound.plan.classes, 0
        for state in found:
            if not self.bound.is_last:
                self._store_field(group, state)
                continue
            self._store_extras(group, state)
            counted, missing = self._store_labels(group, state)
            labels = [a + b for a, b in zip(labels, counted, strict=True)]
            nodata += missing
        return {
            "stages": _stage_counts(found, changes),
            "labels": labels,
            "nodata": nodata,
            **window_records(self.bound, found, changes),
            **self._scores_of_next_windows(found),
        }

    def recall_block(self, block: Index) -> Known:
        """What the pass before says about a block and one pixel around it."""
        bound = self.bound
        before, first = bound.before, bound.step.stages[0]
        coarse, need = before.stages[-1], bound.step.canvas(block, first)
        box = coarse.pitch.around(need, first.pitch).grown(1).intersection(Box.whole(coarse.extent))
        stored = self._resources.results.read_field(field_name(before.number), box)
        values, classes = torch.from_numpy(stored).to(bound.device), bound.plan.classes
        canvas = Canvas(values=values[:classes], box=box, pitch=coarse.pitch)
        beside = Canvas(values=values[classes:], box=box, pitch=coarse.pitch)
        if bound.plan.selector is not None:
            return Known(canvas=canvas, scored=beside, against=bound.plan.selector.constant)
        return Known(canvas=canvas, moved=beside if bound.plan.keeps_change(before) else None)

    def _store_field(self, group: GroupId, state: BlockState) -> None:
        """Keep what the next pass has to know of a block: probabilities, and one channel more where it needs one."""
        own, values = own_values(self.bound.step, state.pixels, state.canvas, masked=False)
        beside = self._beside(state)
        if beside is not None:
            values = np.concatenate((values, beside.view(own).cpu().numpy()))
        self._resources.sink.put_field(group, name=field_name(self.bound.number), box=own, values=values)

    def _beside(self, state: BlockState) -> Canvas | None:
        """What the next pass has to know besides probabilities, `(1, height, width)`; None where that is nothing."""
        if self.bound.plan.selector is not None:
            return None if state.known is None else state.known.scored
        if not self.bound.keeps_change:
            return None
        if state.known is not None and state.known.moved is not None:
            return state.known.moved
        # No pixel of the block holds data.
        canvas = state.canvas
        return Canvas(values=torch.zeros_like(canvas.values[:1]), box=canvas.box, pitch=canvas.pitch)

    def _store_labels(self, group: GroupId, state: BlockState) -> tuple[list[int], int]:
        """Keep the labels of a block; pixels by class, and pixels without a label."""
        box = self.bound.step.level0(state.pixels.block)
        if not box.area:
            return [0] * self.bound.plan.classes, 0
        labels = labels_of(state.canvas, box, state.pixels.level0_valid)
        self._resources.sink.put_labels(group, box=box, labels=labels)
        return count_labels(labels, self.bound.plan.classes)

    def _store_extras(self, group: GroupId, state: BlockState) -> None:
        """Keep the fields that stay beside the mask."""
        plan, sink = self.bound.plan, self._resources.sink
        if not (plan.probabilities or plan.uncertainty):
            return
        own, values = own_values(self.bound.step, state.pixels, state.canvas, masked=True)
        if plan.probabilities:
            sink.put_field(group, name=PROBABILITIES, box=own, values=values)
        if plan.uncertainty:
            sink.put_field(group, name=UNCERTAINTY, box=own, values=own_uncertainty(values))

    def _scores_of_next_windows(self, states: Sequence[BlockState]) -> dict[str, str]:
        """The scores of the next pass's windows, where a budget is spent on the best of them."""
        bound = self.bound
        if bound.settings.patches.kind != "budget" or bound.is_last:
            return {}
        after = bound.plan.passes[bound.number + 1].stages[0]
        scores: list[float | None] = []
        for state in states:
            for cell in next_cells(bound.step, after, state.pixels.block):
                own = after.own(cell)
                wanted = bound.area is None or bound.area.touches(after.pitch.level0(own))
                scores.append(state.score(own, after) if wanted and state.has_data(own, after) else None)
        return {"scores": pack_scores(scores)}


def _stage_counts(states: Sequence[BlockState], changes: Sequence[Mapping[int, Changes]]) -> dict[str, dict[str, int]]:
    """What each stage did in the blocks of a group, added up, by the stage's number."""
    stages: dict[int, dict[str, int]] = {}
    for state, changed in zip(states, changes, strict=True):
        for stage, count in state.counts.items():
            total = stages.setdefault(stage, {})
            found = changed[stage].describe() if stage in changed else {}
            for key, value in {**count.describe(), **found}.items():
                total[key] = total.get(key, 0) + value
    return {str(stage): count for stage, count in stages.items()}

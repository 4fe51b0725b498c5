"""A pass of a segmentation as the engine runs it: it reads, recalls, computes and stores groups of blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from typing_extensions import override

from magnet_cli.arithmetic.canvas import Canvas
from magnet_cli.masks.spec import PROBABILITIES, UNCERTAINTY
from magnet_cli.plan.windows import field_box
from magnet_cli.run.job import Runner
from magnet_cli.segmentation.block_borders import (
    VALID_LABELS,
    VALID_VALUES,
    cut,
    joined,
    put_validity,
    put_values,
)
from magnet_cli.segmentation.canvas_output import count_labels, labels_of, own_uncertainty, values_of
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


class PassRunner(Runner):
    """A pass over an image, block by block.

    Args:
        bound: The pass that is run.
        computer: Computes the stages of the pass.
        resources: The open image, the results of earlier passes, and the sink for new ones.
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
        """Read the result of the pass before for each block; None in the first pass."""
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
            self._store_borders(group, state)
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
        """Read the result of the pass before under a block and one pixel around it, which bilinear sampling needs."""
        bound = self.bound
        before, first = bound.before, bound.step.stages[0]
        coarse = before.stages[-1]
        box = field_box(bound.step, before, bound.step.canvas(block, first))
        classes = bound.plan.classes
        # PyTorch rounds to float16 four times as fast as NumPy.
        values = torch.from_numpy(joined(self._resources.results, before, box, classes=classes)).half().to(bound.device)
        canvas = Canvas(values=values[:classes], box=box, pitch=coarse.pitch)
        beside = Canvas(values=values[classes:], box=box, pitch=coarse.pitch)
        if bound.plan.selector is not None:
            return Known(canvas=canvas, scored=beside, against=bound.plan.selector.constant)
        return Known(canvas=canvas, moved=beside if bound.plan.keeps_change(before) else None)

    def _store_field(self, group: GroupId, state: BlockState) -> None:
        """Store a block's part of the field: probabilities, and one more band if the next pass needs it.

        Nothing is masked here: pixels without data or outside the area are context for the windows of the next pass.
        """
        step, block = self.bound.step, state.pixels.block
        reach = step.reach(block)
        values = state.canvas.view(reach).cpu().numpy()
        beside = self._beside(state)
        if beside is not None:
            values = np.concatenate((values, beside.view(reach).cpu().numpy()))
        put_values(self._resources.sink, group, step, block, box=reach, values=values)

    def _store_borders(self, group: GroupId, state: BlockState) -> None:
        """Store a block's probabilities near its borders, from which `BorderRunner` makes the labels there."""
        step, sink, pixels = self.bound.step, self._resources.sink, state.pixels
        if not step.fade:
            return
        if not pixels.is_empty:
            # The values are copied box by box, so that those deep inside never leave an accelerator.
            for box in step.kept(pixels.block):
                put_values(sink, group, step, pixels.block, box=box, values=state.canvas.view(box).cpu().numpy())
        if not self.bound.plan.lacks_labels:
            return
        level0, own = step.level0(pixels.block), step.own(pixels.block, step.stages[-1])
        if level0.area:
            put_validity(sink, group, name=VALID_LABELS, box=level0, valid=pixels.level0_valid)
        if self.bound.plan.probabilities or self.bound.plan.uncertainty:
            valid = cut(pixels.kept_valid, own, whole=state.canvas.box)
            put_validity(sink, group, name=VALID_VALUES, box=own, valid=valid)

    def _beside(self, state: BlockState) -> Canvas | None:
        """Return the band that the next pass needs besides probabilities, `(1, height, width)`; None if it needs none.

        The band holds the scores of a patch proposal network, or the change of the last stage.
        """
        if self.bound.plan.selector is not None:
            return None if state.known is None else state.known.scored
        if not self.bound.keeps_change:
            return None
        if state.known is not None and state.known.moved is not None:
            return state.known.moved
        # Only a block without data has no change after a refining stage.
        canvas = state.canvas
        return Canvas(values=torch.zeros_like(canvas.values[:1]), box=canvas.box, pitch=canvas.pitch)

    def _store_labels(self, group: GroupId, state: BlockState) -> tuple[list[int], int]:
        """Store the labels that the block alone decides, and return its pixels of each class and without a label."""
        whole, box = self.bound.step.level0(state.pixels.block), self.bound.step.inner_level0(state.pixels.block)
        if not box.area:
            return [0] * self.bound.plan.classes, 0
        labels = labels_of(state.canvas, box, cut(state.pixels.level0_valid, box, whole=whole))
        self._resources.sink.put_labels(group, box=box, labels=labels)
        return count_labels(labels, self.bound.plan.classes)

    def _store_extras(self, group: GroupId, state: BlockState) -> None:
        """Store the probabilities and the uncertainty that stay beside the mask, if the options ask for them."""
        plan, sink = self.bound.plan, self._resources.sink
        if not (plan.probabilities or plan.uncertainty):
            return
        inner = self.bound.step.inner(state.pixels.block)
        if not inner.area:
            return
        values = values_of(inner, state.pixels, state.canvas)
        if plan.probabilities:
            sink.put_field(group, name=PROBABILITIES, box=inner, values=values)
        if plan.uncertainty:
            sink.put_field(group, name=UNCERTAINTY, box=inner, values=own_uncertainty(values))

    def _scores_of_next_windows(self, states: Sequence[BlockState]) -> dict[str, str]:
        """Return the scores of the next pass's windows, from which a budget selects the highest of the whole image."""
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
    """Sum the counts of the blocks of a group, by the number of the stage."""
    stages: dict[int, dict[str, int]] = {}
    for state, changed in zip(states, changes, strict=True):
        for stage, count in state.counts.items():
            total = stages.setdefault(stage, {})
            found = changed[stage].describe() if stage in changed else {}
            for key, value in {**count.describe(), **found}.items():
                total[key] = total.get(key, 0) + value
    return {str(stage): count for stage, count in stages.items()}

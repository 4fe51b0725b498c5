"""One scheduler over (pass, group): read ahead, compute, hand results on, skip what is already durable."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from math import ceil, floor
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
import torch

from magnet_cli.arithmetic.canvas import Canvas
from magnet_cli.errors import MemoryShortageError
from magnet_cli.geometry import Box
from magnet_cli.masks.spec import GroupId
from magnet_cli.models.device import SideStream, release_device_memory
from magnet_cli.segmentation.computer import Computer, Normalisation, Predictor
from magnet_cli.segmentation.grnet_computer import GRNetComputer, LocalComputer
from magnet_cli.segmentation.group_reader import ReadAhead
from magnet_cli.segmentation.results import count_labels, labels_of, own_uncertainty, own_values
from magnet_cli.segmentation.selection import Paid
from magnet_cli.segmentation.window_budget import next_cells, pack_worths
from magnet_cli.segmentation.window_records import group_looks
from magnet_cli.segmentation.window_scores import Known

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from magnet_cli.areas import Area
    from magnet_cli.images.protocol import Image
    from magnet_cli.plan import Plan
    from magnet_cli.plan.windows import Index, Pass
    from magnet_cli.run.clock import Clock
    from magnet_cli.segmentation.block import BlockState
    from magnet_cli.segmentation.group_reader import BlockPixels, GroupPixels

COMPUTERS: dict[str, type[Computer]] = {"grnet": GRNetComputer, "grnet-local": LocalComputer}
"""By method; those that are not named run the bundle's backbone, and merge."""
PROBABILITIES = "probabilities"
UNCERTAINTY = "uncertainty"


def field_name(number: int) -> str:
    """What the field of a pass is called in the journal."""
    return f"pass{number}"


class Sink(Protocol):
    """Where results become durable; a group counts as done once `finish_group` was called for it."""

    def finished(self, pass_index: int) -> Mapping[int, Mapping[str, object]]:
        """The counts of each group of a pass that an earlier run finished."""

    def put_labels(self, group: GroupId, *, box: Box, labels: NDArray[np.uint8]) -> None:
        """Keep labels of a level-0 box, `(height, width)`."""

    def put_field(self, group: GroupId, *, name: str, box: Box, values: NDArray[np.generic]) -> None:
        """Keep values over a box of a canvas grid, `(bands, height, width)` in 0..1, NaN where not computed."""

    def read_field(self, name: str, box: Box) -> NDArray[np.float16]:
        """Give kept values back, `(bands, height, width)`."""

    def finish_group(self, group: GroupId, *, counts: Mapping[str, object]) -> None:
        """All that belongs to the group has been put."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A group was finished, in this run or before it."""

    pass_index: int
    group: int
    groups: int
    resumed: bool


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a run needs beside its plan."""

    image: Image
    networks: Predictor
    normalisation: Normalisation
    sink: Sink
    workers: int
    clock: Clock
    on_progress: Callable[[Progress], None]
    threads: int = 1
    """Of the networks' operations; noted with each group, as the batch is: a resumed run has to use as many."""
    area: Area | None = None
    """Where labels are wanted; None everywhere."""
    on_note: Callable[[str], None] = lambda _: None
    """Hears what a user should know of the run, such as that memory was short."""


def run_plan(plan: Plan, work: Work) -> None:
    """Compute every group that the sink does not hold yet.

    Raises:
        SourceError, WeightsError, OutputError: What finished before stays finished.
        MemoryShortageError: Likewise; not even one group by itself fitted into memory.
    """
    computer = COMPUTERS.get(plan.settings.method, Computer)(plan, work.networks, work.normalisation, work.clock)
    for step in plan.passes:
        _run_pass(plan, step, computer, work)


def _run_pass(plan: Plan, step: Pass, computer: Computer, work: Work) -> None:
    total = plan.groups(step)
    done = work.sink.finished(step.number)
    missing = [number for number in range(total) if number not in done]
    for number in sorted(done):
        work.on_progress(Progress(pass_index=step.number, group=number, groups=total, resumed=True))
    paid = _paid(plan, step, work)
    with ExitStack() as stack:
        reader = stack.enter_context(ReadAhead(work, plan, selected=None if paid is None else paid.has))
        writer = stack.enter_context(_Writer(plan, step, work))

        def computed(group: GroupPixels) -> list[BlockState]:
            return computer.run(step, group, _fields(plan, step, group, work), paid)

        def computed_or_alone(group: GroupPixels) -> list[BlockState]:
            try:
                return computed(group)
            except MemoryShortageError as error:
                work.on_note(f"{error.rule}: from here on nothing is read or written while a group is computed")
            # Not in the handler: the error holds on to the frames in which memory ran out, and so to what filled it.
            reader.stop_ahead()
            writer.stop_beside()
            release_device_memory(plan.machine.device)
            return computed(group)

        for group in reader.groups(step, missing):
            writer.put(group, computed_or_alone(group), is_last=group.number == missing[-1])


def _paid(plan: Plan, step: Pass, work: Work) -> Paid | None:
    """The windows that a budget pays for, found in what the finished pass before has said of the whole image."""
    if plan.settings.patches.kind != "budget" or step.number == 0:
        return None
    return Paid.of(plan, step, work.sink.finished(step.number - 1))


def _fields(plan: Plan, step: Pass, group: GroupPixels, work: Work) -> list[Known | None]:
    return [_field(plan, step, pixels.block, work) for pixels in group.blocks]


class _Writer:
    """Makes and stores the results of one group while the next is computed; at most one group waits."""

    def __init__(self, plan: Plan, step: Pass, work: Work) -> None:
        self._plan = plan
        self._step = step
        self._work = work
        self._pool = ThreadPoolExecutor(1, "write") if work.workers else None
        self._pending: Future[None] | None = None
        self._side = SideStream(plan.machine.device)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self._wait()
        finally:
            if self._pool is not None:
                self._pool.shutdown()

    def put(self, group: GroupPixels, states: list[BlockState], *, is_last: bool) -> None:
        self._wait()
        # The last one has nothing beside it, and the operations of another thread start threads of their own.
        if self._pool is None or is_last:
            self._store(group.number, states)
            return
        self._pending = self._pool.submit(self._store_beside, group.number, states, self._side.mark())

    def stop_beside(self) -> None:
        """From now on store each group before the next is computed."""
        self._wait()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _wait(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            with self._work.clock.measure("idle"):
                pending.result()

    def _store_beside(self, number: int, states: list[BlockState], computed: torch.cuda.Event | None) -> None:
        with self._side.after(computed):
            self._store(number, states)

    def _store(self, number: int, states: list[BlockState]) -> None:
        with self._work.clock.measure("write"):
            group = GroupId(pass_index=self._step.number, index=number)
            counts = _store_group(self._plan, self._step, group, states, self._work.sink, area=self._work.area)
            alike = {"threads": self._work.threads, "batch": self._plan.batch}
            self._work.sink.finish_group(group, counts={**counts, **alike, **self._work.clock.note()})
        total = self._plan.groups(self._step)
        self._work.on_progress(Progress(pass_index=self._step.number, group=number, groups=total, resumed=False))


def _store_group(
    plan: Plan, step: Pass, group: GroupId, states: list[BlockState], sink: Sink, *, area: Area | None
) -> dict[str, object]:
    """Put the results of a group and add up what happened in it."""
    stages: dict[int, dict[str, int]] = {}
    labels_total = [0] * plan.classes
    nodata = 0
    is_last = step is plan.passes[-1]
    changes = [state.changes() for state in states]
    for state, changed in zip(states, changes, strict=True):
        canvas = state.canvas
        if canvas is None:
            message = "a block that ran has a canvas"
            raise RuntimeError(message)
        for stage, count in state.counts.items():
            total = stages.setdefault(stage, {})
            found = changed[stage].describe() if stage in changed else {}
            for key, value in {**count.describe(), **found}.items():
                total[key] = total.get(key, 0) + value
        if not is_last:
            own, values = own_values(step, state.pixels, canvas, masked=False)
            beside = _beside(plan, step, state)
            values = values if beside is None else np.concatenate((values, beside.view(own).cpu().numpy()))
            sink.put_field(group, name=field_name(step.number), box=own, values=values)
            continue
        _store_extras(plan, step, group, state.pixels, canvas, sink=sink)
        box = step.level0(state.pixels.block)
        if box.area:
            labels = labels_of(canvas, box, state.pixels.level0_valid)
            sink.put_labels(group, box=box, labels=labels)
            counted, missing = count_labels(labels, plan.classes)
            labels_total = [a + b for a, b in zip(labels_total, counted, strict=True)]
            nodata += missing
    return {
        "stages": {str(stage): count for stage, count in stages.items()},
        "labels": labels_total,
        "nodata": nodata,
        **group_looks(plan, step, states, changes),
        **_worths(plan, step, states, area),
    }


def _beside(plan: Plan, step: Pass, state: BlockState) -> Canvas | None:
    """What the next pass has to know of a block besides the probabilities, `(1, height, width)`; None where nothing."""
    if plan.selector is not None:
        return state.scored
    if not plan.keeps_change(step) or state.canvas is None:
        return None
    if state.moved is not None:
        return state.moved
    # Nothing of the block holds data.
    return Canvas(values=torch.zeros_like(state.canvas.values[:1]), box=state.canvas.box, pitch=state.canvas.pitch)


def _worths(plan: Plan, step: Pass, states: list[BlockState], area: Area | None) -> dict[str, str]:
    """What the windows of the next pass may be worth, where a budget is spent on the best of them."""
    if plan.settings.patches.kind != "budget" or step is plan.passes[-1]:
        return {}
    after = plan.passes[step.number + 1].stages[0]
    worths: list[float | None] = []
    for state in states:
        for cell in next_cells(step, after, state.pixels.block):
            own = after.own(cell)
            wanted = area is None or area.touches(after.pitch.level0(own))
            worths.append(state.worth(own, after) if wanted and state.has_data(own, after) else None)
    return {"worths": pack_worths(worths)}


def _store_extras(plan: Plan, step: Pass, group: GroupId, pixels: BlockPixels, canvas: Canvas, *, sink: Sink) -> None:
    if not (plan.probabilities or plan.uncertainty):
        return
    own, values = own_values(step, pixels, canvas, masked=True)
    if plan.probabilities:
        sink.put_field(group, name=PROBABILITIES, box=own, values=values)
    if plan.uncertainty:
        sink.put_field(group, name=UNCERTAINTY, box=own, values=own_uncertainty(values))


def _field(plan: Plan, step: Pass, block: Index, work: Work) -> Known | None:
    """What the pass before says about a block and one pixel around it; None in the first pass."""
    if step.number == 0:
        return None
    before = plan.passes[step.number - 1]
    coarse = before.stages[-1]
    first = step.stages[0]
    need = step.canvas(block, first)
    box = Box.between(
        left=floor(need.x * first.pitch.x / coarse.pitch.x) - 1,
        top=floor(need.y * first.pitch.y / coarse.pitch.y) - 1,
        right=ceil(need.right * first.pitch.x / coarse.pitch.x) + 1,
        bottom=ceil(need.bottom * first.pitch.y / coarse.pitch.y) + 1,
    ).intersection(Box.whole(coarse.extent))
    values = torch.from_numpy(work.sink.read_field(field_name(step.number - 1), box)).to(work.networks.device)
    canvas = Canvas(values=values[: plan.classes], box=box, pitch=coarse.pitch)
    beside = Canvas(values=values[plan.classes :], box=box, pitch=coarse.pitch)
    if plan.selector is not None:
        return Known(canvas=canvas, scored=beside, against=plan.selector.constant)
    return Known(canvas=canvas, moved=beside if plan.keeps_change(before) else None)

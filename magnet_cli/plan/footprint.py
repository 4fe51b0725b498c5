"""The memory of a run, planned before the first read: what a group needs, and how many may be read ahead."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.errors import DeviceError
from magnet_cli.geometry import Size
from magnet_cli.images.reading_processes import PROCESS_BYTES, can_be_read_by_processes
from magnet_cli.options.segment import OF_GRNETS
from magnet_cli.plan.segmentation_plan import BESIDE_NETWORKS, MemoryPlan
from magnet_cli.plan.windows import field_box

if TYPE_CHECKING:
    from magnet_cli.images import ImageInfo
    from magnet_cli.options.segment import SegmentOptions
    from magnet_cli.plan.segmentation_plan import Machine, ModelFacts, Plan
    from magnet_cli.plan.windows import Pass, Stage

HEAP = 64 << 20
"""Host memory that lies free between blocks in use: the C library keeps it for the next tensor. The most that was
measured is 36 MiB."""
OUTPUT_SIDE = 512
"""Side of the level-0 squares in which probabilities become labels on a CPU: small squares stay in its caches."""
ACCELERATED_OUTPUT_SIDE = 768
"""The same on other devices, which are faster with few large squares, because the host waits for each."""


def output_side(kind: str) -> int:
    """Give the side of the level-0 squares in which a kind of device makes labels of probabilities."""
    return OUTPUT_SIDE if kind == "cpu" else ACCELERATED_OUTPUT_SIDE


def no_memory(machine: Machine) -> MemoryPlan:
    """Return the budgets alone, before anything is planned."""
    return MemoryPlan(budget=machine.memory, device_budget=machine.gpu_memory)


def with_memory(plan: Plan, facts: ModelFacts, options: SegmentOptions) -> Plan:
    """Return the plan with its memory: what one group needs, and how many groups may be read ahead.

    Raises:
        DeviceError: A budget is too small; the message says what is needed.
    """
    if plan.settings.compat == "paper":
        compute = max(_compute_bytes(plan, step, facts) for step in plan.passes)
    else:
        compute = _published_bytes(plan, facts)
    on_host = plan.machine.kind == "cpu"
    group = max(_read_bytes(plan, step) for step in plan.passes)
    output = max(_output_bytes(plan, step) for step in plan.passes)
    # The field of the pass before is joined on the host, also for an accelerator.
    joining = max(_joining_bytes(plan, step) for step in plan.passes)
    host_compute = max(compute, joining) if on_host else joining
    base = plan.machine.base + HEAP
    cache = plan.image.resident_bytes + sum(area.resident_bytes for area in plan.areas)
    fixed = base + cache + host_compute + output
    # What is fixed comes first. Only the rest decides how much is read ahead, which changes the speed and never the
    # mask.
    spare = plan.machine.memory - fixed
    if spare < group:
        raise DeviceError(
            f"the run needs at least {_mib(fixed + group)} of host memory",
            value=f"--memory {_mib(plan.machine.memory)}",
            file=plan.image.path,
            advice="Raise --memory, or take fewer scales in one pass, a finer coarsest scale or a smaller -b",
        )
    readers = plan.machine.readers(options.num_workers)
    process = PROCESS_BYTES + plan.image.resident_bytes + max(_block_bytes(plan, step) for step in plan.passes)
    processes = _processes(plan.image, readers, most=(spare - group) // process)
    # Processes that read hold a block each, besides the groups that wait.
    spare -= processes * process
    memory = MemoryPlan(
        budget=plan.machine.memory,
        base=base,
        cache=cache,
        compute=host_compute,
        group=group,
        output=output,
        ahead=groups_ahead(readers, spare=spare, group=group),
        device_budget=plan.machine.gpu_memory,
        device=0 if on_host else compute + facts.weight_bytes + plan.machine.context,
        processes=processes,
        process=process if processes else 0,
    )
    _check_device(plan, memory)
    return replace(plan, memory=memory)


def host_memory_plan(
    budget: int, *, base: int, cache: int, compute: int, group: int, output: int, readers: int
) -> MemoryPlan:
    """Return the memory of a run on the host, with as many groups read ahead as memory and readers allow.

    Args:
        budget: Host bytes that the run may use.
        base: Bytes in use before the first read.
        cache: Bytes that the image and the journal keep between reads.
        compute: Bytes that computing a group takes.
        group: Bytes of a group that was read.
        output: Bytes of results that wait to be stored.
        readers: Threads that read ahead.
    """
    return MemoryPlan(
        budget=budget,
        base=base,
        cache=cache,
        compute=compute,
        group=group,
        output=output,
        ahead=groups_ahead(readers, spare=budget - base - cache - compute - output, group=group),
    )


def groups_ahead(readers: int, *, spare: int, group: int) -> int:
    """Return how many groups may be read while another one is computed: as many as there are readers, if memory allows.

    Args:
        readers: Threads that read ahead.
        spare: Bytes that are left for groups that were read, that which is computed included.
        group: Bytes of one group.
    """
    return max(0, min(readers, spare // group - 1))


def _processes(image: ImageInfo, readers: int, *, most: int) -> int:
    """Return the processes that read the image: one for each thread that reads ahead, unless memory allows fewer.

    The result is 0 where the reading threads read by themselves.

    Few threads hardly wait for each other, and processes take memory and a second to begin.
    """
    found = min(readers, most)
    return found if found > BESIDE_NETWORKS and can_be_read_by_processes(image) else 0


def _check_device(plan: Plan, memory: MemoryPlan) -> None:
    if memory.device_budget is not None and memory.device > memory.device_budget:
        raise DeviceError(
            f"the run needs at least {_mib(memory.device)} of device memory",
            value=f"--gpu-memory {_mib(memory.device_budget)}",
            file=plan.image.path,
            advice="Raise --gpu-memory or take a smaller -b",
        )


def _mib(size: int) -> str:
    return f"{ceil(size / (1 << 20))}MiB"


def _canvas_size(step: Pass, stage: Stage) -> Size:
    """Return the largest canvas of a stage in any block."""
    ratio = step.ratio(stage)
    return Size(
        width=min(ratio.width * stage.cell.width + 2 * stage.margin, stage.extent.width + stage.input.width),
        height=min(ratio.height * stage.cell.height + 2 * stage.margin, stage.extent.height + stage.input.height),
    )


def _compute_bytes(plan: Plan, step: Pass, facts: ModelFacts) -> int:
    """Return the bytes of the canvases of two stages and of the written group, of the score, and of a batch."""
    canvases = [_canvas_size(step, stage).pixels * plan.classes * 2 for stage in step.stages]
    # A stage reads the canvas before it while it fills its own. Older canvases are dropped.
    held = canvases[-1] if len(canvases) == 1 else max(a + b for a, b in pairwise(canvases))
    finest = _canvas_size(step, step.stages[-1]).pixels
    # Bytes a pixel: the score in float32, and the votes of the median for up to three numbers with their sums.
    score = finest * (10 if plan.settings.points.kind != "all" else 0)
    score += finest * (4 if plan.settings.select != "uncertainty" else 0)
    # Where windows are left out: the summed weights of the others, and what is compared with them.
    left_out = plan.settings.patches.kind != "all" or plan.lacks_labels
    score += finest * (9 if left_out else 0)
    refiner = facts.refiner_bytes if plan.settings.merge == "refiner" else 0
    local = facts.local_bytes if plan.settings.method in OF_GRNETS else 0
    # Scores of both stages in float32, and what is fused of them.
    held += sum(canvases) * 2 * 2 if local else 0
    selector = facts.selector.activation_bytes if facts.selector is not None and plan.asks_selector else 0
    activations = max(facts.activation_bytes, refiner, local, selector)
    patch = facts.input.pixels * 4 * (len(facts.bands) + 8 * plan.classes) + activations
    # A mirrored patch, and the sum over those before it.
    patch += facts.input.pixels * 4 * (len(facts.bands) + 2 * plan.classes) * (plan.settings.images > 1)
    # Y' under a row of windows, the canvas pixels of which it is made, and what a window takes out of it.
    row = 0
    if plan.settings.merge == "geometric" and plan.machine.kind == "cpu" and len(step.stages) + step.number > 1:
        row = _canvas_size(step, step.stages[-1]).width * facts.input.height * plan.classes * 4 * 2
    side = output_side(plan.machine.kind)
    strip = side * (side + 2) * plan.classes * 4 * 4
    field = _field_pixels(plan, step) * _field_bands(plan, step) * 2
    pixels = 0 if plan.machine.kind == "cpu" else finest * (_pixel_bytes(plan) + 1)
    passes = plan.batch * patch + facts.pass_bytes
    return plan.group[step.number] * (held + canvases[-1] + score + field + pixels + row) + passes + strip


def _field_bands(plan: Plan, step: Pass) -> int:
    """Return the bands of the field that a pass starts from. The first pass starts from the image alone."""
    return plan.field_bands(plan.passes[step.number - 1]) if step.number else 0


def _field_pixels(plan: Plan, step: Pass) -> int:
    """Return the pixels of the field that a block of a pass starts from, on the canvas of the pass before."""
    if not step.number:
        return 0
    before, first = plan.passes[step.number - 1], step.stages[0]
    boxes = (field_box(step, before, step.canvas(block, first)) for block, _ in step.alike())
    # Blocks that are alike may lie differently between the pixels of the field, which is then one wider or higher.
    return max((box.width + 1) * (box.height + 1) for box in boxes)


def _joining_bytes(plan: Plan, step: Pass) -> int:
    """Return the bytes of a group's field while that of its last block is joined, which is done on the host.

    Where blocks are blended, each value is held in float32, in float32 and as it is stored for the layer that is being
    added, and a pixel has the weights of all layers, those of the layer, and its largest class. Otherwise each value is
    converted. On an accelerator the blocks before are on the device.
    """
    pixels, bands = _field_pixels(plan, step), _field_bands(plan, step)
    joined = 10 * bands + 13 if step.number and plan.passes[step.number - 1].fade else 6 * bands
    others = (plan.group[step.number] - 1) * 2 * bands if plan.machine.kind == "cpu" else 0
    return pixels * (joined + others)


def _published_bytes(plan: Plan, facts: ModelFacts) -> int:
    """Return the bytes of five float32 copies of the coarsest scale's probabilities, of the pixels, and of a batch."""
    maps = plan.stages[0].scale.pixels * (5 * 4 * plan.classes + 16)
    image = plan.working.cover(plan.image.size).pixels * 3 * _pixel_bytes(plan) + plan.image.size.pixels
    patch = facts.input.pixels * 4 * (len(facts.bands) + 8 * plan.classes)
    activations = max(facts.activation_bytes, facts.refiner_bytes)
    return maps + image + plan.batch * (patch + activations) + facts.pass_bytes


def _read_bytes(plan: Plan, step: Pass) -> int:
    """Return the patches of all stages of a group's blocks, and the decoded pixels of one read under way."""
    finest = _canvas_size(step, step.stages[-1]).pixels
    decoding = finest * _band_bytes(plan) * len(plan.image.bands) * 4
    return _kept_bytes(plan, step) + decoding


def _block_bytes(plan: Plan, step: Pass) -> int:
    """Return the bytes of a process that reads a block: its shared pixels, and again those being decoded."""
    return 2 * _read_bytes(plan, step) // plan.group[step.number]


def _kept_bytes(plan: Plan, step: Pass) -> int:
    """Return the pixels and validity of a group, as long as it is computed and written."""
    pixels = sum(_canvas_size(step, stage).pixels for stage in step.stages)
    inside = _level0_pixels(step) + _canvas_size(step, step.stages[-1]).pixels if plan.areas else 0
    return plan.group[step.number] * (pixels * (_pixel_bytes(plan) + 1) + inside)


def _level0_pixels(step: Pass) -> int:
    """Return the largest number of level-0 pixels that a block has."""
    stage = step.stages[0]
    width = ceil(step.span * stage.cell.width * stage.pitch.x)
    height = ceil(step.span * stage.cell.height * stage.pitch.y)
    return min(width, stage.image.width) * min(height, stage.image.height)


def _pixel_bytes(plan: Plan) -> int:
    """Return the bytes of the bands that the network reads."""
    return _band_bytes(plan) * len(plan.bands)


def _band_bytes(plan: Plan) -> int:
    return np.dtype(plan.image.dtype).itemsize


def _output_bytes(plan: Plan, step: Pass) -> int:
    """Return the labels and validity of a group at level 0, twice: one being made, one being written.

    A pass that is not the last writes a field chunk instead.
    """
    labels = _level0_pixels(step)
    finest = _canvas_size(step, step.stages[-1]).pixels
    is_last = step is plan.passes[-1]
    fields = finest * (plan.classes * plan.probabilities if is_last else plan.field_bands(step)) * 2
    fields += max(step.kept_area(block) for block, _ in step.alike()) * plan.classes * 2 * is_last
    return plan.group[step.number] * (2 * labels * is_last + 2 * fields) + _kept_bytes(plan, step)

"""What will be read, computed and written, and with how much memory: decided before the first pixel is read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING, Literal

from magnet_cli.errors import DeviceError, SourceError, UsageError, WeightsError
from magnet_cli.geometry import LEVEL0, Pitch, Size
from magnet_cli.images.protocol import Resolution
from magnet_cli.options import ALL, BundleDefaults, MethodSettings, Rule, SegmentOptions
from magnet_cli.windows import Index, Pass, Stage, group_scales, needed_margin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magnet_cli.images.protocol import ImageInfo
    from magnet_cli.options import Compat, Merge

BATCH = {"cpu": 4, "mps": 8, "cuda": 16}
"""Patches a forward pass, by kind of device; part of the plan, so that memory never changes the mask."""
BATCH_BYTES = 8 << 20
"""On a CPU a batch's probabilities stay below this: the C library zeroes larger tensors anew each time, which made
batches of 19 classes take twice as long as single patches."""
GROUP = {"cpu": 1, "mps": 2, "cuda": 4}
"""Blocks that share their forward passes."""
FAST_PATCHES = 3
"""Windows a stage of MagNet-Fast (paper, section 4.3) where neither user nor bundle says."""
ASSUMED_BASE = 700 << 20
"""Host memory of Python, torch and the networks where it has not been measured yet."""
DEVICE_CONTEXT = 512 << 20
"""Device memory that a CUDA context takes before the first tensor, where it has not been measured."""
OUTPUT_SIDE = 512
"""Side of the level-0 squares in which probabilities become labels."""
PLAN_SCHEMA = 1
MOST_LISTED = 12
"""Bands that a message names one by one."""
FIXED_POINT = 1_000_000
"""Largest denominator of the working grid's factor: an error below 1e-7 pixel over 100,000 pixels."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a plan needs to know of a bundle."""

    name: str
    classes: int
    bands: tuple[str, ...]
    value_range: tuple[float, float]
    input: Size
    resample: str
    resolution: Fraction | None
    """Size of a working-grid pixel."""
    unit: Literal["um", "m"] | None
    trained: tuple[Size, ...]
    """Scales seen in training, coarsest first."""
    defaults: BundleDefaults
    has_refiner: bool
    activation_bytes: int
    """Peak of one patch's forward pass through the backbone, estimated."""
    compat: Compat = "paper"
    refiner_bytes: int = 0
    """The same for the refiner."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a plan runs."""

    device: str
    """`cpu`, `mps`, `cuda:0`, ..."""
    precision: str
    memory: int
    """Host bytes that may be used."""
    gpu_memory: int | None = None
    """Device bytes that may be used; None without an accelerator."""
    base: int = ASSUMED_BASE
    """Host bytes in use before the first read."""

    @property
    def kind(self) -> str:
        """`cpu`, `mps` or `cuda`."""
        return self.device.partition(":")[0]


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Bytes, by what needs them."""

    budget: int
    base: int
    cache: int
    compute: int
    """Canvases and activations of the group being computed, where the device is the host."""
    group: int
    """Pixels of one group, read and waiting."""
    output: int
    """Labels of one group on their way to disk."""
    ahead: int
    """Groups that may be read while another is computed."""
    device_budget: int | None
    device: int
    """Planned on the accelerator; 0 where the device is the host."""

    @property
    def total(self) -> int:
        """Planned peak of host memory."""
        return self.base + self.cache + self.compute + self.output + self.group * (1 + self.ahead)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run over one image, complete: nothing that the mask depends on is decided later."""

    image: ImageInfo
    settings: MethodSettings
    working: Pitch
    """Level-0 pixels of a working-grid pixel."""
    passes: tuple[Pass, ...]
    classes: int
    resample: str
    batch: int
    group: int
    """Blocks that share forward passes and are retried together."""
    machine: Machine
    memory: MemoryPlan
    probabilities: bool
    uncertainty: bool
    notes: tuple[str, ...] = ()

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All stages, coarsest first."""
        return tuple(stage for step in self.passes for stage in step.stages)

    def groups(self, step: Pass) -> int:
        """Groups of a pass."""
        return ceil(step.blocks.pixels / self.group)

    def blocks(self, step: Pass, group: int) -> list[Index]:
        """The blocks of a group, row-major."""
        return [step.block(n) for n in range(group * self.group, min((group + 1) * self.group, step.blocks.pixels))]

    def is_first(self, step: Pass, stage: Stage) -> bool:
        """Whether a stage starts the run, with nothing to refine."""
        return step.number == 0 and stage is step.stages[0]

    def rule_step(self, stage: Stage) -> int:
        """Which refining stage this is, for rules that list one value a stage."""
        return stage.number - 2

    def windows(self, step: Pass, stage: Stage) -> int:
        """Windows of a stage that will be forwarded at most."""
        rule = ALL if self.is_first(step, stage) else self.settings.patches
        ratio = step.ratio(stage)
        columns = _cells_by_block(step.blocks.width, stage.cells.width, ratio.width)
        rows = _cells_by_block(step.blocks.height, stage.cells.height, ratio.height)
        return sum(
            many_columns
            * many_rows
            * windows_selected(
                rule,
                total=width * height,
                full=ratio.pixels,
                step=self.rule_step(stage),
            )
            for width, many_columns in columns.items()
            for height, many_rows in rows.items()
        )

    def describe(self) -> dict[str, object]:
        """The plan as JSON values: boxes and sizes in pixels, memory and disk in bytes."""
        return {
            "schema": PLAN_SCHEMA,
            "image": self.image.path,
            "size": _size(self.image.size),
            "backend": self.image.backend,
            "device": self.machine.device,
            "precision": self.machine.precision,
            "batch": self.batch,
            "group": self.group,
            "working_pixel": {"width": float(self.working.x), "height": float(self.working.y)},
            **self.settings.describe(),
            "passes": [self._describe_pass(step) for step in self.passes],
            "memory": self._describe_memory(),
            "disk": self.disk(),
            "notes": list(self.notes),
        }

    def _describe_pass(self, step: Pass) -> dict[str, object]:
        return {
            "pass": step.number + 1,
            "blocks": step.blocks.pixels,
            "groups": self.groups(step),
            "stages": [
                {
                    "stage": stage.number,
                    "scale": _size(stage.scale),
                    "pixel": {"width": float(stage.pitch.x), "height": float(stage.pitch.y)},
                    "cells": stage.cells.pixels,
                    "windows": self.windows(step, stage),
                }
                for stage in step.stages
            ],
        }

    def _describe_memory(self) -> dict[str, object]:
        memory = self.memory
        return {
            "budget": memory.budget,
            "planned": memory.total,
            "base": memory.base,
            "reader_cache": memory.cache,
            "compute": memory.compute,
            "group": memory.group,
            "output": memory.output,
            "groups_ahead": memory.ahead,
            "device_budget": memory.device_budget,
            "device_planned": memory.device,
        }

    def disk(self) -> dict[str, int]:
        """Upper bounds in bytes: labels before compression, fields, and a one-time decode."""
        labels = self.image.size.pixels
        fields = sum(step.stages[-1].extent.pixels * self.classes * 2 for step in self.passes[:-1])
        last = self.passes[-1].stages[-1].extent.pixels
        kept = last * (self.classes * self.probabilities + self.uncertainty)
        return {
            "mask_at_most": ceil(labels * 4 / 3),
            "journal_at_most": labels + fields + kept,
            "fields_at_most": fields,
            "probabilities_at_most": kept,
            "decode_cache": self.image.cache_bytes,
        }


def _size(size: Size) -> dict[str, int]:
    return {"width": size.width, "height": size.height}


def _cells_by_block(blocks: int, cells: int, ratio: int) -> dict[int, int]:
    """How many blocks of an axis have how many cells."""
    last = cells - (blocks - 1) * ratio
    counts = {ratio: blocks - 1}
    counts[last] = counts.get(last, 0) + 1
    return counts


def windows_selected(rule: Rule, *, total: int, full: int, step: int) -> int:
    """How many windows of a block's stage are computed at most.

    Args:
        rule: `--patches`.
        total: Windows of this stage in this block.
        full: Windows of this stage in a block that the image's edge does not cut.
        step: Which refining stage, 0 the first.
    """
    if rule.kind in ("all", "threshold"):
        return total
    if rule.kind == "share":
        return min(total, ceil(rule.value(step) * total))
    return min(total, ceil(rule.value(step) * Fraction(total, full)))


def resolve_settings(options: SegmentOptions, facts: ModelFacts, scales: Sequence[Sequence[Size]]) -> MethodSettings:
    """Fill what the user left open from the bundle, and refuse what contradicts itself.

    Args:
        options: As given.
        facts: Of the bundle.
        scales: The scales of each pass.

    Raises:
        UsageError: The method and the rules do not go together.
        WeightsError: The merge needs a refiner that the bundle lacks.
    """
    defaults = facts.defaults
    compat = options.compat or facts.compat
    merge = _merge(options, facts, compat)
    if merge == "refiner" and options.method in ("magnet", "magnet-fast") and not facts.has_refiner:
        raise WeightsError(f"bundle {facts.name} has no refiner", value="--merge refiner", advice="Take --merge mean")
    points = options.points or defaults.points
    patches = options.patches or (_fast_patches(defaults) if options.method == "magnet-fast" else defaults.patches)
    if options.method == "magnet" and patches.kind != "all" and options.patches is not None:
        raise UsageError(
            "--method magnet looks at every window",
            value=f"--patches {patches.spelled('u')}",
            advice="Take --method magnet-fast",
        )
    median = options.median or defaults.median
    margin = options.margin if options.margin is not None else _default_margin(facts, scales, points, median)
    _check_margin(margin, facts.input)
    return MethodSettings(
        method=options.method,
        merge=merge,
        points=points,
        patches=ALL if options.method == "magnet" else patches,
        median=median,
        margin=margin,
        compat=compat,
    )


def _merge(options: SegmentOptions, facts: ModelFacts, compat: Compat) -> Merge:
    if compat == "paper":
        return options.merge or facts.defaults.merge
    if options.merge == "mean":
        raise UsageError(
            f"--compat {compat} merges with the refiner",
            value="--merge mean",
            advice="Leave --merge out, or take --compat paper",
        )
    return "refiner" if facts.has_refiner else facts.defaults.merge


def _default_margin(facts: ModelFacts, scales: Sequence[Sequence[Size]], points: Rule, median: int) -> int:
    """What the bundle says, what blocks need, and where no score is used still about what the score would need.

    With the 2 pixels that `all` needs, a network that sees 3 pixels to each side already gave a seventh more label
    changes at the borders of cells than inside them.
    """
    used = 1 if points.kind == "all" else median
    needed, wanted = (max(needed_margin(group, side) for group in scales) for side in (used, median))
    return max(facts.defaults.margin, needed, min(wanted, min(facts.input.width, facts.input.height) // 8))


def _fast_patches(defaults: BundleDefaults) -> Rule:
    if defaults.patches.kind != "all":
        return defaults.patches
    return Rule(kind="count", values=(Fraction(FAST_PATCHES),))


def _check_margin(margin: int, size: Size) -> None:
    largest = (min(size.width, size.height) - 1) // 2
    if margin > largest:
        raise UsageError(
            f"a margin leaves something of the patch, so it is at most {largest} for a network input of {size}",
            value=margin,
            advice=f"Take --margin {largest} or less, or a smaller --median",
        )


def resolve_scales(options: SegmentOptions, facts: ModelFacts, working_size: Size) -> tuple[Size, ...]:
    """The scales of a run, coarsest first.

    Args:
        options: `--scales` and `--method`.
        facts: Of the bundle.
        working_size: The image on the working grid.
    """
    scales = options.scales if options.scales is not None else facts.defaults.scales
    if scales == "auto":
        coarsest = max(facts.trained, key=lambda size: size.pixels, default=facts.input)
        scales = _doubling(facts.input, until=coarsest, beyond=False)
    elif scales == "full":
        scales = _doubling(facts.input, until=working_size, beyond=True)
    if options.method == "patch":
        return scales[-1:]
    if options.method == "downsample":
        return scales[:1]
    return tuple(scales)


def _doubling(start: Size, *, until: Size, beyond: bool) -> tuple[Size, ...]:
    """Doubled scales, coarsest first: the last one at most `until` on either side, or the first that covers it."""
    scales = [start]
    while scales[0].width < until.width or scales[0].height < until.height:
        double = Size(width=2 * scales[0].width, height=2 * scales[0].height)
        if not beyond and (double.width > until.width or double.height > until.height):
            break
        scales.insert(0, double)
    return tuple(scales)


def working_pitch(info: ImageInfo, facts: ModelFacts, options: SegmentOptions) -> tuple[Pitch, list[str]]:
    """Level-0 pixels of a working-grid pixel, and what the user should be told about it.

    Raises:
        SourceError: `--mpp` asks for a size that the image lacks.
        WeightsError: The bundle's unit is not the image's.
    """
    found = info.resolution
    size_x, size_y, unit = _pixel_size(found, options)
    wanted = options.mpp if options.mpp is not None else facts.resolution
    if wanted is None:
        return LEVEL0, [f"bundle {facts.name} names no resolution: the image is read 1:1"]
    if size_x is None or size_y is None:
        if options.mpp is not None:
            raise SourceError(
                "--mpp needs the physical size of a pixel and the image does not say",
                file=info.path,
                advice="Add --slide-mpp with the size of a full-resolution pixel",
            )
        return LEVEL0, ["the image does not say how large its pixels are: it is read 1:1 (set --slide-mpp)"]
    if options.mpp is None and facts.unit != unit:
        raise WeightsError(
            f"the bundle was trained at {float(wanted):g} {facts.unit} a pixel and the image is measured in {unit}",
            file=info.path,
            advice="Take a bundle for this kind of image, or --mpp to say at which pixel size to read",
        )
    pitch = Pitch(
        x=(wanted / size_x).limit_denominator(FIXED_POINT), y=(wanted / size_y).limit_denominator(FIXED_POINT)
    )
    return pitch, [f"read at {float(wanted):g} {unit} a pixel, {float(pitch.x):.4g} pixels of the image"]


def _pixel_size(
    found: Resolution | None, options: SegmentOptions
) -> tuple[Fraction | None, Fraction | None, str | None]:
    if options.slide_mpp is not None:
        return options.slide_mpp, options.slide_mpp, found.unit if found else "um"
    if found is None:
        return None, None, None
    return found.x, found.y, found.unit


def _with_pixel_size(info: ImageInfo, options: SegmentOptions) -> ImageInfo:
    """The image with the size of a pixel that the user gave: areas and the mask's tags follow it."""
    size_x, size_y, unit = _pixel_size(info.resolution, options)
    if options.slide_mpp is None or size_x is None or size_y is None or unit is None:
        return info
    return replace(info, resolution=Resolution(x=size_x, y=size_y, unit=unit))


def check_bands(info: ImageInfo, facts: ModelFacts) -> tuple[int, ...]:
    """Which of the image's bands the network sees, in its order: by name, else by count.

    Raises:
        WeightsError: Neither names nor count agree, or the values exceed the bundle's range.
    """
    positions = {name: index for index, name in enumerate(info.bands)}
    if all(name in positions for name in facts.bands):
        chosen = tuple(positions[name] for name in facts.bands)
    elif len(info.bands) == len(facts.bands):
        chosen = tuple(range(len(facts.bands)))
    else:
        raise WeightsError(
            f"bundle {facts.name} wants bands {_listed(facts.bands)} and the image has {_listed(info.bands)}",
            file=info.path,
            advice="Take a bundle that was trained on such bands",
        )
    low, high = facts.value_range
    largest = {"uint8": 255, "uint16": 65535, "int16": 32767, "uint32": 2**32 - 1, "int32": 2**31 - 1}
    if info.dtype in largest and largest[info.dtype] > high and info.dtype != "uint8":
        raise WeightsError(
            f"bundle {facts.name} wants values from {low:g} to {high:g} and the image stores {info.dtype}",
            file=info.path,
            advice="Convert the image to that range, or take a bundle for it",
        )
    return chosen


def _listed(bands: Sequence[str]) -> str:
    return ", ".join(bands) if len(bands) <= MOST_LISTED else f"{bands[0]} to {bands[-1]}, {len(bands)} in all"


def make_plan(info: ImageInfo, facts: ModelFacts, options: SegmentOptions, machine: Machine) -> Plan:
    """Decide everything about a run over one image.

    Raises:
        UsageError: Options that contradict each other or the image.
        SourceError, WeightsError: Image and bundle do not fit.
        DeviceError: The memory budget is too small; the message says what is needed.
    """
    check_bands(info, facts)
    info = _with_pixel_size(info, options)
    working, notes = working_pitch(info, facts, options)
    scales = resolve_scales(options, facts, working.cover(info.size))
    grouped = group_scales(scales)
    settings = resolve_settings(options, facts, grouped)
    passes = _passes(grouped, facts, info, working, settings.margin)
    if settings.compat == "paper":
        _check_blocks(passes, settings)
    batch = options.batch_size or default_batch(facts, machine)
    draft = Plan(
        image=info,
        settings=settings,
        working=working,
        passes=passes,
        classes=facts.classes,
        resample=facts.resample,
        batch=batch,
        group=GROUP[machine.kind],
        machine=machine,
        memory=_no_memory(machine),
        probabilities=options.probabilities,
        uncertainty=options.uncertainty,
        notes=(*info.notes, *notes),
    )
    return _with_memory(draft, facts, options)


def default_batch(facts: ModelFacts, machine: Machine) -> int:
    """Patches a forward pass, by bundle and kind of device alone, so that memory never changes the mask."""
    batch = BATCH[machine.kind]
    if machine.kind != "cpu":
        return batch
    return max(1, min(batch, BATCH_BYTES // (facts.classes * facts.input.pixels * 4)))


def _passes(
    grouped: Sequence[Sequence[Size]], facts: ModelFacts, info: ImageInfo, working: Pitch, margin: int
) -> tuple[Pass, ...]:
    passes: list[Pass] = []
    number = 0
    for index, scales in enumerate(grouped):
        stages = []
        for scale in scales:
            number += 1
            stages.append(
                Stage(number=number, scale=scale, input=facts.input, margin=margin, image=info.size, working=working)
            )
        passes.append(Pass(number=index, stages=tuple(stages)))
    return tuple(passes)


def _check_blocks(passes: Sequence[Pass], settings: MethodSettings) -> None:
    if not settings.refines or sum(len(step.stages) for step in passes) == 1:
        return
    for step in passes:
        needed = needed_margin([stage.scale for stage in step.stages], settings.score_side)
        if step.blocks.pixels > 1 and settings.margin < needed:
            raise UsageError(
                f"the image has {step.blocks.pixels} blocks, which need a margin of at least {needed} pixels so that "
                "none has to ask its neighbours",
                value=f"--margin {settings.margin}",
                advice=f"Take --margin {needed} or leave the option out",
            )


def _no_memory(machine: Machine) -> MemoryPlan:
    return MemoryPlan(
        budget=machine.memory,
        base=0,
        cache=0,
        compute=0,
        group=0,
        output=0,
        ahead=0,
        device_budget=machine.gpu_memory,
        device=0,
    )


def _with_memory(plan: Plan, facts: ModelFacts, options: SegmentOptions) -> Plan:
    """The plan with its memory: what one group needs, and how many groups may be read ahead."""
    if plan.settings.compat == "paper":
        compute = max(_compute_bytes(plan, step, facts) for step in plan.passes)
    else:
        compute = _published_bytes(plan, facts)
    on_host = plan.machine.kind == "cpu"
    group = max(_read_bytes(plan, step) for step in plan.passes)
    output = max(_output_bytes(plan, step) for step in plan.passes)
    host_compute = compute if on_host else 0
    fixed = plan.machine.base + plan.image.resident_bytes + host_compute + output
    spare = plan.machine.memory - fixed
    if spare < group:
        raise DeviceError(
            f"the run needs at least {_mib(fixed + group)} of host memory",
            value=f"--memory {_mib(plan.machine.memory)}",
            file=plan.image.path,
            advice="Raise --memory, or take fewer scales in one pass, a finer coarsest scale or a smaller -b",
        )
    memory = MemoryPlan(
        budget=plan.machine.memory,
        base=plan.machine.base,
        cache=plan.image.resident_bytes,
        compute=host_compute,
        group=group,
        output=output,
        ahead=max(0, min(options.num_workers, spare // group - 1)),
        device_budget=plan.machine.gpu_memory,
        device=0 if on_host else compute + DEVICE_CONTEXT,
    )
    _check_device(plan, memory)
    return replace(plan, memory=memory)


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
    """The largest canvas of a stage in any block."""
    ratio = step.ratio(stage)
    return Size(
        width=min(ratio.width * stage.cell.width + 2 * stage.margin, stage.extent.width + stage.input.width),
        height=min(ratio.height * stage.cell.height + 2 * stage.margin, stage.extent.height + stage.input.height),
    )


def _compute_bytes(plan: Plan, step: Pass, facts: ModelFacts) -> int:
    """Canvases of two stages and of the group being written in float16, the score, and a batch of patches."""
    canvases = [_canvas_size(step, stage).pixels * plan.classes * 2 for stage in step.stages]
    held = canvases[-1] if len(canvases) == 1 else max(a + b for a, b in pairwise(canvases))
    finest = _canvas_size(step, step.stages[-1]).pixels
    score = finest * 10 if plan.settings.points.kind != "all" else 0
    refiner = facts.refiner_bytes if plan.settings.merge == "refiner" else 0
    patch = facts.input.pixels * 4 * (len(facts.bands) + 8 * plan.classes) + max(facts.activation_bytes, refiner)
    strip = OUTPUT_SIDE * (OUTPUT_SIDE + 2) * plan.classes * 4 * 4
    field = canvases[0] * 2 if step.number else 0
    return plan.group * (held + canvases[-1] + score) + plan.batch * patch + strip + field


def _published_bytes(plan: Plan, facts: ModelFacts) -> int:
    """Five copies of the whole image's probabilities in float32 at the coarsest scale, its pixels, and a batch."""
    maps = plan.stages[0].scale.pixels * (5 * 4 * plan.classes + 16)
    image = plan.working.cover(plan.image.size).pixels * 3 * _pixel_bytes(plan) + plan.image.size.pixels
    patch = facts.input.pixels * 4 * (len(facts.bands) + 8 * plan.classes)
    activations = max(facts.activation_bytes, facts.refiner_bytes)
    return maps + image + plan.batch * (patch + activations)


def _read_bytes(plan: Plan, step: Pass) -> int:
    """Patches of all stages of a group's blocks, and the decoded pixels of one read under way."""
    finest = _canvas_size(step, step.stages[-1]).pixels
    decoding = finest * _pixel_bytes(plan) * 4
    return _kept_bytes(plan, step) + decoding


def _kept_bytes(plan: Plan, step: Pass) -> int:
    """Pixels and validity of a group, as long as it is computed and written."""
    pixels = sum(_canvas_size(step, stage).pixels for stage in step.stages)
    return plan.group * pixels * (_pixel_bytes(plan) + 1)


def _pixel_bytes(plan: Plan) -> int:
    return {"uint8": 1, "uint16": 2, "int16": 2}.get(plan.image.dtype, 4) * len(plan.image.bands)


def _output_bytes(plan: Plan, step: Pass) -> int:
    """Labels and validity of a group at level 0, twice: one being made, one being written; or a field chunk."""
    stage = step.stages[0]
    width, height = ceil(stage.cell.width * stage.pitch.x), ceil(stage.cell.height * stage.pitch.y)
    labels = min(width, stage.image.width) * min(height, stage.image.height)
    finest = _canvas_size(step, step.stages[-1]).pixels
    is_last = step is plan.passes[-1]
    fields = finest * plan.classes * 2 if not is_last or plan.probabilities else 0
    return plan.group * (2 * labels * is_last + 2 * fields) + _kept_bytes(plan, step)

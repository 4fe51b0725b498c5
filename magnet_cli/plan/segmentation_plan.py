"""The complete description of a run: facts about the model and the machine, and the values for one image."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor
from typing import TYPE_CHECKING, Literal

from magnet_cli.options.rules import ALL, Rule
from magnet_cli.plan.bands import describe_bands

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from magnet_cli.geometry import Box, Pitch, Size
    from magnet_cli.images.protocol import ImageInfo, Resolution
    from magnet_cli.options.method_settings import BundleDefaults, MethodSettings
    from magnet_cli.options.segment import Compat
    from magnet_cli.plan.preparation import StainMap
    from magnet_cli.plan.windows import Index, Pass, Stage

ASSUMED_BASE = 700 << 20
"""Host memory of Python, torch and the networks where it has not been measured yet."""
PLAN_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class SelectorFacts:
    """Facts for a plan about a bundle's selector: a network that scores the places of a patch."""

    against: Literal["image", "constant"]
    """The score with which a window's score is compared: that of the whole image, or `constant`."""
    constant: float
    sees_field: bool
    """Whether the selector also gets the class probabilities so far of a patch."""
    activation_bytes: int
    """Estimated peak memory of the pass of one patch, in bytes."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Facts for a plan about a bundle."""

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
    """The scales of training, coarsest first."""
    defaults: BundleDefaults
    has_refiner: bool
    activation_bytes: int
    """Estimated peak memory of the forward pass of one patch through the backbone, in bytes."""
    is_single_scale: bool = False
    """Whether the network was trained at one scale by another program: it is then the only one, unless the user asks
    for more."""
    pass_bytes: int = 0
    """Memory of a forward pass through the backbone that does not depend on the number of patches, in bytes."""
    batches: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Patches of a forward pass by kind of device and precision, where the bundle states them."""
    compat: Compat = "paper"
    weight_bytes: int = 0
    """Bytes of the weights of all networks that are loaded, in float32."""
    refiner_bytes: int = 0
    """Estimated peak memory of the pass of one patch through the refiner, in bytes."""
    local_bytes: int = 0
    """Estimated peak memory of the pass of one patch through a GRNet's local branch, in bytes."""
    cells: int = 0
    """Number of cells along a side of an image of a GRNet; 0 for any other bundle."""
    selector: SelectorFacts | None = None
    """A network that scores windows or cells by how much refining them may gain."""
    domain: str = ""
    """Kind of image that the bundle was trained on; empty where it does not say."""
    preparation: str = "none"
    """Preparation of a stained section before normalisation: `none`, or a kind of `StainMap`."""
    large_tensors: bool = False
    """Whether the pass of a patch makes tensors so large that the C library returns them to the system after use."""

    @property
    def title(self) -> str:
        """The name of the model in messages."""
        return f"bundle {self.name}"


BESIDE_NETWORKS = 2
"""Threads that read ahead where networks compute on the same cores."""
MOST_READERS = 16
"""Most threads that read ahead for an accelerator, unless the user sets more: each holds a group's pixels."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine of a plan: device, precision, memory."""

    device: str
    """Name of the device, like `cpu`, `mps` or `cuda:0`."""
    precision: str
    engine: str = "torch"
    """Library that computes the networks: `torch`, `onnxruntime`, `openvino`."""
    gpu_memory: int | None = None
    """Device bytes that may be used; None without an accelerator."""
    memory: int
    """Host bytes that may be used."""
    context: int = 0
    """Device bytes that go to neither tensors nor their allocator."""
    base: int = ASSUMED_BASE
    """Host bytes in use before the first read."""
    cores: int = 1
    """The cores of the host that may be used."""

    @property
    def kind(self) -> str:
        """The kind of the device: `cpu`, `mps` or `cuda`."""
        return self.device.partition(":")[0]

    def readers(self, wanted: int | None) -> int:
        """Return the number of threads that read ahead: the user's, else few where networks use the same cores."""
        if wanted is not None:
            return wanted
        return BESIDE_NETWORKS if self.kind == "cpu" else max(BESIDE_NETWORKS, min(self.cores, MOST_READERS))


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Planned memory in bytes, by purpose."""

    budget: int
    base: int = 0
    cache: int = 0
    compute: int = 0
    """Canvases and activations of the group being computed, where the device is the host; elsewhere the field that is
    joined for a block."""
    group: int = 0
    """Pixels of one group, read and waiting."""
    output: int = 0
    """Labels of one group on their way to disk."""
    ahead: int = 0
    """Number of groups that may be read while another is computed."""
    device_budget: int | None = None
    device: int = 0
    """Memory planned on the accelerator in bytes; 0 where the device is the host."""
    processes: int = 0
    """Number of processes that read the image for the reading threads; 0 where the threads read it themselves."""
    process: int = 0
    """Memory planned for each reading process, in bytes."""

    @property
    def total(self) -> int:
        """Planned peak of host memory."""
        held = self.base + self.cache + self.compute + self.output + self.processes * self.process
        return held + self.group * (1 + self.ahead)


@dataclass(frozen=True, kw_only=True)
class AreaSpec:
    """A part of the image to which a run is limited: pixels outside are not computed."""

    kind: Literal["roi", "mask", "tissue"]
    source: str
    """The box, the file, or the rule that finds tissue."""
    digest: str
    """Digest of everything but the image that decides which pixels are inside."""
    box: Box | None = None
    """The box at level 0, where the area is a box."""
    resident_bytes: int = 0
    """Largest memory that the area takes during the run, in bytes."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run over one image, complete: nothing that the mask depends on is decided later."""

    image: ImageInfo
    passes: tuple[Pass, ...]
    settings: MethodSettings
    working: Pitch
    """Level-0 pixels of a working-grid pixel."""
    classes: int
    bands: tuple[int, ...]
    """Positions of the image's bands that the network gets, in its order."""
    band_names: tuple[str, ...]
    """Names that the bundle gives these bands."""
    value_range: tuple[tuple[float, float], ...]
    """The stored values that stand for the ends of the bundle's range, for each band; values beyond are clamped."""
    value_source: str
    """Source of the range: `bundle`, or `--value-range` as the user spelled it."""
    resample: str
    batch: int
    group: tuple[int, ...]
    """Number of blocks that share forward passes and are retried together, for each pass."""
    machine: Machine
    memory: MemoryPlan
    probabilities: bool
    uncertainty: bool
    reading: str | None = None
    """The option that sets the pixel size at which the image is read; None where the bundle or nothing sets it."""
    pixel: Resolution | None = None
    """Physical size of a working-grid pixel; None where the file does not state the size of a pixel."""
    selector: SelectorFacts | None = None
    """The selector that scores windows; None where other scores compare them."""
    areas: tuple[AreaSpec, ...] = ()
    """The areas of the run; only what lies in all of them is computed."""
    notes: tuple[str, ...] = ()
    preparation: StainMap | None = None
    """The map of a stained section's colours, found once on its overview. None for networks that take colours."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of all passes, coarsest first."""
        return tuple(stage for step in self.passes for stage in step.stages)

    @property
    def lacks_labels(self) -> bool:
        """Whether some pixels of the image may get no label, because of missing data or an area."""
        return self.image.has_mask or bool(self.areas)

    @property
    def asks_selector(self) -> bool:
        """Whether the bundle's selector runs: it compares windows, or chooses a GRNet's cells."""
        return self.selector is not None or self.settings.patches.kind == "selector"

    def keeps_change(self, step: Pass) -> bool:
        """Return whether a pass hands the change of the probabilities in its last stage to the next pass.

        A count or a share selects the single window of a block's first stage whatever its score, a budget has its own
        scores, and the first stage of a run changes nothing.
        """
        if self.settings.select not in ("change", "both") or self.is_first(step, step.stages[-1]):
            return False
        if step is self.passes[-1] or self.settings.patches.kind not in ("count", "share"):
            return self.settings.patches.kind == "threshold"
        after = self.passes[step.number + 1]
        return after.ratio(after.stages[0]).pixels > 1

    def field_bands(self, step: Pass) -> int:
        """Return the number of bands that a pass hands to the next: classes, and a selector's score or the change."""
        return self.classes + (self.selector is not None or self.keeps_change(step))

    def groups(self, step: Pass) -> int:
        """Return the number of groups of a pass."""
        return ceil(step.blocks.pixels / self.group[step.number])

    @property
    def border_groups(self) -> int:
        """Groups of the pass that makes labels near the borders of the last pass's blocks; 0 if nothing is blended."""
        last = self.passes[-1]
        return self.groups(last) if last.fade else 0

    def blocks(self, step: Pass, group: int) -> list[Index]:
        """Return the blocks of a group, row-major."""
        start, count = group * self.group[step.number], self.group[step.number]
        return [step.block(number) for number in range(start, min(start + count, step.blocks.pixels))]

    def is_first(self, step: Pass, stage: Stage) -> bool:
        """Return whether a stage starts the run, with nothing to refine."""
        return step.number == 0 and stage is step.stages[0]

    def leaves_out(self, step: Pass, stage: Stage) -> bool:
        """Return whether `--patches` may leave out windows of a stage's blocks. A budget compares all of the image."""
        rule, among = self.settings.patches, step.ratio(stage).pixels
        if self.is_first(step, stage) or rule.kind in ("all", "budget"):
            return False
        return rule.kind not in ("count", "share") or among > windows_selected(
            rule, total=among, full=among, step=self.rule_step(stage)
        )

    def rule_step(self, stage: Stage) -> int:
        """Return which refining stage this is, for rules that list one value a stage."""
        return stage.number - 2

    def budget_share(self, stage: Stage) -> Fraction:
        """Return the share of a stage's windows that the budget selects."""
        return budget_share(self.settings.patches.values[0], self.stages, stage)

    def windows(self, step: Pass, stage: Stage) -> int:
        """Return the largest number of windows of a stage that may be computed."""
        rule = ALL if self.is_first(step, stage) else self.settings.patches
        if rule.kind == "budget":
            return floor(self.budget_share(stage) * stage.cells.pixels)
        full, number = step.ratio(stage).pixels, self.rule_step(stage)
        return sum(
            blocks * windows_selected(rule, total=windows, full=full, step=number)
            for windows, blocks in step.windows_by_block(stage).items()
        )

    def describe(self) -> dict[str, object]:
        """Return the plan as JSON values: boxes and sizes in pixels, memory and disk in bytes."""
        return {
            "schema": PLAN_SCHEMA,
            "image": self.image.path,
            "series": self.image.series,
            "size": _size(self.image.size),
            "backend": self.image.backend,
            "device": self.machine.device,
            "precision": self.machine.precision,
            "engine": self.machine.engine,
            "batch": self.batch,
            "group": list(self.group),
            **self.describe_grid(),
            **self.settings.describe(),
            **self.describe_values(),
            "areas": [{"kind": area.kind, "source": area.source} for area in self.areas],
            "passes": [self._describe_pass(step) for step in self.passes],
            "border_groups": self.border_groups,
            "memory": self._describe_memory(),
            "disk": self.disk(),
            "notes": list(self.notes),
        }

    def describe_values(self) -> dict[str, object]:
        """Return the bands and values that the network gets, as JSON values; bands are numbered from 1."""
        return {
            "bands": describe_bands(self.image, self.band_names, self.bands, self.value_range),
            **({} if self.preparation is None else {"preparation": self.preparation.describe()}),
            "value_range": self.value_source,
        }

    def describe_grid(self) -> dict[str, object]:
        """Return the size of a working-grid pixel as JSON values: in level-0 pixels, and in the image's unit."""
        pixel = self.pixel
        return {
            "working_pixel": {"width": float(self.working.x), "height": float(self.working.y)},
            "working_size": pixel and {"width": _nine(pixel.x), "height": _nine(pixel.y), "unit": pixel.unit},
            "read_at": self.reading,
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
                    "cells": step.window_count(stage),
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
            "reading_processes": memory.processes,
            "device_budget": memory.device_budget,
            "device_planned": memory.device,
        }

    def disk(self) -> dict[str, int]:
        """Return upper bounds of disk space in bytes: of the mask, the journal with its fields, and a decoded copy."""
        labels = self.image.size.pixels
        *before, step = self.passes
        fields = sum(
            count * coarse.reach(block).area * self.field_bands(coarse) * 2
            for coarse in before
            for block, count in coarse.alike()
        )
        fields += sum(count * step.kept_area(block) * self.classes * 2 for block, count in step.alike())
        last = step.stages[-1].extent.pixels
        if step.fade and self.lacks_labels:
            # These fields mark which pixels near borders get a label, and which a probability.
            fields += labels + last * (self.probabilities or self.uncertainty)
        kept = last * (self.classes * self.probabilities + self.uncertainty)
        return {
            # A pyramid whose levels halve both sides adds 1/4 + 1/16 + ... = 1/3 to the full resolution.
            "mask_at_most": ceil(labels * 4 / 3),
            "journal_at_most": labels + fields + kept,
            "fields_at_most": fields,
            "probabilities_at_most": kept,
            "decode_cache": self.image.cache_bytes,
        }


def _nine(value: Fraction) -> float:
    """Return a number in nine digits: the rest is the error of the working grid's bounded denominator."""
    return float(f"{float(value):.9g}")


def _size(size: Size) -> dict[str, int]:
    return {"width": size.width, "height": size.height}


def budget_share(budget: Fraction, stages: Sequence[Stage], stage: Stage) -> Fraction:
    """Return the share of a stage's windows that a budget selects, where coarse stages are filled before finer ones.

    Coarse windows are few, each changes much, and the gain of a fine one is known only where its coarse one was
    computed (docs/accuracy.md compares this with the same share of every stage). The coarsest is computed in any case.

    Args:
        budget: The budget of the windows of all stages, in (0, 1].
        stages: All stages of the run, coarsest first.
        stage: The stage of `stages` whose share is returned.
    """
    before = sum(other.cells.pixels for other in stages if other.number < stage.number)
    left = budget * sum(other.cells.pixels for other in stages) - before
    return min(Fraction(1), max(Fraction(0), left / stage.cells.pixels))


def windows_selected(rule: Rule, *, total: int, full: int, step: int) -> int:
    """Return how many windows of a block's stage are computed at most.

    Args:
        rule: The rule of `--patches`.
        total: Windows of this stage in this block.
        full: Windows of this stage in a block that the image's edge does not cut.
        step: Number of the refining stage, 0 being the first.
    """
    if rule.kind in ("all", "threshold", "selector"):
        return total
    if rule.kind == "share":
        return min(total, ceil(rule.value(step) * total))
    return min(total, ceil(rule.value(step) * Fraction(total, full)))

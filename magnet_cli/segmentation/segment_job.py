"""A segmentation as a job of the engine: its passes, its mask and fields, its report, and the hash of its options."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from typing_extensions import override

from magnet_cli.areas import open_area
from magnet_cli.masks.header import digest_of
from magnet_cli.masks.spec import PROBABILITIES, UNCERTAINTY, FieldSpec, MaskClass, MaskSpec
from magnet_cli.report.maps import describe_maps
from magnet_cli.report.run_report import make_report
from magnet_cli.run.job import PlannedJob, Prepared
from magnet_cli.run.measured import Totals
from magnet_cli.run.workload import PASSING_A_PIXEL, WRITING_A_PIXEL
from magnet_cli.segmentation.block_borders import BorderPass, BorderRunner, border_fields
from magnet_cli.segmentation.bound_pass import BoundPass
from magnet_cli.segmentation.computer import Computer
from magnet_cli.segmentation.grnet_computer import GRNetComputer, LocalComputer
from magnet_cli.segmentation.pass_runner import PassRunner
from magnet_cli.segmentation.window_budget import BudgetCells

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import ExitStack

    from magnet_cli.areas import Area
    from magnet_cli.images import Image, ImageInfo
    from magnet_cli.models.bundle import Bundle
    from magnet_cli.plan import Plan
    from magnet_cli.run.job import Resources, Runner, RunPass
    from magnet_cli.run.measured import Measured
    from magnet_cli.run.results import Results
    from magnet_cli.segmentation.computer import Normalisation, Predictor

ARITHMETIC = 13
"""Version of the computation, part of the options hash. It is raised by hand whenever the same options begin to give
another mask, so that no run resumes groups that an older program computed."""
COMPUTERS: dict[str, type[Computer]] = {"grnet": GRNetComputer, "grnet-local": LocalComputer}
"""Classes that compute the passes of a method. Methods that are not listed use `Computer`."""


@dataclass(frozen=True, kw_only=True)
class SegmentJob(PlannedJob):
    """The segmentation of one image by its plan."""

    plan: Plan
    bundle: Bundle
    networks: Predictor
    normalisation: Normalisation
    area: Area | None = None
    """The area in which labels are wanted, known once the image is open. None is the whole image."""
    is_shared: bool = False
    """Whether several processes compute the mask, of which none may take smaller batches than the others."""
    shares: tuple[float, ...] = ()
    """The share of the image that lies in each area of the plan, once the image is open."""

    @property
    @override
    def image(self) -> ImageInfo:
        return self.plan.image

    @property
    @override
    def passes(self) -> Sequence[RunPass]:
        return [
            *(
                BoundPass(plan=self.plan, step=step, device=self.networks.device, area=self.area)
                for step in self.plan.passes
            ),
            *BorderPass.of(self.plan),
        ]

    @property
    @override
    def spec(self) -> MaskSpec:
        return mask_spec(self.plan, self.bundle)

    @property
    @override
    def fields(self) -> tuple[FieldSpec, ...]:
        return field_specs(self.plan)

    @property
    @override
    def kept(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.fields if entry.name in (PROBABILITIES, UNCERTAINTY))

    @property
    @override
    def work(self) -> Sequence[float]:
        plan = self.plan
        computed = [
            float(
                sum(
                    plan.settings.images * plan.windows(step, stage) * stage.input.pixels
                    + stage.extent.pixels * PASSING_A_PIXEL
                    for stage in step.stages
                )
            )
            for step in plan.passes
        ]
        # Borders are joined without a network, of pixels that are kept: they take about as long as their writing.
        borders = [self.image.size.pixels * WRITING_A_PIXEL for _ in BorderPass.of(plan)]
        return [*computed, *borders]

    @property
    @override
    def noted(self) -> Mapping[str, int]:
        # Another batch may change the last bits of a result. A pass that had to halve its batch is therefore resumed
        # with the halved one, even where memory is not short any more.
        return {"batch": self.plan.batch}

    @property
    @override
    def shown(self) -> Mapping[str, object]:
        # The page of a mask that is being computed names the scale of what the coarser passes have found.
        finest = [step.stages[-1].scale for step in self.plan.passes]
        return {"scales": [scale.brief for scale in finest]}

    @override
    def resumed(self, noted: Mapping[str, int]) -> Self:
        return replace(self, plan=replace(self.plan, batch=noted.get("batch") or self.plan.batch))

    @override
    def smaller(self, step: RunPass) -> tuple[Self, str] | None:
        batch = self.plan.batch
        # Borders of blocks are joined without a network.
        if batch == 1 or self.is_shared or isinstance(step, BorderPass):
            return None
        note = f"memory was short: {batch // 2} patches a forward pass, not {batch}"
        return replace(self, plan=replace(self.plan, batch=batch // 2)), note

    @override
    def prepared(self, image: Image, stack: ExitStack) -> Prepared[Self]:
        opened = open_area(self.plan.areas, image, stack)
        job = replace(self, area=opened.area, shares=opened.shares)
        return Prepared(job=job, notes=opened.notes)

    @override
    def runner(self, step: RunPass, resources: Resources) -> Runner:
        if isinstance(step, BorderPass):
            return BorderRunner(step, resources)
        bound = self.bound(step.number, resources.results)
        computer = COMPUTERS.get(self.plan.settings.method, Computer)
        return PassRunner(bound, computer(bound, self.networks, self.normalisation, resources.clock), resources)

    def bound(self, number: int, results: Results) -> BoundPass:
        """Bind a pass of the plan to what is fixed for it. The passes before have to be finished."""
        step, budget = self.plan.passes[number], None
        if self.plan.settings.patches.kind == "budget" and number:
            budget = BudgetCells.of(self.plan, step, results.finished(number - 1))
        return BoundPass(plan=self.plan, step=step, device=self.networks.device, area=self.area, budget=budget)

    @override
    def report(self, results: Results, measured: Measured) -> dict[str, object]:
        totals = Totals.of(counts for step in self.passes for counts in results.finished(step.number).values())
        return {
            **make_report(self.plan, self.bundle, totals, measured, shares=self.shares, batches=self._batches(results)),
            "maps": describe_maps(self.plan, results.finished),
        }

    def _batches(self, results: Results) -> list[int]:
        """Return the patches of a forward pass of each pass, which were noted with all of its groups."""
        found = []
        for step in self.plan.passes:
            batch = next(iter(results.finished(step.number).values()), {}).get("batch")
            found.append(batch if isinstance(batch, int) else self.plan.batch)
        return found


def options_hash(plan: Plan) -> str:
    """Return a SHA-256 over every resolved value that the mask depends on, and `ARITHMETIC`.

    A journal or a mask with another hash is never resumed. Workers, memory budgets and exports are left out on
    purpose: the mask does not depend on them.
    """
    pixel = plan.image.resolution
    values = {
        "arithmetic": ARITHMETIC,
        **plan.settings.describe(),
        # `describe` rounds rules for people; shares that differ by less must not share a journal.
        "points_exact": [str(value) for value in plan.settings.points.values],
        "patches_exact": [str(value) for value in plan.settings.patches.values],
        "scales": [str(stage.scale) for stage in plan.stages],
        "working": [str(plan.working.x), str(plan.working.y)],
        "batch": plan.batch,
        "group": list(plan.group),
        # The kind and not the name: a run on one GPU may be resumed on another one.
        "device": plan.machine.kind,
        "precision": plan.machine.precision,
        "pixel": pixel and [str(pixel.x), str(pixel.y), pixel.unit],
        "areas": [[area.kind, area.digest] for area in plan.areas],
        "bands": list(plan.bands),
        "value_range": [list(span) for span in plan.value_range],
        "fields": [plan.probabilities, plan.uncertainty],
        **({} if plan.preparation is None else {"preparation": plan.preparation.describe()}),
        **({} if plan.machine.engine == "torch" else {"engine": plan.machine.engine}),
    }
    return digest_of(values)


def mask_spec(plan: Plan, bundle: Bundle) -> MaskSpec:
    """Return what the file of a plan's mask needs to know: size, classes, pixel size and place."""
    info = plan.image
    return MaskSpec(
        size=info.size,
        classes=tuple(MaskClass(name=entry.name, color=entry.color) for entry in bundle.classes),
        resolution=info.resolution,
        geo_tags=info.geo_tags,
    )


def field_specs(plan: Plan) -> tuple[FieldSpec, ...]:
    """Return the fields of a plan: what each pass leaves for later ones, and those that stay beside the mask."""
    fields = list(border_fields(plan))
    last = plan.stages[-1]
    for name, bands, wanted in (
        (PROBABILITIES, plan.classes, plan.probabilities),
        (UNCERTAINTY, 1, plan.uncertainty),
    ):
        if wanted:
            fields.append(FieldSpec(name=name, bands=bands, size=last.extent, pitch=last.pitch, dtype="uint8"))
    return tuple(fields)

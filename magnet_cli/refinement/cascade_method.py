"""The cascade as a way of refining masks: object by object, by a network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from typing_extensions import override

from magnet_cli import images
from magnet_cli.errors import UsageError
from magnet_cli.models.device import device_case
from magnet_cli.plan import check_domain
from magnet_cli.refinement.effort import effort_of
from magnet_cli.refinement.image_view import see
from magnet_cli.refinement.label_pass import Joining
from magnet_cli.refinement.large_objects import Levels
from magnet_cli.refinement.mask_kinds import class_indices
from magnet_cli.refinement.method import Foreseen, MaskJob
from magnet_cli.refinement.pass_context import RefineWork
from magnet_cli.refinement.planner import foreseen_memory, make_plan
from magnet_cli.refinement.refinement_plan import FusionPass, LevelPass, SharesPass, options_hash
from magnet_cli.refinement.refinement_report import make_report
from magnet_cli.refinement.shares import Sharing
from magnet_cli.refinement.wholes import Objects
from magnet_cli.system.speeds import Case, nearest_figure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from magnet_cli.events import Events
    from magnet_cli.geometry import Pitch
    from magnet_cli.images import ImageInfo
    from magnet_cli.plan import Machine, Seer
    from magnet_cli.refinement.cascade_model import RefineModel
    from magnet_cli.refinement.image_view import Seen
    from magnet_cli.refinement.input_mask import InputMask
    from magnet_cli.refinement.refinement_plan import RefinePlan, RefineSettings
    from magnet_cli.run.job import Resources, Runner, RunPass
    from magnet_cli.run.measured import Measured
    from magnet_cli.run.results import Results

MOST_NAMED = 12
"""Classes that a message lists."""


@dataclass(frozen=True, kw_only=True)
class Cascade:
    """A bundle and how it is used; see `Method`."""

    model: RefineModel
    settings: RefineSettings
    weights: str
    """What the bundle was loaded by."""
    evidence: Path | None = None
    """What was kept of `segment`: what a pixel is that its object gives up."""
    domain: str | None = None
    """What the user says that images show."""

    @property
    def machine(self) -> Machine:
        """See `Method`."""
        return self.model.machine

    @property
    def seer(self) -> Seer:
        """See `Method`."""
        return self.model.facts()

    @property
    def wants_probabilities(self) -> bool:
        """See `Method`: objects are made of labels, but what one class alone gives up is another one's."""
        return bool(self.settings.only)

    @property
    def needs_doubt(self) -> bool:
        """See `Method`."""
        return False

    def starting_from(self, kept: Path) -> Cascade:
        """See `Method`."""
        return replace(self, evidence=kept)

    def hashes(self) -> dict[str, str]:
        """See `Method`."""
        found = {"bundle": self.model.bundle.digest, "options": options_hash(self.settings, self.machine)}
        return found if self.evidence is None else {**found, "evidence": images.fingerprint(self.evidence)}

    def words(self) -> list[str]:
        """See `Method`."""
        return ["--weights", self.weights]

    def based(self, base: int) -> Cascade:
        """See `Method`."""
        machine = replace(self.machine, base=base)
        return replace(self, model=replace(self.model, machine=machine))

    def check_classes(self, names: Sequence[str], *, option: str, file: str | None = None) -> tuple[str, ...]:
        """See `Method`."""
        bundle, known = self.model.bundle.name, self.model.bundle.kind_of_object
        chosen = [names[label] for label in class_indices(self.settings.only, names, option=option)]
        if chosen and known in names and chosen != [known]:
            return (f"{bundle} was trained on {known}, and the classes to refine are {', '.join(chosen)}",)
        if chosen or not known:
            return ()
        one = known if known in names else "NAME"
        alone = f", --object {one} for a mask of these alone, or --mask-kind binary where all but 0 is the object"
        raise UsageError(
            f"{bundle} sharpens one kind of object, {known}, and a mask of classes has to say which of them that is",
            value=", ".join(names[:MOST_NAMED]),
            file=file,
            advice=f"Give {option} {one}, so that other classes stay{alone if option == '--only' else ''}",
        )

    def see(self, info: ImageInfo) -> Seen:
        """See `Method`."""
        self._domain_notes(info)
        return see(info, self.seer, bands=self.settings.bands, value_range=self.settings.value_range)

    def _domain_notes(self, info: ImageInfo) -> tuple[str, ...]:
        bundle = self.model.bundle
        return check_domain(info, bundle.name, bundle.domain, insisted=self.domain)

    def foresee(self, seen: Seen, *, classes: int, kept: Pitch | None, workers: int) -> Foreseen:
        """See `Method`."""
        memory = foreseen_memory(seen.info, self.settings, self.model, classes=classes, kept=kept, workers=workers)
        return Foreseen(
            lines=(f"{self.model.bundle.name}: object by object, which are counted once the mask is there",),
            settings={"method": "cascadepsp", "bundle": self.model.bundle.name, **self.settings.describe()},
            memory=memory,
        )

    def job(self, seen: Seen, mask: InputMask, *, workers: int, events: Events) -> CascadeJob:
        """See `Method`."""
        is_labels, names = mask.reading.kind == "labels", mask.reading.names
        plan = make_plan(
            seen,
            mask,
            self.settings,
            self.model,
            kept=self.evidence,
            notes=(
                *self._domain_notes(seen.info),
                *(self.check_classes(names, option="--only", file=mask.path) if is_labels else ()),
            ),
            workers=workers,
            events=events,
        )
        return CascadeJob(plan=plan, model=self.model, mask=mask)


@dataclass(frozen=True, kw_only=True)
class CascadeJob(MaskJob):
    """A mask whose objects a network sharpens."""

    plan: RefinePlan
    model: RefineModel
    mask: InputMask

    @override
    def runner(self, step: RunPass, resources: Resources) -> Runner:
        work = RefineWork(plan=self.plan, mask=self.mask, network=self.model.network, resources=resources)
        if isinstance(step, LevelPass):
            return Levels(work, step)
        if isinstance(step, SharesPass):
            return Sharing(work, step)
        return Joining(work, step) if isinstance(step, FusionPass) else Objects(work)

    @override
    def report(self, results: Results, measured: Measured) -> dict[str, object]:
        return make_report(self.plan, self.model.bundle, self.totals(results), measured)

    @property
    def case(self) -> Case:
        """What the speed of the run depends on; it counts full windows that look at as many pixels as its passes do."""
        machine, settings = self.plan.machine, self.plan.settings
        return Case(
            bundle=self.model.bundle.digest,
            device=device_case(machine.device),
            precision=machine.precision,
            method=f"cascadepsp {settings.compat}, L {settings.side}",
            merge="none",
            batch=1,
        )

    @override
    def seconds(self) -> float | None:
        figure = nearest_figure(self.case, pixels=self.plan.image.size.pixels)
        if figure is None:
            return None
        return effort_of(self.plan).windows(self.plan.settings.side) / figure.windows_per_second

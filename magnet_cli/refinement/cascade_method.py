"""The cascade as a refinement method: a network refines the mask object by object (CascadePSP)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from typing_extensions import override

from magnet_cli import images
from magnet_cli.errors import UsageError
from magnet_cli.models.device import device_case
from magnet_cli.plan import check_domain
from magnet_cli.refinement.effort import effort_of
from magnet_cli.refinement.image_view import view_of_image
from magnet_cli.refinement.label_pass import Joining
from magnet_cli.refinement.large_objects import Levels
from magnet_cli.refinement.mask_kinds import class_indices
from magnet_cli.refinement.method import MaskJob, RefinePreview
from magnet_cli.refinement.pass_context import RefineWork
from magnet_cli.refinement.planner import make_plan, preview_memory
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
    from magnet_cli.plan import InputFacts, Machine
    from magnet_cli.refinement.cascade_model import RefineModel
    from magnet_cli.refinement.image_view import ImageView
    from magnet_cli.refinement.input_mask import InputMask
    from magnet_cli.refinement.refinement_plan import RefinePlan, RefineSettings
    from magnet_cli.run.job import Resources, Runner, RunPass
    from magnet_cli.run.measured import Measured
    from magnet_cli.run.results import Results

MOST_NAMED = 12
"""Most classes that a message lists."""


@dataclass(frozen=True, kw_only=True)
class Cascade:
    """The refinement method of a bundle with a cascade. It implements `Method`."""

    model: RefineModel
    settings: RefineSettings
    weights: str
    """The name or folder by which the bundle was loaded."""
    evidence: Path | None = None
    """Probabilities that `segment` has kept. Pixels that refinement removes from an object get the most probable other
    class. None keeps their old class."""
    domain: str | None = None
    """The subject of the images, if the user names it with `--domain`."""

    @property
    def machine(self) -> Machine:
        """The device, the precision and the memory of the runs."""
        return self.model.machine

    @property
    def input_facts(self) -> InputFacts:
        """The bands and values that the network was trained on."""
        return self.model.facts()

    @property
    def wants_probabilities(self) -> bool:
        """Whether kept probabilities are used: only if some classes are refined and others stay.

        Objects are made of labels. If all classes are refined, another object claims the pixels that one loses.
        """
        return bool(self.settings.only)

    @property
    def needs_doubt(self) -> bool:
        """Whether the method needs probabilities: never, because a cascade refines plain labels too."""
        return False

    def starting_from(self, kept: Path) -> Cascade:
        """Return the method with kept probabilities as evidence."""
        return replace(self, evidence=kept)

    def hashes(self) -> dict[str, str]:
        """Return the hashes of the bundle, the options and the evidence, by name."""
        # Evidence changes labels, so a run with other evidence must not resume this one.
        found = {"bundle": self.model.bundle.digest, "options": options_hash(self.settings, self.machine)}
        if self.model.runtime is not None:
            # The name of the engine in a message tells the user what an unfinished run was computed by.
            found["runtime"] = self.model.runtime
        return found if self.evidence is None else {**found, "evidence": images.fingerprint(self.evidence)}

    def words(self) -> list[str]:
        """Return the words that name the bundle, which has no default."""
        return ["--weights", self.weights]

    def based(self, base: int) -> Cascade:
        """Return the method with another amount of host memory in use before a run."""
        machine = replace(self.machine, base=base)
        return replace(self, model=replace(self.model, machine=machine))

    def check_classes(self, names: Sequence[str], *, option: str, file: str | None = None) -> tuple[str, ...]:
        """Refuse a mask of several classes if the cascade is for one kind of object and no class was chosen.

        Returns:
            A note if other classes were chosen than the bundle was trained on.
        """
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

    def view(self, info: ImageInfo) -> ImageView:
        """Choose the bands and values of an image that the network reads."""
        self._domain_notes(info)
        return view_of_image(info, self.input_facts, bands=self.settings.bands, value_range=self.settings.value_range)

    def _domain_notes(self, info: ImageInfo) -> tuple[str, ...]:
        bundle = self.model.bundle
        return check_domain(info, bundle.name, bundle.domain, insisted=self.domain)

    def preview(self, view: ImageView, *, classes: int, kept: Pitch | None, workers: int) -> RefinePreview:
        """Preview a run whose mask does not exist yet."""
        memory = preview_memory(view.info, self.settings, self.model, classes=classes, kept=kept, workers=workers)
        return RefinePreview(
            lines=(f"{self.model.bundle.name}: object by object, which are counted once the mask is there",),
            settings={"method": "cascadepsp", "bundle": self.model.bundle.name, **self.settings.describe()},
            memory=memory,
        )

    def job(self, view: ImageView, mask: InputMask, *, workers: int, events: Events) -> CascadeJob:
        """Survey a mask, and plan how its objects are refined."""
        is_labels, names = mask.reading.kind == "labels", mask.reading.names
        plan = make_plan(
            view,
            mask,
            self.settings,
            self.model,
            kept=self.evidence,
            notes=(
                *self._domain_notes(view.info),
                *(self.check_classes(names, option="--only", file=mask.path) if is_labels else ()),
            ),
            workers=workers,
            events=events,
        )
        return CascadeJob(plan=plan, model=self.model, mask=mask)


@dataclass(frozen=True, kw_only=True)
class CascadeJob(MaskJob):
    """The refinement of one mask by a cascade."""

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
        """The key under which speeds of such runs are stored, in full windows of side L a second."""
        machine, settings = self.plan.machine, self.plan.settings
        return Case(
            bundle=self.model.bundle.digest,
            device=device_case(machine.device),
            precision=machine.precision if machine.engine == "torch" else f"{machine.precision} in {machine.engine}",
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

"""Interfaces of refinement methods: the method, the plan of a run, and its job for the engine."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from typing_extensions import override

from magnet_cli.masks.spec import MaskSpec
from magnet_cli.run.job import JobPlan, PlannedJob
from magnet_cli.run.measured import Totals

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from magnet_cli.events import Events
    from magnet_cli.geometry import Pitch
    from magnet_cli.images import ImageInfo
    from magnet_cli.masks.spec import FieldSpec
    from magnet_cli.plan import InputFacts, Machine, MemoryPlan
    from magnet_cli.refinement.image_view import ImageView
    from magnet_cli.refinement.input_mask import InputMask
    from magnet_cli.refinement.mask_kinds import Reading
    from magnet_cli.run.job import RunPass
    from magnet_cli.run.results import Results


class MaskPlan(JobPlan, Protocol):
    """The plan of a run over one image and its mask. Nothing on which the result depends is decided later."""

    @property
    def view(self) -> ImageView:
        """The image, with the bands and values that the method reads."""

    @property
    def mask(self) -> str:
        """The path of the mask."""

    @property
    def reading(self) -> Reading:
        """The interpretation of the mask's values."""

    @property
    def passes(self) -> Sequence[RunPass]:
        """The passes in the order in which they follow one another."""

    @property
    def fields(self) -> tuple[FieldSpec, ...]:
        """The fields that the journal stores besides labels."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user and the report."""

    def describe(self) -> dict[str, object]:
        """Return the plan as JSON values."""

    def lines(self) -> list[str]:
        """Return what the run does, as lines of text."""

    def disk(self) -> dict[str, int]:
        """Return upper bounds of the files' sizes in bytes."""


class MaskJob(PlannedJob):
    """The refinement of one mask, as a job of the engine over the mask's image."""

    plan: MaskPlan
    """The plan of the run."""

    @property
    @override
    def image(self) -> ImageInfo:
        return self.plan.view.info

    @property
    @override
    def passes(self) -> Sequence[RunPass]:
        return self.plan.passes

    @property
    @override
    def spec(self) -> MaskSpec:
        info = self.image
        return MaskSpec(
            size=info.size, classes=self.plan.reading.classes, resolution=info.resolution, geo_tags=info.geo_tags
        )

    @property
    @override
    def fields(self) -> tuple[FieldSpec, ...]:
        return self.plan.fields

    @property
    @override
    def activity(self) -> str:
        return "refine"

    def totals(self, results: Results) -> dict[int, Totals]:
        """Return the summed counts of each pass, by the number of the pass."""
        return {step.number: Totals.of(results.finished(step.number).values()) for step in self.passes}

    @abstractmethod
    def seconds(self) -> float | None:
        """Return the longest time that the run may take, in seconds, at the speed that `magnet bench` has measured.

        None without a measurement on this machine.
        """


@dataclass(frozen=True, kw_only=True)
class RefinePreview:
    """The part of a plan that is known before the mask exists, for `segment --refine`."""

    lines: tuple[str, ...]
    """Lines of text that describe what the run will do."""
    settings: dict[str, object]
    """The settings of the method as JSON values."""
    memory: MemoryPlan

    def describe(self) -> dict[str, object]:
        """Return the preview as JSON values, memory in bytes."""
        return {**self.settings, "memory": {"budget": self.memory.budget, "planned": self.memory.total}}


class Method(Protocol):
    """A refinement method that is loaded, ready for any number of masks."""

    @property
    def machine(self) -> Machine:
        """The device, the precision and the memory of the runs."""

    @property
    def input_facts(self) -> InputFacts:
        """The bands and values that the method expects of an image."""

    @property
    def wants_probabilities(self) -> bool:
        """Whether the method uses kept class probabilities of a mask."""

    @property
    def needs_doubt(self) -> bool:
        """Whether the method changes nothing if all labels are equally certain, so that it needs probabilities."""

    def starting_from(self, kept: Path) -> Method:
        """Return the method with kept probabilities. Only for a method that uses them."""

    def hashes(self) -> dict[str, str]:
        """Return the hashes of everything but image and mask on which the result depends, by name."""

    def words(self) -> list[str]:
        """Return the words that a command line needs besides options that differ from their defaults."""

    def based(self, base: int) -> Method:
        """Return the method for a process that has `base` bytes of host memory in use before a run."""

    def check_classes(self, names: Sequence[str], *, option: str, file: str | None = None) -> tuple[str, ...]:
        """Check whether the method can refine a mask of several classes.

        Args:
            names: Names of all classes of the mask.
            option: The option of the command line that chooses classes, for messages.
            file: The path of the mask, if it exists.

        Returns:
            Notes for the user on the classes that are refined.

        Raises:
            UsageError: The method is for one kind of object, and no class was chosen.
        """

    def view(self, info: ImageInfo) -> ImageView:
        """Choose the bands and values of an image that the method reads.

        Raises:
            UsageError, SourceError, WeightsError: The image does not fit the method.
        """

    def preview(self, view: ImageView, *, classes: int, kept: Pitch | None, workers: int) -> RefinePreview:
        """Preview the refinement of a mask that does not exist yet.

        Args:
            view: The view of the image.
            classes: The number of classes of the mask.
            kept: The pitch of the probabilities that will be kept. None if there will be none.
            workers: The number of reading threads.

        Raises:
            DeviceError: The memory budget is too small.
        """

    def job(self, view: ImageView, mask: InputMask, *, workers: int, events: Events) -> MaskJob:
        """Plan the refinement of a mask, which may read it as a whole.

        Raises:
            MagnetError: The mask cannot be refined, or the memory budget is too small.
        """

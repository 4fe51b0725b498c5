"""What a way of refining masks offers to the run that it shares with the others."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from typing_extensions import override

from magnet_cli.masks.spec import MaskSpec
from magnet_cli.run.job import PlannedJob
from magnet_cli.run.measured import Totals

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from magnet_cli.events import Events
    from magnet_cli.geometry import Pitch
    from magnet_cli.images import ImageInfo
    from magnet_cli.masks.spec import FieldSpec
    from magnet_cli.plan import Machine, MemoryPlan, Seer
    from magnet_cli.refinement.image_view import Seen
    from magnet_cli.refinement.input_mask import InputMask
    from magnet_cli.refinement.mask_kinds import Reading
    from magnet_cli.run.job import RunPass
    from magnet_cli.run.results import Results


class MaskPlan(Protocol):
    """A run over one image and its mask: nothing that the result depends on is decided later."""

    @property
    def seen(self) -> Seen:
        """The image, and what is seen of it."""

    @property
    def mask(self) -> str:
        """Its path."""

    @property
    def reading(self) -> Reading:
        """How it is read."""

    @property
    def passes(self) -> Sequence[RunPass]:
        """In order."""

    @property
    def fields(self) -> tuple[FieldSpec, ...]:
        """What the journal keeps besides labels."""

    @property
    def machine(self) -> Machine:
        """Where it runs."""

    @property
    def memory(self) -> MemoryPlan:
        """What it takes."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know."""

    def describe(self) -> dict[str, object]:
        """As JSON values."""

    def lines(self) -> list[str]:
        """What it does, for people."""

    def disk(self) -> dict[str, int]:
        """Upper bounds in bytes."""


class MaskJob(PlannedJob):
    """What is to be done to one mask: a job over the mask's image."""

    plan: MaskPlan
    """Everything that was decided about the run."""

    @property
    @override
    def image(self) -> ImageInfo:
        return self.plan.seen.info

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
        """The counts of each pass, added up, by the number of the pass."""
        return {step.number: Totals.of(results.finished(step.number).values()) for step in self.passes}

    @abstractmethod
    def seconds(self) -> float | None:
        """Time that the run takes at most, at the speed that `magnet bench` measured here; None where it has not."""


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """What is known of a run whose mask is not there yet."""

    lines: tuple[str, ...]
    """For people."""
    settings: dict[str, object]
    """As JSON values."""
    memory: MemoryPlan

    def describe(self) -> dict[str, object]:
        """As JSON values: bytes."""
        return {**self.settings, "memory": {"budget": self.memory.budget, "planned": self.memory.total}}


class Method(Protocol):
    """A way of refining masks, ready for any number of them."""

    @property
    def machine(self) -> Machine:
        """Where it runs."""

    @property
    def seer(self) -> Seer:
        """What it wants of an image."""

    @property
    def wants_probabilities(self) -> bool:
        """Whether it starts from the probabilities of a mask's classes where they are kept."""

    @property
    def needs_doubt(self) -> bool:
        """Whether labels alone, all of them equally sure, are nothing for it."""

    def starting_from(self, kept: Path) -> Method:
        """The same with probabilities that were kept; only where it wants them."""

    def hashes(self) -> dict[str, str]:
        """By name, of everything but image and mask that the result depends on."""

    def words(self) -> list[str]:
        """What the command line has to name besides options that differ from their defaults."""

    def based(self, base: int) -> Method:
        """The same where so many bytes of the host are in use before a run."""

    def check_classes(self, names: Sequence[str], *, option: str, file: str | None = None) -> tuple[str, ...]:
        """Accept a mask of several classes; what a user should know of those that are to be refined.

        Args:
            names: Of all its classes.
            option: Of the command line, that chooses among them.
            file: The mask, where there is one.

        Raises:
            UsageError: What is known is one kind of object, and no class was chosen.
        """

    def see(self, info: ImageInfo) -> Seen:
        """What is seen of an image.

        Raises:
            UsageError, SourceError, WeightsError: The image does not fit.
        """

    def foresee(self, seen: Seen, *, classes: int, kept: Pitch | None, workers: int) -> Foreseen:
        """What is to be done to a mask of so many classes that is not there yet.

        Args:
            seen: The image.
            classes: Of the mask.
            kept: The grid of the probabilities that will be kept; None where there will be none.
            workers: Threads that read.

        Raises:
            DeviceError: It would take more memory than it may.
        """

    def job(self, seen: Seen, mask: InputMask, *, workers: int, events: Events) -> MaskJob:
        """What is to be done to a mask.

        Raises:
            MagnetError: It cannot be done, or takes more memory than it may.
        """

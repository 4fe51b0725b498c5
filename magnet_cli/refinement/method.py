"""What a way of refining masks offers to the run that it shares with the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from magnet_cli.events import Events
    from magnet_cli.geometry import Pitch
    from magnet_cli.images import Image, ImageInfo
    from magnet_cli.masks.journal import Journal
    from magnet_cli.masks.spec import FieldSpec, GroupId
    from magnet_cli.plan import Machine, MemoryPlan, Seer
    from magnet_cli.refinement.image_view import Seen
    from magnet_cli.refinement.input_mask import InputMask
    from magnet_cli.refinement.mask_kinds import Reading
    from magnet_cli.report.run_report import Measured


COUNTED = ("wholes", "windows", "looked", "nodata", "changed")


class Step(Protocol):
    """A pass: groups of work that may be done in any order."""

    @property
    def number(self) -> int:
        """0 for the first."""

    @property
    def groups(self) -> int:
        """How many there are."""

    @property
    def what(self) -> str:
        """For people."""


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
    def passes(self) -> Sequence[Step]:
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


class Runner(Protocol):
    """A pass: what is read, computed and stored of a group."""

    def read(self, group: int) -> Any:
        """All that the group needs; in a thread of its own, ahead of the computation."""

    def compute(self, given: Any) -> Any:
        """What follows from it."""

    def store(self, group: GroupId, found: Any) -> dict[str, object]:
        """Put it into the journal; what the report counts of it."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The files of a run."""

    image: Image
    mask: InputMask
    journal: Journal


@dataclass(kw_only=True)
class PassTotals:
    """Counts of a pass, added up over its groups."""

    labels: list[int] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, groups: Iterable[Mapping[str, object]]) -> PassTotals:
        """Add up the counts of groups."""
        found = cls()
        for group in groups:
            for key in COUNTED:
                if key in group:
                    found.counts[key] = found.counts.get(key, 0) + int(str(group[key]))
            labels = group.get("labels")
            if isinstance(labels, list):
                found.labels = [a + b for a, b in zip(found.labels or [0] * len(labels), labels, strict=True)]
        return found


class Job(Protocol):
    """A plan, and what carries it out."""

    @property
    def plan(self) -> MaskPlan:
        """Of the run."""

    def runner(self, step: Step, opened: Opened) -> Runner:
        """What does a pass of the plan."""

    def report(self, totals: Mapping[int, PassTotals], measured: Measured) -> dict[str, object]:
        """What happened, by the totals of each pass."""

    def seconds(self) -> float | None:
        """What the run takes at most, at the speed that `magnet bench` measured here; None where it has not."""


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

    def job(self, seen: Seen, mask: InputMask, *, workers: int, events: Events) -> Job:
        """What is to be done to a mask.

        Raises:
            MagnetError: It cannot be done, or takes more memory than it may.
        """

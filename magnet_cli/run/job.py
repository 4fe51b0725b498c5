"""What the engine asks of a job: its passes, and what is read, computed and stored for a group of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import ExitStack

    from magnet_cli.images import Image, ImageInfo
    from magnet_cli.masks.spec import FieldSpec, GroupId, MaskSpec
    from magnet_cli.plan import Machine, MemoryPlan
    from magnet_cli.run.clock import Clock
    from magnet_cli.run.measured import Measured
    from magnet_cli.run.results import Results, Sink


class RunPass(Protocol):
    """A pass of a run: groups of work that may be computed in any order, once the passes before are finished."""

    @property
    def number(self) -> int:
        """Which pass of its plan it is, from 0."""

    @property
    def groups(self) -> int:
        """How many groups it has; they are numbered from 0."""

    @property
    def what(self) -> str:
        """What the pass works on, for progress messages; empty where its number says enough."""


class Runner(ABC):
    """One pass of a job, bound to everything that is fixed for the pass: plan, settings, device, opened files."""

    @abstractmethod
    def read(self, group: int) -> Any:
        """Give what a group needs of image and mask. Several threads call this, ahead of the computation.

        Raises:
            SourceError: A file cannot be decoded.
        """

    def recall(self, given: Any) -> Any:
        """Give what the passes before have left of the places that were read; None where nothing is needed of it.

        The computing thread calls this right before `compute`, once the passes before are finished.
        """
        del given

    @abstractmethod
    def compute(self, given: Any, known: Any) -> Any:
        """Compute a group from what was read and recalled.

        Raises:
            MemoryShortageError: It does not fit into memory. The engine tries again with nothing beside it.
        """

    @abstractmethod
    def store(self, group: GroupId, found: Any) -> dict[str, object]:
        """Put the results of a group into the sink, and give its counts as JSON values.

        Another thread may call this while the next group is computed.
        """


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What all passes of a run share."""

    image: Image
    """May be read by several threads."""
    results: Results
    """What is finished already."""
    sink: Sink
    """Takes what is computed."""
    clock: Clock


J = TypeVar("J", bound="Job")


@dataclass(frozen=True, kw_only=True)
class Prepared(Generic[J]):
    """A job whose image is open, before its first pass."""

    job: J
    messages: tuple[str, ...] = ()
    """What a user should be told at once."""
    notes: tuple[str, ...] = ()
    """The same for what a reader of the report should know too."""


class JobPlan(Protocol):
    """Everything that was decided about a run before it."""

    @property
    def machine(self) -> Machine:
        """The device, the precision and the memory that the run may use."""

    @property
    def memory(self) -> MemoryPlan:
        """How much memory the run takes, and how many groups may be read ahead."""


class Job(ABC):
    """A plan and what carries it out. A run does all of it; a machine of several may do some groups of it."""

    @property
    @abstractmethod
    def image(self) -> ImageInfo:
        """The image that is worked on."""

    @property
    @abstractmethod
    def passes(self) -> Sequence[RunPass]:
        """The passes, in the order in which they follow one another."""

    @property
    @abstractmethod
    def machine(self) -> Machine:
        """Where the job runs."""

    @property
    @abstractmethod
    def memory(self) -> MemoryPlan:
        """How much memory it takes, and how many groups may be read ahead."""

    @property
    @abstractmethod
    def spec(self) -> MaskSpec:
        """The mask that it makes."""

    @property
    @abstractmethod
    def fields(self) -> tuple[FieldSpec, ...]:
        """What is kept of passes besides labels, until the mask is finished or for good."""

    @property
    def activity(self) -> str | None:
        """What computing a group counts as in the times of a run; None where runners measure its parts themselves."""
        return None

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the fields that stay beside the finished mask."""
        return ()

    @property
    def noted(self) -> Mapping[str, int]:
        """Numbers, besides that of threads, that the result depends on; they are noted with each group."""
        return {}

    def resumed(self, noted: Mapping[str, int]) -> Self:
        """The job as the interrupted run did it that noted these numbers."""
        del noted
        return self

    def smaller(self) -> tuple[Self, str] | None:
        """The job with less memory at a time and a note that says so; None where it cannot take less.

        The engine asks for it only while nothing is finished: another batch may change the last bits of a result.
        """
        return None

    def prepared(self, image: Image, stack: ExitStack) -> Prepared[Self]:
        """The job with what it needs to know of the image's pixels before its first pass.

        Args:
            image: Open for the whole run.
            stack: Closes what is opened when the run ends.
        """
        del image, stack
        return Prepared(job=self)

    @abstractmethod
    def runner(self, step: RunPass, resources: Resources) -> Runner:
        """What computes a pass."""

    @abstractmethod
    def report(self, results: Results, measured: Measured) -> dict[str, object]:
        """The report of the finished run, as JSON values."""


class PlannedJob(Job):
    """A job whose plan knows its machine and its memory."""

    plan: JobPlan

    @property
    @override
    def machine(self) -> Machine:
        return self.plan.machine

    @property
    @override
    def memory(self) -> MemoryPlan:
        return self.plan.memory

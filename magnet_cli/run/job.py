"""The interface between the engine and a job: the job's passes, and how groups are read, computed and stored."""

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
        """The number of the pass in its plan, from 0."""

    @property
    def groups(self) -> int:
        """The number of groups in the pass. They are numbered from 0."""

    @property
    def what(self) -> str:
        """The kind of work, for progress messages. Empty where the number of the pass says enough."""


class Runner(ABC):
    """One pass of a job, bound to everything that is fixed for the pass: plan, settings, device, opened files."""

    @abstractmethod
    def read(self, group: int) -> Any:
        """Read what a group needs of the image and the mask. Several threads call this, ahead of the computation.

        Raises:
            SourceError: A file cannot be decoded.
        """

    def recall(self, given: Any) -> Any:
        """Read the results of earlier passes under a group; None where a pass needs none.

        The computing thread calls this right before `compute`, once the passes before are finished.
        """
        del given

    @abstractmethod
    def compute(self, given: Any, known: Any) -> Any:
        """Compute a group from what was read and recalled.

        Raises:
            MemoryShortageError: The group does not fit into memory. The engine tries again while nothing is read or
                written.
        """

    @abstractmethod
    def store(self, group: GroupId, found: Any) -> dict[str, object]:
        """Put the results of a group into the sink, and return its counts as JSON values.

        Another thread may call this while the next group is computed.
        """


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The opened files and the clock that all passes of a run share."""

    image: Image
    """The open image, which several threads may read."""
    results: Results
    """The results of groups that are finished."""
    sink: Sink
    """Takes the results of groups that were computed."""
    clock: Clock


J = TypeVar("J", bound="Job")


@dataclass(frozen=True, kw_only=True)
class Prepared(Generic[J]):
    """A job whose image is open, before its first pass."""

    job: J
    messages: tuple[str, ...] = ()
    """Messages that are reported at once."""
    notes: tuple[str, ...] = ()
    """Messages that are reported at once and also belong in the report of the run."""


class JobPlan(Protocol):
    """The part of a plan that the engine needs to know."""

    @property
    def machine(self) -> Machine:
        """The device, the precision and the memory that the run may use."""

    @property
    def memory(self) -> MemoryPlan:
        """The planned memory of the run, and how many groups may be read ahead."""


class Job(ABC):
    """A plan and the means to carry it out. One run computes all of its groups, or several machines share them."""

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
        """The device, the precision and the memory that the job may use."""

    @property
    @abstractmethod
    def memory(self) -> MemoryPlan:
        """The planned memory of the job, and how many groups may be read ahead."""

    @property
    @abstractmethod
    def spec(self) -> MaskSpec:
        """Size, classes and place of the mask that the job makes."""

    @property
    @abstractmethod
    def fields(self) -> tuple[FieldSpec, ...]:
        """The fields that passes store besides labels, until the mask is finished or for good."""

    @property
    def activity(self) -> str | None:
        """The activity to which the time of computing a group is added. None if runners measure it themselves."""
        return None

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the fields that stay beside the finished mask."""
        return ()

    @property
    def work(self) -> Sequence[float]:
        """The expected work of each pass, in pixels that a network computes. It moves the progress bar of the run.

        By default every group of every pass counts as much.
        """
        groups = [step.groups for step in self.passes]
        return [self.image.size.pixels * count / max(1, sum(groups)) for count in groups]

    @property
    def noted(self) -> Mapping[str, int]:
        """Numbers besides that of threads on which the result depends. They are stored with each group's counts."""
        return {}

    @property
    def shown(self) -> Mapping[str, object]:
        """Facts for whoever watches the run, as JSON values. They are stored with each group's counts."""
        return {}

    def resumed(self, noted: Mapping[str, int]) -> Self:
        """Return the job with the numbers that an interrupted run stored, so that its groups and new ones agree."""
        del noted
        return self

    def smaller(self, step: RunPass) -> tuple[Self, str] | None:
        """Return the job with smaller batches, and a note that says so. None if those of a pass cannot be smaller.

        The engine takes that job only while no group of the pass is finished: another batch may change the last bits of
        a result, and all groups of a pass are computed alike.

        Args:
            step: The pass in which memory ran out.
        """
        del step
        return None

    def prepared(self, image: Image, stack: ExitStack) -> Prepared[Self]:
        """Return the job with what it has to learn from the image's pixels before its first pass, such as its tissue.

        Args:
            image: The image, open for the whole run.
            stack: Closes what this method opens when the run ends.
        """
        del image, stack
        return Prepared(job=self)

    @abstractmethod
    def runner(self, step: RunPass, resources: Resources) -> Runner:
        """Return the runner that reads, computes and stores the groups of a pass."""

    @abstractmethod
    def report(self, results: Results, measured: Measured) -> dict[str, object]:
        """Return the report of the finished run as JSON values."""


class PlannedJob(Job):
    """A job that takes its machine and its memory from its plan."""

    plan: JobPlan

    @property
    @override
    def machine(self) -> Machine:
        return self.plan.machine

    @property
    @override
    def memory(self) -> MemoryPlan:
        return self.plan.memory

"""The task that a contender's process gets, and the measurements that it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from magnet_cli.options.refine import RefineOptions
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.options.values import ValueRange

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from magnet_cli.geometry import Size
    from magnet_cli.system.speeds import Case

Options = TypeVar("Options", SegmentOptions, RefineOptions)
"""The options of the command that is measured."""
Command = Literal["segment", "refine"]
Refusal = Literal["refused", "unavailable", "does not apply"]


def command_of(options: SegmentOptions | RefineOptions) -> Command:
    """Return the command that takes such options."""
    return "refine" if isinstance(options, RefineOptions) else "segment"


def for_drawn(options: Options) -> Options:
    """Return options for a drawn image, which has the bundle's bands and 8 bits for the bundle's range.

    A mask that was drawn is binary.
    """
    drawn = replace(options, bands=None, value_range=ValueRange(kind="dtype"))
    return replace(drawn, mask_kind="binary", threshold=None, objects=()) if isinstance(drawn, RefineOptions) else drawn


def mask_beside(image: Path) -> Path:
    """Return the path of the mask of a drawn image."""
    return image.with_suffix(".mask.tif")


@dataclass(frozen=True, kw_only=True)
class Task(Generic[Options]):
    """One image by one method."""

    image: str
    mask: str | None = None
    """The mask of the image, where one is refined."""
    options: Options
    folder: Path
    """An existing folder for the files of runs."""
    warm: str
    """A small image to run once before anything is measured."""
    warm_mask: str | None = None
    """The mask of the image of the warm-up, where a mask is refined."""
    timed: bool = False
    """Whether the program's networks are timed, which on an accelerator would make it wait for them."""


@dataclass(frozen=True, kw_only=True)
class Ready:
    """Facts about a contender once everything is loaded and before anything is measured."""

    refusal: Refusal | None = None
    """The reason why it cannot run: too little memory, a missing library, or no meaning for this method."""
    reason: str | None = None
    """A sentence on the refusal, with the next step."""
    needs: int | None = None
    """Bytes that the contender would take, where they were computed before it was tried."""
    available: int | None = None
    """Bytes that are available."""
    loaded: int | None = None
    """Host bytes of the process: Python, libraries, networks."""
    size: Size | None = None
    """The size of the image. This and the fields below are part of the program's answer alone."""
    windows: int = 0
    """Forward passes through the backbone, planned."""
    case: Case | None = None


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The shape of the input of a step of a cascade."""

    step: Literal["global", "local"]
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Took:
    """The time, memory and counts of one run."""

    seconds: float
    windows: int
    """Forward passes through the backbone. A ceiling gives those of the run that it stands for."""
    host_base: int | None = None
    """Bytes of the process before the run, PSS."""
    host_peak: int | None = None
    """Highest PSS during the run, summed over processes."""
    device_peak: Mapping[str, int] = field(default_factory=dict)
    parts: Mapping[str, float] = field(default_factory=dict)
    """Seconds by activity."""
    full_windows: float | None = None
    """The number of full windows with as many pixels, where the computed windows differ in size."""
    by_stage: Mapping[str, int] = field(default_factory=dict)
    """Forward passes by stage, or by step of a cascade; the program's alone."""
    by_shape: Mapping[Shape, int] = field(default_factory=dict)
    """Steps of a cascade; the program's alone."""
    report: Mapping[str, object] = field(default_factory=dict)
    """The report of the run; part of the program's answer alone."""


class Contender(ABC, Generic[Options]):
    """A program or yardstick that a process of its own runs.

    Args:
        task: The image and the options of the work.
    """

    def __init__(self, task: Task[Options]) -> None:
        self._task: Task[Options] = task
        self._options: Options = replace(task.options, overwrite=True, resume=False)

    @abstractmethod
    def prepare(self) -> Ready:
        """Load everything, and run once on a small image."""

    @abstractmethod
    def run(self, what: str, program: Took | None) -> Took:
        """Do the work, and return its time and memory.

        Args:
            what: The variant of the contender, where it has several.
            program: The program's run of the same round, for a contender that repeats its passes.
        """

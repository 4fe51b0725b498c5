"""Runs of the program inside a part: bounded in time or groups, observed, and compared with each other."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from magnet_cli.events import Events
from magnet_cli.geometry import Size
from magnet_cli.masks.targets import Target
from magnet_cli.run.clock import Clock
from magnet_cli.scene import write_repeated
from magnet_cli.segmentation.image_series import segment_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.events import Step
    from magnet_cli.options.segment import SegmentOptions
    from magnet_cli.segmentation.segment_model import Model


class EnoughError(Exception):
    """The end of a bounded run that has reached its bound."""


@dataclass(kw_only=True)
class Watch(Events):
    """Events that record when groups end, and end a run after a time or a number of groups."""

    seconds: float | None = None
    groups: int | None = None
    at_group: Callable[[int], None] | None = None
    """Function that is called with the number of finished groups whenever a group ends."""
    messages: list[str] = field(default_factory=list)
    done: list[tuple[float, int, float]] = field(default_factory=list)
    """Seconds since the run began, number of finished groups of the pass, and finished share of the whole run's work,
    for each group."""
    total: int = 0
    what: str = ""
    """The pass at hand, such as `pass 1 of 2`."""
    _started: float = field(default_factory=time.monotonic)

    def message(self, text: str) -> None:
        """Keep a message of the run."""
        self.messages.append(text)

    def step(self, step: Step) -> None:
        """Count a group, and end the run at its bound."""
        if not step.what.startswith("pass"):
            return
        elapsed = time.monotonic() - self._started
        self.done.append((elapsed, step.done, step.share or 0.0))
        self.total, self.what = step.total, step.what
        if self.at_group is not None:
            self.at_group(step.done)
        spent = self.seconds is not None and elapsed > self.seconds
        counted = self.groups is not None and step.done >= self.groups
        if (spent or counted) and step.done < step.total:
            raise EnoughError


def draw(path: Path, width: int, height: int | None = None) -> Path:
    """Write a generated JPEG pyramid."""
    write_repeated(path, size=Size(width=width, height=width if height is None else height))
    return path


def run_once(image: Path, mask: Path, model: Model, options: SegmentOptions, watch: Watch | None = None) -> Any:
    """Segment an image.

    Returns:
        The report, or None where the watch ended the run.

    Raises:
        MagnetError: The run failed.
    """
    mask.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Without `alone` the end at a bound would count as a bug, which becomes the failure of the image.
        result = segment_target(Target(image=str(image), mask=mask), model, options, watch or Watch(), alone=True)
    except EnoughError:
        return None
    if result.error is not None:
        raise result.error
    return result.report


def labels(mask: Path) -> NDArray[np.uint8]:
    """Return the labels of a finished mask at full size."""
    found: NDArray[np.uint8] = tifffile.imread(mask, key=0)
    return found


def agreement(one: Path, other: Path) -> float:
    """Return the share of pixels with equal labels in two masks."""
    return float(np.mean(labels(one) == labels(other)))


@contextmanager
def clocks() -> Iterator[list[Clock]]:
    """Yield a list to which every new clock of a run is added.

    A run that is ended early writes no report with its seconds, so they are read from its clock.
    """
    made: list[Clock] = []
    original = Clock.__init__

    def noted(self: Clock, *given: Any, **named: Any) -> None:
        original(self, *given, **named)
        made.append(self)

    setattr(Clock, "__init__", noted)  # noqa: B010 - mypy refuses to assign to a method
    try:
        yield made
    finally:
        setattr(Clock, "__init__", original)  # noqa: B010 - likewise

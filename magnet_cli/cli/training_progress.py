"""The progress of a training on standard error: a bar on a terminal, otherwise the lines of the log."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TimeRemainingColumn

from magnet_cli.cli.progress import DESCRIPTION, BarDisplay, MessageConsole, transient_bar
from magnet_cli.cli.volume import VOLUME

if TYPE_CHECKING:
    from magnet_cli.train.log import Line
    from magnet_cli.train.loop import Tick

SMOOTH = 0.9
"""Momentum of the moving average of the loss that the bar shows."""


class TrainingDisplay(BarDisplay):
    """A bar with the loss, the learning rate and the last validation. Each validation is printed above it as a line.

    Args:
        enabled: Whether the bar is shown. False, or a standard error that is no terminal, prints the log's lines.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self._console = MessageConsole(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
        columns = (BarColumn(), MofNCompleteColumn(), DESCRIPTION, TimeRemainingColumn())
        self._bar = transient_bar(self._console, *columns, enabled=enabled)
        self._task: TaskID | None = None
        self._loss = 0.0
        self._score = ""

    def line(self, line: Line) -> None:
        """Print a line of the log. Beside the bar only validations are printed, and with `--quiet` no line is."""
        text = "  ".join(f"{key} {value:g}" for key, value in line.items())
        VOLUME.record(text)
        if "validation_miou" in line:
            self._score = f"  mIoU {line['validation_miou']:.3f}, best {line['best_miou']:.3f}"
        if not VOLUME.quiet and (self._task is None or "validation_miou" in line):
            # A training goes on where nobody reads its messages any more, or the disk that takes them is full.
            with suppress(OSError):
                self._console.print(text)

    def tick(self, tick: Tick) -> None:
        """Move the bar after an iteration."""
        if self._bar.disable:
            return
        if self._task is None:
            self._loss = tick.loss
            self._task = self._bar.add_task("", total=tick.iterations, completed=tick.iteration - 1)
        self._loss = SMOOTH * self._loss + (1 - SMOOTH) * tick.loss
        shown = f"loss {self._loss:.4f}  rate {tick.rate:.2e}{self._score}"
        self._bar.update(self._task, completed=tick.iteration, description=shown)

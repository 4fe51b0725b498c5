"""What a person sees while a network is trained: a bar on a terminal, the log's lines elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from types import TracebackType

    from magnet_cli.train.log import Line
    from magnet_cli.train.loop import Tick

SMOOTH = 0.9
"""Momentum of the loss that is shown."""


class TrainingDisplay:
    """A bar with loss, learning rate and the last validation; a line for each validation above it.

    Args:
        enabled: False, or a standard error that is no terminal, gives the log's lines instead.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            # Rich also takes a pipe for a terminal where FORCE_COLOR is set, as many CI services do.
            disable=not (enabled and self._console.file.isatty()),
        )
        self._task: TaskID | None = None
        self._loss = 0.0
        self._score = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def line(self, line: Line) -> None:
        """A line of the log."""
        if "validation_miou" in line:
            self._score = f"  mIoU {line['validation_miou']:.3f}, best {line['best_miou']:.3f}"
        if self._task is None or "validation_miou" in line:
            self._console.print("  ".join(f"{key} {value:g}" for key, value in line.items()))

    def tick(self, tick: Tick) -> None:
        """An iteration is over."""
        if self._bar.disable:
            return
        if self._task is None:
            self._loss = tick.loss
            self._task = self._bar.add_task("", total=tick.iterations, completed=tick.iteration - 1)
        self._loss = SMOOTH * self._loss + (1 - SMOOTH) * tick.loss
        shown = f"loss {self._loss:.4f}  rate {tick.rate:.2e}{self._score}"
        self._bar.update(self._task, completed=tick.iteration, description=shown)

"""What a person sees while images are segmented; silent where standard error is no terminal."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from magnet_cli.errors import redacted
from magnet_cli.events import Events, Step

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from magnet_cli.errors import MagnetError


class _Console(Console):
    """A run does not end because nobody reads its messages any more."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Display(Events):
    """Plain lines for messages; a bar for the blocks of the image at hand.

    Args:
        enabled: False, or a standard error that is no terminal, leaves the bar out.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._console = _Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            # Rich also takes a pipe for a terminal where FORCE_COLOR is set, as many CI services do.
            disable=not (enabled and self._console.file.isatty()),
        )
        self._task: TaskID | None = None
        self._shown: tuple[str, str] | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        with suppress(OSError):
            self._console.print(redacted(text))

    def failed(self, image: str, error: MagnetError) -> None:
        """Name a failure and its image."""
        self._clear()
        name = redacted(image)
        about = "" if name in str(error) else f"{name}: "
        with suppress(OSError):
            self._console.print(f"magnet: {about}{error}")

    def step(self, step: Step) -> None:
        """Move the bar; another image or another thing to do begins it anew."""
        if self._task is None or (step.image, step.what) != self._shown:
            self._clear()
            self._shown = (step.image, step.what)
            self._task = self._bar.add_task(f"{step.image}, {step.what}", total=step.total)
        self._bar.update(self._task, completed=step.done, total=step.total)

    def _clear(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None


@contextmanager
def showing(path: str | Path, what: str, *, enabled: bool) -> Iterator[None]:
    """A bar for work that does not say how far it has come; gone when the block ends.

    Args:
        path: What is worked on.
        what: What is done: `drawing`, `checking`.
        enabled: As of `Display`.
    """
    with Display(enabled=enabled) as display:
        display.step(Step(image=redacted(str(path)), what=what, done=0, total=1))
        yield

"""Messages and a progress bar on standard error. The bar is shown only on a terminal."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from magnet_cli.cli.outcome import shown_details
from magnet_cli.cli.volume import VOLUME
from magnet_cli.errors import redacted
from magnet_cli.events import Events, Images, Step
from magnet_cli.system.characters import printable
from magnet_cli.system.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from magnet_cli.errors import MagnetError


DESCRIPTION = TextColumn("{task.description}", markup=False)
"""The column of a bar that names the work."""


class _Console(Console):
    """A console that becomes silent when the reader of a pipe closes it, so that the run continues."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


def transient_bar(console: Console, *columns: ProgressColumn, enabled: bool) -> Progress:
    """Return a bar that disappears when it ends; it is not shown where standard error is no terminal."""
    # Rich also takes a pipe for a terminal where FORCE_COLOR is set, as many CI services do.
    is_shown = enabled and not VOLUME.quiet and console.file.isatty()
    return Progress(*columns, console=console, transient=True, disable=not is_shown)


class BarDisplay(Closing):
    """A display with a bar that is shown until it is closed."""

    _bar: Progress

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def close(self) -> None:
        """Remove the progress bar from the terminal."""
        self._bar.stop()


ALONGSIDE = ("writing", "drawing", "exporting")
"""Work that goes on for an image while the next one is computed."""


class Display(Events, BarDisplay):
    """A display that prints messages as lines and shows the progress of the current image, and of all images, as bars.

    Args:
        enabled: Whether the bar is shown. Without a terminal on standard error it never is.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._console = _Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
        columns = (DESCRIPTION, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = transient_bar(self._console, *columns, enabled=enabled)
        self._all: TaskID | None = None
        self._task: TaskID | None = None
        self._shown: tuple[str, str] | None = None
        self._several = False

    def message(self, text: str) -> None:
        """Print a line above the bar; with `--quiet` it goes to the log alone."""
        VOLUME.record(text)
        if VOLUME.quiet:
            return
        with suppress(OSError):
            self._console.print(printable(redacted(text)))

    def begins(self, image: str, lines: Sequence[str]) -> None:
        """Print what was recognised about an image. Of several images it goes to the log alone, unless verbose."""
        del image
        self.describe(lines)

    def describe(self, lines: Sequence[str]) -> None:
        """Print lines about one image. Where the run has several, they go to the log alone, unless it is verbose."""
        for line in lines:
            if self._several and not VOLUME.verbose:
                VOLUME.record(line)
            else:
                self.message(line)

    def failed(self, image: str, error: MagnetError) -> None:
        """Print the failure of an image, with the image's name."""
        self._clear()
        name = redacted(image)
        about = "" if name in str(error) else f"{name}: "
        lines = [f"magnet: {about}{error}", *shown_details(error)]
        for line in lines:
            VOLUME.record(line)
        with suppress(OSError):
            for line in lines:
                self._console.print(printable(line))

    def images(self, progress: Images) -> None:
        """Move the bar of all images, which says how many failed. A single image has none."""
        self._several = progress.total > 1
        if not self._several:
            return
        what = f"images, {progress.failed} failed" if progress.failed else "images"
        if self._all is None:
            self._all = self._bar.add_task(what, total=progress.total)
        self._bar.update(self._all, description=what, completed=progress.done, total=progress.total)

    def step(self, step: Step) -> None:
        """Move the bar of an image. Another image or another kind of work starts a new bar."""
        if step.what in ALONGSIDE and self._shown is not None and step.image != self._shown[0]:
            return
        if self._task is None or (step.image, step.what) != self._shown:
            self._clear()
            self._shown = (step.image, step.what)
            VOLUME.record(f"{step.image}: {step.what}")
            self._task = self._bar.add_task(printable(f"{step.image}, {step.what}"), total=step.total)
        self._bar.update(self._task, completed=step.done, total=step.total)

    def _clear(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None


@contextmanager
def showing(path: str | Path, what: str, *, enabled: bool) -> Iterator[None]:
    """Show a bar during work that does not report its progress, until the block of the context ends.

    Args:
        path: The file that the work is about.
        what: The kind of work, like `drawing` or `checking`.
        enabled: Whether the bar is shown. Without a terminal on standard error it never is.
    """
    with Display(enabled=enabled) as display:
        display.step(Step(image=redacted(str(path)), what=what, done=0, total=1))
        yield

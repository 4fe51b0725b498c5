"""Messages and a progress bar on standard error. The bar is shown only on a terminal."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from typing_extensions import override

from magnet_cli.cli.outcome import failure_lines, shown_details
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


class TimeLeft(TimeRemainingColumn):
    """The column of a bar that says how long the rest will take, as far as the last half minute tells."""

    def render(self, task: Task) -> Text:
        """Return the time left with the word for it."""
        return super().render(task) + Text(" left", style="progress.remaining")


class MessageConsole(Console):
    """A console that becomes silent when the reader of a pipe closes it, so that the run continues."""

    @override
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


ALONGSIDE = ("writing", "drawing", "exporting", "uploading")
"""Work that goes on for an image while the next one is computed."""


class Display(Events, BarDisplay):
    """A display that prints messages as lines, and shows the progress of the whole run as one bar with the time left.

    Args:
        enabled: Whether the bar is shown. Without a terminal on standard error it never is.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._console = MessageConsole(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
        columns = (DESCRIPTION, BarColumn(), TaskProgressColumn(), TimeLeft())
        self._bar = transient_bar(self._console, *columns, enabled=enabled)
        self._task: TaskID | None = None
        self._shown: tuple[str, str] | None = None
        self._images = Images(done=0, total=1, failed=0)
        self._share = 0.0
        """The finished share of the work on the image that is shown."""
        self._least = 0.0
        """What the bar has shown, in images."""
        self._is_alone = False
        """Whether the share of the whole is unknown for the work that is shown."""
        self._is_measured = False
        """Whether any work has said how much of it is done."""
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
        name = redacted(image)
        about = "magnet" if name in redacted(str(error.file)) else f"magnet: {name}"
        for line in (f"{about}: {error}", *shown_details(error)):
            VOLUME.record(line)
        with suppress(OSError):
            for line in (*failure_lines(error, about), *shown_details(error)):
                self._console.print(printable(redacted(line)))

    def images(self, progress: Images) -> None:
        """Move the bar over the images that are finished, failed ones included."""
        self._several = progress.total > 1
        if progress.done > self._images.done and self._shown is not None and self._shown[1] in ALONGSIDE:
            # The image that was finished is the one that is shown: the next one has not begun.
            self._share = 0.0
        self._images = progress
        if self._several:
            self._move()

    def step(self, step: Step) -> None:
        """Move the bar of the run: over all images where it has several, over one image otherwise.

        Work on an image whose share of the whole is unknown has a bar of its own.
        """
        if step.what in ALONGSIDE and self._shown is not None and step.image != self._shown[0]:
            return
        if (step.image, step.what) != self._shown:
            self._shown = (step.image, step.what)
            VOLUME.record(f"{step.image}: {step.what}")
            if step.what not in ALONGSIDE and (step.share is None or self._is_alone) and self._task is not None:
                self._bar.reset(self._task)
                self._least = 0.0
        if step.share is not None:
            self._share, self._is_alone, self._is_measured = step.share, False, True
        elif step.what not in ALONGSIDE:
            self._share, self._is_alone = step.done / max(1, step.total), True
            self._is_measured = self._is_measured or step.total > 1
        self._move()

    def _move(self) -> None:
        """Show how much of the run is done, and what is done now. The bar never goes back while images overlap."""
        images, now = self._images, "" if self._shown is None else ", ".join(self._shown)
        failed = f", {images.failed} failed" if images.failed else ""
        said = f"{images.done} of {images.total} images{failed}{now and ': '}{now}" if self._several else now
        share = min(self._share, 1.0)
        done = images.done + share
        if images.finished is not None:
            # Images differ in size, and the time left follows from the share of the work that is done.
            done = images.total * (images.finished + images.following * share)
        self._least = max(self._least, min(done, images.total))
        # Without a total the bar pulses: how long drawing or checking takes is not known.
        total = images.total if self._is_measured or self._several else None
        if self._task is None:
            self._task = self._bar.add_task(printable(said), total=total)
        self._bar.update(self._task, description=printable(said), completed=self._least, total=total)


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

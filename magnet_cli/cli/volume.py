"""The options `--quiet`, `--verbose` and `--log-file` set how much a command prints, and where a copy of it goes."""

from __future__ import annotations

import functools
import inspect
import os
import re
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from magnet_cli import __version__
from magnet_cli.cli.parameters import MORE
from magnet_cli.errors import OutputError, UsageError, redacted
from magnet_cli.options.spelling import as_path
from magnet_cli.system.characters import printable
from magnet_cli.system.durable import writing
from magnet_cli.system.regular_files import beginning, check_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S* magnet ")
"""Every log of this program begins with this pattern."""


@dataclass
class Volume:
    """The volume holds the options of the running command about its messages."""

    quiet: bool = False
    """Whether only failures are printed."""
    verbose: bool = False
    """Whether every image of several is described."""
    log_file: Path | None = None
    """The file to which all messages are appended. None for none."""
    _descriptor: int | None = None

    @property
    def words(self) -> list[str]:
        """The words of the command line that set the same volume for another process."""
        log = [] if self.log_file is None else ["--log-file", as_path(str(self.log_file))]
        return [*(["--quiet"] if self.quiet else []), *(["--verbose"] if self.verbose else []), *log]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Keep the log open during a command, and forget the options afterwards.

        Raises:
            UsageError: Both --quiet and --verbose are given.
            OutputError: The log cannot be written, or the file exists and is no log of this program.
        """
        try:
            if self.quiet and self.verbose:
                raise UsageError(
                    "--quiet and --verbose contradict each other",
                    advice="Give --quiet or --verbose, or unset MAGNET_QUIET and MAGNET_VERBOSE",
                )
            if self.log_file is not None:
                self._descriptor = _opened(self.log_file)
                self.record(f"magnet {__version__} begins")
            yield
        finally:
            if self._descriptor is not None:
                os.close(self._descriptor)
            self.quiet, self.verbose, self.log_file, self._descriptor = False, False, None, None

    def record(self, text: str) -> None:
        """Append a line to the log, if there is one. An error in writing it is ignored, so that the work can go on."""
        if self._descriptor is None:
            return
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        with suppress(OSError):
            os.write(self._descriptor, f"{now} {printable(redacted(text))}\n".encode("utf-8", "backslashreplace"))


VOLUME = Volume()
"""The volume of the command that this process runs."""


def _opened(path: Path) -> int:
    with writing(path):
        if path.exists():
            check_regular(path)
            # An image or a mask that is named by mistake must not be changed.
            head = beginning(path, 64)
            if head and STAMP.match(head) is None:
                raise OutputError(
                    "the file of --log-file exists and is no log of magnet",
                    file=path,
                    advice="Name a new file; nothing was written to this one",
                )
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)


Quiet = Annotated[
    bool,
    typer.Option(
        "-q",
        "--quiet",
        help="Print failures alone, and answers that were asked for, without a progress bar.",
        envvar="MAGNET_QUIET",
        rich_help_panel=MORE,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "-v",
        "--verbose",
        help="Also describe each of several images, its stages and its time.",
        envvar="MAGNET_VERBOSE",
        rich_help_panel=MORE,
    ),
]
LogFile = Annotated[
    Path | None,
    typer.Option(
        "--log-file",
        help="Also append all messages, with their times, to this file.",
        envvar="MAGNET_LOG_FILE",
        rich_help_panel=MORE,
    ),
]
PARAMETERS = {"quiet": (Quiet, False), "verbose": (Verbose, False), "log_file": (LogFile, None)}


def speaking(function: Callable[..., None], *, has_more: bool = True) -> Callable[..., None]:
    """Add the options `--quiet`, `--verbose` and `--log-file` to a command.

    Args:
        function: The command.
        has_more: Whether the command has anything more to say with `--verbose`. Otherwise it does not get the option.
    """
    own = inspect.signature(function, eval_str=True)

    @functools.wraps(function)
    def run(*, quiet: bool, verbose: bool = False, log_file: Path | None, **given: Any) -> None:
        VOLUME.quiet, VOLUME.verbose, VOLUME.log_file = quiet, verbose, log_file
        function(**given)

    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in PARAMETERS.items()
        if has_more or name != "verbose"
    ]
    # Typer makes options from the signature and the annotations of a function.
    signature = own.replace(parameters=[*own.parameters.values(), *more])
    vars(run)["__signature__"] = signature
    run.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
    return run

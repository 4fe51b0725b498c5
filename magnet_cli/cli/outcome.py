"""The outcome of a command: messages on standard error, one JSON object on standard output, and the exit code."""

from __future__ import annotations

import errno
import functools
import json
import logging
import os
import re
import sys
import warnings
from contextlib import suppress
from math import isfinite
from typing import TYPE_CHECKING, ParamSpec, Self

import typer

from magnet_cli.cli.signals import GOES_ON, INTERRUPTED, interruptible
from magnet_cli.cli.volume import VOLUME
from magnet_cli.errors import BugError, MagnetError, OutputError, foreseen, redacted
from magnet_cli.system.address_space import address_space_limit, is_shortage, shortage
from magnet_cli.system.characters import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import TextIO

P = ParamSpec("P")

SOME_FAILED = 7
ALL_FAILED = 3
SCHEMA = 1
DEBUG = "MAGNET_DEBUG"
"""Environment variable of `--debug`."""
WHY = "  Why: "
"""Beginning of the line that follows what to do after a failure. A log has both on one line."""
BYTES = re.compile("([\udc80-\udcff]+)")
"""Bytes of a file name that is not valid UTF-8, as Python writes them in a text (PEP 383)."""


def command(function: Callable[P, int | None]) -> Callable[P, None]:
    """Turn expected failures of a command into one line and an exit code. Other exceptions are bugs and pass."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        # tifffile logs every unusual tag of a damaged file, sometimes thousands of lines; real faults raise an error.
        logging.getLogger("tifffile").setLevel(logging.CRITICAL)
        with interruptible():
            try:
                with VOLUME.applied():
                    code = _ended(function, *args, **kwargs)
            except MagnetError as error:
                # The options of the volume contradict each other, or its log cannot be opened.
                print_failure(error)
                code = error.exit_code
        raise typer.Exit(code)

    return run


def _ended(function: Callable[P, int | None], *args: P.args, **kwargs: P.kwargs) -> int:
    """Run a command, print the failure or the interruption that ends it, and return its exit code."""
    try:
        return function(*args, **kwargs) or 0
    except (MagnetError, OSError, ImportError, MemoryError) as error:
        found = expected_failure(error)
        if found is None:
            raise
        print_failure(found)
        return found.exit_code
    except KeyboardInterrupt as interrupt:
        print_message(f"magnet: interrupted; {str(interrupt) or GOES_ON}")
        return INTERRUPTED


def expected_failure(error: BaseException | None) -> MagnetError | None:
    """Return the failure that an exception stands for, a limited address space included, or None for a bug."""
    limit = address_space_limit()
    if limit is not None and error is not None and is_shortage(error):
        return shortage(limit)
    return foreseen(error)


def print_message(message: str) -> None:
    """Print a line on standard error. An error in writing it is ignored, so that the work can go on."""
    VOLUME.record(message)
    _print_line(message)


def _print_line(line: str) -> None:
    try:
        typer.echo(printable(redacted(line)), err=True)
    except OSError:
        _discard(sys.stderr)


def print_note(message: str) -> None:
    """Print a line that is no failure, as `print_message` does; with `--quiet` it goes to the log alone."""
    if VOLUME.quiet:
        VOLUME.record(message)
    else:
        print_message(message)


def print_failure(error: MagnetError, about: str = "magnet") -> None:
    """Print a failure on standard error: what to do, and why. With `--debug` the traceback of a bug follows."""
    VOLUME.record(f"{about}: {error}")
    for line in failure_lines(error, about):
        _print_line(line)
    for line in shown_details(error):
        print_message(line)


def failure_lines(error: MagnetError, about: str = "magnet") -> list[str]:
    """Return the lines that a person reads: one that says what to do, if the failure does, and one that says why."""
    advice, reason = error.instruction, error.reason
    named = about if error.file is None else f"{about}: {error.file}"
    return [f"{named}: {reason}"] if advice is None else [f"{named}: {advice}", f"{WHY}{reason}"]


def shown_details(error: MagnetError) -> list[str]:
    """Return the lines of a bug's traceback that are shown: all with `--debug` or for a `BugError`, else none."""
    shown = error.details is not None and (isinstance(error, BugError) or bool(os.environ.get(DEBUG)))
    return error.details.rstrip().split("\n") if shown and error.details is not None else []


class _Notices(logging.Handler):
    """Prints what libraries log as lines: their messages quote the files that they read."""

    def emit(self, record: logging.LogRecord) -> None:
        print_note(f"{record.name}: {record.getMessage()}")


def print_notices() -> None:
    """Print the warnings and the log of libraries as `print_message` does from now on, one line each."""
    logging.lastResort = _Notices(logging.WARNING)

    def warn(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        print_note(f"{category.__name__}: {message}")

    warnings.showwarning = warn


def _discard(stream: TextIO | None) -> None:
    """Redirect a standard stream, and what its buffer still holds, to the null device.

    Python writes the buffers of both streams once more when it ends, and exits with 120 where that fails.
    """
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - no path, but its name for none
        if stream is not None:
            # The descriptor is redirected and not the Python object: libraries in C write to the descriptor.
            os.dup2(nowhere.fileno(), stream.fileno())


def flushed(stream: TextIO | None) -> bool:
    """Write what the buffer of a standard stream holds; where that fails, discard it and return False."""
    try:
        if stream is not None:
            stream.flush()
    except (OSError, ValueError):
        _discard(stream)
        return False
    return True


def print_lines(*lines: str) -> None:
    """Print the lines of a result on standard output, each as one line whatever it contains.

    Bytes of file names that are not valid Unicode are kept where the output is no terminal, for programs that read it.

    Raises:
        OutputError: The text cannot be written.
        typer.Exit: The reader of a pipe has closed it; the command then ends without a message.
    """
    if sys.stdout is None:
        raise unwritten(OSError(errno.EBADF, "it is closed"))
    try:
        typer.echo("\n".join(map(_shown, lines)).encode("utf-8", "surrogateescape"))
    except OSError as error:
        _discard(sys.stdout)
        if error.errno == errno.EPIPE:
            # `magnet ... | head` is no failure that a user wants to read about.
            raise typer.Exit(OutputError.exit_code) from None
        raise unwritten(error) from error


def _shown(line: str) -> str:
    if sys.stdout.isatty():
        return printable(redacted(line))
    return "".join(part if BYTES.match(part) else printable(part) for part in BYTES.split(redacted(line)))


def print_json(value: object) -> None:
    """Print one JSON object on standard output, as `print_lines` does.

    All of it is ASCII, and a number that is not finite is null: JSON has no name for one.

    Raises:
        OutputError: The text cannot be written.
        typer.Exit: The reader of a pipe has closed it.
    """
    print_lines(*json.dumps(finite(value), indent=1, allow_nan=False).split("\n"))


def finite(value: object) -> object:
    """Return JSON values with None in place of every number that is not finite, at any depth."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def unwritten(error: OSError) -> OutputError:
    """Return the failure of a standard output that cannot be written."""
    return OutputError(
        "standard output cannot be written", value=error.strerror, advice="Send the output where there is space"
    )


class Listing:
    """The results of all images of a command. As a context manager it prints the JSON object when the command ends.

    Args:
        json: Whether the object is printed. After an expected failure or an interruption it also has `error` and
            `exit_code`.
    """

    def __init__(self, *, json: bool) -> None:
        self.more: dict[str, object] = {}
        """Entries of the object that concern all images together."""
        self._json = json
        self._rows: list[object] = []
        self._codes: list[int] = []

    def add(self, row: object, error: MagnetError | None = None) -> None:
        """Add the result of one image as JSON values, and its error if it failed."""
        # Without --json nobody reads the rows, and the reports in them would fill the memory in a run over many images.
        if self._json:
            self._rows.append(row)
        self._codes.append(0 if error is None else error.exit_code)

    def take(self, row: dict[str, object]) -> None:
        """Add the result of one image that another process has described, with its `exit_code` if it failed."""
        if self._json:
            self._rows.append(row)
        self._codes.append(int(str(row.get("exit_code", 0))))

    @property
    def exit_code(self) -> int:
        """Exit code: 0 if no image failed, 7 if some failed. If all failed, their common code, or 3 if codes differ."""
        codes = {code for code in self._codes if code}
        if not codes:
            return 0
        if not all(self._codes):
            return SOME_FAILED
        return codes.pop() if len(codes) == 1 else ALL_FAILED

    def describe(self) -> dict[str, object]:
        """Return the results so far as JSON values."""
        return {"schema": SCHEMA, "images": self._rows, **self.more}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        found = self.describe()
        failure = expected_failure(error)
        if failure is not None:
            found |= failure.describe()
        elif isinstance(error, KeyboardInterrupt):
            found |= {"error": "interrupted", "exit_code": INTERRUPTED}
        elif error is not None:
            return
        if self._json:
            print_json(found)

"""How a command ends: messages on standard error, one JSON object on standard output, and the exit code."""

from __future__ import annotations

import errno
import functools
import json
import logging
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, ParamSpec, Self

import typer

from magnet_cli.errors import MagnetError, OutputError, SourceError, UsageError, redacted

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType
    from typing import TextIO

P = ParamSpec("P")

GOES_ON = "what was finished is kept, and the same command goes on from there"
"""Of an interruption that says nothing else."""
INTERRUPTED = 130
SOME_FAILED = 7
ALL_FAILED = 3
SCHEMA = 1
LONGEST_SHOWN = 80
"""Characters of a name that is too long."""


def command(function: Callable[P, int | None]) -> Callable[P, None]:
    """Turn the failures that the program foresees into one line and an exit code; anything else is a bug."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        # tifffile logs each odd tag of a damaged file, thousands of lines at times; what matters raises an error.
        logging.getLogger("tifffile").setLevel(logging.CRITICAL)
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            code = function(*args, **kwargs) or 0
        except (MagnetError, OSError) as error:
            found = foreseen(error)
            if found is None:
                raise
            say(f"magnet: {found}")
            code = found.exit_code
        except KeyboardInterrupt as interrupt:
            say(f"magnet: interrupted; {str(interrupt) or GOES_ON}")
            code = INTERRUPTED
        finally:
            signal.signal(signal.SIGTERM, before)
        raise typer.Exit(code)

    return run


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise KeyboardInterrupt


def foreseen(error: BaseException | None) -> MagnetError | None:
    """The failure that the program foresees, or a name that the system refuses; None for anything else."""
    if isinstance(error, MagnetError):
        return error
    if not isinstance(error, OSError) or error.filename is None:
        return None
    if error.errno == errno.ENAMETOOLONG:
        shown = f"{str(error.filename)[:LONGEST_SHOWN]}..."
        return UsageError("the name is longer than this system allows", value=shown, advice="Give a shorter one")
    if error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP):
        advice = "Check that you may read it, or name what you may read"
        return SourceError("the system refuses access", value=error.strerror, file=error.filename, advice=advice)
    return None


def say(message: str) -> None:
    """Print a line on standard error. The work goes on where the line cannot be written."""
    try:
        typer.echo(redacted(message), err=True)
    except OSError:
        _discard(sys.stderr)


def _discard(stream: TextIO | None) -> None:
    """Send a standard stream, and what its buffer still holds, to nowhere.

    Python writes the buffers of both streams once more when it ends, and exits with 120 where that fails.
    """
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - no path, but its name for none
        if stream is not None:
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


def tell(text: str) -> None:
    """What was asked for, on standard output; names of files that are no Unicode keep their bytes.

    Raises:
        OutputError: It cannot be written; where its reader has left, the command ends without a word.
    """
    try:
        typer.echo(redacted(text).encode("utf-8", "surrogateescape"))
    except OSError as error:
        _discard(sys.stdout)
        if error.errno == errno.EPIPE:
            raise typer.Exit(OutputError.exit_code) from None
        raise unwritten(error) from error


def unwritten(error: OSError) -> OutputError:
    """Return the failure of a standard output that cannot be written."""
    return OutputError("standard output cannot be written", value=error.strerror, advice="Send it where there is space")


class Listing:
    """What became of each image of a command; as a context it prints the one JSON object, however the command ends.

    Args:
        json: Whether to print it. An object of a command that was cut short also has `error` and `exit_code`.
    """

    def __init__(self, *, json: bool) -> None:
        self.more: dict[str, object] = {}
        """What the object says of all images together."""
        self._json = json
        self._rows: list[object] = []
        self._errors: list[MagnetError | None] = []

    def add(self, row: object, error: MagnetError | None = None) -> None:
        """One image more, as JSON values, and why it failed."""
        self._rows.append(row)
        self._errors.append(error)

    @property
    def exit_code(self) -> int:
        """0 where none failed, 7 where some did; where all did their common code, or 3 where they have several."""
        failed = [error for error in self._errors if error is not None]
        if not failed:
            return 0
        if len(failed) < len(self._errors):
            return SOME_FAILED
        codes = {error.exit_code for error in failed}
        return codes.pop() if len(codes) == 1 else ALL_FAILED

    def describe(self) -> dict[str, object]:
        """What is known until now, as JSON values."""
        return {"schema": SCHEMA, "images": self._rows, **self.more}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        found = self.describe()
        failure = foreseen(error)
        if failure is not None:
            found |= {"error": str(failure), "exit_code": failure.exit_code}
        elif isinstance(error, KeyboardInterrupt):
            found |= {"error": "interrupted", "exit_code": INTERRUPTED}
        elif error is not None:
            return
        if self._json:
            tell(json.dumps(found, indent=1))

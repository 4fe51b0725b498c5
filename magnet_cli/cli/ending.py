"""How a command ends: messages on standard error, one JSON object on standard output, and the exit code."""

from __future__ import annotations

import functools
import json
import logging
import signal
from typing import TYPE_CHECKING, ParamSpec, Self

import typer

from magnet_cli.errors import MagnetError
from magnet_cli.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType

P = ParamSpec("P")

GOES_ON = "what was finished is kept, and the same command goes on from there"
"""Of an interruption that says nothing else."""
INTERRUPTED = 130
SOME_FAILED = 7
ALL_FAILED = 3
SCHEMA = 1


def command(function: Callable[P, int | None]) -> Callable[P, None]:
    """Turn the failures that the program foresees into one line and an exit code; anything else is a bug."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        # tifffile logs each odd tag of a damaged file, thousands of lines at times; what matters raises an error.
        logging.getLogger("tifffile").setLevel(logging.CRITICAL)
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            code = function(*args, **kwargs) or 0
        except MagnetError as error:
            say(f"magnet: {error}")
            code = error.exit_code
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


def say(message: str) -> None:
    """A line for people, on standard error."""
    typer.echo(redacted(message), err=True)


def tell(text: str) -> None:
    """What was asked for, on standard output; names of files that are no Unicode keep their bytes."""
    typer.echo(redacted(text).encode("utf-8", "surrogateescape"))


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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        found: dict[str, object] = {"schema": SCHEMA, "images": self._rows, **self.more}
        if isinstance(error, MagnetError):
            found |= {"error": str(error), "exit_code": error.exit_code}
        elif isinstance(error, KeyboardInterrupt):
            found |= {"error": "interrupted", "exit_code": INTERRUPTED}
        elif error is not None:
            return
        if self._json:
            tell(json.dumps(found, indent=1))

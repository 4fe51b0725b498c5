"""Workers report failures as JSON values, because pickles of the program's classes are never exchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magnet_cli import errors
from magnet_cli.errors import BugError, MagnetError, foreseen

if TYPE_CHECKING:
    from collections.abc import Mapping


def carried(error: Exception, *, file: str) -> dict[str, str | None]:
    """Return a failure as JSON values. An unexpected exception is a bug, and its traceback is included.

    Args:
        error: The exception.
        file: The file that a bug concerns.
    """
    found = foreseen(error) or BugError.of(error, file=file)
    value, place, advice = (None if part is None else str(part) for part in found.parts)
    return {
        "kind": type(found).__name__,
        "rule": found.rule,
        "value": value,
        "file": place,
        "advice": advice,
        "trace": found.details,
    }


def delivered(found: Mapping[str, str | None]) -> MagnetError:
    """Return the failure that JSON values describe, of the class that a worker has raised."""
    kind = getattr(errors, str(found["kind"]), None)
    kind = kind if isinstance(kind, type) and issubclass(kind, MagnetError) else BugError
    error = kind(str(found["rule"]), value=found["value"], file=found["file"], advice=found["advice"])
    error.trace = found["trace"]
    return error

"""What can go wrong, as a tree with one exit code a branch.

    MagnetError
    ├── UsageError    2   the words on the command line, or options that contradict each other
    ├── SourceError   3   an input that cannot be opened, decoded or understood
    ├── WeightsError  4   a bundle that is missing, damaged or does not fit
    ├── OutputError   5   a target that exists, is locked, or cannot be written
    └── DeviceError   6   a device that is missing, or memory that is not enough
        └── MemoryShortageError  memory that ran out in the middle of a run
            └── HiddenShortageError  the same, where nothing failed for it and results may differ

A message has up to four parts: the rule that was broken, the value that broke it, the file, and the next step to take.
Only the command line catches `MagnetError`; anything else is a bug and shows its traceback.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


ADDRESS = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]+)://([^\s\"'<>]+)")
TRAILING = re.compile(r"[).,:;\]}]*$")
"""Signs that end a sentence or a bracket rather than an address."""
LEFT_OUT = "?***"


def redacted(text: str) -> str:
    """A text whose addresses have lost their user, password and query; host and path stay.

    A question mark in an `s3://` address is a character of its key, and stays.
    """
    return ADDRESS.sub(_without_secrets, text)


def redacted_report(report: Mapping[str, object]) -> dict[str, object]:
    """A report whose texts are `redacted`, at any depth."""
    return {key: _redacted_value(value) for key, value in report.items()}


def _redacted_value(value: object) -> object:
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return redacted_report(value)
    if isinstance(value, list | tuple):
        return [_redacted_value(item) for item in value]
    return value


def _without_secrets(match: re.Match[str]) -> str:
    scheme, rest = match[1], match[2]
    ends = TRAILING.search(rest)
    tail = ends[0] if ends else ""
    rest = rest[: len(rest) - len(tail)]
    place, mark, _ = (rest, "", "") if scheme.lower() == "s3" else rest.partition("?")
    host, slash, path = place.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}{LEFT_OUT if mark else ''}{tail}"


class MagnetError(Exception):
    """Base of every failure that this program foresees.

    Args:
        rule: What must hold, or what happened, in one sentence.
        value: The value that broke the rule, as the user would recognise it.
        file: The file or URL concerned.
        advice: What to do next, in one sentence.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self, rule: str, *, value: object = None, file: str | Path | None = None, advice: str | None = None
    ) -> None:
        self.rule = rule
        self.value = value
        self.file = file
        self.advice = advice
        super().__init__(str(self))

    def __str__(self) -> str:
        message = self.rule if self.file is None else f"{self.file}: {self.rule}"
        if self.value is not None:
            message += f" (got {self.value})"
        if self.advice is not None:
            message += f". {self.advice}"
        return redacted(message)


class UsageError(MagnetError):
    """Options or arguments that cannot be carried out."""

    exit_code = 2


class SourceError(MagnetError):
    """An input that cannot be opened, decoded or understood."""

    exit_code = 3


class WeightsError(MagnetError):
    """A model bundle that is missing, damaged, or does not fit the image."""

    exit_code = 4


class OutputError(MagnetError):
    """An output that exists, is in use, or cannot be written."""

    exit_code = 5


class DeviceError(MagnetError):
    """A device that is missing, or memory that does not suffice."""

    exit_code = 6


class MemoryShortageError(DeviceError):
    """Memory ran out while a group was computed or read; what was finished before is safe."""


class HiddenShortageError(MemoryShortageError):
    """Memory ran out and nothing failed: a library took another way, whose results may differ in their last bits.

    It goes on taking that way in this process, so that computing the group again would not help.
    """

"""The failures of the program, as a tree with one exit code for each branch.

    MagnetError
    ├── BugError      1   a bug that ended the work on one of several images
    ├── UsageError    2   the words on the command line, or options that contradict each other
    ├── SourceError   3   an input that cannot be opened, decoded or understood
    │   └── ReaderBugError       a bug in the reader of an input, which is reported as such
    ├── WeightsError  4   a bundle that is missing, damaged or does not fit
    ├── OutputError   5   a target that exists, is locked, or cannot be written
    └── DeviceError   6   a device that is missing, or memory that is not enough
        └── MemoryShortageError  memory that ran out in the middle of a run
            └── HiddenShortageError  the same, where nothing failed for it and results may differ

A message has up to four parts: the rule that was broken, the value that broke it, the file, and advice on what to do.
As a text it is one line, in this order. The command line prints the file and the advice first, because a person can act
on them, and the rule with its value on the next line; so the advice has to be understood without the rule.
Only the command line catches `MagnetError`; anything else is a bug and shows its traceback. A bug that concerns one of
several images does not stop the others: it is then the failure of its image (`ReaderBugError`, `BugError`), whose
`details` hold the traceback.
"""

from __future__ import annotations

import errno
import re
import traceback
from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


ADDRESS = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]+)://([^\s\"'<>]+)")
TRAILING = re.compile(r"[).,:;\]}]*$")
"""Characters behind an address that end a sentence or a bracket and do not belong to it."""
LEFT_OUT = "?***"
LONGEST_SHOWN = 80
"""Number of characters that an error shows of a file name that is too long."""
LONGEST_VALUE = 1000
"""Number of characters that an error shows of a value that broke a rule."""
LONGEST_WORDS = 300
"""Number of characters that an error shows of an unforeseen exception's message."""
REPORT_IT = "Please report it with its traceback, which 'magnet --debug' prints and --json contains"


def redacted(text: str) -> str:
    """Return a text whose addresses have lost their user, password and query; host and path stay.

    A question mark in an `s3://` address is a character of its key, and stays.
    """
    # The maps of a report are long texts, in which the pattern would be tried at each word.
    return ADDRESS.sub(_without_secrets, text) if "://" in text else text


def redacted_report(report: Mapping[str, object]) -> dict[str, object]:
    """Return a report whose texts are `redacted`, at any depth."""
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
    # A query may hold a signature that gives access, as in the pre-signed addresses of object stores.
    place, mark, _ = (rest, "", "") if scheme.lower() == "s3" else rest.partition("?")
    host, slash, path = place.partition("/")
    # `rpartition`, because a password may hold an @ itself.
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
        self.trace: str | None = None
        super().__init__(str(self))

    @property
    def parts(self) -> tuple[object, object, object]:
        """The value, the file and the advice of the message."""
        return self.value, self.file, self.advice

    @property
    def details(self) -> str | None:
        """Traceback of the bug behind this failure, or behind the one that it was raised from; None without a bug."""
        if self.trace is not None or not isinstance(self.__cause__, MagnetError):
            return self.trace
        return self.__cause__.details

    def describe(self) -> dict[str, object]:
        """Return the failure as JSON values: its words, its exit code, and for a bug its traceback."""
        found: dict[str, object] = {"error": str(self), "exit_code": self.exit_code}
        return found if self.details is None else {**found, "traceback": self.details}

    @property
    def reason(self) -> str:
        """The rule with the value that broke it."""
        if self.value is None:
            return redacted(self.rule)
        value = str(self.value)
        # A value may be a whole file that was given by mistake.
        return redacted(f"{self.rule} (got {value if len(value) <= LONGEST_VALUE else f'{value[:LONGEST_VALUE]}...'})")

    @property
    def instruction(self) -> str | None:
        """The advice, without the period that may end it. None where there is none."""
        return None if self.advice is None else redacted(self.advice.removesuffix("."))

    def __str__(self) -> str:
        message = self.reason if self.file is None else f"{self.file}: {self.reason}"
        if self.advice is not None:
            message += f". {self.advice}"
        # Here and not where messages are shown, so that no log, report or traceback can hold a password.
        return redacted(message)


class BugError(MagnetError):
    """An unexpected exception that ended the work on one of several images."""

    @classmethod
    def of(cls, error: BaseException, *, file: str | Path) -> Self:
        """Return the failure of an image that an unforeseen exception stands for, with its traceback."""
        found = cls("a bug in magnet ended the work on this image", value=in_words(error), file=file, advice=REPORT_IT)
        found.trace = trace_of(error)
        return found


class UsageError(MagnetError):
    """Options or arguments that cannot be carried out."""

    exit_code = 2


class SourceError(MagnetError):
    """An input that cannot be opened, decoded or understood."""

    exit_code = 3


class ReaderBugError(SourceError):
    """An unexpected exception that the reader of an input raised."""

    @classmethod
    def of(cls, error: BaseException, *, file: str | Path) -> Self:
        """Return the failure of an input that an unforeseen exception of its reader stands for, with its traceback."""
        return cls.from_words(in_words(error), trace_of(error), file=file)

    @classmethod
    def from_words(cls, words: str, details: str, *, file: str | Path) -> Self:
        """Return the failure for an exception of which only the words and the traceback are known."""
        found = cls("a bug in magnet's reader ended the reading of this file", value=words, file=file, advice=REPORT_IT)
        found.trace = details
        return found


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


def in_words(error: BaseException) -> str:
    """Return the type of an exception and the beginning of its message, on one line."""
    said = " ".join(str(error).split())[:LONGEST_WORDS]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def trace_of(error: BaseException) -> str:
    """Return the traceback of an exception, without passwords in addresses."""
    return redacted("".join(traceback.format_exception(error)))


def foreseen(error: BaseException | None) -> MagnetError | None:
    """Return the expected failure that an exception stands for, or None where it is a bug.

    Besides `MagnetError`, these are memory that ran out, file names that the system finds too long, and files that it
    denies access to.
    """
    if isinstance(error, MagnetError):
        return error
    if isinstance(error, MemoryError):
        return DeviceError("out of memory", advice="Run the same command with more memory, or with fewer --num-workers")
    if not isinstance(error, OSError) or error.filename is None:
        return None
    if error.errno == errno.ENAMETOOLONG:
        shown = f"{str(error.filename)[:LONGEST_SHOWN]}..."
        return UsageError("the name is longer than this system allows", value=shown, advice="Give a shorter name")
    if error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP):
        advice = "Check that you may read it, or name what you may read"
        return SourceError("the system refuses access", value=error.strerror, file=error.filename, advice=advice)
    return None

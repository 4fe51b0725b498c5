"""What can go wrong, as a tree with one exit code a branch.

    MagnetError
    ├── UsageError    2   the words on the command line, or options that contradict each other
    ├── SourceError   3   an input that cannot be opened, decoded or understood
    ├── WeightsError  4   a bundle that is missing, damaged or does not fit
    ├── OutputError   5   a target that exists, is locked, or cannot be written
    └── DeviceError   6   a device that is missing, or memory that is not enough
        └── MemoryShortageError  memory that ran out in the middle of a run

A message has up to four parts: the rule that was broken, the value that broke it, the file, and the next step to take.
Only the command line catches `MagnetError`; anything else is a bug and shows its traceback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from magnet_cli.redaction import redacted

if TYPE_CHECKING:
    from pathlib import Path


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

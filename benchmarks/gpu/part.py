"""What a part of the check is given, and the rows that it finds."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POLL = 0.05
"""Seconds between two looks for the file that lets a part begin."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where a part runs, and how much of it."""

    device: str
    short: bool
    """Whether images are so small that a CPU runs the part in seconds: its figures then mean nothing."""
    folder: Path
    """For what the part writes; it exists and is the part's own."""
    seconds: float
    """After which the part is ended."""

    @property
    def kind(self) -> str:
        """`cpu` or `cuda`."""
        return self.device.partition(":")[0]


@dataclass(kw_only=True)
class Findings:
    """Rows of a part, written to its file as they are found: a part that is ended keeps those it has."""

    path: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def add(self, what: str, value: object, *, aim: str = "", met: bool | None = None, **more: Any) -> None:
        """Keep a row.

        Args:
            what: Was measured.
            value: A number with its unit, or words.
            aim: What is wanted, in words; empty for a figure without an aim.
            met: Whether the value reaches the aim; None for a figure without one.
            more: Raw numbers, as JSON values.
        """
        row = {"what": what, "value": value, "aim": aim, "met": met, "after": round(self.elapsed, 1), **more}
        self.rows.append(row)
        print(f"{row['after']:6.1f} s  {what}: {value}" + ("" if met is not False else f"  MISSED, wanted: {aim}"))
        replacement = self.path.with_suffix(".part")
        replacement.write_text(json.dumps(self.rows, indent=1, default=str))
        replacement.replace(self.path)

    @property
    def elapsed(self) -> float:
        """Seconds since the part began."""
        return time.monotonic() - self.started

    @contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Keep an error of one piece of a part as a row that missed its aim, and go on with the next piece."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the other pieces are still worth their time
            import traceback  # noqa: PLC0415 - wanted after a failure alone

            traceback.print_exc()
            self.add(what, f"{type(error).__name__}: {str(error)[:500]}", aim="no error", met=False)


def wait_for(path: Path | None) -> None:
    """Wait until a file is there; at once where none is named."""
    while path is not None and not path.exists():
        time.sleep(POLL)

"""The setting of a part of the check, and the rows that it finds."""

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
"""Seconds between two checks whether the file that lets a part begin exists."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The device and the limits of a part."""

    device: str
    short: bool
    """Whether images are so small that a CPU runs the part in seconds. The figures then mean nothing."""
    folder: Path
    """Existing folder for the files of this part alone."""
    seconds: float
    """Time limit of the part."""

    @property
    def kind(self) -> str:
        """Return `cpu` or `cuda`."""
        return self.device.partition(":")[0]


@dataclass(kw_only=True)
class Findings:
    """Rows of a part. Each is written to the file at once, so that a part that is ended loses none."""

    path: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def add(self, what: str, value: object, *, aim: str = "", met: bool | None = None, **more: Any) -> None:
        """Add a row and write it to the file.

        Args:
            what: Name of the measured quantity.
            value: A number with its unit, or words.
            aim: The aim in words. It is empty for a figure without an aim.
            met: Whether the value reaches the aim. None is for a figure without one.
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
        """Return the seconds since the part began."""
        return time.monotonic() - self.started

    @contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Turn an error in the block into a row that missed its aim, so that the part goes on after the block."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the other pieces are still worth their time
            import traceback  # noqa: PLC0415 - wanted after a failure alone

            traceback.print_exc()
            self.add(what, f"{type(error).__name__}: {str(error)[:500]}", aim="no error", met=False)


def wait_for(path: Path | None) -> None:
    """Wait until a file exists, or not at all without a file."""
    while path is not None and not path.exists():
        time.sleep(POLL)

"""What a part of one image has computed so far, in a file beside its pieces. Whoever has started it watches that."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from magnet_cli.system import durable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from magnet_cli.masks.spec import GroupId

SELDOM = 1.0
"""Least seconds between two writings of the file, besides the last one."""


def note_path(folder: Path, index: int, count: int) -> Path:
    """Return the file of a part in the folder of its pieces."""
    return folder / f"part-{index}-of-{count}.json"


@dataclass(kw_only=True)
class PartNote:
    """Counts the groups of a part. It decides nothing, so a file that cannot be written is left out."""

    path: Path
    work: Mapping[int, float]
    """The work of a group of each pass, in any unit."""
    groups: int = 0
    """Groups that the part has finished."""
    _done: float = 0.0
    _next: float = 0.0
    _written: float = -inf

    def add(self, group: GroupId) -> None:
        """Count a group that the part has finished."""
        self.groups += 1
        self._done += self.work[group.pass_index]
        # The next group may belong to the next pass.
        self._next = max(
            work for number, work in self.work.items() if group.pass_index <= number <= group.pass_index + 1
        )
        if time.monotonic() - self._written >= SELDOM:
            self._write()

    def end(self) -> None:
        """Note that the part computes no more groups. It may still make the mask."""
        self._next = 0.0
        self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        part = durable.working_path(self.path)
        with suppress(OSError):
            part.write_text(json.dumps({"groups": self.groups, "work": self._done, "next": self._next}))
            part.replace(self.path)

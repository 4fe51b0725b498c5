"""The log of a training: one JSON object a line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from magnet_cli.system.durable import append_text, write_whole, writing

if TYPE_CHECKING:
    from pathlib import Path

Line = dict[str, float]
"""`iteration`, `loss`, `rate`, `seconds`; or `iteration`, `validation_miou`, `validation_cross_entropy`, `best_miou`,
`best_iteration`, `seconds`. Seconds are since the last start."""


def append_line(path: Path, line: Line) -> None:
    """Add a line; its folder is created where it is missing.

    Raises:
        OutputError: The disk refuses it.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        append_text(path, json.dumps(line) + "\n")


def read_log(path: Path) -> list[Line]:
    """Return the lines of the log without those that a killed process left incomplete; none where there is no file."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = []
    for one in text.splitlines():
        try:
            lines.append(json.loads(one))
        # A process that was killed while it wrote leaves half a line.
        except json.JSONDecodeError:
            continue
    return lines


def cut_log(path: Path, *, iteration: int) -> None:
    """Remove the lines after an iteration from which a training is continued, since they will be written again.

    Raises:
        OutputError: The disk refuses it.
    """
    if path.exists():
        kept = [line for line in read_log(path) if line["iteration"] <= iteration]
        write_whole(path, "".join(json.dumps(line) + "\n" for line in kept).encode())

"""The results of a bench as tables for a terminal."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from magnet_cli.bench.table import HEAD, SPLIT_HEAD, cells, split_cells, without_empty
from magnet_cli.system.characters import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magnet_cli.bench.result import Row

WIDEST = 200
"""Width of a table in characters where the output is no terminal."""
NAMES = 2
"""Number of leading columns that hold words and are aligned to the left."""

LEGEND = "Ratios compare seconds, with [lowest..highest] of the repeats; those in (round brackets) compare windows/s."


def bench_lines(rows: Sequence[Row]) -> list[str]:
    """Return lines: tables of what was measured and of where the time went, and why some things were not measured."""
    done = [row for row in rows if row.runs]
    file = StringIO()
    # Cells hold names of files, in which brackets and colons must not become markup or pictures.
    console = Console(file=file, width=_width(), highlight=False, emoji=False, markup=False)
    if done:
        console.print(_table(HEAD, [cells(row) for row in done]))
        console.print(_table(SPLIT_HEAD, [split_cells(row) for row in done]))
    if any(mark.runs for row in done for mark in row.marks):
        console.print(LEGEND, soft_wrap=True)
    for row in done:
        for reason in dict.fromkeys(f"{mark.kind} {mark.status}: {mark.reason}" for mark in row.marks if mark.reason):
            console.print(printable(f"{row.label}, {row.method}: {reason}"), soft_wrap=True)
    return [line.rstrip() for line in file.getvalue().split("\n")[:-1]]


def _width() -> int:
    console = Console()
    return console.width if console.is_terminal else WIDEST


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    names, *lines = without_empty(head, rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(names):
        table.add_column(name, justify="left" if index < NAMES else "right", overflow="fold")
    for line in lines:
        table.add_row(*map(printable, line))
    return table

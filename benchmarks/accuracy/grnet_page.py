"""The tables of docs/accuracy.md on GRNets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.accuracy.cells import Cell, mba, miou
from benchmarks.accuracy.grnets import RESULTS, TABLE
from benchmarks.accuracy.markdown import markdown, number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SCENE = "tile7"
CELLS = {"cells4": "4 cells", "cells16": "16 cells", "cells64": "64 cells"}
PARTS = {
    "local-only": "local branch only",
    "global-only": "global branch only",
    "every": "all cells",
    "cells16": "selected cells",
}
RUNS = {
    "literal": "fused as the paper has it, at the global branch's resolution",
    "cells16": "fused in detail",
    "cells16-every": "the same weights, every cell: `--patches all`",
    "cells16-global": "the same weights, no cell: `--method downsample`",
    "cells16-local": "the same weights, cells by themselves: `--method grnet-local`",
}


def grnet_table(rows: Mapping[str, str]) -> Callable[[], str]:
    """Scores and costs of rows that have been measured."""

    def make() -> str:
        lines = []
        for row, label in rows.items():
            cell = Cell.load(TABLE, SCENE, row, RESULTS)
            if cell is not None:
                lines.append([label, *numbers(cell)])
        return markdown(["", "mIoU", "mBA", "cells looked at, %", "GMAC / Mpx"], lines)

    return make


def numbers(cell: Cell) -> list[str]:
    """Of one row."""
    looked_at = cell.more["looked_at"]
    share = None if looked_at is None else 100 * float(str(looked_at))
    return [
        number(miou([cell])),
        number(mba([cell])),
        number(share, 0),
        number((cell.gmac or 0) / (cell.megapixels or 1)),
    ]


TABLES: dict[str, Callable[[], str]] = {
    "grnet-cells": grnet_table(CELLS),
    "grnet-parts": grnet_table(PARTS),
    "grnet-runs": grnet_table(RUNS),
}

"""The tables of docs/accuracy.md on `magnet segment`: methods, options and GRNets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import t as student

from benchmarks.accuracy.cells import Cell, ious, load_cells, markdown, mba, miou, number, row_cells

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

TILES = ("tile4", "tile6", "tile7")
TIMED = "tile6"
"""The scene whose seconds are shown. Its rows were run one after the other, with nothing beside them."""
RETINAS = ("04_dr", "04_g", "04_h")
CLASSES = ("building", "land", "road", "vegetation", "water")
LABELS = {
    "downsample": "downsample: windows of 2048 px alone",
    "patch": "patch: windows of 256 px alone",
    "patch-half-overlap": "patch, half overlapping, probabilities averaged",
    "patch-flips": "patch, averaged over four mirror images",
    "patch-x2": "patch, input 512 px",
    "magnet-fast": "MagNet-Fast",
    "magnet": "**MagNet, the default: `--merge mean`**",
    "magnet-certainty": "MagNet, `--merge certainty`",
    "magnet-refiner": "MagNet, `--merge refiner`",
    "magnet-x2": "MagNet, input 512 px, windows of 512 to 4096 px",
}
PRETRAINED_HELD_OUT = ("tile5", "tile7")
SEEDS = (1, 2, 3)
PRETRAINED = {
    "downsample": "`--method downsample`: windows of 2048 alone",
    "patch": "`--method patch`: windows of 256 alone",
    "magnet-fast": "`--method magnet-fast`",
    "magnet": "the default: stage by stage, `--merge mean`",
}
BETTER = "the better of downsample and patch"
PAIRS = (
    ("magnet", BETTER),
    ("magnet", "patch"),
    ("magnet", "downsample"),
    ("magnet", "patch-flips"),
    ("magnet", "patch-half-overlap"),
    ("magnet", "patch-x2"),
    ("magnet-refiner", "magnet"),
    ("magnet-certainty", "magnet"),
    ("magnet-x2", "magnet"),
)
"""Rows whose paired differences are shown, the second taken from the first."""
GRNET_SCENE = "tile7"
GRNET_CELLS = {"cells4": "4 cells", "cells16": "16 cells", "cells64": "64 cells"}
GRNET_PARTS = {
    "local-only": "local branch only",
    "global-only": "global branch only",
    "every": "all cells",
    "cells16": "selected cells",
}
GRNET_RUNS = {
    "literal": "fused as the paper has it, at the global branch's resolution",
    "cells16": "fused in detail",
    "cells16-every": "the same weights, every cell: `--patches all`",
    "cells16-global": "the same weights, no cell: `--method downsample`",
    "cells16-local": "the same weights, cells by themselves: `--method grnet-local`",
}


def measured(table: str, labels: Mapping[str, str], scenes: Sequence[str]) -> list[tuple[str, list[Cell]]]:
    """Labels and cells of the rows that were measured on every scene."""
    found = [(label, row_cells(table, row, scenes)) for row, label in labels.items()]
    return [(label, cells) for label, cells in found if cells is not None]


def main_table() -> str:
    """Every method on the tiles that its backbone has not seen."""
    lines = []
    for label, cells in measured("main", LABELS, TILES):
        pixels = sum(cell.megapixels or 0 for cell in cells)
        each = [miou([cell]) for cell in cells]
        cost = [
            number(sum(cell.gmac or 0 for cell in cells) / pixels, 0),
            str(sum(cell.windows or 0 for cell in cells)),
        ]
        timed = cells[TILES.index(TIMED)]
        seconds = number((timed.seconds or 0) / (timed.megapixels or 1), 2)
        mean = float(np.mean(each))
        lines.append([label, *map(number, (miou(cells), mean, *each, mba(cells))), *cost, seconds])
    return markdown(["", "mIoU pooled", "mean", *TILES, "mBA", "GMAC / Mpx", "windows", "s / Mpx"], lines)


def pretrained_row(seed: int, method: str) -> str:
    """Return the name of a row, such as `lite0-seed1-patch`."""
    return f"lite0-seed{seed}-{method}"


def pretrained_table() -> str:
    """The recipe of `aerial` on two scenes that its networks have not seen: means, and the spread over three seeds."""
    lines = []
    for method, label in PRETRAINED.items():
        rows = [row_cells("main", pretrained_row(seed, method), PRETRAINED_HELD_OUT) for seed in SEEDS]
        found = [row for row in rows if row is not None]
        if len(found) < len(SEEDS):
            continue
        scores = [[miou(pair), *(miou([one]) for one in pair), mba(pair) or 0.0] for pair in found]
        columns = [spread([score[index] for score in scores]) for index in range(len(scores[0]))]
        pixels = sum(cell.megapixels or 0 for cell in found[0])
        gmac, windows = (sum(getattr(cell, key) or 0 for cell in found[0]) for key in ("gmac", "windows"))
        lines.append([label, *columns, number(gmac / pixels, 1), str(windows)])
    return markdown(["", "mIoU pooled", *PRETRAINED_HELD_OUT, "mBA", "GMAC / Mpx", "windows"], lines)


def spread(values: Sequence[float]) -> str:
    """The mean of a score over seeds, with its lowest and highest value."""
    return f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def class_table() -> str:
    """IoU by class, pooled over the tiles."""
    lines = [
        [label, *(number(100 * value) for value in ious(cells))] for label, cells in measured("main", LABELS, TILES)
    ]
    return markdown(["", *CLASSES], lines)


def fundus_table() -> str:
    """Every method on the retinas that the bundle `fundus` has not seen."""
    # The labels are those of `aerial`, whose coarsest windows have twice the side.
    labels = {row: label.replace("2048 px", "1024 px") for row, label in LABELS.items()}
    lines = []
    for label, cells in measured("fundus", labels, RETINAS):
        each = [miou([cell]) for cell in cells]
        scores = map(number, (miou(cells), 100 * ious(cells)[1], *each, mba(cells)))
        lines.append([label, *scores, str(sum(cell.windows or 0 for cell in cells))])
    return markdown(["", "mIoU pooled", "vessel IoU", *RETINAS, "mBA", "windows"], lines)


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of Student's 95 % interval of paired differences."""
    values = np.asarray(differences)
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def difference_table() -> str:
    """Paired differences between rows, scene by scene."""
    lines = []
    for first, second in PAIRS:
        for what, score in (("mIoU", miou), ("mBA", mba)):
            mine, theirs = scores_of(first, score), scores_of(second, score)
            if mine is None or theirs is None:
                continue
            differences = [one - other for one, other in zip(mine, theirs, strict=True)]
            mean, half = interval(differences)
            each = [f"{one:+.2f}" for one in differences]
            lines.append([f"{first} - {second}, {what}", *each, f"{mean:+.2f} ± {half:.2f}"])
    return markdown(["", *TILES, "mean, 95 % interval"], lines)


def scores_of(row: str, score: Callable[[list[Cell]], float | None]) -> list[float] | None:
    """A row's score on each tile. `BETTER` is the larger score of two rows. None unless all were measured."""
    if row == BETTER:
        both = [scores_of(name, score) for name in ("downsample", "patch")]
        known = [one for one in both if one is not None]
        return [max(pair) for pair in zip(*known, strict=True)] if len(known) == len(both) else None
    cells = row_cells("main", row, TILES)
    scores = [score([cell]) for cell in cells or ()]
    found = [one for one in scores if one is not None]
    return found if cells and len(found) == len(cells) else None


def option_table(table: str, scenes: Sequence[str] = TILES, *, only: str = "") -> Callable[[], str]:
    """Mean IoU by scene of the rows of a table whose name contains `only`, in the order of its file."""

    def make() -> str:
        rows = dict.fromkeys(row for row, _ in load_cells(table) if only in row)
        lines = []
        for label, cells in measured(table, {row: f"`{row}`" for row in rows}, scenes):
            each = [miou([cell]) for cell in cells]
            lines.append([label, *(number(one, 2) for one in (*each, float(np.mean(each)), miou(cells)))])
        return markdown(["", *scenes, "mean", "pooled"], lines)

    return make


def grnet_table(labels: Mapping[str, str]) -> Callable[[], str]:
    """Scores and costs of some rows of GRNets."""

    def make() -> str:
        lines = []
        for label, (cell,) in measured("grnet", labels, (GRNET_SCENE,)):
            share = cell.more["looked_at"]
            cells = number(None if share is None else 100 * float(str(share)), 0)
            cost = number((cell.gmac or 0) / (cell.megapixels or 1))
            lines.append([label, number(miou([cell])), number(mba([cell])), cells, cost])
        return markdown(["", "mIoU", "mBA", "cells looked at, %", "GMAC / Mpx"], lines)

    return make


SEGMENTED_TABLES: dict[str, Callable[[], str]] = {
    "main": main_table,
    "classes": class_table,
    "pretrained": pretrained_table,
    "fundus": fundus_table,
    "differences": difference_table,
    **{table: option_table(table) for table in ("scales", "points", "merge")},
    "margin": option_table("main", TILES[:2], only="-margin"),
    "grnet-cells": grnet_table(GRNET_CELLS),
    "grnet-parts": grnet_table(GRNET_PARTS),
    "grnet-runs": grnet_table(GRNET_RUNS),
}

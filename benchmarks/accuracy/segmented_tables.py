"""The tables of docs/accuracy.md on `magnet segment`: methods, options and GRNets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import t as student

from benchmarks.accuracy.cells import Cell, ious, load_cells, markdown, mba, miou, number, row_cells

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

TILES = ("tile4", "tile6", "tile7")
RETINAS = ("04_dr", "04_g", "04_h")
CLASSES = ("building", "land", "road", "vegetation", "water")
LABELS = {
    "downsample": "downsample: windows of 1024 px alone",
    "patch": "patch: windows of 256 px alone",
    "patch-half-overlap": "patch, half overlapping, probabilities averaged",
    "patch-flips": "patch, averaged over four mirror images",
    "magnet-fast": "MagNet-Fast",
    "magnet": "**MagNet, the default: `--merge mean`**",
    "magnet-certainty": "MagNet, `--merge certainty`",
}
SCRATCH_RETINAS = {
    f"scratch-{row}": f"U-Net from scratch, {LABELS[row].split(':')[0].strip('*')}"
    for row in ("downsample", "patch", "magnet-fast", "magnet")
}
"""Rows of the network that `fundus` had before, which was trained from scratch, by their labels."""
PRETRAINED_HELD_OUT = ("tile5", "tile7")
SEEDS = (1, 2, 3)
PRETRAINED = {
    "downsample": "`--method downsample`: windows of 2048 alone",
    "patch": "`--method patch`: windows of 256 alone",
    "magnet-fast": "`--method magnet-fast`",
    "magnet": "stage by stage, `--merge mean`",
    "geometric": "`--merge geometric`",
    "geometric-2048-512-256": "`--merge geometric --scales 2048,512,256`",
    "geometric-1728-432": "`--merge geometric --scales 1728,432`",
    "geometric-2048-416": "`--merge geometric --scales 2048,416`",
}
OVERLAP_SCENES = ("tile5", "tile7-part")
OVERLAPS = (0, 16, 32, 64, 128)
"""Network pixels of 256 that neighbouring windows share. With 0 nothing is blended."""
DEFAULT_OVERLAP = 32
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


@dataclass(frozen=True, kw_only=True)
class OverlapMethod:
    """A method whose overlaps are compared."""

    label: str
    options: Mapping[str, object]
    """Arguments of `SegmentOptions`."""


OVERLAP_METHODS = {
    "patch": OverlapMethod(label="`patch`", options={"method": "patch"}),
    "magnet": OverlapMethod(label="`magnet`, `--merge mean`", options={"method": "magnet", "merge": "mean"}),
    "magnet-certainty": OverlapMethod(
        label="`magnet`, `--merge certainty`", options={"method": "magnet", "merge": "certainty"}
    ),
    "magnet-fast": OverlapMethod(label="`magnet-fast`", options={"method": "magnet-fast", "merge": "mean"}),
    "budget": OverlapMethod(
        label="`magnet-fast --budget 30%`", options={"method": "magnet-fast", "merge": "mean", "budget": "30%"}
    ),
}


def measured(table: str, labels: Mapping[str, str], scenes: Sequence[str]) -> list[tuple[str, list[Cell]]]:
    """Return labels and cells of the rows that were measured on every scene."""
    found = [(label, row_cells(table, row, scenes)) for row, label in labels.items()]
    return [(label, cells) for label, cells in found if cells is not None]


def pretrained_row(seed: int, method: str) -> str:
    """Return the name of a row, such as `lite0-seed1-patch`."""
    return f"lite0-seed{seed}-{method}"


def pretrained_table() -> str:
    """Write the scores of the recipe of `aerial` on two unseen scenes: means, and the spread over three seeds."""
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


def overlap_row(seed: int, method: str, overlap: int) -> str:
    """Return the name of a row, such as `lite0-seed1-patch-overlap32`."""
    return f"{pretrained_row(seed, method)}-overlap{overlap}"


def overlap_table() -> str:
    """Write the scores of each method with each overlap on scenes that the networks have not seen.

    A run is one network on one scene. Differences and ratios are to the same runs with the default overlap.
    """
    lines = []
    for method, facts in OVERLAP_METHODS.items():
        usual = overlap_cells(method, DEFAULT_OVERLAP)
        for overlap in OVERLAPS:
            mine = overlap_cells(method, overlap)
            pairs = [(mine[run], usual[run]) for run in mine if run in usual]
            if pairs:
                share = f"{overlap} px" if overlap else "none"
                lines.append([f"{facts.label}, {share}", str(len(pairs)), *compared(pairs)])
    heads = ["mIoU", "to 32 px", "mBA", "to 32 px", "windows", "to 32 px"]
    return markdown(["method, overlap", "runs", *heads], lines)


def compared(pairs: Sequence[tuple[Cell, Cell]]) -> list[str]:
    """Return mean scores and windows of some cells, and how they compare with those of others.

    Args:
        pairs: Pairs of a cell and the one with which it is compared.
    """
    found = []
    for score in (miou, mba):
        values = np.array([[score([cell]) or 0 for cell in pair] for pair in pairs])
        found += [number(float(values[:, 0].mean()), 2), f"{(values[:, 0] - values[:, 1]).mean():+.2f}"]
    windows, usual = (sum(pair[side].windows or 0 for pair in pairs) for side in (0, 1))
    return [*found, str(windows // len(pairs)), number(windows / usual, 2)]


def overlap_cells(method: str, overlap: int) -> dict[tuple[int, str], Cell]:
    """Return the cells of a method with an overlap by the seed of the network and the scene."""
    cells = load_cells("main")
    wanted = ((seed, scene) for seed in SEEDS for scene in OVERLAP_SCENES)
    found = {(seed, scene): cells.get((overlap_row(seed, method, overlap), scene)) for seed, scene in wanted}
    return {run: cell for run, cell in found.items() if cell is not None}


def spread(values: Sequence[float]) -> str:
    """Write the mean of a score over seeds, with its lowest and highest value."""
    return f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def fundus_table() -> str:
    """Write the scores of every method on the retinas that neither `fundus` nor its first network has seen."""
    lines = []
    for label, cells in measured("fundus", LABELS | SCRATCH_RETINAS, RETINAS):
        each = [miou([cell]) for cell in cells]
        scores = map(number, (miou(cells), 100 * ious(cells)[1], *each, mba(cells)))
        lines.append([label, *scores, str(sum(cell.windows or 0 for cell in cells))])
    return markdown(["", "mIoU pooled", "vessel IoU", *RETINAS, "mBA", "windows"], lines)


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Return mean and half width of Student's 95 % interval of paired differences."""
    values = np.asarray(differences)
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def option_table(table: str, scenes: Sequence[str] = TILES) -> Callable[[], str]:
    """Write the mean IoU by scene of the rows of a table, in the order of its file."""

    def make() -> str:
        rows = dict.fromkeys(row for row, _ in load_cells(table))
        lines = []
        for label, cells in measured(table, {row: f"`{row}`" for row in rows}, scenes):
            each = [miou([cell]) for cell in cells]
            lines.append([label, *(number(one, 2) for one in (*each, float(np.mean(each)), miou(cells)))])
        return markdown(["", *scenes, "mean", "pooled"], lines)

    return make


def grnet_table(labels: Mapping[str, str]) -> Callable[[], str]:
    """Write scores and costs of some rows of GRNets."""

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
    "pretrained": pretrained_table,
    "fundus": fundus_table,
    **{table: option_table(table) for table in ("scales", "points", "merge")},
    "overlap": overlap_table,
    "grnet-cells": grnet_table(GRNET_CELLS),
    "grnet-parts": grnet_table(GRNET_PARTS),
    "grnet-runs": grnet_table(GRNET_RUNS),
}

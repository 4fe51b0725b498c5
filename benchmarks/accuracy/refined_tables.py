"""The tables of docs/accuracy.md on `magnet refine`: scores of masks before and after."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from benchmarks.accuracy.cells import Cell, ious, load_cells, markdown, mba, miou, number, row_cells

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TILES = ("tile4", "tile6", "tile7")
RETINAS = ("04_dr", "04_g", "04_h")
CLASSES = ("building", "land", "road", "vegetation", "water")
KINDS = {"downsample": "downsample", "patch": "patch", "magnet": "MagNet"}
"""Methods of `magnet segment` that made the masks, and their labels."""
METHODS = {
    "guided": "guided filter",
    "crf": "dense CRF",
    "cascade": "CascadePSP",
    "only": "CascadePSP, buildings alone",
}
SEEDS = (1, 2)
"""Seeds with which the cascade for buildings was trained."""
EVERY = "refined-every"
"""The table of masks of all classes. The other tables are of one class against the rest."""
SETTINGS = "refined-settings"
RETINA = "04_h"
"""The picture on which settings of a cascade are compared."""
LENGTHS = (256, 384, 512, 1024)
DIVISORS = (1, 2, 4)


def scores(cells: Sequence[Cell], table: str) -> tuple[float, float]:
    """Return mean IoU of all classes, or IoU of the table's class, and mBA, in percent over the counts of all cells."""
    iou = miou(cells) if table == EVERY else 100 * float(ious(cells)[1])
    return iou, mba(cells) or 0.0


def method_table(table: str, scenes: Sequence[str]) -> Callable[[], str]:
    """Write the scores of each kind of mask before and after each method, with the differences."""

    def by_class(cells: Sequence[Cell]) -> list[str]:
        return [number(100 * value) for value in ious(cells)] if table == EVERY else []

    def make() -> str:
        lines = []
        for kind, label in KINDS.items():
            before = row_cells(table, f"{kind}-input", scenes)
            if before is None:
                continue
            base = scores(before, table)
            lines.append([f"**{label}**", *map(number, base), "", "", *by_class(before)])
            for method, name in METHODS.items():
                after = row_cells(table, f"{kind}-{method}", scenes)
                if after is not None:
                    now = scores(after, table)
                    changes = [f"{one - other:+.1f}" for one, other in zip(now, base, strict=True)]
                    lines.append([f"+ {name}", *map(number, now), *changes, *by_class(after)])
        header = ["", "mIoU" if table == EVERY else "IoU", "mBA", "IoU changed", "mBA changed"]
        return markdown([*header, *(CLASSES if table == EVERY else ())], lines)

    return make


def tiles_table() -> str:
    """Write the scores of buildings for each tile, also with a second training of the cascade."""
    table = "refined-building"
    lines = []
    for tile, (kind, label), seed in product(TILES, KINDS.items(), SEEDS):
        before = row_cells(table, f"{kind}-input", [tile])
        after = row_cells(table, f"{kind}-cascade{'' if seed == 1 else f'-seed{seed}'}", [tile])
        if before is None or after is None:
            continue
        values = []
        for one, other in zip(scores(before, table), scores(after, table), strict=True):
            values += [number(one), number(other), f"{other - one:+.1f}"]
        lines.append([f"{tile.replace('tile', 'tile ')}, {label}", str(seed), *values])
    return markdown(["", "seed", "IoU before", "after", "changed", "mBA before", "after", "changed"], lines)


def steps_table() -> str:
    """Write the scores of one step of a cascade alone and of both (CascadePSP, Table 2)."""
    cells = load_cells(SETTINGS)
    lines = []
    for label, cell in (
        ("the mask as it was", load_cells("refined-vessel").get(("downsample-input", RETINA))),
        ("global step only", cells.get(("step-global", RETINA))),
        ("local step only", cells.get(("step-local", RETINA))),
        ("both", cells.get((f"L-{LENGTHS[0]}", RETINA))),
    ):
        if cell is not None:
            lines.append([label, *map(number, scores([cell], SETTINGS))])
    return markdown(["", "IoU", "mBA"], lines)


def lengths_table() -> str:
    """Write scores and memory against L (CascadePSP, Figure 6)."""
    cells = load_cells(SETTINGS)
    lines = []
    for length in LENGTHS:
        cell = cells.get((f"L-{length}", RETINA))
        if cell is not None:
            lines.append([str(length), *map(number, scores([cell], SETTINGS)), str(cell.windows), peak(cell)])
    return markdown(["L", "IoU", "mBA", "forward passes", "MiB"], lines)


def sizes_table() -> str:
    """Write the scores with and without the local step at several sizes of the picture (CascadePSP, Figure 7)."""
    cells = load_cells(SETTINGS)
    lines = []
    for divisor in DIVISORS:
        for name, label in (("input", "the mask as it was"), ("global", "global step only"), ("both", "both steps")):
            cell = cells.get((f"size-{divisor}-{name}", RETINA))
            if cell is not None:
                lines.append([f"1/{divisor}: {label}", *map(number, scores([cell], SETTINGS)), peak(cell)])
    return markdown(["", "IoU", "mBA", "MiB"], lines)


def peak(cell: Cell) -> str:
    """Write the peak host memory of a run in MiB, or nothing where nothing ran."""
    found = cell.more.get("host_peak")
    return "" if found is None else str(round(int(str(found)) / 2**20))


REFINED_TABLES: dict[str, Callable[[], str]] = {
    "refined-every": method_table(EVERY, TILES),
    "refined-building": method_table("refined-building", TILES),
    "refined-tiles": tiles_table,
    "refined-vessel": method_table("refined-vessel", RETINAS),
    "refined-steps": steps_table,
    "refined-lengths": lengths_table,
    "refined-sizes": sizes_table,
}

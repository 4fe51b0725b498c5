"""The tables of sharpened masks, made from the committed cells."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from benchmarks.accuracy.cells import REFINED, Cell, ious, mba, miou
from benchmarks.accuracy.inputs import KINDS
from benchmarks.accuracy.judge import EVERY
from benchmarks.accuracy.markdown import markdown, number
from benchmarks.accuracy.parts import CLASSES, RETINAS, TILES
from benchmarks.accuracy.refined_figures import DIVISORS, LENGTHS, SIDE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TILES_SHOWN = tuple(TILES)
STRUCTURED = ("tile7",)
FIGURES = {"vessel": RETINAS[2:], "building": STRUCTURED}
"""Tables whose cascade has figures, and the parts that they are of."""
KIND_LABELS = {
    "bilinear": "downsample, enlarged bilinearly",
    "bicubic": "downsample, enlarged bicubically",
    "patch": "patch",
    "magnet": "MagNet",
}
METHOD_LABELS = {
    "guided": "guided filter",
    "guided4": "guided filter, radius 4",
    "crf": "dense CRF",
    "cascade": "CascadePSP",
    "only": "CascadePSP, buildings alone",
}
SEEDS = (1, 2)
"""Of a cascade's training."""

STRUCTURE = {
    "os1": "output of stride 1 alone",
    "os8-os1": "strides 8 and 1",
    "paper": "strides 8, 4 and 1, the paper's losses",
    "ce": "cross-entropy alone",
    "distances": "L1 + L2 alone",
    "both": "cross-entropy and L1 + L2 alike, no gradients",
    "bundle": "as the bundles that ship: cross-entropy at stride 1 too, gradients weighed 1 instead of 5",
}
"""Rows of the paper's Table 1, first of structure, then of losses."""


def found(table: str, row: str, parts: Sequence[str]) -> list[Cell] | None:
    """The cells of a row; None unless every part has been measured."""
    cells = [Cell.load(table, part, row, REFINED) for part in parts]
    complete = [cell for cell in cells if cell is not None]
    return complete if len(complete) == len(parts) else None


def scores(cells: Sequence[Cell], table: str) -> tuple[float, float]:
    """Mean IoU over all classes, or IoU of the one, and mBA: percent, pooled over parts."""
    iou = miou(cells) if table == EVERY else 100 * float(ious(cells)[1])
    return iou, mba(cells) or 0.0


def method_table(table: str, parts: Sequence[str]) -> Callable[[], str]:
    """Each kind of mask, as it is and sharpened, with what changed."""

    def make() -> str:
        lines = []
        for kind in KINDS:
            before = found(table, f"{kind}-input", parts)
            if before is None:
                continue
            base = scores(before, table)
            lines.append([f"**{KIND_LABELS[kind]}**", *map(number, base), "", "", *by_class(before, table)])
            for method, label in METHOD_LABELS.items():
                after = found(table, f"{kind}-{method}", parts)
                if after is not None:
                    now = scores(after, table)
                    changes = [f"{one - other:+.1f}" for one, other in zip(now, base, strict=True)]
                    lines.append([f"+ {label}", *map(number, now), *changes, *by_class(after, table)])
        every = table == EVERY
        header = ["", "mIoU" if every else "IoU", "mBA", "IoU changed", "mBA changed"]
        return markdown([*header, *(CLASSES["dubai"] if every else ())], lines)

    return make


def by_class(cells: Sequence[Cell], table: str) -> list[str]:
    """IoU of each class where the table is of all."""
    return [number(100 * value) for value in ious(cells)] if table == EVERY else []


def tiles_table() -> str:
    """Each tile by itself, and by another training of the cascade."""
    lines = []
    for tile, kind, seed in product(TILES_SHOWN, KINDS, SEEDS):
        before = found("building", f"{kind}-input", [tile])
        after = found("building", f"{kind}-cascade{'' if seed == 1 else f'-seed{seed}'}", [tile])
        if before is None or after is None:
            continue
        values = []
        for one, other in zip(scores(before, "building"), scores(after, "building"), strict=True):
            values += [number(one), number(other), f"{other - one:+.1f}"]
        lines.append([f"{tile.replace('tile', 'tile ')}, {KIND_LABELS[kind]}", str(seed), *values])
    return markdown(["", "seed", "IoU before", "after", "changed", "mBA before", "after", "changed"], lines)


def steps_table() -> str:
    """Global only, local only and both (CascadePSP, Table 2)."""
    lines = []
    for table, parts in FIGURES.items():
        rows = {
            "the mask as it was": (table, "bilinear-input"),
            "global step only": ("steps", "bilinear-global"),
            "local step only": ("steps", "bilinear-local"),
            "both": ("lengths", f"bilinear-{SIDE}"),
        }
        measured = {label: found(folder, row, parts) for label, (folder, row) in rows.items()}
        for label, cells in measured.items():
            if cells is not None and None not in measured.values():
                lines.append([f"{table}: {label}", *map(number, scores(cells, table))])
    return markdown(["", "IoU", "mBA"], lines)


def structure_table() -> str:
    """Which outputs and which losses (Table 1)."""
    lines = []
    for label, table, row in (
        ("the mask as it was", "building", "bilinear-input"),
        *((label, "structure", row) for row, label in STRUCTURE.items()),
    ):
        cells = found(table, row, STRUCTURED)
        if cells is not None:
            lines.append([label, *map(number, scores(cells, table))])
    return markdown(["", "IoU", "mBA"], lines)


def lengths_table() -> str:
    """Scores and memory against L (Figure 6)."""
    lines = []
    for table, parts in FIGURES.items():
        for side in LENGTHS:
            cells = found("lengths", f"bilinear-{side}", parts)
            if cells is not None:
                facts = [str(sum(cell.windows or 0 for cell in cells)), peak(cells)]
                lines.append([f"{table}, {side}", *map(number, scores(cells, table)), *facts])
    return markdown(["L", "IoU", "mBA", "forward passes", "MiB"], lines)


def sizes_table() -> str:
    """With and without the local step at several sizes of the picture (Figure 7)."""
    lines = []
    for table, parts in FIGURES.items():
        for divisor in DIVISORS:
            for name in ("input", "global", "both"):
                cells = found("sizes", f"bilinear-{divisor}-{name}", parts)
                if cells is not None:
                    label = {"input": "the mask as it was", "global": "global step only", "both": "both steps"}[name]
                    memory = "" if name == "input" else peak(cells)
                    lines.append([f"{table}, 1/{divisor}: {label}", *map(number, scores(cells, table)), memory])
    return markdown(["", "IoU", "mBA", "MiB"], lines)


def peak(cells: Sequence[Cell]) -> str:
    """Most host memory of the runs, in MiB."""
    return str(round(max(int(str(cell.more["host_peak"])) for cell in cells) / 2**20))


REFINED_TABLES: dict[str, Callable[[], str]] = {
    "refined-every": method_table(EVERY, TILES_SHOWN),
    "refined-building": method_table("building", TILES_SHOWN),
    "refined-tiles": tiles_table,
    "refined-vessel": method_table("vessel", RETINAS),
    "refined-steps": steps_table,
    "refined-structure": structure_table,
    "refined-lengths": lengths_table,
    "refined-sizes": sizes_table,
}

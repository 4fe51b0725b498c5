"""The tables of docs/accuracy.md, made from the committed cells.

python -m benchmarks.accuracy.page            # write the tables into the page
python -m benchmarks.accuracy.page --check    # exit 1 where the page says something else
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import t as student

from benchmarks.accuracy.cells import RESULTS, Cell, ious, mba, miou
from benchmarks.accuracy.curve_tables import TABLES as CURVE_TABLES
from benchmarks.accuracy.grnet_page import TABLES as GRNET_TABLES
from benchmarks.accuracy.markdown import markdown, number
from benchmarks.accuracy.refined_page import REFINED_TABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PAGE = Path(__file__).parents[2] / "docs" / "accuracy.md"
DUBAI = ("tile4", "tile6", "tile7")
TIMED = "tile6"
"""The scene whose seconds are shown: its rows were run one after the other with nothing beside them."""
FUNDUS = ("04_dr", "04_g", "04_h")
DUBAI_CLASSES = ("building", "land", "road", "vegetation", "water")
MARK = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
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


def cells(table: str, row: str, scenes: Sequence[str]) -> list[Cell] | None:
    """The cells of a row; None unless every scene has been measured."""
    found = [Cell.load(table, scene, row) for scene in scenes]
    complete = [cell for cell in found if cell is not None]
    return complete if len(complete) == len(scenes) else None


def rows_of(table: str, scenes: Sequence[str]) -> list[str]:
    """Rows that every scene has, in the order in which the first scene's were measured."""
    folder = RESULTS / table / scenes[0]
    order = sorted(folder.glob("*.json"), key=lambda path: path.name)
    return [path.stem for path in order if cells(table, path.stem, scenes) is not None]


def main_table() -> str:
    """Every method on the scenes that its backbone has not seen."""
    lines = []
    for row, label in LABELS.items():
        found = cells("main", row, DUBAI)
        if found is None:
            continue
        pixels = sum(cell.megapixels or 0 for cell in found)
        per_scene = [number(miou([cell])) for cell in found]
        cost = [
            number(sum(cell.gmac or 0 for cell in found) / pixels, 0),
            str(sum(cell.windows or 0 for cell in found)),
        ]
        timed = found[DUBAI.index(TIMED)]
        seconds = number((timed.seconds or 0) / (timed.megapixels or 1), 2)
        mean = np.mean([miou([cell]) for cell in found])
        lines.append([label, number(miou(found)), number(float(mean)), *per_scene, number(mba(found)), *cost, seconds])
    header = ["", "mIoU pooled", "mean", *DUBAI, "mBA", "GMAC / Mpx", "windows", "s / Mpx"]
    return markdown(header, lines)


def fundus_table() -> str:
    """Every method on the retinas that the bundle has not seen."""
    lines = []
    for row, label in LABELS.items():
        found = cells("fundus", row, FUNDUS)
        if found is not None:
            vessels = ious(found)[1]
            per_image = [number(miou([cell])) for cell in found]
            scores = [number(miou(found)), number(100 * vessels), *per_image, number(mba(found))]
            lines.append([retinal(label), *scores, str(sum(cell.windows or 0 for cell in found))])
    return markdown(["", "mIoU pooled", "vessel IoU", *FUNDUS, "mBA", "windows"], lines)


def retinal(label: str) -> str:
    """A row's label with the scales of the bundle `fundus`."""
    return label.replace("2048 px", "1024 px")


def class_table() -> str:
    """IoU by class, pooled over the scenes."""
    lines = []
    for row, label in LABELS.items():
        found = cells("main", row, DUBAI)
        if found is not None:
            lines.append([label, *(number(100 * value) for value in ious(found))])
    return markdown(["", *DUBAI_CLASSES], lines)


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of the 95 % interval of paired differences (Student)."""
    values = np.asarray(differences)
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def difference_table() -> str:
    """MagNet against the others, scene by scene."""
    lines = []
    for first, second in (
        ("magnet", "better"),
        ("magnet", "patch"),
        ("magnet", "downsample"),
        ("magnet", "patch-flips"),
        ("magnet", "patch-half-overlap"),
        ("magnet", "patch-x2"),
        ("magnet-refiner", "magnet"),
        ("magnet-certainty", "magnet"),
        ("magnet-x2", "magnet"),
    ):
        for what, score in (("mIoU", miou), ("mBA", mba)):
            pairs = [(value(first, scene, score), value(second, scene, score)) for scene in DUBAI]
            known = [(one, other) for one, other in pairs if one is not None and other is not None]
            if len(known) < len(DUBAI):
                continue
            differences = [one - other for one, other in known]
            mean, half = interval(differences)
            label = f"{first} - {'the better of downsample and patch' if second == 'better' else second}, {what}"
            lines.append([label, *(f"{one:+.2f}" for one in differences), f"{mean:+.2f} ± {half:.2f}"])
    return markdown(["", *DUBAI, "mean, 95 % interval"], lines)


def value(row: str, scene: str, score: Callable[[list[Cell]], float | None]) -> float | None:
    """A score of one cell; `better` is the larger of downsample and patch."""
    if row == "better":
        both = [value(name, scene, score) for name in ("downsample", "patch")]
        known = [one for one in both if one is not None]
        return max(known) if len(known) == len(both) else None
    cell = Cell.load("main", scene, row)
    return None if cell is None else score([cell])


def ablation(table: str, scenes: Sequence[str] = DUBAI) -> Callable[[], str]:
    """Mean IoU by scene of an ablation's rows."""

    def make() -> str:
        lines = []
        for row in rows_of(table, scenes):
            found = cells(table, row, scenes)
            if found is None:
                continue
            each = [miou([cell]) for cell in found]
            lines.append(
                [f"`{row}`", *(number(one, 2) for one in each), number(float(np.mean(each)), 2), number(miou(found), 2)]
            )
        return markdown(["", *scenes, "mean", "pooled"], lines)

    return make


TABLES: dict[str, Callable[[], str]] = {
    "main": main_table,
    "classes": class_table,
    "fundus": fundus_table,
    "differences": difference_table,
    **{name: ablation(name) for name in ("scales", "score", "points", "merge", "accept")},
    "margin": ablation("margin", DUBAI[:2]),
    **REFINED_TABLES,
    **CURVE_TABLES,
    **GRNET_TABLES,
}


def filled(text: str) -> str:
    """A page with its tables made again."""
    return MARK.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}{match[3]}", text)


def main() -> None:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    text = PAGE.read_text(encoding="utf-8")
    made = filled(text)
    if args.check:
        sys.exit(int(made != text))
    PAGE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()

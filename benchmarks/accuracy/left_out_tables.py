"""The tables on the recipe of `aerial` with each of the seven scenes left out in turn: scores, classes, differences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.accuracy.cells import Cell, ious, load_cells, markdown, mba, miou, number
from benchmarks.accuracy.segmented_tables import CLASSES, interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEFT_OUT_SCENES = tuple(f"tile{number}" for number in range(1, 8))
SEEDS = (1, 2, 3)
PLAIN, ADJUSTED, LITE2 = "plain", "adjusted", "lite2"
"""Recipes: without `logit_adjustment`; the one of `aerial`, which has it; and that one with EfficientNet-Lite2."""
HALVES = "halves"
"""Networks that were trained on one half of the scenes by that recipe, and scored on the other half (halves.py)."""
RECIPES = {PLAIN: "out", ADJUSTED: "adjusted", LITE2: "lite2", HALVES: "halves"}
"""Recipes, and the beginning of the names of their rows."""
LEFT_OUT = {
    "downsample": "`--method downsample`: windows of 2048 alone",
    "patch": "`--method patch`: windows of 256 alone",
    "patch-416": "`--method patch --scales 416`: windows of 416 alone",
    "patch-half-overlap": "patch, `--overlap 50%`",
    "patch-mirrored": "patch, `--tta 4`",
    "patch-x2": "patch, input and windows of 512",
    "magnet-fast": "`--method magnet-fast`",
    "budget20": "`--method magnet-fast --budget 20%`",
    "budget40": "`--method magnet-fast --budget 40%`",
    "magnet": "stage by stage, `--merge mean`",
    "magnet-certainty": "stage by stage, `--merge certainty`",
    "geometric": "**the default: stage by stage, `--merge geometric`**",
    "geometric-mirrored": "the default, `--tta 4`",
    "geometric-2048-416": "`--merge geometric --scales 2048,416`",
    "geometric-416": "`--merge geometric --scales 1664,832,416`",
    "geometric-320": "`--merge geometric --scales 2560,1280,640,320`",
    "magnet-x2": "stage by stage, input of 512, windows of 512 to 4096",
    "refiner-shared": "stage by stage, one refiner for all scales",
    "refiner-paper": "stage by stage, the paper's refiner for each scale, 100 iterations",
    "grnet": "GRNet: the selected cells",
    "grnet-every": "GRNet, `--patches all`: every cell",
    "grnet-global": "GRNet, `--method downsample`: its global branch alone",
    "grnet-local": "GRNet, `--method grnet-local`: its local branch alone",
}
BASIC = ("downsample", "patch", "geometric")
"""Rows of the first seed that must be measured on a scene before the tables include it."""
GRNETS = ("grnet", "grnet-every", "grnet-global", "grnet-local")
"""Rows of a GRNet, which was trained on one half of the scenes alone."""
BETTER = "better"
PAIRS = (
    ("geometric", BETTER),
    ("geometric", "patch-half-overlap"),
    ("geometric", "patch-mirrored"),
    ("geometric-mirrored", "patch-mirrored"),
    ("geometric-mirrored", "geometric"),
    ("geometric", "magnet"),
    ("magnet", BETTER),
    ("magnet-certainty", "magnet"),
    ("patch-416", "patch"),
    ("geometric-2048-416", "patch"),
    ("geometric-416", "patch"),
    ("geometric-320", "patch"),
    ("geometric-320", "geometric"),
    ("magnet-x2", "magnet"),
    ("magnet-x2", "patch-x2"),
    ("magnet-fast", "patch"),
    ("budget20", "patch"),
    ("budget40", "patch"),
    ("refiner-shared", "magnet"),
    ("refiner-shared", "geometric"),
)
"""Pairs of rows whose differences are shown: the first minus the second."""
NAMES = {
    BETTER: "the better of downsample and patch",
    "geometric": "default",
    "magnet": "mean",
    "magnet-certainty": "certainty",
    "geometric-2048-416": "geometric, scales 2048 and 416",
    "geometric-mirrored": "default, `--tta 4`",
    "geometric-416": "geometric, scales 1664 to 416",
    "geometric-320": "geometric, scales 2560 to 320",
    "patch-half-overlap": "patch, overlap of 50 %",
    "patch-mirrored": "patch, `--tta 4`",
    "patch-x2": "patch, input of 512",
    "magnet-x2": "mean, input of 512",
    "budget20": "`--budget 20%`",
    "budget40": "`--budget 40%`",
    "patch-416": "patch, windows of 416",
    "refiner-shared": "one refiner",
}
DRAWS = 10_000
"""Number of bootstrap resamples."""
Score = Callable[[Sequence[Cell]], float]
"""A function that returns the score of one seed's cells, pooled over their scenes."""


def left_out_row(seed: int, method: str, recipe: str = PLAIN) -> str:
    """Return the name of a row, such as `out-seed1-patch`."""
    return f"{RECIPES[recipe]}-seed{seed}-{method}"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A method on the scenes of the tables, with each seed that was measured on all of them."""

    seeds: dict[int, list[Cell]]
    """The cells of each seed, one for each scene."""

    def only(self, seeds: Iterable[int]) -> Measured:
        """Return the method with some of its seeds."""
        return Measured(seeds={seed: self.seeds[seed] for seed in seeds})

    def spread(self, score: Score) -> str:
        """Write the mean of a pooled score over the seeds, with the lowest and highest where there are several."""
        values = [score(cells) for cells in self.seeds.values()]
        text = number(float(np.mean(values)))
        return text if len(values) == 1 else f"{text} ({min(values):.1f} to {max(values):.1f})"

    def each(self, score: Score) -> list[float]:
        """Return the mean of a score over the seeds, scene by scene."""
        return [float(np.mean([score([cell]) for cell in cells])) for cells in zip(*self.seeds.values(), strict=True)]


def shown_scenes(recipe: str = PLAIN) -> tuple[str, ...]:
    """Return the scenes on which the basic rows of a recipe's first seed were measured."""
    cells = load_cells("main")
    rows = [left_out_row(SEEDS[0], method, recipe) for method in BASIC]
    return tuple(scene for scene in LEFT_OUT_SCENES if all((row, scene) in cells for row in rows))


def measured(method: str, recipe: str = PLAIN, scenes: Sequence[str] | None = None) -> Measured | None:
    """Return a method on some scenes. None unless a seed was measured on all of them.

    Args:
        method: One of `LEFT_OUT`.
        recipe: The recipe of its networks.
        scenes: The scenes. None takes those of the recipe's tables.
    """
    cells, scenes = load_cells("main"), shown_scenes(recipe) if scenes is None else scenes
    keys = {seed: [(left_out_row(seed, method, recipe), scene) for scene in scenes] for seed in SEEDS}
    seeds = {
        seed: [cells[key] for key in row] for seed, row in keys.items() if row and all(key in cells for key in row)
    }
    return Measured(seeds=seeds) if seeds else None


def boundary(cells: Sequence[Cell]) -> float:
    """Return the mean boundary accuracy in percent.

    Raises:
        ValueError: A cell has no boundary.
    """
    found = mba(cells)
    if found is None:
        message = "a row without a boundary was measured"
        raise ValueError(message)
    return found


def left_out_table(
    recipe: str = PLAIN, scenes: Sequence[str] | None = None, methods: Iterable[str] = tuple(LEFT_OUT)
) -> str:
    """Write the scores of some methods on scenes that the networks of a recipe have not seen.

    Args:
        recipe: The recipe.
        scenes: The scenes. None takes those on which the basic rows of the first seed were measured.
        methods: Names in `LEFT_OUT`.
    """
    scenes, lines = shown_scenes(recipe) if scenes is None else scenes, []
    for method in methods:
        label, found = LEFT_OUT[method], measured(method, recipe, scenes)
        if found is None:
            continue
        each, first = found.each(miou), next(iter(found.seeds.values()))
        pixels, gmac, windows = (
            sum(getattr(cell, key) or 0 for cell in first) for key in ("megapixels", "gmac", "windows")
        )
        scores = [found.spread(miou), number(float(np.mean(each))), *map(number, each), found.spread(boundary)]
        lines.append([label, str(len(found.seeds)), *scores, number(gmac / pixels), str(windows)])
    header = ["", "seeds", "mIoU pooled", "mean", *scenes, "mBA", "GMAC / Mpx", "windows"]
    return markdown(header, lines)


def left_out_class_table(recipe: str = PLAIN) -> str:
    """Write the IoU by class, pooled over the scenes and averaged over seeds."""
    lines = []
    for method, label in LEFT_OUT.items():
        found = measured(method, recipe)
        if found is not None:
            mean = np.mean([ious(cells) for cells in found.seeds.values()], axis=0)
            lines.append([label, *(number(100 * value) for value in mean)])
    return markdown(["", *CLASSES], lines)


def left_out_difference_table(recipe: str = PLAIN) -> str:
    """Write paired differences by scene and pooled.

    Differences by scene have Student's interval over scenes; pooled ones have an interval by bootstrap over scenes, and
    Student's interval over seeds where there are several.
    """
    lines = []
    for first, second in PAIRS:
        pair = paired(first, second, recipe)
        if pair is None:
            continue
        mine, theirs = pair
        for what, score, sums in (("mIoU", miou, pooled_miou), ("mBA", boundary, pooled_mba)):
            others = [row.each(score) for row in theirs]
            each = [one - max(other) for one, *other in zip(mine.each(score), *others, strict=True)]
            values = [
                score(cells) - max(score(row.seeds[seed]) for row in theirs) for seed, cells in mine.seeds.items()
            ]
            low, high = bootstrap(mine, theirs, sums)
            pooled = f"{np.mean(values):+.2f} ({low:+.2f} to {high:+.2f})"
            label = f"{NAMES.get(first, first)} - {NAMES.get(second, second)}, {what}"
            numbers = [f"{value:+.2f}" for value in each]
            seeds = ", ".join(f"{one:+.2f}" for one in values)
            lines.append([label, *numbers, mean_and_half(each), pooled, seeds, mean_and_half(values)])
    columns = ["mean, Student's 95 %", "pooled, bootstrap's 95 %", "pooled, by seed", "over seeds, Student's 95 %"]
    header = ["", *shown_scenes(recipe), *columns]
    return markdown(header, lines)


def paired(first: str, second: str, recipe: str = PLAIN) -> tuple[Measured, list[Measured]] | None:
    """Return a row and those with which it is compared, with the seeds that all of them have. None without such a seed.

    Args:
        first: The row.
        second: The other row, or `BETTER`, which stands for two rows, of which the better one counts.
        recipe: The recipe of their networks.
    """
    names = (first, *(("downsample", "patch") if second == BETTER else (second,)))
    rows = [row for row in (measured(name, recipe) for name in names) if row is not None]
    if len(rows) < len(names):
        return None
    common = [seed for seed in SEEDS if all(seed in row.seeds for row in rows)]
    mine, *theirs = (row.only(common) for row in rows)
    return (mine, theirs) if common else None


def mean_and_half(differences: Sequence[float]) -> str:
    """Write the mean of some differences with Student's 95 % interval, or a single difference alone."""
    if len(differences) == 1:
        return f"{differences[0]:+.2f}"
    mean, half = interval(differences)
    return f"{mean:+.2f} ± {half:.2f}"


def bootstrap(
    mine: Measured,
    theirs: Sequence[Measured],
    score: Callable[[Sequence[Cell], NDArray[np.int64]], NDArray[np.float64]],
) -> tuple[float, float]:
    """Return the 95 % interval of a pooled difference, the mean over seeds, when scenes are drawn with replacement.

    Args:
        mine: The row.
        theirs: The rows that it is compared with; in each draw the best of them counts.
        score: The pooled score of one seed's cells, `(draws,)`, when each scene counts as often as `(draws, scenes)`
            says.
    """
    scenes = len(next(iter(mine.seeds.values())))
    times = np.random.default_rng(0).multinomial(scenes, np.full(scenes, 1 / scenes), size=DRAWS)
    differences = [
        score(cells, times) - np.max([score(one.seeds[seed], times) for one in theirs], axis=0)
        for seed, cells in mine.seeds.items()
    ]
    low, high = np.quantile(np.mean(differences, axis=0), [0.025, 0.975])
    return float(low), float(high)


def pooled_miou(cells: Sequence[Cell], times: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean IoU in percent over the classes that occur, for each draw of scenes: `(draws,)`.

    Args:
        cells: One cell for each scene.
        times: How often each scene counts, `(draws, scenes)`.
    """
    counts = np.array([[cell.truth, cell.mask, cell.both] for cell in cells], np.float64)
    truth, mask, both = np.moveaxis(np.einsum("ds,skc->dkc", times, counts), 1, 0)
    union = truth + mask - both
    found: NDArray[np.float64] = 100 * np.nanmean(
        np.divide(both, union, out=np.full(union.shape, np.nan), where=union > 0), axis=1
    )
    return found


def pooled_mba(cells: Sequence[Cell], times: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean boundary accuracy in percent for each draw of scenes: `(draws,)`.

    Args:
        cells: One cell for each scene, each with its boundary.
        times: How often each scene counts, `(draws, scenes)`.
    """
    found = [cell.boundary for cell in cells]
    near, right = (times @ np.array([getattr(one, key) for one in found], np.float64) for key in ("near", "right"))
    mean: NDArray[np.float64] = 100 * np.mean(right / near, axis=1)
    return mean


def recipe_table(before: str, after: str) -> str:
    """Write the scores of the networks of two recipes side by side, with the first seed."""
    cells, scenes, lines = load_cells("main"), shown_scenes(after), []
    for method in (*BASIC, "magnet"):
        one, other = (
            [cells[left_out_row(SEEDS[0], method, recipe), scene] for scene in scenes] for recipe in (before, after)
        )
        line = [LEFT_OUT[method].strip("*")]
        for score in (miou, boundary):
            differences = [score([second]) - score([first]) for first, second in zip(one, other, strict=True)]
            line.append(f"{score(one):.1f}, {score(other):.1f} ({score(other) - score(one):+.2f})")
            line += [f"{value:+.2f}" for value in differences] if score is miou else []
            line.append(mean_and_half(differences))
        lines.append(line)
    return markdown(["", "mIoU pooled", *scenes, "mean", "mBA pooled", "mean"], lines)


LEFT_OUT_TABLES: dict[str, Callable[[], str]] = {
    "left-out": partial(left_out_table, ADJUSTED),
    "left-out-classes": partial(left_out_class_table, ADJUSTED),
    "left-out-differences": partial(left_out_difference_table, ADJUSTED),
    "left-out-adjusted": partial(recipe_table, PLAIN, ADJUSTED),
    "left-out-plain": left_out_table,
    "left-out-plain-classes": left_out_class_table,
    "left-out-plain-differences": left_out_difference_table,
    "left-out-larger": partial(recipe_table, ADJUSTED, LITE2),
    "halves": partial(left_out_table, HALVES),
    "halves-differences": partial(left_out_difference_table, HALVES),
    "halves-grnet": partial(left_out_table, HALVES, ("tile4", "tile6", "tile7"), (*BASIC, "patch-416", *GRNETS)),
}

"""A picture of the distribution of scores over images, by method."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from magnet_cli.report.inks import COLOURS, INK
from magnet_cli.system.own_pictures import SOFTWARE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from magnet_cli.evaluation.method_scores import MethodScore, Scores

HEIGHT = 4.6
"""Height in inches of a row of classes."""
MOST_IN_LINE = 10
"""Most classes beside each other."""
DOTS = 150
"""Pixels of the picture per inch."""
MOST_JOINED = 40
"""The most images whose scores are joined by lines, because more lines would hide the points."""
BOX = 0.5
"""Width of a method's box as a share of the distance between boxes."""
UPRIGHT_LETTERS = 11
"""Mean length of names in characters above which they are rotated."""
SPREAD = (0.0, 0.38, -0.38, 0.19, -0.19, 0.57, -0.57)
"""The positions of points of one box beside each other, as shares of half its width."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One box with its points."""

    at: float
    width: float
    spread: float
    """Width over which the points stand."""
    values: Sequence[float]
    colour: str


def draw_distributions(scores: Scores) -> bytes:
    """Draw the mean IoU of every image by method, and beside it the IoU by class and method.

    Args:
        scores: The scores, with one image at least that did not fail.

    Returns:
        A PNG. Boxes go from the first to the third quartile with the median in them, whiskers to the ends.
    """
    methods = [score for score in scores.methods if score.found]
    labels = [(entry.index, entry.name) for entry in methods[0].pooled.classes]
    lines = [labels[start : start + MOST_IN_LINE] for start in range(0, len(labels), MOST_IN_LINE)] or [[]]
    widths = (1.2 + 0.85 * len(methods), 1.2 + len(lines[0]) * (0.35 + 0.24 * len(methods)))
    figure = Figure(figsize=(max(7.0, sum(widths)), HEIGHT * len(lines)), layout="constrained")
    # pyplot would keep every figure in a list of its own and look for a display.
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(lines), 2, width_ratios=widths)
    whole = figure.add_subplot(grid[:, 0])
    whole.set_ylabel("IoU", fontsize=9, color=INK)
    _draw_images(whole, methods)
    for index, line in enumerate(lines):
        axes = figure.add_subplot(grid[index, 1])
        _draw_classes(axes, methods, line)
        if index == 0:
            axes.set_title("IoU of each image by class", fontsize=10, color=INK)
    least = methods[0].options.iou_threshold
    whole.axhline(least, color=INK, linewidth=0.8, linestyle=(0, (4, 4)), zorder=1)
    _legend(figure, methods, least)
    file = BytesIO()
    # matplotlib would store its version, and the file would change with it.
    figure.savefig(file, format="png", dpi=DOTS, metadata=SOFTWARE)
    return file.getvalue()


def _draw_images(axes: Axes, methods: Sequence[MethodScore]) -> None:
    count = max(len(score.found) for score in methods)
    axes.set_title(f"mean IoU of each image ({count} image{'s'[: count != 1]})", fontsize=10, color=INK)
    _frame(axes, [score.method for score in methods])
    spread = 0.0 if count <= MOST_JOINED else BOX
    for place, score in enumerate(methods):
        _draw(axes, Column(at=place, width=BOX, spread=spread, values=score.mious.values, colour=_colour(score)))
    if count <= MOST_JOINED:
        for name in {row.sample.name for score in methods for row in score.rows}:
            points = [
                (place, row.evaluation.miou)
                for place, score in enumerate(methods)
                for row in score.rows
                if row.sample.name == name and row.evaluation is not None and row.evaluation.miou is not None
            ]
            axes.plot(
                [place for place, _ in points], [miou for _, miou in points], color="#BBBBBB", linewidth=0.7, zorder=1
            )


def _draw_classes(axes: Axes, methods: Sequence[MethodScore], labels: Sequence[tuple[int, str]]) -> None:
    _frame(axes, [name for _, name in labels])
    step = 0.8 / len(methods)
    for place, (label, _) in enumerate(labels):
        for index, score in enumerate(methods):
            at = place + (index - (len(methods) - 1) / 2) * step
            values = score.ious(label).values
            width = 0.8 * step
            _draw(axes, Column(at=at, width=width, spread=width, values=values, colour=_colour(score)))


def _draw(axes: Axes, column: Column) -> None:
    if not column.values:
        return
    axes.boxplot(
        [column.values],
        positions=[column.at],
        widths=column.width,
        # Whiskers reach the ends, because every image is drawn as a point and none of them is an outlier to be hidden.
        whis=(0, 100),
        showfliers=False,
        manage_ticks=False,
        patch_artist=True,
        boxprops={"facecolor": column.colour + "26", "edgecolor": column.colour, "linewidth": 1.1},
        medianprops={"color": INK, "linewidth": 1.6},
        whiskerprops={"color": column.colour, "linewidth": 1.1},
        showcaps=False,
        zorder=2,
    )
    ranked = sorted(column.values)
    # Positions follow from the rank and not from chance, so that one set of scores gives one file.
    places = [column.at + column.spread / 2 * SPREAD[rank % len(SPREAD)] for rank in range(len(ranked))]
    axes.scatter(places, ranked, s=13, color=column.colour, edgecolors="white", linewidths=0.4, zorder=3)


def _frame(axes: Axes, names: Sequence[str]) -> None:
    axes.set_xlim(-0.6, max(1, len(names)) - 0.4)
    axes.set_ylim(-0.02, 1.02)
    crowded = sum(len(name) for name in names) > UPRIGHT_LETTERS * len(names)
    axes.set_xticks(range(len(names)), names, fontsize=9, color=INK)
    if crowded:
        for label in axes.get_xticklabels():
            label.set(rotation=30, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0, labelleft=True, labelsize=9, labelcolor=INK)
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)


def _colour(score: MethodScore) -> str:
    return COLOURS[score.method]


def _legend(figure: Figure, methods: Sequence[MethodScore], least: float) -> None:
    marks = [Line2D([], [], color=_colour(score), marker="o", linestyle="", markersize=5) for score in methods]
    marks.append(Line2D([], [], color=INK, linewidth=0.8, linestyle=(0, (4, 4))))
    names = [*(score.method for score in methods), f"threshold {least:g}"]
    figure.legend(marks, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=9, labelcolor=INK)

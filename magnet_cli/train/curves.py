"""The log of a training as a picture."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

from magnet_cli.system.durable import write_whole
from magnet_cli.system.own_pictures import SOFTWARE
from magnet_cli.train.log import read_log

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from magnet_cli.train.log import Line

LOSS, RATE, SCORE = "#1F5A94", "#7A7A7A", "#C2571A"
DECADE = 10

Curve = tuple[list[float], list[float]]


def draw_curves(log: Path, target: Path) -> None:
    """Draw loss, validation and learning rate over iterations.

    Args:
        log: The log's file. Of several lines of an iteration the last counts.
        target: A PNG, replaced complete or not at all.

    Raises:
        OutputError: The picture cannot be written.
    """
    write_whole(target, picture(read_log(log)))


def curve(lines: Sequence[Line], key: str) -> Curve:
    """Return the iterations and values of a key, in order of iterations."""
    # A training that was killed and resumed may have logged an iteration twice.
    values = {line["iteration"]: line[key] for line in lines if key in line}
    return sorted(values), [values[iteration] for iteration in sorted(values)]


def picture(lines: Sequence[Line]) -> bytes:
    """Return a PNG of the lines of a log: loss above, mean IoU below it if there was any validation, then the rate."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  heavy
    from matplotlib.figure import Figure  # noqa: PLC0415  heavy

    score = curve(lines, "validation_miou")
    heights = [3, 2, 1] if score[0] else [3, 1]
    figure = Figure(figsize=(8, 1.2 * sum(heights)), dpi=120, layout="constrained")
    # pyplot would keep every figure in a list of its own and look for a display.
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0])
    draw_loss(axes[0], lines)
    if score[0]:
        draw_score(axes[1], score)
    axes[-1].plot(*curve(lines, "rate"), color=RATE)
    axes[-1].set_ylim(bottom=0)
    axes[-1].set_ylabel("learning rate")
    axes[-1].ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
    axes[-1].set_xlabel("iteration")
    axes[-1].set_xlim(left=0)
    for ax in axes:
        ax.grid(visible=True, color="#E4E4E4", linewidth=0.8)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_axisbelow(True)
    figure.align_ylabels(axes)
    file = BytesIO()
    figure.savefig(file, format="png", metadata=SOFTWARE)
    return file.getvalue()


def draw_loss(ax: Any, lines: Sequence[Line]) -> None:
    """Draw training loss and validation cross-entropy, on a logarithmic axis where they span a decade or more."""
    from matplotlib.ticker import LogLocator, NullLocator  # noqa: PLC0415  heavy

    loss, validation = curve(lines, "loss"), curve(lines, "validation_cross_entropy")
    ax.plot(*loss, color=LOSS, label="training loss")
    if validation[0]:
        ax.plot(*validation, color=SCORE, marker="o", markersize=3, label="validation, cross-entropy")
    values = [*loss[1], *validation[1]]
    if values and 0 < DECADE * min(values) < max(values):
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_locator(NullLocator())
    ax.set_ylabel("loss")
    ax.legend(frameon=False, loc="upper right")


def draw_score(ax: Any, score: Curve) -> None:
    """Draw the validation mean IoU in percent, with its best marked."""
    percent = [100 * value for value in score[1]]
    best = max(percent)
    at = score[0][percent.index(best)]
    ax.plot(score[0], percent, color=SCORE, marker="o", markersize=3)
    ring = {"marker": "o", "markersize": 9, "markerfacecolor": "none", "linestyle": "none"}
    ax.plot([at], [best], color=SCORE, label=f"best: {best:.1f} % at {at:g}", **ring)
    ax.set_ylabel("validation mIoU, %")
    ax.legend(frameon=False, loc="lower right")

"""The picture of the curves in docs/accuracy.md, from the committed files.

python -m benchmarks.accuracy.curve_picture
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.accuracy.curve_tables import SPREADS, mean
from benchmarks.accuracy.curves import FUNDUS, SHARES
from benchmarks.accuracy.folds import HELD_OUT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "selection-curves.png"
STYLES = {
    "oracle": ("oracle", "#222222", "-"),
    "ppn-gain": ("PPN, gain labels", "#D55E00", "-"),
    "ppn-paper": ("PPN, paper's labels", "#E69F00", "--"),
    "uncertainty": ("uncertainty", "#0072B2", "-"),
    "threshold": ("threshold", "#56B4E9", "--"),
    "both": ("change x uncertainty", "#009E73", "-"),
    "change": ("change", "#66C2A5", "--"),
    "random": ("random", "#999999", ":"),
}
"""Label, colour and line of each selector, best first."""


def draw(axes: Axes, scenes: Sequence[str], title: str, spread: str = "") -> None:
    """One panel: mean IoU over scenes against the share of windows."""
    shares = [0.0, *(float(share) for share in SHARES), 1.0]
    for selector, (label, color, line) in STYLES.items():
        values = [mean(scenes, spread + selector, share) for share in shares]
        known = [value for value in values if value is not None]
        if len(known) == len(shares):
            axes.plot([100 * share for share in shares], known, line, color=color, label=label, linewidth=1.6)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("windows computed, % of all stages'", fontsize=9)
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def main() -> None:
    """Write the picture."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    panels: list[Axes] = []
    for spread, how in SPREADS.items():
        axes = figure.add_subplot(2, 2, len(panels) + 1, sharey=panels[0] if panels else None)
        draw(axes, HELD_OUT, f"three held-out tiles, {how}", spread)
        panels.append(axes)
    control = figure.add_subplot(2, 2, 4)
    draw(control, FUNDUS, "control: three retinas, even")
    for axes in (panels[0], panels[2]):
        axes.set_ylabel("mean IoU, mean over scenes, %", fontsize=9)
    panels[2].legend(*panels[0].get_legend_handles_labels(), fontsize=8, frameon=False, loc="lower right", ncols=2)
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()

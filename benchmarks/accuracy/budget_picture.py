"""The picture of mean IoU against the share of windows in docs/accuracy.md, drawn from the committed curves.

python -m benchmarks.accuracy.budget_picture
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.accuracy.budget_tables import HELD_OUT, RETINAS, SHARES, SPREADS, mean

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
"""Label, colour and line style of each selector."""


def draw(axes: Axes, scenes: Sequence[str], title: str, prefix: str = "") -> None:
    """Draw one panel: mean IoU over scenes against the share of windows, for selectors with a prefix of `SPREADS`."""
    shares = [0.0, *SHARES, 1.0]
    for selector, (label, color, line) in STYLES.items():
        values = [mean(scenes, prefix + selector, share) for share in shares]
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
    for prefix, how in SPREADS.items():
        axes = figure.add_subplot(2, 2, len(panels) + 1, sharey=panels[0] if panels else None)
        draw(axes, HELD_OUT, f"three held-out tiles, {how}", prefix)
        panels.append(axes)
    control = figure.add_subplot(2, 2, 4)
    draw(control, RETINAS, "control: three retinas, even")
    for axes in (panels[0], panels[2]):
        axes.set_ylabel("mean IoU, mean over scenes, %", fontsize=9)
    panels[2].legend(*panels[0].get_legend_handles_labels(), fontsize=8, frameon=False, loc="lower right", ncols=2)
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()

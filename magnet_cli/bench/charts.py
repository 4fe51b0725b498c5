"""Pictures of speed and memory against image size."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from magnet_cli.bench.result import MEGA
from magnet_cli.report.inks import COLOURS, INK

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

    from magnet_cli.bench.result import Mark, Row

MIB = 1 << 20
STYLES = {"ceiling": ("^", ":"), "patching": ("s", "--"), "naive": ("D", "-.")}
"""Marker and line of each yardstick, in the colour of its method."""
SIZE = (7.2, 4.4)
"""Width and height of a chart in inches."""


def speed_chart(rows: Sequence[Row]) -> str:
    """Draw megapixels per second against megapixels, for the program and its yardsticks, as an SVG element."""
    figure, axes = _figure("megapixels per second")
    for method in _methods(rows):
        mine = [row for row in rows if row.method == method]
        points = [(row.pixels / MEGA, row.megapixels_per_second) for row in mine]
        axes.plot(*_columns(points), color=COLOURS[method], marker="o", linewidth=2, label=f"{method}: the program")
        _draw_marks(axes, mine, lambda row, mark: row.megapixels_per_second / row.time_ratio(mark).median)
    axes.set_ylim(bottom=0)
    return _svg(figure, axes)


def memory_chart(rows: Sequence[Row]) -> str:
    """Draw the peak MiB of the host and of the device against megapixels, as an SVG element.

    Of yardsticks there is what they took, or what those that were refused would have needed, hollow.
    """
    figure, axes = _figure("peak memory, MiB")
    for method in _methods(rows):
        mine = [row for row in rows if row.method == method]
        colour = COLOURS[method]
        host = [(row.pixels / MEGA, took.host_peak / MIB) for row in mine if (took := row.runs[0]).host_peak]
        axes.plot(*_columns(host), color=colour, marker="o", linewidth=2, label=f"{method}: the program, host")
        device = [
            (row.pixels / MEGA, peak / MIB)
            for row in mine
            if (peak := row.runs[0].device_peak.get("reserved")) is not None
        ]
        if device:
            axes.plot(*_columns(device), color=colour, marker="P", linewidth=1, label=f"{method}: the program, device")
        _draw_marks(axes, mine, lambda _, mark: _peak(mark) / MIB, kinds=("patching", "naive"))
    _draw_refused(axes, rows)
    axes.set_yscale("log")
    return _svg(figure, axes)


def _draw_refused(axes: Axes, rows: Sequence[Row]) -> None:
    """Draw the memory that refused yardsticks would have needed; it is nearly the same for every method and model."""
    refused = {
        (row.pixels, mark.kind): mark.ready.needs
        for row in rows
        for mark in row.marks
        if mark.status == "refused" and mark.ready is not None and mark.ready.needs
    }
    for (pixels, kind), needs in refused.items():
        place = (pixels / MEGA, needs / MIB)
        axes.plot(*place, color=INK, marker=STYLES[kind][0], fillstyle="none", linestyle="")
        axes.annotate(
            f"{kind}: refused",
            place,
            (-6, 0),
            textcoords="offset points",
            fontsize=7,
            color=INK,
            ha="right",
            va="center",
        )


def _peak(mark: Mark) -> float:
    took = mark.runs[0]
    return took.device_peak.get("reserved") or took.host_peak or float("nan")


def _draw_marks(
    axes: Axes,
    rows: Sequence[Row],
    value: Callable[[Row, Mark], float],
    *,
    kinds: Sequence[str] = ("ceiling", "patching", "naive"),
) -> None:
    """Draw a line for each yardstick of a method that was measured."""
    names = list(dict.fromkeys((mark.kind, mark.model) for row in rows for mark in row.marks if mark.kind in kinds))
    for index, (kind, model) in enumerate(names):
        found = [(row, mark) for row in rows if (mark := row.mark(kind, model)) is not None]
        if not found:
            continue
        marker, line = STYLES[kind]
        points = [(row.pixels / MEGA, value(row, mark)) for row, mark in found]
        label = f"{rows[0].method}: {kind}{'' if model is None else f', {model}'}"
        shade = 0.9 - 0.25 * (index % 3)
        axes.plot(
            *_columns(points),
            color=COLOURS[rows[0].method],
            alpha=shade,
            marker=marker,
            linestyle=line,
            linewidth=1,
            label=label,
        )


def _methods(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.method for row in rows))


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    ordered = sorted(points)
    return [x for x, _ in ordered], [y for _, y in ordered]


def _figure(what: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    # pyplot would keep every figure in a list of its own and look for a display.
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.set_xlabel("image, megapixels", fontsize=9, color=INK)
    axes.set_ylabel(what, fontsize=9, color=INK)
    axes.tick_params(labelsize=9, labelcolor=INK, length=0)
    axes.grid(color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _svg(figure: Figure, axes: Axes) -> str:
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:,g}" if f"{value:e}"[0] in "25" else "")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.tick_params(which="minor", labelsize=8, labelcolor=INK, length=0)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=INK)
    file = StringIO()
    # Text stays text, so that a page can be searched and read aloud.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "magnet"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()[file.getvalue().index("<svg") :]

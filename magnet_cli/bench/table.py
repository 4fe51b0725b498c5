"""Rows of a bench as cells of a table, for a terminal and for a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magnet_cli.bench.rounds import MODELS
from magnet_cli.system.memory import format_bytes
from magnet_cli.system.speeds import format_seconds, three_digits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magnet_cli.bench.result import Row, Spread
    from magnet_cli.options.bench import Yardstick

HEAD = (
    *("image", "method", "engine", "a run", "Mpx/s", "windows/s", "of the ceiling"),
    *("times MONAI, as loaded", "times MONAI, same model", "times naive"),
    *("host peak", "device allocated", "device reserved", "device process"),
)
PARTS = ("survey", "read", "forward", "refine", "select", "write", "idle", "finish")
SPLIT_HEAD = ("image", "method", "wall s", *(f"{name} %" for name in PARTS))


def without_empty(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Return head and rows without the columns that are empty in all rows."""
    filled = [index for index in range(len(head)) if any(row[index] for row in rows)]
    return [[line[index] for index in filled] for line in (head, *rows)]


def cells(row: Row) -> list[str]:
    """Return the cells of a measured row, one for each name of `HEAD`; a cell without a measurement is empty."""
    took = row.runs[0]
    device = [took.device_peak.get(key) for key in ("allocated", "reserved", "process")]
    return [
        row.label,
        row.method,
        row.engine,
        format_seconds(row.seconds.median),
        three_digits(row.megapixels_per_second),
        three_digits(row.windows_per_second),
        _share(row),
        *(_times(row, "patching", model) for model in MODELS["patching"]),
        _times(row, "naive", None),
        *("" if peak is None else format_bytes(peak) for peak in (took.host_peak, *device)),
    ]


def _share(row: Row) -> str:
    mark = row.mark("ceiling")
    return _unmeasured(row, "ceiling") if mark is None else _spread(row.time_ratio(mark))


def _times(row: Row, kind: Yardstick, model: str | None) -> str:
    mark = row.mark(kind, model)
    if mark is None:
        return _unmeasured(row, kind)
    return f"{_spread(row.time_ratio(mark))} ({row.window_ratio(mark).median:.2f})"


def _unmeasured(row: Row, kind: Yardstick) -> str:
    mark = next((mark for mark in row.marks if mark.kind == kind), None)
    if mark is None:
        return ""
    needs = mark.ready and mark.ready.needs
    return f"{mark.status}, needs {format_bytes(needs)}" if needs and mark.status == "refused" else mark.status


def _spread(found: Spread) -> str:
    if len(found.values) == 1:
        return f"{found.median:.2f}"
    return f"{found.median:.2f} [{min(found.values):.2f}..{max(found.values):.2f}]"


def split_cells(row: Row) -> list[str]:
    """Return image, method, seconds and shares of the middle run in percent, one cell for each name of `SPLIT_HEAD`."""
    took = row.middle
    shares = (f"{100 * took.parts[name] / took.seconds:.1f}" if name in took.parts else "" for name in PARTS)
    return [row.label, row.method, f"{took.seconds:.1f}", *shares]

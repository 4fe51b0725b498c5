"""Measuring memory and speed from Python, as `magnet bench` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from magnet_cli.bench.result import quote
from magnet_cli.bench.rounds import Bench
from magnet_cli.events import Events
from magnet_cli.options.bench import BenchOptions

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.bench.conditions import Setting
    from magnet_cli.bench.result import Row


@dataclass(frozen=True, kw_only=True, eq=False)
class BenchResult:
    """The figures of a bench, and where they were measured."""

    setting: Setting
    """The machine, the bundle and the device."""
    rows: tuple[Row, ...]
    """A row for each image and method. The row of an image that could not be measured has an `error`."""

    @property
    def quote(self) -> str | None:
        """One line about the largest image that was measured; None where none was."""
        return quote(self.setting, self.rows)

    def describe(self) -> dict[str, object]:
        """Return the object that `magnet bench --json` prints, without its `schema`: bytes and seconds."""
        rows = [row.describe() for row in self.rows]
        return {"images": rows, **self.setting.describe(), "quote": self.quote}

    def page(self) -> str:
        """Return an HTML page with tables and plots, as `magnet bench --html` writes it."""
        from magnet_cli.bench.bench_page import bench_page  # noqa: PLC0415 - its library would count as measured memory

        return bench_page(self.setting, self.rows)


def run_bench(
    image: str | Path | None = None,
    mask: str | Path | None = None,
    options: BenchOptions | None = None,
    *,
    events: Events | None = None,
) -> BenchResult:
    """Measure memory and speed against image size, and compare them with yardsticks of the same rounds.

    Each contender runs in a process of its own. The memory of a page of a library counts in parts to the processes
    that share it, so a peak reads a little lower from a program that has loaded PyTorch itself.

    Args:
        image: A file to measure on, instead of generated images unless the options name sizes.
        mask: The mask of the image, where `refine` is measured.
        options: Images, methods, yardsticks and repeats. The defaults take several minutes.
        events: Receives messages, progress and failures.

    Returns:
        The figures. Speeds are also stored for the estimates of `plan_segment` and `plan_refine`.

    Raises:
        MagnetError: Nothing could be measured.
    """
    files = [None if file is None else str(file) for file in (image, mask)]
    with Bench(options or BenchOptions(), events or Events(), image=files[0], mask=files[1]) as bench:
        return BenchResult(rows=tuple(bench.rows()), setting=bench.setting)

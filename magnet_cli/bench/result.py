"""The result of a bench: a row for each image and method, with its yardsticks, as values and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Self, cast

from magnet_cli.system.memory import format_bytes
from magnet_cli.system.speeds import format_seconds, three_digits

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from magnet_cli.bench.conditions import Setting
    from magnet_cli.bench.task import Ready, Took
    from magnet_cli.errors import MagnetError
    from magnet_cli.geometry import Size
    from magnet_cli.options.bench import Yardstick

MEGA = 1e6


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Several measurements of one thing."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Return the spread of one value or more."""
        return cls(values=tuple(values))

    @property
    def median(self) -> float:
        """The median of the values."""
        return median(self.values)

    def describe(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        rounded = [round(value, 4) for value in self.values]
        return {"median": round(self.median, 4), "least": min(rounded), "most": max(rounded), "all": rounded}


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A yardstick in the rounds of a row."""

    kind: Yardstick
    model: str | None
    """The networks that were run, where a yardstick is measured with several."""
    ready: Ready | None
    """Facts about the loaded contender; None where it failed before."""
    runs: tuple[Took, ...] = ()
    """One run a round, or fewer where the yardstick failed."""
    error: MagnetError | None = None

    @property
    def status(self) -> str:
        """`measured`, `failed`, or why it was not tried."""
        if self.error is not None:
            return "failed"
        return "measured" if self.ready is None else self.ready.refusal or "measured"

    @property
    def reason(self) -> str | None:
        """A sentence on why there is no figure; None where there is one."""
        if self.error is not None:
            return str(self.error)
        return None if self.ready is None else self.ready.reason

    def describe(self, row: Row) -> dict[str, object]:
        """Return the fields as JSON values.

        `time_ratio` is the yardstick's time divided by the program's, `window_ratio` the same for each window.
        """
        found: dict[str, object] = {
            "yardstick": self.kind,
            "model": self.model,
            "status": self.status,
            "reason": self.reason,
            "needs": self.ready and self.ready.needs,
            "available": self.ready and self.ready.available,
        }
        if not self.runs:
            return found
        middle = _middle(self.runs)
        seconds = Spread.of(took.seconds for took in self.runs)
        return {
            **found,
            "seconds": seconds.describe(),
            "windows": middle.windows,
            "windows_per_second": round(middle.windows / seconds.median, 4),
            "megapixels_per_second": round(row.pixels / MEGA / seconds.median, 4),
            "memory": _memory(self.runs[0], self.ready),
            "parts": dict(middle.parts),
            "shares": self._shares(middle),
            "time_ratio": row.time_ratio(self).describe(),
            "window_ratio": row.window_ratio(self).describe(),
        }

    def _shares(self, took: Took) -> dict[str, float] | None:
        """Return each part's share of the time of a run; None but for `naive`, whose parts make up the whole time."""
        if self.kind != "naive":
            return None
        return {name: round(seconds / took.seconds, 4) for name, seconds in took.parts.items()}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image by one method."""

    label: str
    """Name that is shown: the side of a generated image, or the file."""
    image: str | None
    """The file; None where the image was generated."""
    mask: str | None = None
    """The file of the mask that was refined."""
    method: str
    ready: Ready | None = None
    runs: tuple[Took, ...] = ()
    marks: tuple[Mark, ...] = ()
    error: MagnetError | None = None

    @property
    def size(self) -> Size:
        """The size of the image, where it was measured."""
        if self.ready is None or self.ready.size is None:
            raise RuntimeError(self.label)
        return self.ready.size

    @property
    def pixels(self) -> int:
        """The pixels of level 0."""
        return self.size.pixels

    @property
    def seconds(self) -> Spread:
        """The seconds of a whole run, from opening the image to the finished mask; loading the bundle is not in it."""
        return Spread.of(took.seconds for took in self.runs)

    @property
    def windows(self) -> int:
        """Forward passes through the backbone in a run."""
        return self.runs[0].windows

    @property
    def windows_per_second(self) -> float:
        """Windows a second in the middle run."""
        return self.windows / self.seconds.median

    @property
    def engine(self) -> str:
        """The library that computed the program's networks, and its precision, as the report of the run names them."""
        options = cast("dict[str, str]", self.runs[0].report["options"])
        return f"{options['engine']}, {options['precision']}"

    @property
    def speed(self) -> float:
        """Windows a second in the middle run; in full windows, where the computed windows differ in size."""
        return (self.runs[0].full_windows or self.windows) / self.seconds.median

    @property
    def megapixels_per_second(self) -> float:
        """The megapixels per second of level 0, in the middle run."""
        return self.pixels / MEGA / self.seconds.median

    @property
    def middle(self) -> Took:
        """The run of median time, or the faster of the two beside it."""
        return _middle(self.runs)

    def mark(self, kind: Yardstick, model: str | None = None) -> Mark | None:
        """Return the yardstick of that kind that was measured; None where there is none."""
        found = (mark for mark in self.marks if mark.kind == kind and mark.model == model and mark.runs)
        return next(found, None)

    def time_ratio(self, mark: Mark) -> Spread:
        """Return the yardstick's time divided by the program's, round by round. Above 1 the program was faster."""
        # A yardstick that failed has fewer rounds than the program.
        pairs = zip(self.runs, mark.runs, strict=False)
        return Spread.of(theirs.seconds / ours.seconds for ours, theirs in pairs)

    def window_ratio(self, mark: Mark) -> Spread:
        """Return the ratio of the times for each window that was computed."""
        pairs = zip(self.runs, mark.runs, strict=False)
        return Spread.of(
            (theirs.seconds / theirs.windows) / (ours.seconds / ours.windows)
            for ours, theirs in pairs
            if ours.windows and theirs.windows
        )

    def describe(self) -> dict[str, object]:
        """Return the fields as JSON values: bytes and seconds."""
        found: dict[str, object] = {"image": self.image or "generated", "label": self.label, "method": self.method}
        if self.mask is not None:
            found["mask"] = self.mask
        if self.error is not None:
            return {**found, "status": "failed", **self.error.describe()}
        options, memory = (self.runs[0].report[key] for key in ("options", "memory"))
        return {
            **found,
            "status": "done",
            "size": {"width": self.size.width, "height": self.size.height},
            "pixels": self.pixels,
            "repeats": len(self.runs),
            "seconds": self.seconds.describe(),
            "megapixels_per_second": round(self.megapixels_per_second, 4),
            "windows": self.windows,
            "windows_by_stage": dict(self.runs[0].by_stage),
            "windows_per_second": round(self.windows_per_second, 4),
            "split": dict(self.middle.parts),
            "memory": {**_memory(self.runs[0], self.ready), "planned": memory},
            "options": options,
            "yardsticks": [mark.describe(self) for mark in self.marks],
        }


def _memory(took: Took, ready: Ready | None) -> dict[str, object]:
    """Return the memory of the first run, in which the program had the machine to itself."""
    return {
        "host_loaded": ready and ready.loaded,
        "host_peak": took.host_peak,
        "device_peak": dict(took.device_peak),
    }


def _middle(runs: Sequence[Took]) -> Took:
    # Of an even number of runs the faster of the two in the middle, because parts and memory are those of one run.
    return sorted(runs, key=lambda took: took.seconds)[(len(runs) - 1) // 2]


def quote(setting: Setting, rows: Sequence[Row]) -> str | None:
    """Return a line about the largest image; None where nothing was measured."""
    done = [row for row in rows if row.runs]
    if not done:
        return None
    row = max(done, key=lambda row: row.pixels)
    where = setting.device_name if setting.device.startswith("cuda") else _cores(setting)
    method = "" if row.method == "magnet" else f", {row.method},"
    if setting.engine != "torch":
        method += f" in {setting.engine}"
    size = f"{row.size.width:,} x {row.size.height:,} px ({three_digits(row.pixels / MEGA)} Mpx)"
    parts = [
        f"{size} in {format_seconds(row.seconds.median)}",
        f"{three_digits(row.megapixels_per_second)} Mpx/s",
    ]
    ceiling = row.mark("ceiling")
    if ceiling is not None:
        parts.append(f"{row.time_ratio(ceiling).median:.2f} of the ceiling")
    return f"{setting.bundle}{method} on {where}: {', '.join([*parts, *_peaks(row)])}"


def _cores(setting: Setting) -> str:
    kind = "CPU" if setting.device == "cpu" else setting.device
    return f"{setting.cores} {kind} core{'s'[: setting.cores != 1]}"


def _peaks(row: Row) -> list[str]:
    took = row.runs[0]
    device = took.device_peak.get("process") or took.device_peak.get("reserved")
    peaks = []
    if took.host_peak is not None:
        peaks.append(f"peak {format_bytes(took.host_peak)}{' of host memory' if device else ''}")
    if device:
        peaks.append(f"{format_bytes(device)} of device memory")
    return peaks

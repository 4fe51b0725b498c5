"""Speeds that `magnet bench` has measured on this machine, kept for `magnet plan`."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import log
from pathlib import Path
from typing import Any

from magnet_cli.errors import OutputError
from magnet_cli.system import durable

SCHEMA = 1
NAME = "bench.json"


@dataclass(frozen=True, kw_only=True)
class Case:
    """Conditions on which a speed depends, apart from the image's size."""

    bundle: str
    """The bundle's digest."""
    device: str
    """Kind and name of the device, and on a CPU the number of cores: `cpu, Some Processor, 2 cores`."""
    precision: str
    method: str
    merge: str
    """The rule that joins the stages; `none` where the method has one stage."""
    batch: int
    """Number of patches in a forward pass."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A speed that was measured on this machine."""

    case: Case
    pixels: int
    """Level-0 pixels of the image that was segmented."""
    windows_per_second: float
    """Windows a second over a whole run, with reading and writing."""


def state_folder() -> Path:
    """Return the folder of what this program learns about the machine: `MAGNET_STATE`, or the user's state folder.

    Raises:
        OutputError: No variable names the folder, and the account has no home folder, as in some containers.
    """
    named = os.environ.get("MAGNET_STATE")
    if named:
        return Path(named)
    # The XDG Base Directory Specification names this folder and what stands for it where the variable is not set.
    base = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_STATE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".local" / "state") / "magnet"
    except RuntimeError as exc:
        raise OutputError(
            "there is no folder for what the program learns about this machine: the account has no home folder",
            advice="Name a folder in the variable MAGNET_STATE",
        ) from exc


def stored_figures(folder: Path | None = None) -> list[Figure]:
    """Return the figures that were stored; none where there is no file, or one that this version cannot read."""
    # Speeds only feed an estimate: a file that cannot be read, or a missing home, must not stop a plan.
    with suppress(OSError, ValueError, KeyError, TypeError, OutputError):
        found = json.loads(((folder or state_folder()) / NAME).read_bytes())
        if found["schema"] == SCHEMA:
            return [_figure(entry) for entry in found["figures"]]
    return []


def _figure(entry: dict[str, Any]) -> Figure:
    speed = float(entry["windows_per_second"])
    if not speed > 0:
        message = "a speed is positive"
        raise ValueError(message)
    return Figure(case=Case(**entry["case"]), pixels=int(entry["pixels"]), windows_per_second=speed)


def store_figure(figure: Figure, folder: Path | None = None) -> None:
    """Keep a figure, instead of an older one of the same case and size.

    Raises:
        OutputError: The folder cannot be written to.
    """
    place = folder or state_folder()
    others = [other for other in stored_figures(place) if (other.case, other.pixels) != (figure.case, figure.pixels)]
    found = {"schema": SCHEMA, "figures": [asdict(entry) for entry in (*others, figure)]}
    with durable.writing(place):
        place.mkdir(parents=True, exist_ok=True)
    durable.write_whole(place / NAME, json.dumps(found, indent=1).encode())


def nearest_figure(case: Case, *, pixels: int, folder: Path | None = None) -> Figure | None:
    """Return the figure of this very case whose image was nearest in size, by ratio; None where there is none."""
    known = [figure for figure in stored_figures(folder) if figure.case == case]
    return min(known, key=lambda figure: abs(log(figure.pixels / pixels)), default=None)


def format_seconds(seconds: float) -> str:
    """Format a duration in the largest unit that leaves at least one and a half: `45 s`, `2.3 min`, `31 min`."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{three_digits(seconds / length)} {unit}"
    return f"{three_digits(seconds)} s"


def three_digits(value: float) -> str:
    """Return a positive number for people: two digits or more, none of them after the point from ten on."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"  # noqa: PLR2004

"""Run the parts as processes with time limits, and write one JSON and one Markdown table as they end."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.bundles import ROOT
from benchmarks.gpu.part import Findings, Setting, wait_for
from magnet_cli.system.memory import keep_heap_steady

if TYPE_CHECKING:
    from collections.abc import Sequence

POLL = 0.2
"""Seconds between two checks whether a part has ended."""
GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the check, which is a process of its own."""

    name: str
    module: str
    """Name of the module in this package."""
    function: str
    seconds: float
    """Time limit."""
    alone: bool
    """Whether other parts must not run beside it, because they would change what it measures."""
    title: str


PARTS = (
    Part(name="tests", module="suite", function="run", seconds=100, alone=False, title="Tests marked `gpu`"),
    Part(name="masks", module="masks", function="run", seconds=100, alone=False, title="Masks beside the CPU's"),
    Part(name="flat", module="memory", function="run_flat", seconds=90, alone=False, title="Memory and image size"),
    Part(name="shortage", module="shortage", function="run", seconds=100, alone=False, title="Out of memory"),
    Part(name="small", module="memory", function="run_small", seconds=70, alone=True, title="The smallest batch"),
    Part(name="huge", module="huge", function="run", seconds=100, alone=True, title="100,000 x 100,000 pixels"),
    Part(name="switches", module="switches", function="run", seconds=75, alone=True, title="The forward pass"),
    Part(name="ceiling", module="ceilings", function="run", seconds=115, alone=True, title="Beside the ceiling"),
)
"""All parts. Those that may run beside others come first and run together; the rest run one after another."""


@dataclass(kw_only=True)
class Running:
    """A part, its process and its state."""

    part: Part
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    since: float = 0.0
    """Moment at which the part was allowed to begin, by `time.monotonic`."""
    state: str = "not run"
    seconds: float = 0.0

    @property
    def file(self) -> Path:
        """Return the file of the part's findings."""
        return self.folder / "rows.json"

    @property
    def log(self) -> Path:
        """Return the file of what the part and its processes print."""
        return self.folder / "log.txt"

    @property
    def go(self) -> Path:
        """Return the file whose existence lets the part begin."""
        return self.folder / "go"

    def rows(self) -> list[dict[str, Any]]:
        """Return the findings so far."""
        return json.loads(self.file.read_text()) if self.file.exists() else []

    def describe(self) -> dict[str, Any]:
        """Return the part and its findings as JSON values."""
        return {
            "part": self.part.name,
            "title": self.part.title,
            "state": self.state,
            "seconds": round(self.seconds, 1),
            "limit": self.part.seconds,
            "rows": self.rows(),
        }


@dataclass(kw_only=True)
class Conductor:
    """A run of all parts of a check."""

    device: str
    short: bool
    out: Path
    budget: float
    parts: list[Running]
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Return the seconds that are left of the budget."""
        return self.budget - (time.monotonic() - self.started)

    def run(self) -> bool:
        """Run the parts that may run together, then the others. Each of these is loaded while another one runs.

        Returns:
            Whether all parts have ended by themselves.
        """
        together = [one for one in self.parts if not one.part.alone]
        alone = [one for one in self.parts if one.part.alone]
        try:
            for one in together:
                self._start(one)
            for one in together:
                self._begin(one)
            if alone:
                self._start(alone[0])
            self._wait(together)
            for one, following in zip_longest(alone, alone[1:]):
                self._begin(one)
                if following is not None:
                    self._start(following)
                self._wait([one])
        finally:
            for one in self.parts:
                if one.process is not None and one.process.poll() is None:
                    _end(one.process)
            self._write()
        return all(one.state == "ended" for one in self.parts)

    def _start(self, one: Running) -> None:
        if self.left <= 0:
            one.state = "no time left"
            return
        one.folder.mkdir(parents=True)
        command = [sys.executable, "-m", "benchmarks.gpu.conductor", "--part", one.part.name, "--device", self.device]
        command += ["--out", str(one.folder), *(["--short"] if self.short else [])]
        with one.log.open("wb") as log:
            # A session of its own, so that what it starts can be ended with it.
            one.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        one.state = "loading"

    def _begin(self, one: Running) -> None:
        if one.process is None:
            return
        one.since, one.state = time.monotonic(), "running"
        one.go.touch()

    def _wait(self, running: Sequence[Running]) -> None:
        """Wait until all parts have ended by themselves or by a time limit."""
        waiting = [one for one in running if one.process is not None]
        while waiting:
            time.sleep(POLL)
            for one in list(waiting):
                code = None if one.process is None else one.process.poll()
                one.seconds = time.monotonic() - one.since
                if code is not None:
                    one.state = "ended" if code == 0 else f"failed, exit status {code}"
                elif one.seconds > one.part.seconds or self.left <= 0:
                    limit = "its time limit" if one.seconds > one.part.seconds else "as no time was left for any part"
                    one.state = f"ended after {one.seconds:.0f} s, {limit}"
                    if one.process is not None:
                        _end(one.process)
                else:
                    continue
                waiting.remove(one)
                print(f"{one.part.name}: {one.state}, {one.seconds:.0f} s, {len(one.rows())} rows", flush=True)
                self._write()

    def _write(self) -> None:
        found = {
            "machine": machine(self.device),
            "short": self.short,
            "seconds": round(time.monotonic() - self.started, 1),
            "parts": [one.describe() for one in self.parts],
        }
        (self.out / "gpu.json").write_text(json.dumps(found, indent=1, default=str) + "\n")
        (self.out / "gpu.md").write_text(table(found))
        # One file: of many small ones, some may not come back from the machine.
        logs = (
            f"== {one.part.name} ==\n{one.log.read_text(errors='replace')}" for one in self.parts if one.log.exists()
        )
        (self.out / "gpu.log").write_text("\n".join(logs))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a part and the processes that it started."""
    for sent, wait in ((signal.SIGTERM, GRACE), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, sent)
        except ProcessLookupError:
            break
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            continue
        break


@cache
def machine(device: str) -> dict[str, Any]:
    """Return facts of the machine without loading torch, whose context would count among the parts' memory."""
    found = {
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "cores": len(os.sched_getaffinity(0)),
        "device": device,
    }
    program = shutil.which("nvidia-smi")
    if device.startswith("cuda") and program is not None:
        command = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        found["gpu"] = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return found


def table(found: dict[str, Any]) -> str:
    """Write the findings as Markdown."""
    facts = ", ".join(f"{key} {value}" for key, value in found["machine"].items())
    lines = [f"# GPU check: {found['seconds']:.0f} s", "", facts, ""]
    if found["short"]:
        lines += ["A short run: it shows that the parts work, and its figures mean nothing.", ""]
    for part in found["parts"]:
        lines += [f"## {part['title']}: {part['state']}, {part['seconds']:.0f} s", ""]
        lines += ["| measured | value | wanted | reached |", "|---|---|---|---|"]
        for row in part["rows"]:
            reached = {True: "yes", False: "**no**", None: ""}[row["met"]]
            cells = [str(row[key]).replace("|", "/").replace("\n", " ") for key in ("what", "value", "aim")]
            lines.append(f"| {' | '.join(cells)} | {reached} |")
        lines.append("")
    return "\n".join(lines)


def run_part(setting: Setting, name: str) -> None:
    """Load a part, wait for its turn and run it in this process."""
    part = next(one for one in PARTS if one.name == name)
    # As the command line does it, whose runs these stand for.
    keep_heap_steady()
    found = import_module(f"benchmarks.gpu.{part.module}")
    wait_for(setting.folder / "go")
    getattr(found, part.function)(setting, Findings(path=setting.folder / "rows.json"))


def main() -> None:
    """Run the check, or one part of it in a process of the check."""
    parser = argparse.ArgumentParser(prog="scripts/gpu", description=__doc__)
    parser.add_argument("--device", default="cuda:0", help="cuda:0, or cpu to see that the parts work")
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json, gpu.md and gpu.log")
    parser.add_argument("--short", action="store_true", help="small images: seconds on a CPU, figures without meaning")
    parser.add_argument("--parts", default=",".join(part.name for part in PARTS), help="which, with commas between")
    parser.add_argument("--budget", type=float, default=470.0, help="seconds after which no part goes on")
    parser.add_argument("--work", type=Path, help="folder for images and masks; else one for temporary files")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.part is not None:
        limit = next(part.seconds for part in PARTS if part.name == words.part)
        run_part(Setting(device=words.device, short=words.short, folder=words.out, seconds=limit), words.part)
        return
    wanted = words.parts.split(",")
    unknown = sorted(set(wanted) - {part.name for part in PARTS})
    if unknown:
        parser.error(f"--parts: there is no {', '.join(unknown)}")
    words.out.mkdir(parents=True, exist_ok=True)
    # Parts are sessions of their own, which would go on for minutes without this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="magnet-gpu-", dir=words.work, ignore_cleanup_errors=True) as work:
        parts = [Running(part=part, folder=Path(work) / part.name) for part in PARTS if part.name in wanted]
        conductor = Conductor(device=words.device, short=words.short, out=words.out, budget=words.budget, parts=parts)
        is_whole = conductor.run()
    print((words.out / "gpu.md").read_text())
    sys.exit(not is_whole)


if __name__ == "__main__":
    main()

"""Compare two workers of one thread with one process of one and of two threads, over one image.

    python benchmarks/worker_runs.py --side 2048 --rounds 2

Each run is a command of its own, from its start to its end, and the runs take turns. CPU seconds are those of the
command and of all processes that it has started, workers included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

from magnet_cli.geometry import Size
from magnet_cli.scene import Scene, write_scene

RUNS = {
    "1 process, 1 thread": (1, ()),
    "1 process, 2 threads": (2, ()),
    "2 workers, 1 thread each": (2, ("--cluster", "local:2")),
}
"""The cores and the options of each run."""


def measured(image: Path, mask: Path, cores: int, options: tuple[str, ...]) -> tuple[float, float]:
    """Segment an image, and return CPU and wall seconds."""
    allowed = sorted(os.sched_getaffinity(0))
    command = [sys.executable, "-m", "magnet_cli.cli.program", "segment", str(image), "-o", str(mask), *options]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), perf_counter()
    os.sched_setaffinity(0, allowed[:cores])
    try:
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    finally:
        os.sched_setaffinity(0, allowed)
    wall, after = perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in RUNS}
    with TemporaryDirectory() as name:
        image = Path(name) / "in.tif"
        write_scene(image, Scene(size=Size(width=given.side, height=given.side), seed=1))
        for number in range(given.rounds):
            for run, (cores, options) in RUNS.items():
                mask = Path(name) / f"{number}{len(rows[run])}{run[:9].replace(' ', '')}{cores}.tif"
                rows[run].append(measured(image, mask, cores, options))
    found = {
        run: {
            "cpu_seconds": [round(cpu, 2) for cpu, _ in values],
            "wall_seconds": [round(wall, 1) for _, wall in values],
            "median_cpu": round(median(cpu for cpu, _ in values), 2),
        }
        for run, values in rows.items()
    }
    print(json.dumps({**vars(given), "runs": found, "load": os.getloadavg()}, indent=1))


if __name__ == "__main__":
    main()

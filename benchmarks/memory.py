"""Host memory against image size, with a network of one convolution, so that it is about the pipeline.

    python benchmarks/memory.py --sizes 10000,30000 --classes 5,19 --memory 1.5GiB

Each run is a process of its own; its memory is the PSS of the process and its children, read from outside several times
a second. Writes benchmarks/results/memory.jsonl, a line a run; `--table` prints it as the table of docs/files.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TypedDict

import torch

from magnet_cli.geometry import Size
from magnet_cli.models.bundle_writer import describe, write_bundle
from magnet_cli.models.registry import build_backbone
from magnet_cli.scene import Pyramid, Scene, write_scene

RESULTS = Path(__file__).with_name("results") / "memory.jsonl"
MIB = 1 << 20
SCALES = (256, 512, 1024, 2048)


class Row(TypedDict):
    """The figures of one run."""

    side: int
    classes: int
    pixels: int
    peak: int
    planned: int
    budget: int
    seconds: float


def write_bundle_of(folder: Path, classes: int) -> None:
    """Write a bundle of one seeded 3 x 3 convolution."""
    torch.manual_seed(classes)
    network = build_backbone("conv", classes=classes, bands=3, options={"kernel": 3})
    description = describe(name="conv", classes=classes, size=256, scales=SCALES, backbone={"options": {"kernel": 3}})
    write_bundle(folder, description, {"backbone.safetensors": network})


def summed_pss(root: int) -> int:
    """Return the PSS in bytes of a process and its descendants. Processes that end meanwhile do not count."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    total, waiting = 0, [root]
    while waiting:
        process = waiting.pop()
        waiting.extend(children.get(process, ()))
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def run(image: Path, bundle: Path, *, folder: Path, memory: str, workers: int) -> tuple[int, dict[str, object], float]:
    """Segment an image.

    Returns:
        The peak of memory as measured from outside in bytes, the report, and the seconds.
    """
    command = [sys.executable, "-m", "magnet_cli.cli.app", "segment", str(image), "--weights", str(bundle)]
    command += ["-o", str(folder), "--memory", memory, "--num-workers", str(workers), "--json", "--no-progress"]
    started, peak = time.monotonic(), 0
    with (folder.parent / "out.json").open("w") as out:
        process = subprocess.Popen(command, stdout=out)
        while process.poll() is None:
            peak = max(peak, summed_pss(process.pid))
            time.sleep(0.2)
    if process.returncode:
        raise SystemExit(process.returncode)
    answer = json.loads((folder.parent / "out.json").read_text())
    return peak, answer["images"][0]["report"], time.monotonic() - started


def measure(sides: list[int], classes: list[int], *, memory: str, workers: int) -> list[Row]:
    """Measure all runs, the smallest image first."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for count in classes:
            write_bundle_of(work / f"conv{count}", count)
        for side in sides:
            image = work / f"scene{side}.tif"
            scene = Scene(size=Size(width=side, height=side), seed=2, plain=True)
            write_scene(image, scene, pyramid=Pyramid(compression="jpeg"))
            for count in classes:
                folder = work / f"masks{side}-{count}"
                peak, report, seconds = run(image, work / f"conv{count}", folder=folder, memory=memory, workers=workers)
                planned = report["memory"]
                assert isinstance(planned, dict)
                row = Row(
                    side=side,
                    classes=count,
                    pixels=side * side,
                    peak=peak,
                    planned=planned["host_planned"],
                    budget=planned["host_budget"],
                    seconds=round(seconds, 1),
                )
                print(f"{side} x {side}, {count} classes: {peak / MIB:.0f} MiB in {seconds:.0f} s", file=sys.stderr)
                rows.append(row)
            image.unlink()
    return rows


def table(rows: list[Row]) -> str:
    """Write the rows as Markdown."""
    lines = ["| image | classes | planned MiB | peak MiB | budget MiB |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['side']:,} x {row['side']:,} | {row['classes']} | {row['planned'] / MIB:.0f} | "
        f"{row['peak'] / MIB:.0f} | {row['budget'] / MIB:.0f} |"
        for row in sorted(rows, key=lambda row: (row["classes"], row["side"]))
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, or print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="10000,30000")
    parser.add_argument("--classes", default="5,19")
    parser.add_argument("--memory", default="1.5GiB")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="print the stored results, measure nothing")
    words = parser.parse_args()
    if words.table:
        print(table([json.loads(line) for line in RESULTS.read_text().splitlines()]))
        return
    sides = [int(side) for side in words.sizes.split(",")]
    classes = [int(count) for count in words.classes.split(",")]
    rows = measure(sides, classes, memory=words.memory, workers=words.workers)
    RESULTS.parent.mkdir(exist_ok=True)
    machine = {"scales": SCALES, "torch": torch.__version__, "machine": platform.machine()}
    RESULTS.write_text("".join(json.dumps({**row, **machine}) + "\n" for row in rows))
    print(table(rows))


if __name__ == "__main__":
    main()

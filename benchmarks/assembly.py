"""Measure what storing and finishing a mask costs, and how far threads can share it.

    python benchmarks/assembly.py --side 16384 --rounds 3

A journal is filled with the labels of a made-up scene, block by block, and the mask is made of it as a run does: its
tiles are copied, overviews built, and everything summed up for the report. One and two packing threads take turns, each
on as many cores where the system can bind a process to cores. CPU seconds are those of all threads. The time of the
calling thread alone, which hands out tiles, writes the file and sums it up, is what more threads cannot shorten: the
least time on n cores is the larger of that and an n-th of the whole.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time, thread_time

import numpy as np

from magnet_cli.geometry import Box, Size
from magnet_cli.masks import compression
from magnet_cli.masks.header import JournalHeader
from magnet_cli.masks.journal import Journal
from magnet_cli.masks.layout import describe_mask
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.spec import GroupId, MaskClass, MaskSpec
from magnet_cli.masks.tiff_writer import assemble_mask
from magnet_cli.scene import Scene

BLOCK = 2048
CORES = (1, 2)


def filled(path: Path, *, side: int) -> tuple[Journal, float]:
    """Return a journal that holds the labels of a whole mask, and the CPU seconds that storing took."""
    spec = MaskSpec(
        size=Size(width=side, height=side),
        classes=tuple(MaskClass(name=f"class {number}", color=f"#0000{number:02x}") for number in range(8)),
    )
    scene = Scene(size=Size(width=BLOCK, height=BLOCK), seed=1)
    labels = np.minimum(scene.labels(Box(x=0, y=0, width=BLOCK, height=BLOCK)), 7)
    # Networks draw rougher borders than a scene has: one pixel in two hundred gets another class.
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(labels.shape) < 0.005, rng.integers(0, 8, labels.shape), labels).astype(np.uint8)
    journal = Journal.open(path, header=JournalHeader(hashes={}, spec=spec, fields=()))
    began = process_time()
    for number, (y, x) in enumerate((y, x) for y in range(0, side, BLOCK) for x in range(0, side, BLOCK)):
        box = Box(x=x, y=y, width=min(BLOCK, side - x), height=min(BLOCK, side - y))
        group = GroupId(pass_index=0, index=number)
        journal.put_labels(group, box=box, labels=labels[: box.height, : box.width])
        journal.finish_group(group, counts={})
    return journal, process_time() - began


def finished(journal: Journal, folder: Path, cores: int) -> dict[str, float]:
    """Make the mask of a journal with a number of packing threads, and return the seconds of its steps."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(ALLOWED)[:cores]))
    compression.LEAST = compression.MOST = cores
    path = folder / "mask.tif"
    wall, cpu, own = perf_counter(), process_time(), thread_time()
    with path.open("w+b") as file:
        assemble_mask(journal, file, folder=folder, description={})
    found = {
        "assembly": process_time() - cpu,
        "assembly, calling thread": thread_time() - own,
        "assembly, wall": perf_counter() - wall,
    }
    cpu = process_time()
    describe_mask(path)
    found |= {"sums": process_time() - cpu, "wall": perf_counter() - wall}
    path.unlink()
    return found


ALLOWED = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=16384)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    rows: dict[int, list[dict[str, float]]] = {cores: [] for cores in CORES}
    with TemporaryDirectory() as name:
        folder = Path(name)
        journal, stored = filled(OutputPaths.of(folder / "m.tif").journal, side=given.side)
        with journal:
            for _ in range(given.rounds):
                for cores in CORES:
                    rows[cores].append(finished(journal, folder, cores))
    gigapixels = given.side**2 / 1e9
    found: dict[str, object] = {
        "side": given.side,
        "load": os.getloadavg(),
        "storing, CPU seconds a gigapixel": round(stored / gigapixels, 3),
    }
    for cores, measured in rows.items():
        middle = {key: median(row[key] for row in measured) / gigapixels for key in measured[0]}
        whole, serial = middle["assembly"] + middle["sums"], middle["assembly, calling thread"] + middle["sums"]
        found[f"{cores} threads, seconds a gigapixel"] = {key: round(value, 3) for key, value in middle.items()}
        found[f"{cores} threads, largest gain"] = {
            f"{number} cores": round(whole / max(serial, whole / number), 2) for number in (2, 4, 8)
        }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

"""Score and cost of each method for each overlap of windows, on two scenes that the networks have not seen.

    python -m benchmarks.accuracy.scenes --data DATA --work WORK
    python -m benchmarks.accuracy.pretrained --work WORK      # trains WORK/bundles/lite0-seed1, -seed2 and -seed3
    python -m benchmarks.accuracy.overlaps --work WORK

Each row, a method with an overlap and one of the networks on one scene, becomes a line of main.jsonl in
benchmarks/results. The overlaps of a method follow one another, so that what else the machine does falls on all of them
alike. Their costs are compared by the number of windows; a row keeps the processor time of its run, too. Rows that were
measured with the same weights are not measured again.
"""

from __future__ import annotations

import argparse
import resource
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.accuracy.pretrained import HeldOutPlace
from benchmarks.accuracy.rows import Row, measured
from benchmarks.accuracy.segmented_tables import OVERLAP_METHODS, OVERLAP_SCENES, OVERLAPS, SEEDS, overlap_row

if TYPE_CHECKING:
    from benchmarks.accuracy.cells import Cell

SCALES_APART = 4
"""Least overlap in network pixels of windows of several scales, with which blocks do not need their neighbours."""


def row_of(method: str, overlap: int) -> Row:
    """Return the options of a row.

    Args:
        method: A method of `OVERLAP_METHODS`.
        overlap: Network pixels that neighbouring windows share. With 0 no window is blended.
    """
    options = dict(OVERLAP_METHODS[method].options)
    if overlap:
        return Row(options={**options, "overlap": overlap})
    return Row(options={**options, "overlap": 0 if method == "patch" else SCALES_APART, "blend": "none"})


def processor_seconds() -> float:
    """Return the processor time that this process has taken so far, in all its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def timed(place: HeldOutPlace, method: str, overlap: int) -> Cell:
    """Measure one row, with the processor time of the run."""
    before = processor_seconds()
    cell = measured(place, overlap_row(place.seed, method, overlap), row_of(method, overlap))
    return replace(cell, more={**cell.more, "processor_seconds": round(processor_seconds() - before, 1)})


def main() -> None:
    """Measure the rows that have not been measured with these weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("accuracy-work"))
    parser.add_argument("--seed", action="append", type=int, choices=SEEDS)
    parser.add_argument("--scene", action="append", choices=OVERLAP_SCENES)
    parser.add_argument("--method", action="append", choices=OVERLAP_METHODS)
    parser.add_argument("--overlap", action="append", type=int, choices=OVERLAPS)
    args = parser.parse_args()
    for seed in args.seed or SEEDS:
        for scene in args.scene or OVERLAP_SCENES:
            place = HeldOutPlace(work=args.work, name=scene, seed=seed)
            for method in args.method or OVERLAP_METHODS:
                for overlap in args.overlap or OVERLAPS:
                    place.keep(overlap_row(seed, method, overlap), partial(timed, place, method, overlap))


if __name__ == "__main__":
    main()

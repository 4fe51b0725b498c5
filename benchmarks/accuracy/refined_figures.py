"""One step of a cascade alone, several L, and several sizes of the picture (CascadePSP, Table 2, Figures 6 and 7)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import tifffile
import torch
from torch.nn import functional

from benchmarks.accuracy.cascades import by_cascade, by_command, locally
from benchmarks.accuracy.judge import EVERY, Judge, save_cell
from benchmarks.accuracy.parts import only, write_picture
from benchmarks.accuracy.scenes import write_labels

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from benchmarks.accuracy.cascades import Cascade
    from benchmarks.accuracy.inputs import Input
    from benchmarks.accuracy.judge import Scored
    from benchmarks.accuracy.parts import Part

LENGTHS = (256, 384, 512, 1024)
DIVISORS = (1, 2, 4)
SIDE = 256
"""L where steps are told apart, and sizes: the pictures are several times as large, so that there are local steps."""


def measure_steps(scored: Scored, given: Input, cascade: Cascade) -> None:
    """Global only and local only, of a mask of one class."""
    part, mask = given.part, cascade.mask(given)
    for name in ("global", "local"):
        row = f"{given.kind}-{name}"
        if cascade.table == EVERY or cascade.has("steps", part, row):
            continue
        started = time.process_time()
        labels = (
            by_cascade(cascade, part.image, mask, side=SIDE, fast=True).labels
            if name == "global"
            else locally(cascade, part.image, mask, side=SIDE)
        )
        seconds = round(time.process_time() - started, 1)
        scores = scored.judges[cascade.table].score(labels)
        save_cell(part, "steps", row, {**scores, "seconds": seconds, "backbone": cascade.digest})


def measure_lengths(scored: Scored, given: Input, cascade: Cascade) -> None:
    """Scores and memory against L."""
    for side in LENGTHS:
        row = f"{given.kind}-{side}"
        if cascade.has("lengths", given.part, row):
            continue
        found = by_command(cascade, given.part.image, cascade.mask(given), "--L", str(side))
        more = {"windows": found.windows, "backbone": cascade.digest, "more": {"host_peak": found.host_peak}}
        save_cell(given.part, "lengths", row, {**scored.judges[cascade.table].score(found.labels), **more})


def measure_sizes(given: Input, cascade: Cascade) -> None:
    """Global only and both steps on the picture and its mask, resized; scored at that size."""
    for divisor in DIVISORS:
        image, mask, truth = resized(given.part, cascade.mask(given), divisor)
        rows = {name: f"{given.kind}-{divisor}-{name}" for name in ("input", "global", "both")}
        if all(cascade.has("sizes", given.part, row) for row in rows.values()):
            continue
        judge = Judge(truth, classes=2, rule="paper")
        fast, both = (by_command(cascade, image, mask, "--L", str(SIDE), *words) for words in (["--fast"], []))
        for name, labels, peak in (
            ("input", tifffile.imread(mask), None),
            ("global", fast.labels, fast.host_peak),
            ("both", both.labels, both.host_peak),
        ):
            more = {"backbone": cascade.digest, "more": {"host_peak": peak}}
            save_cell(given.part, "sizes", rows[name], {**judge.score(labels), **more})


def resized(part: Part, mask: Path, divisor: int) -> tuple[Path, Path, NDArray[np.uint8]]:
    """Picture by area means, mask and truth of one class by every so manieth pixel."""
    folder = part.folder / f"size{divisor}"
    folder.mkdir(exist_ok=True)
    image = folder / "image.tif"
    values = torch.from_numpy(part.pixels()).permute(2, 0, 1)[None].float()
    write_picture(image, functional.avg_pool2d(values, divisor)[0].permute(1, 2, 0).round().byte().numpy())
    every = (slice(divisor // 2, None, divisor),) * 2
    write_labels(folder / mask.name, tifffile.imread(mask)[every])
    return image, folder / mask.name, only(part.labels(), part.alone)[every]

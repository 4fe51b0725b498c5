"""Measure what a run over a folder of small images costs beyond the forward passes of its networks.

    python benchmarks/folders.py --images 12 --side 1024 --rounds 3

The folder is segmented several times, and between two of these runs the forward passes alone are made: as many batches
as the run made, of the same shape, through the same networks, in the same process. Both are interleaved, so that a
machine that is busy with other work slows both. The result is the ratio of CPU seconds and of wall time, and the bytes
of a mask and of its report.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import TYPE_CHECKING

import torch

from magnet_cli.events import Events
from magnet_cli.geometry import Size
from magnet_cli.models.device import pin_arithmetic
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.scene import Scene, write_scene
from magnet_cli.segmentation.api import segment_each
from magnet_cli.segmentation.segment_model import load_model
from magnet_cli.system.threads import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable

    from magnet_cli.models.networks import Networks


@dataclass
class Passes:
    """The forward passes of a run, by kind and shape."""

    made: list[tuple[str, tuple[int, ...], Size]] = field(default_factory=list)

    def noting(self, networks: type[Networks]) -> None:
        """Record every forward pass while this context is open."""
        predict, refine = networks.predict, networks.refine

        def predicted(own: Networks, patches: torch.Tensor, scale: Size) -> torch.Tensor:
            self.made.append(("predict", tuple(patches.shape), scale))
            return predict(own, patches, scale)

        def refined(own: Networks, one: torch.Tensor, other: torch.Tensor, scale: Size) -> torch.Tensor:
            self.made.append(("refine", tuple(one.shape), scale))
            return refine(own, one, other, scale)

        networks.predict = predicted  # type: ignore[method-assign,assignment]
        networks.refine = refined  # type: ignore[method-assign,assignment]

    def again(self, networks: Networks) -> None:
        """Make the same passes once more, on random patches."""
        kept, self.made = self.made, []
        for kind, shape, scale in kept:
            patches = torch.rand(shape, device=networks.device)
            if kind == "predict":
                networks.predict(patches, scale)
            else:
                networks.refine(patches, patches, scale)
        self.made = kept


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return CPU seconds and wall seconds of a call. The CPU seconds include all threads of this process."""
    cpu, wall = process_time(), perf_counter()
    work()
    return process_time() - cpu, perf_counter() - wall


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--weights", default="aerial")
    given = parser.parse_args()
    options = SegmentOptions(weights=given.weights)
    networks = load_model(options, Events()).networks
    pin_arithmetic(usable_cores())
    passes = Passes()
    runs, alone = [], []
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        for number in range(given.images):
            scene = Scene(size=Size(width=given.side, height=given.side), seed=number)
            write_scene(folder / "in" / f"{number:04}.tif", scene)
        passes.noting(type(networks))

        def run(output: Path) -> None:
            passes.made.clear()
            for result in segment_each(folder / "in", output, options):
                if result.error is not None:
                    raise result.error

        run(folder / "warm")
        for number in range(given.rounds):
            runs.append(timed(lambda number=number: run(folder / f"out{number}")))  # type: ignore[misc]
            alone.append(timed(lambda: passes.again(networks)))
        masks = sorted((folder / "warm").rglob("*.tif"))
        sizes = [(mask.stat().st_size, mask.with_suffix(".json").stat().st_size) for mask in masks]
    ratios = {
        kind: round(median(run[index] / passes[index] for run, passes in zip(runs, alone, strict=True)), 3)
        for index, kind in enumerate(("cpu", "wall"))
    }
    found = {
        "images": given.images,
        "side": given.side,
        "passes": len(passes.made),
        "run_seconds": [[round(value, 2) for value in row] for row in runs],
        "pass_seconds": [[round(value, 2) for value in row] for row in alone],
        "ratio": ratios,
        "mask_bytes": max(mask for mask, _ in sizes),
        "report_bytes": max(report for _, report in sizes),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

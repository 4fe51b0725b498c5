"""Measure what a run over a folder of small images costs beyond the forward passes of its networks.

    taskset -c 0 python benchmarks/folders.py --images 200

One run segments the whole folder. Whenever it has finished some images, the forward passes of as many images are made
alone, between two of its results: of the same shapes, through the same networks, in the same process. So whatever else
the machine does slows both alike. The result is the ratio of CPU seconds, of all parts and of the first and the last
quarter, and the memory, open files and threads of the process over the run. With one core all passes are made by the
calling thread, so that its own CPU time can be told from that of the run's other threads; more cores are refused.

The pictures are made up, of 24 seeds, and linked under as many names as are asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import process_time, thread_time
from typing import TYPE_CHECKING

import torch

from magnet_cli.events import Events
from magnet_cli.geometry import Size
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.scene import Scene, write_scene
from magnet_cli.segmentation.api import segment_each
from magnet_cli.segmentation.segment_model import load_model
from magnet_cli.system.memory import host_memory, keep_heap_steady
from magnet_cli.system.threads import usable_cores

if TYPE_CHECKING:
    from magnet_cli.models.networks import Networks

PICTURES = 24
"""Different pictures of the folder."""
WARM = 4
"""Images at the beginning that are not counted: libraries are loaded, and the networks make their first passes."""


@dataclass
class Passes:
    """The forward passes of a run, by kind and shape."""

    made: list[tuple[str, tuple[int, ...], Size]] = field(default_factory=list)
    is_noting: bool = True

    def note_all(self, networks: type[Networks]) -> None:
        """Note every forward pass from now on."""
        predict, refine = networks.predict, networks.refine

        def predicted(own: Networks, patches: torch.Tensor, scale: Size) -> torch.Tensor:
            self._note("predict", patches, scale)
            return predict(own, patches, scale)

        def refined(own: Networks, one: torch.Tensor, other: torch.Tensor, scale: Size) -> torch.Tensor:
            self._note("refine", one, scale)
            return refine(own, one, other, scale)

        networks.predict = predicted  # type: ignore[method-assign,assignment]
        networks.refine = refined  # type: ignore[method-assign,assignment]

    def repeat(self, networks: Networks) -> float:
        """Make the passes once more, on random patches, forget them, and return the CPU seconds that they took."""
        self.is_noting = False
        spent = 0.0
        with torch.inference_mode():
            for kind, shape, scale in self.made:
                # Patches of a run have this layout too.
                patches = torch.rand(shape).to(networks.device, memory_format=torch.channels_last)
                began = thread_time()
                if kind == "predict":
                    networks.predict(patches, scale)
                else:
                    networks.refine(patches, patches, scale)
                spent += thread_time() - began
        self.made.clear()
        self.is_noting = True
        return spent

    def _note(self, kind: str, patches: torch.Tensor, scale: Size) -> None:
        if self.is_noting:
            self.made.append((kind, tuple(patches.shape), scale))


@dataclass
class Held:
    """What the process holds over the run: memory in bytes, open files and threads, once an image."""

    memory: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def note(self) -> None:
        """Note what the process holds now."""
        self.memory.append(host_memory() or 0)
        self.files.append(sum(1 for _ in Path("/proc/self/fd").iterdir()))
        self.threads.append(sum(1 for _ in Path("/proc/self/task").iterdir()))

    def describe(self) -> dict[str, dict[str, float]]:
        """Return the median of the first and of the last quarter of the images, and the largest of all."""
        found = {}
        for name, values in vars(self).items():
            quarter = max(1, len(values) // 4)
            found[name] = {"first": median(values[:quarter]), "last": median(values[-quarter:]), "most": max(values)}
        return found


def make_folder(folder: Path, *, images: int, side: int) -> None:
    """Write pictures into a folder, and link them under as many names as images are asked for."""
    folder.mkdir()
    for number in range(images):
        path = folder / f"{number:04}.tif"
        if number < PICTURES:
            write_scene(path, Scene(size=Size(width=side, height=side), seed=number))
        else:
            path.hardlink_to(folder / f"{number % PICTURES:04}.tif")


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--weights", default="aerial")
    parser.add_argument("--every", type=int, default=4, help="images between two measurements of the passes alone")
    given = parser.parse_args()
    if usable_cores() != 1:
        sys.exit("folders.py measures on one core: start it with taskset -c 0")
    # The program does so too, before it loads a library.
    keep_heap_steady()
    options = SegmentOptions(weights=given.weights)
    networks, passes, held = load_model(options, Events()).networks, Passes(), Held()
    passes.note_all(type(networks))
    ratios, runs, alone, sizes = [], 0.0, 0.0, []
    with TemporaryDirectory() as name:
        folder = Path(name)
        make_folder(folder / "in", images=given.images, side=given.side)
        began, own = process_time(), 0.0
        for number, result in enumerate(segment_each(folder / "in", folder / "out", options), 1):
            if result.error is not None:
                raise result.error
            sizes.append((result.mask.stat().st_size, result.mask.with_suffix(".json").stat().st_size))
            before = thread_time()
            held.note()
            own += thread_time() - before
            if number <= WARM:
                passes.made.clear()
                began, own = process_time(), 0.0
            elif (number - WARM) % given.every == 0:
                # Threads of the run that go on meanwhile count for the run, and this thread does not.
                spent = process_time() - began - own
                began, before = process_time(), thread_time()
                bare = passes.repeat(networks)
                own = thread_time() - before
                runs, alone = runs + spent, alone + bare
                ratios.append(spent / bare)
        summary = (folder / "out" / "run.json").stat().st_size
    quarter = max(1, len(ratios) // 4)
    found = {
        "images": given.images,
        "side": given.side,
        "counted": len(ratios) * given.every,
        "run_cpu_seconds_an_image": round(runs / len(ratios) / given.every, 4),
        "passes_cpu_seconds_an_image": round(alone / len(ratios) / given.every, 4),
        "ratio": round(runs / alone, 3),
        "ratio_of_parts": [round(value, 3) for value in (min(ratios), median(ratios), max(ratios))],
        "ratio_of_quarters": [round(median(ratios[:quarter]), 3), round(median(ratios[-quarter:]), 3)],
        "held": held.describe(),
        "mask_bytes": max(mask for mask, _ in sizes),
        "report_bytes": max(report for _, report in sizes),
        "summary_bytes": summary,
        "load": os.getloadavg(),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

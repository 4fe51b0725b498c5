"""Measure how much more often neighbouring pixels change their class across borders of windows and blocks.

    python benchmarks/seams.py --methods patch,magnet --size 2600
    python benchmarks/seams.py --image mosaic.tif --methods magnet --options blend=linear

The same area is segmented several times, each time with the image cut at another offset, so that the borders fall on
other places. For each kind of border the result gives the rate of changes across it, its ratio to the rate at places
that are no border, and its ratio to the rate at the same places of the area in the other runs, where they are none. The
last one compares like with like on real images, whose content is not everywhere alike.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from magnet_cli.events import Events
from magnet_cli.geometry import Box, Size
from magnet_cli.masks.report_file import read_report
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.scene import Scene
from magnet_cli.segmentation.api import segment
from magnet_cli.segmentation.image_planner import plan_image
from magnet_cli.segmentation.segment_model import load_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from magnet_cli.plan import Plan

SHIFTS = ((0, 0), (40, 88), (88, 176), (128, 40), (176, 128))
"""Columns and rows at which the image is cut. They are multiples of 8, so that a place lies alike in the pixels of
scales up to eight times the finest: along such pixels the rate of changes varies, which is no seam."""
EDGE = 64
"""Pixels next to the image's edge that are not compared."""
TILE = 512
"""Side of a tile of the mask's file."""
KINDS = ("block", "cell", "window", "tile")
"""Kinds of borders: between blocks, between cells of the finest stage (the middle of what two windows share), where
a window of it ends, and between tiles of the file. A place of several kinds counts as the first of them."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where the borders of a run lie, in level-0 pixels."""

    block: float
    """Distance between borders of blocks."""
    cell: float
    """Distance between borders of cells of the finest stage."""
    rim: float
    """How far a window of that stage reaches beyond its cell."""

    @classmethod
    def of(cls, plan: Plan) -> Grid:
        """Return the borders of a plan whose pixels are square."""
        step = plan.passes[-1]
        stage = step.stages[-1]
        cell = stage.cell.width * float(stage.pitch.x)
        return cls(block=step.ratio(stage).width * cell, cell=cell, rim=stage.margin * float(stage.pitch.x))

    def kinds(self, length: int) -> NDArray[np.int64]:
        """Return what the border before each pixel of an axis is: a position in `KINDS`, or -1 for none."""
        cells = np.arange(self.cell, length, self.cell)
        ends = np.concatenate((cells - self.rim, cells + self.rim))
        places = (np.arange(self.block, length, self.block), cells, ends, np.arange(TILE, length, TILE))
        kinds = np.full(length, -1)
        for kind, found in reversed(list(enumerate(places))):
            pixels = np.ceil(found - 0.5).astype(int)
            kinds[pixels[(pixels > 0) & (pixels < length)]] = kind
        return kinds


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Changes along one axis of one run, over the area that all runs share."""

    changes: NDArray[np.int64]
    """Changes across the border before each place, summed over the other axis."""
    kinds: NDArray[np.int64]
    """What each border is, by position in `KINDS`; -1 for none."""
    pixels: int
    """Pairs of pixels that were compared at each place."""


def axes_of(labels: NDArray[np.uint8], inner: Box, grid: Grid) -> tuple[Axis, Axis]:
    """Count the changes of a mask along both axes.

    Args:
        labels: The mask, `(height, width)`.
        inner: What is compared; at least one pixel is left around it.
        grid: Where the borders of the run lie.
    """
    found = []
    for values, box in ((labels, inner), (labels.T, Box(x=inner.y, y=inner.x, width=inner.height, height=inner.width))):
        part = values[box.y : box.bottom, box.x - 1 : box.right]
        kinds = grid.kinds(values.shape[1])[box.x : box.right]
        found.append(Axis(changes=(part[:, 1:] != part[:, :-1]).sum(axis=0), kinds=kinds, pixels=box.height))
    return found[0], found[1]


@dataclass(kw_only=True)
class Rate:
    """The share of neighbouring pixels of different class."""

    changes: float = 0
    pixels: int = 0

    def add(self, changes: float, pixels: int) -> None:
        """Count more pairs of pixels."""
        self.changes += changes
        self.pixels += pixels

    @property
    def value(self) -> float:
        """The share; NaN where nothing was compared."""
        return self.changes / self.pixels if self.pixels else float("nan")


@dataclass(kw_only=True)
class Seam:
    """How often classes change across one kind of border."""

    border: Rate = field(default_factory=Rate)
    same: Rate = field(default_factory=Rate)
    """The rate at the same places of other runs, where they are no borders."""


def seams_of(runs: Sequence[tuple[Axis, Axis]]) -> tuple[dict[str, Seam], Rate]:
    """Compare the borders of each run with the same places of the others.

    Returns:
        A seam for each kind of border that occurs, and the rate at all places that are no borders.
    """
    seams, elsewhere = {kind: Seam() for kind in KINDS}, Rate()
    for direction in (0, 1):
        axes = [run[direction] for run in runs]
        for own in axes:
            free = own.kinds < 0
            elsewhere.add(int(own.changes[free].sum()), int(free.sum()) * own.pixels)
            others = [other for other in axes if other is not own]
            for number, kind in enumerate(KINDS):
                for place in np.nonzero(own.kinds == number)[0]:
                    same = [other.changes[place] for other in others if other.kinds[place] < 0]
                    if same:
                        seams[kind].border.add(int(own.changes[place]), own.pixels)
                        seams[kind].same.add(float(np.mean(same)), own.pixels)
    return {kind: seam for kind, seam in seams.items() if seam.border.pixels}, elsewhere


def cuts_of(size: Size) -> list[tuple[Box, Box]]:
    """Return for each offset the cut of an image, and the area that all runs share as it lies in that cut."""
    right, bottom = (max(shift[axis] for shift in SHIFTS) for axis in (0, 1))
    inner = Box.between(
        left=right + EDGE, top=bottom + EDGE, right=size.width - right - EDGE, bottom=size.height - bottom - EDGE
    )
    return [
        (Box(x=x, y=y, width=size.width - right, height=size.height - bottom), inner.shifted(x=-x, y=-y))
        for x, y in SHIFTS
    ]


def measure(pixels: NDArray[np.uint8], options: SegmentOptions, folder: Path) -> dict[str, Any]:
    """Segment an image at all offsets and compare the borders.

    Args:
        pixels: The image, `(height, width, 3)`.
        options: How it is segmented.
        folder: Where the images and masks are written.
    """
    runs, windows, began, model = [], 0, perf_counter(), load_model(options, Events())
    for number, (cut, inner) in enumerate(cuts_of(Size(width=pixels.shape[1], height=pixels.shape[0]))):
        image, mask = folder / f"{number}.tif", folder / f"{number}.mask.tif"
        tifffile.imwrite(image, pixels[cut.slices], tile=(256, 256), photometric="rgb")
        result = segment(image, mask, options)[0]
        if result.error is not None:
            raise result.error
        plan = plan_image(str(image), model.facts, options, model.machine, folder=folder)
        runs.append(axes_of(np.asarray(tifffile.imread(mask)), inner, Grid.of(plan)))
        passes: Any = read_report(mask.with_suffix(".json"))["passes"]
        windows += sum(stage["windows_run"] for step in passes for stage in step["stages"])
    seams, elsewhere = seams_of(runs)
    return {
        "elsewhere": round(elsewhere.value, 6),
        "windows": windows,
        "seconds": round(perf_counter() - began, 1),
        "seams": {
            kind: {
                "rate": round(seam.border.value, 6),
                "to_elsewhere": round(seam.border.value / elsewhere.value, 3),
                "to_same_places": round(seam.border.value / seam.same.value, 3),
                "changes": int(seam.border.changes),
            }
            for kind, seam in seams.items()
        },
    }


def scene_of(size: int, seed: int) -> NDArray[np.uint8]:
    """Make a generated scene, `(size, size, 3)`."""
    side = Size(width=size, height=size)
    return Scene(size=side, seed=seed).pixels(Box.whole(side))


def image_of(path: str, box: Box | None) -> NDArray[Any]:
    """Read a TIFF file, or a box of it, `(height, width, bands)`."""
    pixels = np.asarray(tifffile.imread(path))
    return pixels if box is None else pixels[box.slices]


def main() -> None:
    """Measure what the command line asks for and print a line of JSON for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", help="a TIFF file; without it a scene is generated")
    parser.add_argument("--box", help="x,y,width,height of the image")
    parser.add_argument("--size", type=int, default=2600, help="side of the generated scene")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--methods", default="patch,magnet")
    parser.add_argument("--weights", default="aerial")
    parser.add_argument("--options", default="", help="further options of segment: name=value;name=value")
    given = parser.parse_args()
    box = None
    if given.box:
        x, y, width, height = (int(value) for value in given.box.split(","))
        box = Box(x=x, y=y, width=width, height=height)
    pixels = image_of(given.image, box) if given.image else scene_of(given.size, given.seed)
    what = f"{Path(given.image).name} {box or ''}".strip() if given.image else f"scene {given.size} {given.seed}"
    more = dict(part.split("=", 1) for part in given.options.split(";") if part)
    for method in given.methods.split(","):
        words: dict[str, Any] = {"method": method, "weights": given.weights, "tissue": "none", **more}
        with TemporaryDirectory() as folder:
            found = measure(pixels, SegmentOptions(**words), Path(folder))
        print(json.dumps({"what": what, "method": method, "options": given.options, **found}), flush=True)


if __name__ == "__main__":
    main()

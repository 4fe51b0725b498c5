"""Measure how much more often neighbouring pixels change their class across borders of windows and blocks.

    python benchmarks/seams.py --methods patch,magnet --size 1700 --seeds 3,4,7
    python benchmarks/seams.py --image mosaic.tif --box 600,600,1700,1700 --methods magnet --options blend=spline

The same area is segmented several times, each time with the image cut at another offset, so that the borders fall on
other places. For each kind of border the result gives the rate of changes around it and its ratio to the rate at the
same places of the area in the other runs, where they are none and lie in no overlap. That compares like with like: the
content of an image is not everywhere alike, and a network whose decoder interpolates changes its class more often at
some places of its pixel grid than at others (at every fourth a third less often, for `aerial`), which is no seam. The
ratio to the rate at all places that are no border mixes both into it.

A single image has a few thousand changes near a kind of border, and they are no independent events: ratios of images
scatter by a tenth and more. So the counts of all images that the command names are also added up.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from math import ceil
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
from magnet_cli.report.maps import Map
from magnet_cli.scene import Scene
from magnet_cli.segmentation.api import segment
from magnet_cli.segmentation.image_planner import plan_image
from magnet_cli.segmentation.segment_model import load_model

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from magnet_cli.plan import Plan

SHIFTS = ((0, 0), (40, 88), (88, 176), (128, 40), (176, 128))
"""Columns and rows at which the image is cut. They are multiples of 8, so that a place lies alike in the pixels of
scales up to eight times the finest, and alike between the pixels of a decoder that works at a quarter of the input."""
EDGE = 64
"""Pixels next to the image's edge that are not compared."""
TILE = 512
"""Side of a tile of the mask's file."""
BAND = 2
"""Places on either side of a border that count to it: what an eye would see as a line is not one pixel wide."""
KINDS = ("pass", "group", "block", "selected", "cell", "coarse", "window", "tile")
"""Kinds of borders: between blocks of an earlier pass; between blocks of different groups; between other blocks;
between cells of the finest stage of which one was computed and one was not (the other runs tell little of these, see
`benchmarks/selected_seams.py`); between other cells of it, in the middle of
what two windows share; where windows of coarser stages end; where those of the finest end; and between tiles of the
file. A place of several kinds counts as the first of them."""
FREE, NEAR = -1, -2
"""Values of places that are no border: outside of what windows of the finest stage share, and inside."""


def places(period: float, length: int, *, beside: float = 0) -> NDArray[np.int64]:
    """Return the pixels before which borders lie that repeat along an axis, but for the first pixel of all.

    Args:
        period: Distance between two borders.
        length: Pixels of the axis.
        beside: If not 0, return two places for each border instead of the border: this many pixels before and after it.
    """
    borders = np.arange(period, length, period)
    if beside:
        borders = np.concatenate((borders - beside, borders + beside))
    pixels = np.ceil(borders - 0.5).astype(np.int64)
    return pixels[(pixels > 0) & (pixels < length)]


@dataclass(kw_only=True)
class Kinds:
    """What the border before each pixel of an axis is: positions in `KINDS`, `FREE` or `NEAR`."""

    values: NDArray[np.int8]
    """Values `(across, along)`. Each is of the border between its pixel and the one before it along the axis."""

    @classmethod
    def free(cls, *, along: int, across: int, cell: float, overlap: float) -> Kinds:
        """Return values without a border. Where windows overlap everywhere, no place counts as inside an overlap."""
        values = np.full((across, along), FREE, np.int8)
        pixels = np.arange(along)
        last = ceil(along / cell) - 1
        nearest = np.clip(np.round(pixels / cell), 1, max(1, last)) * cell
        shared = np.abs(pixels - nearest) <= overlap + BAND
        if last and overlap + BAND < cell / 2 - 1:
            values[:, shared] = NEAR
        return cls(values=values)

    def mark(self, kind: str, borders: Iterable[int], rows: slice = slice(None)) -> None:
        """Mark borders of a kind, each with the places beside it, in all or in some rows."""
        for place in borders:
            self.values[rows, max(0, place - BAND) : place + BAND + 1] = KINDS.index(kind)


def kinds_of(plan: Plan, computed: NDArray[np.bool_], *, down: bool) -> NDArray[np.int8]:
    """Return what the border before each pixel is, `(height, width)`, or transposed with `down`.

    Args:
        plan: The plan of the run, whose pixels are square.
        computed: Which cells of the finest stage were computed, `(rows, columns)`.
        down: Whether borders between rows are meant, not those between columns.
    """
    size, step = plan.image.size, plan.passes[-1]
    along, across = (size.height, size.width) if down else (size.width, size.height)
    computed = computed.T if down else computed
    stage = step.stages[-1]
    pixel = float(stage.pitch.x)
    cell, overlap = stage.cell.width * pixel, stage.margin * pixel
    kinds = Kinds.free(along=along, across=across, cell=cell, overlap=overlap)
    kinds.mark("tile", places(TILE, along))
    kinds.mark("window", places(cell, along, beside=overlap))
    for coarser in plan.stages[:-1]:
        width = float(coarser.pitch.x)
        kinds.mark("coarse", places(coarser.cell.width * width, along, beside=coarser.margin * width))
    kinds.mark("cell", places(cell, along))
    for number, place in enumerate(places(cell, along)):
        for row in np.flatnonzero(computed[:, number] != computed[:, number + 1]):
            kinds.mark("selected", [int(place)], slice(ceil(row * cell), ceil((row + 1) * cell)))
    block = step.ratio(stage).width * cell
    kinds.mark("block", places(block, along))
    groups = np.arange(step.blocks.pixels).reshape(step.blocks.height, step.blocks.width) // plan.group[step.number]
    groups = groups.T if down else groups
    for number, place in enumerate(places(block, along)):
        for row in np.flatnonzero(groups[:, number] != groups[:, number + 1]):
            kinds.mark("group", [int(place)], slice(ceil(row * block), ceil((row + 1) * block)))
    for earlier in plan.passes[:-1]:
        first = earlier.stages[0]
        kinds.mark("pass", places(earlier.span * first.cell.width * float(first.pitch.x), along))
    return kinds.values


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The changes along one axis of one run, over the area that all runs share."""

    changes: NDArray[np.bool_]
    """Whether the class changes before each pixel, `(across, along)`."""
    kinds: NDArray[np.int8]
    """Kind of the border at each of these places, as in `Kinds`."""


def axes_of(labels: NDArray[np.uint8], inner: Box, plan: Plan, computed: NDArray[np.bool_]) -> tuple[Axis, Axis]:
    """Find the changes of a mask along both axes.

    Args:
        labels: The mask, `(height, width)`.
        inner: The part of the mask in which neighbours are compared. At least one pixel lies around it.
        plan: The plan of the run.
        computed: Which cells of the finest stage were computed, `(rows, columns)`.
    """
    found = []
    for down in (False, True):
        values = labels.T if down else labels
        box = Box(x=inner.y, y=inner.x, width=inner.height, height=inner.width) if down else inner
        part = values[box.y : box.bottom, box.x - 1 : box.right]
        kinds = kinds_of(plan, computed, down=down)[box.slices]
        found.append(Axis(changes=part[:, 1:] != part[:, :-1], kinds=kinds))
    return found[0], found[1]


@dataclass(kw_only=True)
class Seam:
    """Counts of changes around one kind of border."""

    changes: int = 0
    """Number of changes around such borders."""
    expected: float = 0
    """Mean number of changes at the same places of other runs, where these have no borders."""
    pixels: int = 0
    """Number of pairs of pixels that were compared."""

    @property
    def ratio(self) -> float:
        """Return how many times as often classes change at the border as elsewhere."""
        return self.changes / self.expected if self.expected else float("nan")

    def add(self, other: Seam) -> None:
        """Add the counts of another image."""
        self.changes += other.changes
        self.expected += other.expected
        self.pixels += other.pixels


@dataclass(kw_only=True)
class Measured:
    """The counts of one image, or of several."""

    seams: dict[str, Seam] = field(default_factory=dict)
    """Counts by kind of border. Kinds that do not occur are left out."""
    elsewhere: Seam = field(default_factory=Seam)
    """Counts of all places that are no borders. For them no changes are expected."""
    windows: int = 0
    seconds: float = 0

    def add(self, other: Measured) -> None:
        """Add the counts of another image."""
        for kind, seam in other.seams.items():
            self.seams.setdefault(kind, Seam()).add(seam)
        self.elsewhere.add(other.elsewhere)
        self.windows += other.windows
        self.seconds += other.seconds

    def describe(self) -> dict[str, Any]:
        """Return rates and ratios as JSON values."""
        elsewhere = self.elsewhere.changes / self.elsewhere.pixels
        return {
            "elsewhere": round(elsewhere, 6),
            "windows": self.windows,
            "seconds": round(self.seconds, 1),
            "seams": {
                kind: {
                    "rate": round(seam.changes / seam.pixels, 6),
                    "ratio": round(seam.ratio, 3),
                    "to_all_elsewhere": round(seam.changes / seam.pixels / elsewhere, 3),
                    "changes": seam.changes,
                }
                for kind, seam in self.seams.items()
            },
        }


def seams_of(runs: Sequence[tuple[Axis, Axis]]) -> Measured:
    """Compare the borders of each run with the same places of the others."""
    found = Measured()
    for axes in zip(*runs, strict=True):
        changes, kinds = np.stack([axis.changes for axis in axes]), np.stack([axis.kinds for axis in axes])
        free = kinds == FREE
        found.elsewhere.add(Seam(changes=int(changes[free].sum()), pixels=int(free.sum())))
        # A border of one run is not free in it, so these sums are over the other runs alone.
        count = free.sum(axis=0)
        mean = (changes & free).sum(axis=0) / np.maximum(count, 1)
        for number, kind in enumerate(KINDS):
            for own, at in zip(changes, (kinds == number) & (count > 0), strict=True):
                if at.any():
                    seam = Seam(changes=int(own[at].sum()), expected=float(mean[at].sum()), pixels=int(at.sum()))
                    found.seams.setdefault(kind, Seam()).add(seam)
    return found


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


def measure(pixels: NDArray[np.uint8], options: SegmentOptions, folder: Path) -> Measured:
    """Segment an image at all offsets and compare the borders.

    Args:
        pixels: The image, `(height, width, 3)`.
        options: The options of the segmentation.
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
        report: Any = read_report(mask.with_suffix(".json"))
        runs.append(axes_of(np.asarray(tifffile.imread(mask)), inner, plan, computed_in(report, plan)))
        windows += sum(stage["windows_run"] for step in report["passes"] for stage in step["stages"])
        image.unlink()
        mask.unlink()
    found = seams_of(runs)
    found.windows, found.seconds = windows, perf_counter() - began
    return found


def computed_in(report: dict[str, Any], plan: Plan) -> NDArray[np.bool_]:
    """Return which cells of the finest stage a run has computed, `(rows, columns)`, from the maps of its report."""
    last = plan.stages[-1]
    section = next(entry for entry in report["maps"]["stages"] if entry["stage"] == last.number)
    values = Map.parse(section).values
    if values.shape != (last.cells.height, last.cells.width):
        message = f"the map of an image of {last.cells} cells has a pixel for each, got {values.shape}"
        raise ValueError(message)
    return values > 0


def scene_of(size: int, seed: int) -> NDArray[np.uint8]:
    """Make a generated scene, `(size, size, 3)`."""
    side = Size(width=size, height=size)
    return Scene(size=side, seed=seed).pixels(Box.whole(side))


def image_of(path: str, box: Box | None) -> NDArray[Any]:
    """Read a TIFF file, or a box of it, `(height, width, bands)`."""
    pixels = np.asarray(tifffile.imread(path))
    return pixels if box is None else pixels[box.slices]


def parser_of(description: str | None, *, size: int, options: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments that say what is segmented and how.

    Args:
        description: The description of the command.
        size: Side of generated scenes unless another is given.
        options: Options of `segment` unless others are given.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", action="append", default=[], help="a TIFF file; without it scenes are generated")
    parser.add_argument("--box", action="append", default=[], help="x,y,width,height of the image named at its place")
    parser.add_argument("--size", type=int, default=size, help="side of generated scenes")
    parser.add_argument("--seeds", default="3,4", help="seeds of generated scenes")
    parser.add_argument("--weights", default="aerial")
    parser.add_argument("--options", default=options, help="options of segment: name=value;name=value")
    return parser


def images_of(given: argparse.Namespace) -> dict[str, NDArray[np.uint8]]:
    """Return the images that the arguments of `parser_of` name, `(height, width, 3)` each, by what they are called."""
    images: dict[str, NDArray[np.uint8]] = {}
    for number, path in enumerate(given.image):
        box = None
        if number < len(given.box):
            x, y, width, height = (int(value) for value in given.box[number].split(","))
            box = Box(x=x, y=y, width=width, height=height)
        images[f"{Path(path).name} {box or ''}".strip()] = image_of(path, box)
    if images:
        return images
    return {f"scene {given.size} {seed}": scene_of(given.size, int(seed)) for seed in given.seeds.split(",")}


def words_of(given: argparse.Namespace, *, method: str) -> dict[str, Any]:
    """Return the options of `segment` that the arguments of `parser_of` ask for."""
    more = dict(part.split("=", 1) for part in given.options.split(";") if part)
    return {"method": method, "weights": given.weights, "tissue": "none", **more}


def main() -> None:
    """Measure what the command line asks for and print a line of JSON for each method and image, and for all images."""
    parser = parser_of(__doc__, size=1700, options="")
    parser.add_argument("--methods", default="patch,magnet")
    given = parser.parse_args()
    images = images_of(given)
    methods = tuple(given.methods.split(","))
    for method in methods:
        # Options such as merge=mean are for those of the methods that they concern.
        options = SegmentOptions(**words_of(given, method=method)).of_method(method, among=methods)
        total = Measured()
        for what, pixels in images.items():
            with TemporaryDirectory() as folder:
                found = measure(pixels, options, Path(folder))
            total.add(found)
            named = {"what": what, "method": method, "options": given.options}
            print(json.dumps({**named, **found.describe()}), flush=True)
        if len(images) > 1:
            named = {"what": "all of them", "method": method, "options": given.options}
            print(json.dumps({**named, **total.describe()}), flush=True)


if __name__ == "__main__":
    main()

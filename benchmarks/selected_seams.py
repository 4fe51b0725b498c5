"""Measure how much more often classes change where the weights of windows and of blocks fall.

    python benchmarks/selected_seams.py --seeds 3,4 --size 1500 --options patches=40%
    python benchmarks/selected_seams.py --image mosaic.tif --box 600,600,1500,1500 --options patches=40%

A window is selected because the coarser result is unsure there, so borders of selected windows run through places with
more changes than elsewhere, and a fine result, which has more changes, lies on one side of them alone. Neither the same
places in other runs, some of which have the coarser result there, nor lines beside the border tell such a place from a
seam (`benchmarks/seams.py` compares these). This compares with the same run without the slope of the weight: where
`Y = Y' + w (R - Y')` and w falls from one pixel to the next, the labels of both pixels are made with their mean weight.
Image, networks, pixels, and how far R is mixed with Y' are the same. What changes more often than that is the seam.
The same is done across the borders of blocks, where the canvases of up to four blocks are mixed.

The ratio is given within two pixels of the borders, over all pixels in which the weight falls, and for the five
neighbouring distances from the border at which it is highest. `inside` are borders between a selected window and
another one inside of blocks; `blocks` all borders between blocks; and `selected` those parts of them at which a window
of the last stage was computed on one side alone.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import tifffile

from benchmarks.seams import BAND, computed_in, cuts_of, images_of, parser_of, words_of
from magnet_cli.geometry import Box, Size
from magnet_cli.masks.report_file import read_report
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.segmentation.api import segment
from magnet_cli.segmentation.block_borders import BorderRunner, field_name
from magnet_cli.segmentation.block_stage import BlockStage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from magnet_cli.plan import Plan
    from magnet_cli.run.job import Resources
    from magnet_cli.run.results import Results
    from magnet_cli.segmentation.block_borders import Border, BorderPass

FARTHEST = 128
"""Pixels from a border that are counted."""
NEIGHBOURS = 5
KINDS = ("inside", "blocks", "selected")
"""Kinds of borders, as above."""


@dataclass(kw_only=True)
class Slope:
    """Changes of class beside borders of one kind, by the distance from the border."""

    found: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2 * FARTHEST, np.int64))
    """Changes in the result; the first distance is `FARTHEST` pixels before the border, on the selected side."""
    level: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2 * FARTHEST, np.int64))
    """Changes at the same places where the weight does not fall."""
    falls: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(2 * FARTHEST, np.bool_))
    """Whether the weight falls, by distance."""
    windows: int = 0

    def add(self, other: Slope) -> None:
        """Add the counts of another image."""
        self.found += other.found
        self.level += other.level
        self.falls |= other.falls
        self.windows += other.windows

    @property
    def border(self) -> float:
        """The ratio within `BAND` pixels of the borders of cells."""
        return self._ratio(slice(FARTHEST - BAND, FARTHEST + BAND + 1))

    @property
    def fall(self) -> float:
        """The ratio over all distances at which the weight falls."""
        return self._ratio(self.falls)

    @property
    def highest(self) -> tuple[int, float]:
        """The ratio over the five neighbouring distances at which it is highest, and the middle of these."""
        middles = [int(place) for place in np.flatnonzero(self.falls)]
        half = NEIGHBOURS // 2
        found = [(place - FARTHEST, self._ratio(slice(place - half, place + half + 1))) for place in middles]
        return max(found, key=lambda entry: entry[1])

    def describe(self) -> dict[str, Any]:
        """Return the ratios as JSON values."""
        place, highest = self.highest
        return {
            "windows": self.windows,
            "border": round(self.border, 3),
            "changes": int(self.found[FARTHEST - BAND : FARTHEST + BAND + 1].sum()),
            "fall": round(self.fall, 3),
            "highest": round(highest, 3),
            "highest_at": place,
        }

    def _ratio(self, at: slice | NDArray[np.bool_]) -> float:
        return float(self.found[at].sum() / max(1, self.level[at].sum()))


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """The last stage of a block: what it started from, and its result."""

    before: NDArray[np.float32]
    """Y', `(classes, height, width)`."""
    after: NDArray[np.float32]
    """Y, of the same shape."""
    weight: NDArray[np.float32]
    """w, the summed weights of the computed windows, `(height, width)`."""
    cells: dict[tuple[int, int], Box]
    """All cells by row and column, in pixels of these arrays."""
    computed: frozenset[tuple[int, int]]

    def slope(self) -> Slope:
        """Count changes of class at both sides of borders between computed cells and others."""
        total = Slope()
        for down in (False, True):
            found, level, falls = self._changes(down=down)
            for line, rows, sign in self._borders(down=down):
                for distance in range(-FARTHEST, FARTHEST):
                    at = line + sign * distance
                    if 0 < at < found.shape[1]:
                        total.found[distance + FARTHEST] += np.count_nonzero(found[rows, at])
                        total.level[distance + FARTHEST] += np.count_nonzero(level[rows, at])
                        total.falls[distance + FARTHEST] |= falls[rows, at].mean() > 1 / 2
        return total

    def _changes(self, *, down: bool) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """Return where classes change along an axis, where they do at level weights, and where weights fall.

        The arrays are `(across, along)`; a value belongs to a pixel and the one before it.
        """
        before, after, weight = self.before, self.after, self.weight
        if down:
            before, after, weight = before.swapaxes(1, 2), after.swapaxes(1, 2), weight.T
        change = (after - before) / np.where(weight > 0, weight, 1)
        falls, changes, level = (np.zeros(weight.shape, np.bool_) for _ in range(3))
        falls[:, 1:] = weight[:, 1:] != weight[:, :-1]
        labels = after.argmax(axis=0)
        changes[:, 1:] = labels[:, 1:] != labels[:, :-1]
        middle = (weight[:, 1:] + weight[:, :-1]) / 2
        first, second = (
            (before[:, :, part] + middle * change[:, :, part]).argmax(axis=0)
            for part in (slice(None, -1), slice(1, None))
        )
        level[:, 1:] = first != second
        return changes, level, falls

    def _borders(self, *, down: bool) -> Iterator[tuple[int, slice, int]]:
        """Yield borders of cells: their place, the pixels along them, and 1 if the computed cell comes first, or -1."""
        for (row, column), box in self.cells.items():
            other = (row + 1, column) if down else (row, column + 1)
            if other in self.cells and (other in self.computed) != ((row, column) in self.computed):
                sign = 1 if (row, column) in self.computed else -1
                yield (
                    (box.bottom, slice(box.x, box.right), sign) if down else (box.right, slice(box.y, box.bottom), sign)
                )


@dataclass(frozen=True, kw_only=True)
class Joint:
    """The pixels across a part of a border between two blocks, as long as a cell."""

    cells: tuple[tuple[int, int], tuple[int, int]]
    """Row and column of the cells of the last stage on both sides."""
    values: NDArray[np.float32]
    """Probabilities of all layers of blocks, `(layers, classes, along, across)`; NaN where a layer has none. The border
    lies in the middle of the last axis."""
    weights: NDArray[np.float32]
    """Weights of the layers, `(layers, along, across)`."""

    def slope(self) -> Slope:
        """Count changes of class across the border, by the distance from it."""
        known = np.isfinite(self.values).all(axis=1) & (np.nan_to_num(self.values).max(axis=1) > 0)
        values, weights = np.nan_to_num(self.values), np.where(known, self.weights, 0)
        middle = (weights[:, :, 1:] + weights[:, :, :-1]) / 2
        # A layer that has a share at one of two neighbours alone, because it holds no value of the other, says nothing
        # about the other at equal weights.
        fair = ((middle == 0) | (known[:, :, 1:] & known[:, :, :-1])).all(axis=0) & (middle > 0).any(axis=0)
        labels = (values * weights[:, None]).sum(axis=0).argmax(axis=0)
        first, second = (
            (values[..., part] * middle[:, None]).sum(axis=0).argmax(axis=0)
            for part in (slice(None, -1), slice(1, None))
        )
        total, fade = Slope(), self.values.shape[-1] // 2 - 1
        at = slice(FARTHEST - fade, FARTHEST + fade + 1)
        total.found[at] = ((labels[:, 1:] != labels[:, :-1]) & fair).sum(axis=0)
        total.level[at] = ((first != second) & fair).sum(axis=0)
        total.falls[at] = True
        return total


@dataclass(kw_only=True)
class Joints:
    """What a run has at the borders of its blocks."""

    step: BorderPass | None = None
    """The pass that joins the blocks. None where no border is blended."""
    resources: Resources | None = None
    found: list[Joint] = field(default_factory=list)

    def add(self, group: int) -> None:
        """Add the right and the lower borders of the blocks of a group."""
        if self.step is None or self.resources is None:
            return
        plan, step = self.step.plan, self.step.step
        stage, reach = step.stages[-1], step.fade + 1
        for block in plan.blocks(step, group):
            own = step.own(block, stage)
            if block.column < step.blocks.width - 1:
                rim = Box(x=own.right - reach, y=own.y, width=2 * reach, height=own.height)
                self.found += self._cut(plan, self.resources.results, rim, down=False)
            if block.row < step.blocks.height - 1:
                rim = Box(x=own.x, y=own.bottom - reach, width=own.width, height=2 * reach)
                self.found += self._cut(plan, self.resources.results, rim, down=True)

    @staticmethod
    def _cut(plan: Plan, results: Results, rim: Box, *, down: bool) -> Iterator[Joint]:
        """Cut the pixels across a border into parts as long as a cell."""
        step = plan.passes[-1]
        cell = step.stages[-1].cell
        layers = [(layer.weights(rim), field_name(step.number, layer)) for layer in step.layers]
        values = np.stack([results.read_field(name, rim)[: plan.classes].astype(np.float32) for _, name in layers])
        weights = np.stack([rows[:, None] * columns for (rows, columns), _ in layers])
        if down:
            values, weights = values.swapaxes(2, 3), weights.swapaxes(1, 2)
        side, row, column = cell.width if down else cell.height, rim.y // cell.height, rim.x // cell.width
        for number, start in enumerate(range(0, values.shape[2], side)):
            part = slice(start, start + side)
            first = (row, column + number) if down else (row + number, column)
            second = (first[0] + 1, first[1]) if down else (first[0], first[1] + 1)
            yield Joint(cells=(first, second), values=values[:, :, part], weights=weights[:, part])


@contextmanager
def recorded_joints() -> Iterator[Joints]:
    """Record the borders of the blocks of a run in this process meanwhile."""
    found, begin, read = Joints(), BorderRunner.__init__, BorderRunner.read

    def begun(runner: BorderRunner, step: BorderPass, resources: Resources) -> None:
        found.step, found.resources = step, resources
        begin(runner, step, resources)

    def noted(runner: BorderRunner, group: int) -> list[Border]:
        found.add(group)
        return read(runner, group)

    with patch.object(BorderRunner, "__init__", begun), patch.object(BorderRunner, "read", noted):
        yield found


@contextmanager
def recorded() -> Iterator[list[Mixed]]:
    """Record the last stage of every block that is computed in this process meanwhile."""
    found: list[Mixed] = []
    finish = BlockStage.finish

    def finished(block: BlockStage) -> None:
        state, stage, box = block.state, block.stage, block.box
        is_last = stage is state.bound.plan.stages[-1] and not block.is_start and not state.pixels.is_empty
        share = block.share() if is_last else None
        before = state.canvas.sample(box, stage.pitch).numpy() if is_last else None
        finish(block)
        if before is None or share is None:
            return
        step = state.bound.step
        found.append(
            Mixed(
                before=before,
                after=state.canvas.values.float().numpy(),
                weight=share.numpy(),
                cells={
                    (cell.row, cell.column): stage.own(cell).shifted(x=-box.x, y=-box.y)
                    for cell in step.cells(state.pixels.block, stage)
                },
                computed=frozenset((window.cell.row, window.cell.column) for window in block.windows),
            )
        )

    with patch.object(BlockStage, "finish", finished):
        yield found


def measure_slopes(pixels: NDArray[np.uint8], options: SegmentOptions, folder: Path) -> dict[str, Slope]:
    """Segment an image at all offsets, and count changes beside borders of selected windows and of blocks.

    Args:
        pixels: The image, `(height, width, 3)`.
        options: The options of the runs; all points are taken.
        folder: The folder for images and masks.

    Returns:
        The counts by kind of border.
    """
    total = {kind: Slope() for kind in KINDS}
    for number, (cut, _) in enumerate(cuts_of(Size(width=pixels.shape[1], height=pixels.shape[0]))):
        image, mask = folder / f"{number}.tif", folder / f"{number}.mask.tif"
        tifffile.imwrite(image, pixels[cut.slices], tile=(256, 256), photometric="rgb")
        with recorded() as blocks, recorded_joints() as joints:
            result = segment(image, mask, options)[0]
        if result.error is not None:
            raise result.error
        report: Any = read_report(mask.with_suffix(".json"))
        for block in blocks:
            total["inside"].add(block.slope())
        computed = None if joints.step is None else computed_in(report, joints.step.plan)
        for joint in joints.found:
            slope = joint.slope()
            total["blocks"].add(slope)
            first, second = joint.cells
            if computed is not None and computed[first] != computed[second]:
                total["selected"].add(slope)
        windows = sum(stage["windows_run"] for step in report["passes"] for stage in step["stages"])
        for slopes in total.values():
            slopes.windows += windows
        image.unlink()
        mask.unlink()
    return total


def main() -> None:
    """Measure what the command line asks for and print a line of JSON for each image, and for all images."""
    given = parser_of(__doc__, size=1500, options="patches=40%").parse_args()
    images, words = images_of(given), words_of(given, method="magnet-fast")
    total = {kind: Slope() for kind in KINDS}
    for what, pixels in images.items():
        with TemporaryDirectory() as folder:
            found = measure_slopes(pixels, SegmentOptions(**words), Path(folder))
        for kind, slope in found.items():
            total[kind].add(slope)
        described = {kind: slope.describe() for kind, slope in found.items() if slope.falls.any()}
        print(json.dumps({"what": what, "options": given.options, **described}), flush=True)
    described = {kind: slope.describe() for kind, slope in total.items() if slope.falls.any()}
    print(json.dumps({"what": "all of them", "options": given.options, **described}), flush=True)


if __name__ == "__main__":
    main()

"""Measure how much more often classes change where the weight of windows falls towards ones that were not selected.

    python benchmarks/selected_seams.py --seeds 3,4 --size 1500 --options patches=40%
    python benchmarks/selected_seams.py --image mosaic.tif --box 600,600,1500,1500 --options patches=40%

A window is selected because the coarser result is unsure there, so borders of selected windows run through places with
more changes than elsewhere, and a fine result, which has more changes, lies on one side of them alone. Neither the same
places in other runs, some of which have the coarser result there, nor lines beside the border tell such a place from a
seam (`benchmarks/seams.py` compares these). This compares with the same run without the slope of the weight: where
`Y = Y' + w (R - Y')` and w falls from one pixel to the next, the labels of both pixels are made with their mean weight.
Image, networks, pixels, and how far R is mixed with Y' are the same. What changes more often than that is the seam.

The ratio is given within two pixels of the borders of cells, over all pixels in which the weight falls, and for the
five neighbouring distances from the border at which it is highest.
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

from benchmarks.seams import BAND, cuts_of, images_of, parser_of, words_of
from magnet_cli.geometry import Box, Size
from magnet_cli.masks.report_file import read_report
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.segmentation.api import segment
from magnet_cli.segmentation.block_stage import BlockStage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

FARTHEST = 128
"""Pixels from a border that are counted."""
NEIGHBOURS = 5


@dataclass(kw_only=True)
class Slope:
    """Changes of class beside borders of selected windows, by the distance from the border."""

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


def measure_selected(pixels: NDArray[np.uint8], options: SegmentOptions, folder: Path) -> Slope:
    """Segment an image at all offsets, and count changes beside borders of selected windows.

    Args:
        pixels: The image, `(height, width, 3)`.
        options: The options of the runs; all points are taken.
        folder: The folder for images and masks.
    """
    total = Slope()
    for number, (cut, _) in enumerate(cuts_of(Size(width=pixels.shape[1], height=pixels.shape[0]))):
        image, mask = folder / f"{number}.tif", folder / f"{number}.mask.tif"
        tifffile.imwrite(image, pixels[cut.slices], tile=(256, 256), photometric="rgb")
        with recorded() as blocks:
            result = segment(image, mask, options)[0]
        if result.error is not None:
            raise result.error
        for block in blocks:
            total.add(block.slope())
        report: Any = read_report(mask.with_suffix(".json"))
        total.windows += sum(stage["windows_run"] for step in report["passes"] for stage in step["stages"])
        image.unlink()
        mask.unlink()
    return total


def main() -> None:
    """Measure what the command line asks for and print a line of JSON for each image, and for all images."""
    given = parser_of(__doc__, size=1500, options="patches=40%").parse_args()
    images, words = images_of(given), words_of(given, method="magnet-fast")
    total = Slope()
    for what, pixels in images.items():
        with TemporaryDirectory() as folder:
            found = measure_selected(pixels, SegmentOptions(**words), Path(folder))
        total.add(found)
        print(json.dumps({"what": what, "options": given.options, **found.describe()}), flush=True)
    print(json.dumps({"what": "all of them", "options": given.options, **total.describe()}), flush=True)


if __name__ == "__main__":
    main()

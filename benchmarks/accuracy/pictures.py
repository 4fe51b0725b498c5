"""The pictures of docs/accuracy.md: a scene, its masks by each method, their errors, and what each stage changed.

    python -m benchmarks.accuracy.pictures --work WORK --scene tile7

needs the masks that `benchmarks.accuracy.rows` left in WORK/masks.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tifffile
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.accuracy.cells import Cell, miou
from benchmarks.accuracy.rows import MARGIN, SCENES, Place
from magnet_cli import SegmentOptions, segment
from magnet_cli.models.bundle import load_bundle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from magnet_cli.options.segment import Method

FOLDER = Path(__file__).parents[2] / "docs" / "images"
METHODS = {"downsample": "downsample", "patch": "patch", "magnet-fast": "MagNet-Fast", "magnet": "MagNet"}
STEP = 8
"""Every so many pixels of a scene are drawn."""
WRONG, CHANGED, HARMED, SAME = (214, 39, 40), (44, 160, 44), (214, 39, 40), (236, 236, 236)
UNKNOWN = (255, 255, 255)


def coloured(labels: NDArray[np.uint8], palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Labels `(rows, columns)` in the classes' colours, white where unknown."""
    table = np.full((256, 3), UNKNOWN, np.uint8)
    table[: len(palette)] = palette
    return table[labels]


def errors(mask: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Red where a mask is wrong, white where the truth is unknown."""
    picture = np.full((*mask.shape, 3), SAME, np.uint8)
    picture[mask != truth] = WRONG
    picture[truth == 255] = UNKNOWN
    return picture


def changes(before: NDArray[np.uint8], after: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Green where a stage made a label right, red where it made one wrong, grey between two wrong ones."""
    picture = np.full((*after.shape, 3), SAME, np.uint8)
    picture[before != after] = (120, 120, 120)
    picture[(before != after) & (after == truth)] = CHANGED
    picture[(before == truth) & (after != truth)] = HARMED
    picture[truth == 255] = UNKNOWN
    return picture


def stage_masks(place: Place) -> list[NDArray[np.uint8]]:
    """The mask after each stage: runs of the default method that end there, coarsest first."""
    scales = sorted(load_bundle(str(place.bundle)).scales, key=lambda scale: -scale.pixels)
    found = []
    for count in range(1, len(scales) + 1):
        path = place.mask(f"stage{count}")
        path.parent.mkdir(parents=True, exist_ok=True)
        method: Method = "magnet" if count > 1 else "downsample"
        options = SegmentOptions(weights=str(place.bundle), scales=tuple(scales[:count]), margin=MARGIN, method=method)
        result = segment([place.image], path, options)[0]
        if result.error is not None:
            raise result.error
        found.append(tifffile.imread(path)[::STEP, ::STEP])
    return found


def draw(place: Place) -> Figure:
    """Two rows of masks and errors, one of what each stage changed."""
    bundle = load_bundle(str(place.bundle))
    palette = np.array([[int(entry.color[i : i + 2], 16) for i in (1, 3, 5)] for entry in bundle.classes], np.uint8)
    truth = tifffile.imread(place.truth)[::STEP, ::STEP]
    stages = stage_masks(place)
    sides = sorted((scale.width for scale in bundle.scales), reverse=True)
    panels = [
        ("image", place.pixels()[::STEP, ::STEP]),
        *((label, coloured(read(place, row), palette)) for row, label in METHODS.items()),
        ("truth", coloured(truth, palette)),
        *((f"{label}: errors, {score(place, row)}", errors(read(place, row), truth)) for row, label in METHODS.items()),
        (f"stage 1: windows of {sides[0]}", coloured(stages[0], palette)),
        *(
            (f"stage {number + 1}: windows of {sides[number]}", changes(stages[number - 1], stages[number], truth))
            for number in range(1, len(stages))
        ),
    ]
    return arranged(panels, columns=len(METHODS) + 1)


def read(place: Place, row: str) -> NDArray[np.uint8]:
    """A row's mask, thinned out."""
    mask: NDArray[np.uint8] = tifffile.imread(place.mask(row))[::STEP, ::STEP]
    return mask


def score(place: Place, row: str) -> str:
    """The mean IoU of a row's cell."""
    cell = Cell.load(place.table(row), place.scene, row)
    return "not measured" if cell is None else f"mIoU {miou([cell]):.1f}"


def arranged(panels: Sequence[tuple[str, NDArray[np.uint8]]], *, columns: int) -> Figure:
    """Panels with their titles, row by row."""
    rows = -(-len(panels) // columns)
    height, width = panels[0][1].shape[:2]
    figure = Figure(figsize=(3 * columns, (3 * height / width + 0.25) * rows), dpi=90, layout="constrained")
    for place, (title, picture) in enumerate(panels, start=1):
        show(figure.add_subplot(rows, columns, place), title, picture)
    return figure


def show(axis: Axes, title: str, picture: NDArray[np.uint8]) -> None:
    """One panel."""
    axis.imshow(picture, interpolation="nearest")
    axis.set_title(title, fontsize=9)
    axis.set_axis_off()


def main() -> None:
    """Draw the scenes that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("accuracy-work"))
    parser.add_argument("--scene", action="append", choices=SCENES)
    args = parser.parse_args()
    for scene in args.scene or SCENES[-1:]:
        figure = draw(Place(work=args.work, scene=scene))
        FigureCanvasAgg(figure)
        figure.savefig(FOLDER / f"accuracy-{scene}.png")


if __name__ == "__main__":
    main()

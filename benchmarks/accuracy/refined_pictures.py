"""The pictures of sharpened masks on the page.

    python -m benchmarks.accuracy.refined_pictures --work WORK

Needs what benchmarks.accuracy.refined has made last with the shipped cascades, for vessels and for buildings alone in a
mask of all classes. Of vessels yellow is missing and blue is too much.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import tifffile

from benchmarks.accuracy.inputs import Input
from benchmarks.accuracy.page import PAGE
from benchmarks.accuracy.parts import ALONE, Part
from benchmarks.accuracy.tiles import CLASSICAL, classically
from magnet_cli.geometry import Box
from magnet_cli.models.bundle import load_bundle

if TYPE_CHECKING:
    from numpy.typing import NDArray

KIND = "bilinear"
RETINA, SEEN = "04_h", Box(x=40, y=400, width=440, height=440)
TILE, TOWN = "tile7", Box(x=100, y=0, width=1320, height=1320)
SHRUNK = 4
"""Of the town, which is shown whole."""
GAP = 6


def painted(pixels: NDArray[np.uint8], mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A picture, dark outside a mask, with what is wrong with it."""
    panel = np.where(mask[..., None], pixels, pixels // 4)
    panel[truth & ~mask] = (255, 220, 0)
    panel[mask & ~truth] = (60, 140, 255)
    return panel.astype(np.uint8)


def panels(part: Part) -> list[NDArray[np.uint8]]:
    """Picture, mask, and the mask after the dense CRF and the cascade."""
    given = Input(part=part, kind=KIND)
    pixels = part.pixels()
    sharp = given.mask.with_name(f"{KIND}-{ALONE[part.data]}-sharp.tif")
    masks = [given.labels(), classically(CLASSICAL["crf"], given.probs(), pixels), tifffile.imread(sharp)]
    here, truth = pixels[SEEN.slices], part.labels()[SEEN.slices] == part.alone
    return [here, *(painted(here, mask[SEEN.slices] == part.alone, truth) for mask in masks)]


def town(part: Part) -> list[NDArray[np.uint8]]:
    """Picture, truth, mask, and the mask in which buildings alone were refined."""
    given = Input(part=part, kind=KIND)
    colours = [tuple(bytes.fromhex(entry.color.removeprefix("#"))) for entry in load_bundle("aerial").classes]
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colours)] = colours
    sharp = tifffile.imread(given.mask.with_name(f"{KIND}-named-sharp.tif"))
    maps = [palette[labels] for labels in (part.labels(), given.labels(), sharp)]
    return [np.ascontiguousarray(each[TOWN.slices][::SHRUNK, ::SHRUNK]) for each in (part.pixels(), *maps)]


def write_row(panels: list[NDArray[np.uint8]], name: str) -> None:
    """Panels beside each other, in the folder of the page's pictures."""
    gap = np.full((len(panels[0]), GAP, 3), 255, np.uint8)
    row = np.concatenate([each for panel in panels for each in (panel, gap)][:-1], axis=1)
    imagecodecs.imwrite(PAGE.parent / "images" / name, row)


def main() -> None:
    """Write them beside the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("accuracy-work"))
    parser.add_argument("--only", choices=("vessels", "buildings"))
    args = parser.parse_args()
    if args.only != "buildings":
        write_row(panels(Part(work=args.work, name=RETINA)), "accuracy-vessels.png")
    if args.only != "vessels":
        write_row(town(Part(work=args.work, name=TILE)), "accuracy-buildings.png")


if __name__ == "__main__":
    main()

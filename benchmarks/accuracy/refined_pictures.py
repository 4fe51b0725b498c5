"""The picture of a sharpened mask on the page.

    python -m benchmarks.accuracy.refined_pictures --work WORK

Needs what benchmarks.accuracy.refined has made with a cascade for vessels. Yellow is missing, blue is too much.
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

if TYPE_CHECKING:
    from numpy.typing import NDArray

PART, KIND = "04_h", "bilinear"
SEEN = Box(x=40, y=400, width=440, height=440)
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


def main() -> None:
    """Write it beside the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("accuracy-work"))
    args = parser.parse_args()
    found = panels(Part(work=args.work, name=PART))
    gap = np.full((SEEN.height, GAP, 3), 255, np.uint8)
    row = np.concatenate([each for panel in found for each in (panel, gap)][:-1], axis=1)
    imagecodecs.imwrite(PAGE.parent / "images" / "accuracy-vessels.png", row)


if __name__ == "__main__":
    main()

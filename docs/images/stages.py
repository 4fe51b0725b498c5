"""Draws stages.png: a made-up scene with four nested windows, and what the network sees of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from magnet_cli.geometry import Box, Size
from magnet_cli.scene import Scene

SIDES = (2048, 1024, 512, 256)
INPUT = 256
COLORS = ((80, 220, 255), (255, 221, 87), (255, 140, 66), (230, 57, 70))
CORNER = Size(width=600, height=1400)
"""Where the finest window begins, in the scene."""
GAP = 8


def main() -> None:
    """Write the picture beside this file."""
    scene = Scene(size=Size(width=2560, height=2048), seed=3)
    whole = Image.fromarray(scene.pixels(Box.whole(scene.size))[::4, ::4])
    height = whole.height
    picture = Image.new("RGB", (whole.width + 2 * (INPUT + GAP), height + GAP), "white")
    draw = ImageDraw.Draw(whole)
    for index, side in enumerate(SIDES):
        box = window(side, scene.size)
        draw.rectangle([box.x / 4, box.y / 4, box.right / 4 - 1, box.bottom / 4 - 1], outline=COLORS[index], width=3)
        row, column = divmod(index, 2)
        place = (whole.width + GAP + column * (INPUT + GAP), row * (INPUT + GAP))
        picture.paste(patch(scene, box, COLORS[index]), place)
    picture.paste(whole, (0, GAP // 2))
    picture.quantize(128).save(Path(__file__).with_suffix(".png"), optimize=True)


def window(side: int, size: Size) -> Box:
    """The window of this side around the finest one, as the tree of cells nests them."""
    x, y = CORNER.width // side * side, CORNER.height // side * side
    return Box(x=min(x, size.width - side), y=min(y, size.height - side), width=side, height=side)


def patch(scene: Scene, box: Box, color: tuple[int, int, int]) -> Image.Image:
    """What the network sees of a window, framed."""
    step = box.width // INPUT
    pixels = scene.pixels(box).reshape(INPUT, step, INPUT, step, 3).mean(axis=(1, 3))
    image = Image.fromarray(np.rint(pixels).astype(np.uint8))
    ImageDraw.Draw(image).rectangle([0, 0, INPUT - 1, INPUT - 1], outline=color, width=4)
    return image


if __name__ == "__main__":
    main()

"""Draws stages.png: a made-up scene with four nested windows, what the network sees of each, and the mask."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import magnet_cli
from magnet_cli.geometry import Box, Size
from magnet_cli.scene import LANDSCAPES, Scene, write_scene

SIDES = (2048, 1024, 512, 256)
INPUT = 256
COLORS = ((80, 220, 255), (255, 221, 87), (255, 140, 66), (230, 57, 70))
CORNER = Size(width=600, height=1400)
"""Where the finest window begins, in the scene."""
GAP = 8
STEP = 4
"""Pixels of the scene for each pixel of the picture, along a side."""
LINE = 22
"""Height of a line of the legend."""


def main() -> None:
    """Write the picture beside this file."""
    scene = Scene(size=Size(width=2560, height=2048), seed=3, landscape=LANDSCAPES["desert"])
    whole = Image.fromarray(scene.pixels(Box.whole(scene.size))[::STEP, ::STEP])
    height, middle = whole.height, 2 * (INPUT + GAP)
    picture = Image.new("RGB", (2 * whole.width + middle + GAP, height + GAP), "white")
    draw = ImageDraw.Draw(whole)
    for index, side in enumerate(SIDES):
        box = window(side, scene.size)
        edges = [box.x / STEP, box.y / STEP, box.right / STEP - 1, box.bottom / STEP - 1]
        draw.rectangle(edges, outline=COLORS[index], width=3)
        row, column = divmod(index, 2)
        place = (whole.width + GAP + column * (INPUT + GAP), row * (INPUT + GAP))
        picture.paste(patch(scene, box, COLORS[index]), place)
    picture.paste(whole, (0, GAP // 2))
    picture.paste(mask(scene), (whole.width + middle + GAP, GAP // 2))
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


def mask(scene: Scene) -> Image.Image:
    """The mask that the shipped bundle makes of the scene, in the colours of its classes, with a legend."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scene.tif"
        write_scene(file, scene)
        (result,) = magnet_cli.segment(file, Path(folder) / "mask.tif")
        labels = result.array()[::STEP, ::STEP]
        report = result.report or {}
    classes: list[dict[str, str]] = report["classes"]  # type: ignore[assignment]  # the report is JSON
    colors = [Image.new("RGB", (1, 1), entry["color"]).getpixel((0, 0)) for entry in classes]
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colors)] = colors
    image = Image.fromarray(palette[labels])
    draw = ImageDraw.Draw(image)
    draw.rectangle([8, 8, 118, 14 + LINE * len(classes)], fill="white")
    for index, entry in enumerate(classes):
        top = 12 + LINE * index
        draw.rectangle([14, top, 30, top + 16], fill=entry["color"])
        draw.text((38, top + 2), entry["name"], fill="black")
    return image


if __name__ == "__main__":
    main()

"""Draws the pictures of the tutorials from the files that the commands of the tutorials have made.

The test of the tutorials draws them again and compares them with those in this folder. To make them anew, type
`python -m tests.test_tutorials docs/images` in a copy of the repository.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from PIL import Image, ImageDraw

from magnet_cli.masks.report_file import read_report

if TYPE_CHECKING:
    from collections.abc import Callable

PANEL = (380, 285)
"""Width and height of each of the parts of a picture that stand side by side."""
GAP = 8
LINE = 20
"""Height of a line of the legend."""
LEGEND = 96
"""Width of a legend that stands beside the parts."""
COLOURS = (256, 128, 64)
"""Numbers of colours that a palette may have. With 64, fields of the mosaic lose their shades."""
MOST_BYTES = 150_000
"""A picture has the most colours with which its file is not larger than this."""
GLASS = (235, 235, 235)
"""Colour of label 255."""


def slide(folder: Path) -> Image.Image:
    """Return the slide, its mask, and the mask over the slide."""
    return _overlaid(folder / "slide.svs", folder / "masks" / "slide.tif")


def mosaic(folder: Path) -> Image.Image:
    """Return the mosaic, its mask, the mask over the mosaic, and the classes beside them."""
    mask = folder / "masks" / "town.tif"
    classes, below = _classes(mask), _picture(folder / "town.tif")
    above = _coloured(_labels(mask), classes)
    return _beside(below, above, Image.blend(below, above, 0.45), _legend(classes))


def network(folder: Path) -> Image.Image:
    """Return the scene that the network was not trained on, its mask, and the truth."""
    mask = folder / "masks" / "other.tif"
    classes = _classes(mask)
    truth = _coloured(_shrunk(tifffile.imread(folder / "other-truth.tif"), nearest=True), classes)
    return _beside(_picture(folder / "other.tif"), _with_legend(_coloured(_labels(mask), classes), classes), truth)


def cluster(folder: Path) -> Image.Image:
    """Return the masks of the images that two parts have shared, each with the number of its part."""
    parts = {
        Path(str(row["mask"])).stem: index
        for index in range(2)
        for row in _rows(folder / "masks" / f"run-{index}-of-2.json")
    }
    panels = []
    for name in ("a", "b", "c"):
        mask = folder / "masks" / f"{name}.tif"
        panel = _with_legend(_coloured(_labels(mask), _classes(mask)), _classes(mask))
        draw, bottom = ImageDraw.Draw(panel), PANEL[1] - 8
        draw.rectangle([8, bottom - LINE, 112, bottom], fill="white")
        draw.text((16, bottom - LINE + 4), f"{name}.tif, part {parts[name]}", fill="black")
        panels.append(panel)
    return _beside(*panels)


PICTURES: dict[str, Callable[[Path], Image.Image]] = {
    "slide": slide,
    "mosaic": mosaic,
    "network": network,
    "cluster": cluster,
}
"""The function that draws the picture of each tutorial from the folder in which it was done."""


def save(picture: Image.Image, path: Path) -> None:
    """Write a picture as a PNG with a palette, which is a third of the size of one without."""
    files = [_encoded(picture, colours) for colours in COLOURS]
    path.write_bytes(next((file for file in files if len(file) <= MOST_BYTES), files[-1]))


def _encoded(picture: Image.Image, colours: int) -> bytes:
    """Return a PNG of a picture with a palette of so many colours."""
    file = BytesIO()
    picture.quantize(colours, dither=Image.Dither.NONE).save(file, format="PNG", optimize=True)
    return file.getvalue()


def _overlaid(image: Path, mask: Path) -> Image.Image:
    classes, below = _classes(mask), _picture(image)
    above = _coloured(_labels(mask), classes)
    return _beside(below, _with_legend(above.copy(), classes), Image.blend(below, above, 0.45))


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: Any = read_report(path)["images"]
    return list(rows)


def _classes(mask: Path) -> list[tuple[str, str]]:
    """Return name and colour of each class of a mask, from its report."""
    classes: Any = read_report(mask.with_suffix(".json"))["classes"]
    return [(str(entry["name"]), str(entry["color"])) for entry in classes]


def _labels(mask: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return _shrunk(tifffile.imread(mask, key=0), nearest=True)


def _picture(path: Path) -> Image.Image:
    return Image.fromarray(_shrunk(tifffile.imread(path, key=0), nearest=False))


def _shrunk(values: Any, *, nearest: bool) -> np.ndarray[Any, np.dtype[np.uint8]]:
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BOX
    return np.asarray(Image.fromarray(values).resize(PANEL, method))


def _coloured(labels: np.ndarray[Any, np.dtype[np.uint8]], classes: list[tuple[str, str]]) -> Image.Image:
    palette = np.full((256, 3), GLASS, np.uint8)
    palette[: len(classes)] = [tuple(bytes.fromhex(colour[1:])) for _, colour in classes]
    return Image.fromarray(palette[labels])


def _legend(classes: list[tuple[str, str]]) -> Image.Image:
    """Return the names and colours of classes as a column."""
    column = Image.new("RGB", (LEGEND, PANEL[1]), "white")
    _write(column, classes, left=6, top=8)
    return column


def _with_legend(picture: Image.Image, classes: list[tuple[str, str]]) -> Image.Image:
    ImageDraw.Draw(picture).rectangle([8, 8, 112, 14 + LINE * len(classes)], fill="white")
    _write(picture, classes, left=14, top=12)
    return picture


def _write(picture: Image.Image, classes: list[tuple[str, str]], *, left: int, top: int) -> None:
    draw = ImageDraw.Draw(picture)
    for index, (name, colour) in enumerate(classes):
        line = top + LINE * index
        draw.rectangle([left, line, left + 14, line + 14], fill=colour)
        draw.text((left + 22, line + 2), name, fill="black")


def _beside(*panels: Image.Image) -> Image.Image:
    width = sum(panel.width for panel in panels) + GAP * (len(panels) - 1)
    found = Image.new("RGB", (width, PANEL[1]), "white")
    left = 0
    for panel in panels:
        found.paste(panel, (left, 0))
        left += panel.width + GAP
    return found

"""Draw docs/images/blending.png: a part of a generated scene, and its mask by patch without and with blending.

python docs/images/blending.py
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tifffile
from PIL import Image, ImageDraw

from magnet_cli import SegmentOptions, segment
from magnet_cli.geometry import Box, Size
from magnet_cli.scene import Scene

SIZE, SEED = Size(width=1704, height=1704), 4
CUT = Box(x=0, y=0, width=1528, height=1528)
PART = Box(x=520, y=880, width=600, height=600)
GAP, BAR = 12, 24


def main() -> None:
    """Make the scene and both masks, and write the picture beside this file."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        pixels = Scene(size=SIZE, seed=SEED).pixels(CUT)
        tifffile.imwrite(folder / "scene.tif", pixels, tile=(256, 256), photometric="rgb")
        panels = [("scene", pixels[PART.slices])]
        for blend, title in (("none", "--blend none"), ("linear", "--blend linear, the default")):
            options = SegmentOptions(method="patch", blend=blend, tissue="none", weights="aerial")
            (result,) = segment(folder / "scene.tif", folder / f"{blend}.tif", options)
            if result.error is not None:
                raise result.error
            with tifffile.TiffFile(folder / f"{blend}.tif") as file:
                colors = np.asarray(file.pages[0].tags["ColorMap"].value).T // 256
                panels.append((title, colors[file.pages[0].asarray()[PART.slices]].astype(np.uint8)))
    whole = Image.new("RGB", (3 * PART.width + 2 * GAP, PART.height + BAR), "white")
    draw = ImageDraw.Draw(whole)
    for number, (title, panel) in enumerate(panels):
        left = number * (PART.width + GAP)
        draw.text((left, 4), title, fill="black", font_size=15)
        whole.paste(Image.fromarray(panel), (left, BAR))
    whole.quantize(128).save(Path(__file__).with_suffix(".png"), optimize=True)


if __name__ == "__main__":
    main()

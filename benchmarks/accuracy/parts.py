"""The parts of scenes on which sharpened masks are scored, each a picture of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import tifffile

from benchmarks.accuracy.scenes import IGNORE, write_labels
from magnet_cli.geometry import Box, Size

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TILES = {"tile4": "tile4", "tile6": "tile6", "tile7": "tile7-part"}
"""Name of a part and of the scene whose middle it is."""
RETINAS = ("04_dr", "04_g", "04_h")
TILE_SIDE, RETINA_SIDE = 2048, 1024
SCALES = (1024, 512, 256, 128)
"""Windows on tiles, for networks that see 128 x 128 pixels: the coarsest are shrunk eight times, as by the bundle
`aerial`."""
CLASSES = {"dubai": ("building", "land", "road", "vegetation", "water"), "hrf": ("background", "vessel")}
ALONE = {"dubai": "building", "hrf": "vessel"}
"""The class that is also scored alone."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """The middle of a scene that the network behind its masks has not seen."""

    work: Path
    name: str

    @property
    def is_fundus(self) -> bool:
        """Whether it is a retina, not a city."""
        return self.name in RETINAS

    @property
    def data(self) -> str:
        """The folder of its scene."""
        return "hrf" if self.is_fundus else "dubai"

    @property
    def classes(self) -> tuple[str, ...]:
        """By label."""
        return CLASSES[self.data]

    @property
    def alone(self) -> int:
        """Label of the class that is also scored alone."""
        return self.classes.index(ALONE[self.data])

    @property
    def side(self) -> int:
        """In pixels."""
        return RETINA_SIDE if self.is_fundus else TILE_SIDE

    @property
    def weights(self) -> str:
        """Of the bundle that makes its masks: fitted to the other scenes."""
        return "fundus" if self.is_fundus else str(self.work / "bundles" / f"out{self.name.removeprefix('tile')}")

    @property
    def scales(self) -> tuple[Size, ...] | None:
        """Of the windows; None for the bundle's own."""
        return None if self.is_fundus else tuple(Size(width=side, height=side) for side in SCALES)

    @property
    def folder(self) -> Path:
        """What is made of it."""
        return self.work / "refined" / self.name

    @property
    def image(self) -> Path:
        """The picture."""
        return self.folder / "image.tif"

    @property
    def truth(self) -> Path:
        """Its labels; 255 is unknown."""
        return self.folder / "truth.tif"

    def prepare(self) -> None:
        """Cut picture and labels out of the scene."""
        if self.truth.exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        source = self.work / self.data / (self.name if self.is_fundus else TILES[self.name])
        pixels = (
            imagecodecs.imread(source.with_suffix(".jpg"))
            if self.is_fundus
            else tifffile.imread(source.with_suffix(".tif"))
        )
        labels = tifffile.imread(source.with_name(f"{source.name}-labels.tif"))
        where = middle(Size(width=labels.shape[1], height=labels.shape[0]), self.side).slices
        write_picture(self.image, pixels[where][..., :3])
        write_labels(self.truth, labels[where])

    def pixels(self) -> NDArray[np.uint8]:
        """`(side, side, 3)`."""
        pixels: NDArray[np.uint8] = tifffile.imread(self.image)
        return pixels

    def labels(self) -> NDArray[np.uint8]:
        """`(side, side)`."""
        labels: NDArray[np.uint8] = tifffile.imread(self.truth)
        return labels


def middle(size: Size, side: int) -> Box:
    """A square in the middle."""
    return Box(x=(size.width - side) // 2, y=(size.height - side) // 2, width=side, height=side)


def write_picture(path: Path, pixels: NDArray[np.uint8]) -> None:
    """`(rows, columns, 3)` as a tiled TIFF."""
    tifffile.imwrite(path, np.ascontiguousarray(pixels), tile=(256, 256), compression="zlib", photometric="rgb")


def only(labels: NDArray[np.uint8], label: int) -> NDArray[np.uint8]:
    """1 where the label is, 0 elsewhere; 255 stays."""
    return np.where(labels == IGNORE, np.uint8(IGNORE), (labels == label).astype(np.uint8))

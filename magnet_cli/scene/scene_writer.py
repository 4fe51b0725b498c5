"""Writing a scene and its truth as tiled BigTIFF, in memory that does not depend on its size."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import imagecodecs
import numpy as np
import tifffile

from magnet_cli.errors import UsageError
from magnet_cli.geometry import Box, Size
from magnet_cli.scene.tile_spool import EncodedTiles
from magnet_cli.system.working_files import working_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from magnet_cli.scene.painter import Scene

_DEFLATE_LEVEL = 1
"""Level of deflate. Higher levels hardly shrink textured pixels further, and take several times as long."""
_JPEG_QUALITY = 85


@dataclass(frozen=True, kw_only=True)
class Pyramid:
    """Tiles, levels and compression in which a scene is stored."""

    tile: int = 256
    """Side of a tile, in pixels; a multiple of 16."""
    levels: int | None = None
    """Number of stored resolutions, level 0 included. None adds levels until one tile holds the whole."""
    compression: Literal["deflate", "jpeg"] = "deflate"
    """`jpeg` is YCbCr of quality 85 with halved colour."""
    chain: Literal["pages", "subifds"] = "pages"
    """Whether coarser levels follow as pages, which every reader finds, or as SubIFDs of the first page."""

    def __post_init__(self) -> None:
        if self.tile < 16 or self.tile % 16:  # noqa: PLR2004  # TIFF 6.0, section 15
            raise UsageError(
                "The side of a TIFF tile is a multiple of 16",
                value=self.tile,
                advice="Choose a multiple of 16, such as 256",
            )
        if self.levels is not None and self.levels < 1:
            raise UsageError("A pyramid has at least one level", value=self.levels, advice="Choose one level or more")

    def sizes(self, size: Size) -> list[Size]:
        """Return the size of every level, finest first; each is half the one before, rounded up."""
        sizes = [size]
        while len(sizes) != self.levels and (self.levels or max(sizes[-1].width, sizes[-1].height) > self.tile):
            sizes.append(Size(width=-(-sizes[-1].width // 2), height=-(-sizes[-1].height // 2)))
        return sizes

    def grid(self, size: Size) -> Size:
        """Return the columns and rows of tiles of a level."""
        return Size(width=-(-size.width // self.tile), height=-(-size.height // self.tile))


SOFTWARE = "magnet scene"
"""Text of the Software tag, by which a file of this program is recognised."""


def is_scene(path: Path) -> bool:
    """Return whether a file is a scene, or the truth of one, that this program wrote."""
    if not path.is_file():
        return False
    try:
        with tifffile.TiffFile(path) as tiff:
            return bool(tiff.pages.first.software == SOFTWARE)
    except (OSError, ValueError, tifffile.TiffFileError):
        return False


def write_scene(
    path: str | Path,
    scene: Scene,
    *,
    labels_path: str | Path | None = None,
    pyramid: Pyramid | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a scene as a pyramid, and its truth as a tiled TIFF of class indices.

    Every coarser level is the mean of 2 x 2 pixels of the one below, rounded; past an odd edge there are fewer. Tiles
    are computed along a Z-curve, so that only a few a level are held at a time, and spooled beside the target: the disk
    needs twice the file's size until it is done. A target appears complete or not at all.

    Args:
        path: The file of the image; an existing one is replaced.
        scene: The scene that is written.
        labels_path: The file of the truth, uint8, one resolution. None writes no truth.
        pyramid: The way in which it is stored.
        progress: Called with the number of finished tiles and of all tiles of level 0.

    Raises:
        OutputError: A file cannot be written.
    """
    image = Path(path)
    truth = None if labels_path is None else Path(labels_path)
    job = _Job(scene=scene, pyramid=pyramid or Pyramid(), truth=truth is not None, progress=progress)
    with EncodedTiles(image, job.grids) as tiles, EncodedTiles(truth or image, job.grids[:1]) as labels:
        job.run(tiles, labels)
        _assemble(image, tiles, job)
        if truth is not None:
            _assemble_labels(truth, labels, job)


@dataclass(kw_only=True)
class _Job:
    """One walk over the tiles of a scene."""

    scene: Scene
    pyramid: Pyramid
    truth: bool
    progress: Callable[[int, int], None] | None
    done: int = 0
    sizes: list[Size] = field(init=False)
    grids: list[Size] = field(init=False)

    def __post_init__(self) -> None:
        self.sizes = self.pyramid.sizes(self.scene.size)
        self.grids = [self.pyramid.grid(size) for size in self.sizes]

    def run(self, tiles: EncodedTiles, labels: EncodedTiles) -> None:
        """Compute every tile and keep it encoded."""
        top = len(self.sizes) - 1
        for row in range(self.grids[top].height):
            for column in range(self.grids[top].width):
                self._tile(tiles, labels, level=top, column=column, row=row)

    def _tile(
        self, tiles: EncodedTiles, labels: EncodedTiles, *, level: int, column: int, row: int
    ) -> NDArray[np.uint8]:
        """Compute and keep one tile with all those under it; `(height, width, 3)`, cut at the level's edge."""
        if level == 0:
            pixels = self._finest(labels, column=column, row=row)
        else:
            below = self.grids[level - 1]
            columns = range(2 * column, min(2 * column + 2, below.width))
            pixels = halved(
                np.concatenate(
                    [
                        np.concatenate(
                            [self._tile(tiles, labels, level=level - 1, column=x, row=y) for x in columns], axis=1
                        )
                        for y in range(2 * row, min(2 * row + 2, below.height))
                    ]
                )
            )
        encoded = encode(self._whole(pixels), compression=self.pyramid.compression)
        tiles.add(encoded, level=level, column=column, row=row)
        return pixels

    def _finest(self, labels: EncodedTiles, *, column: int, row: int) -> NDArray[np.uint8]:
        side = self.pyramid.tile
        box = Box(x=column * side, y=row * side, width=side, height=side)
        rendering = self.scene.render(box.intersection(Box.whole(self.scene.size)))
        if self.truth:
            encoded = encode(self._whole(rendering.labels), compression="deflate")
            labels.add(encoded, level=0, column=column, row=row)
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.grids[0].pixels)
        return rendering.pixels

    def _whole(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a full tile: beyond the edge the last pixels are repeated, which causes no ringing in JPEG."""
        missing = [(0, self.pyramid.tile - side) for side in pixels.shape[:2]]
        return np.pad(pixels, [*missing, (0, 0)][: pixels.ndim], mode="edge")


def halved(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Average 2 x 2 pixels, halves rounded up: `(height, width, 3)` to `(ceil(height / 2), ceil(width / 2), 3)`."""
    height, width = pixels.shape[:2]
    # With the last row repeated, the mean of two pairs is the mean of the one pair that exists.
    even = np.pad(pixels, [(0, height % 2), (0, width % 2), (0, 0)], mode="edge").astype(np.uint16)
    # In 16 bits, because four values of 8 bits do not fit in 8.
    total = even[0::2, 0::2] + even[0::2, 1::2] + even[1::2, 0::2] + even[1::2, 1::2]
    return ((total + 2) >> 2).astype(np.uint8)


def encode(tile: NDArray[np.uint8], *, compression: str) -> bytes:
    """Return a tile as it is stored: `deflate`, or `jpeg` of one grey band or of red, green and blue."""
    if compression == "jpeg" and tile.ndim == 3 and tile.shape[2] == 1:  # noqa: PLR2004 - rows, columns, bands
        return bytes(imagecodecs.jpeg8_encode(tile[..., 0], level=_JPEG_QUALITY))
    if compression == "jpeg":
        return bytes(
            imagecodecs.jpeg8_encode(
                tile, level=_JPEG_QUALITY, colorspace="RGB", outcolorspace="YCBCR", subsampling="420"
            )
        )
    return bytes(imagecodecs.deflate_encode(tile.tobytes(), level=_DEFLATE_LEVEL))


@contextmanager
def renamed(path: Path) -> Iterator[tifffile.TiffWriter]:
    """Open a BigTIFF that gets its name once it is complete."""
    with working_file(path) as file, tifffile.TiffWriter(file, bigtiff=True) as writer:
        yield writer


def _assemble(path: Path, tiles: EncodedTiles, job: _Job) -> None:
    """Store the pyramid's tiles as they are, level after level."""
    pyramid = job.pyramid
    coding: dict[str, Any] = {"compression": "deflate", "photometric": "rgb"}
    if pyramid.compression == "jpeg":
        coding = {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2)}
    with renamed(path) as writer:
        for level, size in enumerate(job.sizes):
            nested = len(job.sizes) - 1 if level == 0 and pyramid.chain == "subifds" else None
            writer.write(
                tiles.tiles(level),
                shape=(size.height, size.width, 3),
                dtype=np.uint8,
                tile=(pyramid.tile, pyramid.tile),
                # The tag marks reduced images, so that readers do not take them for further pictures.
                subfiletype=1 if level else 0,
                subifds=nested,
                software=SOFTWARE,
                metadata=None,
                **coding,
            )


def _assemble_labels(path: Path, labels: EncodedTiles, job: _Job) -> None:
    size, side = job.scene.size, job.pyramid.tile
    with renamed(path) as writer:
        writer.write(
            labels.tiles(0),
            shape=(size.height, size.width),
            dtype=np.uint8,
            tile=(side, side),
            compression="deflate",
            photometric="minisblack",
            software=SOFTWARE,
            metadata=None,
        )

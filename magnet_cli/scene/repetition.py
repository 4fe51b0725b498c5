"""One drawn part repeated over an image of any size: tiles are encoded once and stored as often as they occur."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from shutil import disk_usage
from typing import TYPE_CHECKING, Any

import numpy as np

from magnet_cli.errors import OutputError
from magnet_cli.geometry import Box, Size
from magnet_cli.scene.painter import Rendering, Scene
from magnet_cli.scene.scene_writer import Pyramid, encode, halved, renamed
from magnet_cli.system.memory import format_bytes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from numpy.typing import NDArray

    from magnet_cli.scene.materials import Label

PERIOD = 2048
"""Side of the drawn part, in pixels: a power of two, so that every coarser level repeats it exactly."""
LEAST_LEVEL = 1024
"""Side in pixels below which no coarser level is stored, as by scanners."""


@dataclass(frozen=True)
class _Level:
    """The tiles of one stored resolution that differ from each other."""

    tiles: tuple[tuple[bytes, ...], ...]
    """Rows of encoded tiles, repeated for ever."""
    size: Size
    grid: Size

    @property
    def stored(self) -> int:
        """Bytes of the whole level."""
        rows, columns = len(self.tiles), len(self.tiles[0])
        return sum(
            len(tile) * len(range(row, self.grid.height, rows)) * len(range(column, self.grid.width, columns))
            for row, line in enumerate(self.tiles)
            for column, tile in enumerate(line)
        )

    def all(self) -> Iterator[bytes]:
        """Yield every tile of the level, row by row."""
        for row in range(self.grid.height):
            line = self.tiles[row % len(self.tiles)]
            for column in range(self.grid.width):
                yield line[column % len(line)]


def write_repeated(path: str | Path, *, size: Size, seed: int = 0, bands: int = 3) -> int:
    """Write a tiled BigTIFF pyramid like that of a scanner, in memory that does not depend on its size.

    It repeats one drawn scene of `PERIOD` pixels; every tile is stored by itself, so that a reader has as much to read
    and to decode as in an image that never repeats.

    Args:
        path: The file of the image. An existing file is replaced by a complete one or not at all.
        size: The size of level 0.
        seed: Number that decides the scene.
        bands: Images of 1 or 3 bands are JPEG. Others, which JPEG cannot hold, repeat red, green and blue as deflate.

    Returns:
        The bytes that its tiles take.

    Raises:
        OutputError: The disk has no room for the file, or it cannot be written.
    """
    levels = _levels(size, bands=bands, seed=seed)
    return _write(Path(path), levels, () if bands == 1 else (bands,), **_coding(bands))


def write_repeated_mask(path: str | Path, *, size: Size, classes: Collection[Label], seed: int = 0) -> int:
    """Write a mask of some classes in the image of `write_repeated`: 0 and 1, tiled, in full resolution only.

    Args:
        path: The file of the mask. An existing file is replaced by a complete one or not at all.
        size: The size of the image.
        classes: The classes whose pixels are 1.
        seed: The seed of the image.

    Returns:
        The bytes that its tiles take.

    Raises:
        OutputError: The disk has no room for the file, or it cannot be written.
    """
    inside = np.isin(_drawn(seed).labels, list(classes)).astype(np.uint8)
    level = _Level(tiles=_tiles(inside, compression="deflate"), size=size, grid=Pyramid().grid(size))
    return _write(Path(path), [level], (), compression="deflate", photometric="minisblack")


def _write(target: Path, levels: Sequence[_Level], bands: tuple[int, ...], **coding: Any) -> int:
    """Store levels, finest first, whose shape ends in `bands`, and return the bytes of their tiles."""
    # Such files are large. Without this check a full disk would end the work only after minutes.
    needed = sum(level.stored for level in levels)
    free = disk_usage(target.parent).free
    if needed > free:
        raise OutputError(
            f"an image of {levels[0].size} pixels takes {format_bytes(needed)}, and {format_bytes(free)} are free",
            file=target,
            advice="Free space there, or name another folder in TMPDIR",
        )
    side = Pyramid().tile
    with renamed(target) as writer:
        for number, level in enumerate(levels):
            writer.write(
                level.all(),
                shape=(level.size.height, level.size.width, *bands),
                dtype=np.uint8,
                tile=(side, side),
                subfiletype=1 if number else 0,
                metadata=None,
                **coding,
            )
    return needed


def _levels(size: Size, *, bands: int, seed: int) -> list[_Level]:
    pixels = _drawn(seed).pixels[..., [band % 3 for band in range(bands)]]
    pyramid = Pyramid()
    sizes = pyramid.sizes(size)
    kept = [level for number, level in enumerate(sizes) if not number or max(level.width, level.height) >= LEAST_LEVEL]
    levels = []
    for level in kept:
        tiles = _tiles(pixels, compression="jpeg" if bands in (1, 3) else "deflate")
        # The period is a power of two, so halving the drawn part halves the whole image, and each level repeats as
        # well.
        levels.append(_Level(tiles=tiles, size=level, grid=pyramid.grid(level)))
        pixels = halved(pixels)
    return levels


@lru_cache(maxsize=1)
def _drawn(seed: int) -> Rendering:
    """Draw the part of a scene that is repeated, `PERIOD` pixels a side."""
    whole = Size(width=PERIOD, height=PERIOD)
    return Scene(size=whole, seed=seed).render(Box.whole(whole))


def _tiles(pixels: NDArray[np.uint8], *, compression: str) -> tuple[tuple[bytes, ...], ...]:
    """Return the encoded tiles of a part, which is repeated first where it is smaller than a tile."""
    side = Pyramid().tile
    times = max(1, side // pixels.shape[0])
    pixels = np.tile(pixels, (times, times, 1)[: pixels.ndim])
    starts = range(0, pixels.shape[0], side)
    blocks = [[pixels[row : row + side, column : column + side] for column in starts] for row in starts]
    return tuple(tuple(encode(np.ascontiguousarray(block), compression=compression) for block in row) for row in blocks)


def _coding(bands: int) -> dict[str, Any]:
    if bands == 1:
        return {"compression": "jpeg", "photometric": "minisblack"}
    if bands == 3:  # noqa: PLR2004 - red, green, blue
        return {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2)}
    return {"compression": "deflate", "photometric": "minisblack", "planarconfig": "contig"}

"""Large rasters in one temporary file, for what a training cannot read from its images again and again."""

from __future__ import annotations

import tempfile
import weakref
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.geometry import Box, Size
from magnet_cli.system.durable import read_at, write_at, writing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedRandom
    from pathlib import Path

    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

TILE = 256
"""Rows and columns of a tile."""


class RasterSpool:
    """A nameless file that planes are cut from; it goes with the last reference to it, also after `kill -9`.

    Args:
        folder: The folder of the file, made where missing when the first plane is added.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._end = 0
        self._file: BufferedRandom | None = None

    def plane(self, size: Size, *, bands: int) -> Plane:
        """Room for a raster, all zero; what stays zero takes no disk where the file system knows holes.

        Raises:
            OutputError: The folder cannot be written to.
        """
        if self._file is None:
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 (closed by the finalizer)
            weakref.finalize(self, self._file.close)
        plane = Plane(self, self._file.fileno(), size=size, bands=bands, offset=self._end)
        self._end += plane_bytes(size, bands=bands)
        return plane


def plane_bytes(size: Size, *, bands: int) -> int:
    """Disk that a plane takes at most."""
    return -(-size.width // TILE) * -(-size.height // TILE) * TILE * TILE * bands


class Plane:
    """One raster of a spool, in uncompressed tiles: written by rows, read by box, from several threads at once.

    Args:
        spool: Kept open as long as the plane is used.
        descriptor: The descriptor of its file.
        size: The size in pixels.
        bands: Number of bands.
        offset: The offset of its first byte.
    """

    def __init__(self, spool: RasterSpool, descriptor: int, *, size: Size, bands: int, offset: int) -> None:
        self.size, self.bands = size, bands
        self._spool, self._descriptor, self._offset = spool, descriptor, offset
        self._columns = -(-size.width // TILE)

    def write(self, y: int, values: Pixels) -> None:
        """Put rows of the whole width where they belong, `(n, size.width, bands)` uint8.

        Raises:
            OutputError: The disk is full.
        """
        box = Box(x=0, y=y, width=self.size.width, height=len(values))
        for place, part in self._tiles(box):
            strip = np.zeros((part.height, TILE, self.bands), np.uint8)
            strip[:, : part.width] = values[part.shifted(x=0, y=-y).slices]
            if strip.any():
                with writing(self._spool.folder):
                    write_at(self._descriptor, strip.tobytes(), place)

    def read(self, box: Box) -> Pixels:
        """The pixels of a box inside it, `(box.height, box.width, bands)` uint8."""
        found = np.zeros((box.height, box.width, self.bands), np.uint8)
        for place, part in self._tiles(box):
            data = read_at(self._descriptor, part.height * TILE * self.bands, place)
            # Beyond the end of the file lies what was never written.
            rows = np.frombuffer(data.ljust(part.height * TILE * self.bands, b"\0"), np.uint8)
            left = part.x % TILE
            values = rows.reshape(part.height, TILE, self.bands)[:, left : left + part.width]
            found[part.shifted(x=-box.x, y=-box.y).slices] = values
        return found

    def _tiles(self, box: Box) -> Iterator[tuple[int, Box]]:
        """What a box has of each tile, with the place in the file where the first of its rows begins."""
        for row in range(box.y // TILE, -(-box.bottom // TILE)):
            for column in range(box.x // TILE, -(-box.right // TILE)):
                part = Box(x=column * TILE, y=row * TILE, width=TILE, height=TILE).intersection(box)
                line = (row * self._columns + column) * TILE + part.y % TILE
                yield self._offset + line * TILE * self.bands, part

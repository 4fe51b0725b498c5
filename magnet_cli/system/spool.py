"""Data that waits on disk in files without a name."""

from __future__ import annotations

import tempfile
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from magnet_cli.geometry import Box, Size
from magnet_cli.system import durable
from magnet_cli.system.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import DTypeLike, NDArray

TILE = 256
"""Rows and columns of a tile of a spooled raster."""


class Spool(Closing):
    """A temporary file without a name. It is deleted with its last reference, and when the process dies.

    Reading and writing at a place is safe from several threads; appending is for one thread at a time.

    Args:
        folder: The folder of the file.
        refusal: Makes a context that turns the operating system's refusal into an error. Without it the error is an
            `OutputError` that names the folder.

    Raises:
        OutputError: The folder cannot be written to; also from `append` and `write`.
    """

    def __init__(self, folder: Path, *, refusal: Callable[[], AbstractContextManager[None]] | None = None) -> None:
        self.folder = folder
        self._refusal = refusal or partial(durable.writing, folder)
        with self._refusal():
            # There is no buffer, because reading and writing at a place would bypass it.
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (closed by the finalizer)
        self._close = weakref.finalize(self, self._file.close)
        self._end = 0

    def reserve(self, length: int) -> int:
        """Append zeros to the file, and return their offset. On most file systems zeros take no disk."""
        start = self._end
        self._end += length
        return start

    def append(self, data: bytes) -> int:
        """Write data at the end and return its place."""
        start = self.reserve(len(data))
        self.write(data, start)
        return start

    def write(self, data: bytes, place: int) -> None:
        """Write data at a place."""
        with self._refusal():
            durable.write_at(self._file.fileno(), data, place)

    def read(self, length: int, place: int) -> bytes:
        """Read `length` bytes from a place; bytes that were reserved and never written are zero."""
        with self._refusal():
            return durable.read_at(self._file.fileno(), length, place).ljust(length, b"\0")

    def close(self) -> None:
        """Delete the file."""
        self._close()


class SpooledRaster:
    """A raster in uncompressed tiles of a spool: written by rows, read by box, from several threads at once.

    Args:
        spool: The spool, which several rasters can share.
        size: The size in pixels.
        bands: Number of bands.
        dtype: Type of a value.
    """

    def __init__(self, spool: Spool, size: Size, *, bands: int, dtype: DTypeLike = np.uint8) -> None:
        self.spool, self.size, self.bands = spool, size, bands
        self._dtype = np.dtype(dtype)
        self._columns = -(-size.width // TILE)
        self._line = TILE * bands * self._dtype.itemsize
        self._place = spool.reserve(raster_bytes(size, bands=bands, dtype=self._dtype))

    def write(self, y: int, values: NDArray[Any]) -> None:
        """Store rows of the whole width from row `y` on, `(n, size.width, bands)`."""
        box = Box(x=0, y=y, width=self.size.width, height=len(values))
        for place, part in self._tiles(box):
            strip = np.zeros((part.height, TILE, self.bands), self._dtype)
            strip[:, : part.width] = values[part.shifted(x=0, y=-y).slices]
            # What was never written reads as zeros and takes no disk: an image may be mostly empty.
            if strip.any():
                self.spool.write(strip.tobytes(), place)

    def read(self, box: Box) -> NDArray[Any]:
        """Return the pixels of a box inside the raster, `(box.height, box.width, bands)`.

        Pixels that were never written are zero.
        """
        found = np.empty((box.height, box.width, self.bands), self._dtype)
        for place, part in self._tiles(box):
            rows = np.frombuffer(self.spool.read(part.height * self._line, place), self._dtype)
            left = part.x % TILE
            values = rows.reshape(part.height, TILE, self.bands)[:, left : left + part.width]
            found[part.shifted(x=-box.x, y=-box.y).slices] = values
        return found

    def close(self) -> None:
        """Delete the spool."""
        self.spool.close()

    def _tiles(self, box: Box) -> Iterator[tuple[int, Box]]:
        """Yield the part of each tile that a box covers, with the place in the spool of the first of its rows."""
        for row in range(box.y // TILE, -(-box.bottom // TILE)):
            for column in range(box.x // TILE, -(-box.right // TILE)):
                part = Box(x=column * TILE, y=row * TILE, width=TILE, height=TILE).intersection(box)
                line = (row * self._columns + column) * TILE + part.y % TILE
                yield self._place + line * self._line, part


def raster_bytes(size: Size, *, bands: int, dtype: DTypeLike = np.uint8) -> int:
    """Return the disk that a raster takes at most."""
    return -(-size.width // TILE) * -(-size.height // TILE) * TILE * TILE * bands * np.dtype(dtype).itemsize

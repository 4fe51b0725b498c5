"""The disk that a one-time decode may use, and the tile file that it writes."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np

from magnet_cli.errors import SourceError
from magnet_cli.geometry import Box, Size
from magnet_cli.images.failures import naming

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.images.budget import CacheBudget

CACHE_TILE = Size(width=256, height=256)
"""Storage tiles of a decoded image."""

MEMORY_BYTES = 64 << 20
"""A decoded image up to this size is held in memory instead."""


def cache_bytes(size: Size, *, bands: int, dtype: np.dtype[Any]) -> int:
    """Disk that a decoded image of this size takes; 0 where it is held in memory instead."""
    if size.pixels * bands * dtype.itemsize <= MEMORY_BYTES:
        return 0
    columns, rows = -(-size.width // CACHE_TILE.width), -(-size.height // CACHE_TILE.height)
    return columns * rows * CACHE_TILE.pixels * bands * dtype.itemsize


def check_budget(file: str, needed: int, cache: CacheBudget | None) -> None:
    """Refuse a one-time decode that does not fit its budget.

    Raises:
        SourceError: It needs disk, and none or too little is allowed.
    """
    if needed == 0 or (cache is not None and needed <= cache.max_bytes):
        return
    allowed = "none is allowed" if cache is None else f"{cache.max_bytes:,} are allowed"
    raise SourceError(
        f"this file cannot be read by region: decoding it once needs {needed:,} bytes of disk",
        value=allowed,
        file=file,
        advice="Allow that much work space, or convert the file to a tiled TIFF",
    )


class TileFile:
    """An uncompressed tiled image in a nameless temporary file, written row by row and read by box.

    Args:
        folder: Where the file lies; made where missing.
        size: Of the image.
        bands: Number of bands.
        dtype: Of the pixels.

    Raises:
        SourceError: The folder cannot be written.
    """

    def __init__(self, folder: Path, size: Size, *, bands: int, dtype: np.dtype[Any]) -> None:
        self.size = size
        self._bands = bands
        self._dtype = dtype
        self._folder = folder
        self._columns = -(-size.width // CACHE_TILE.width)
        self._row_bytes = CACHE_TILE.width * bands * dtype.itemsize
        with self._naming():
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (closed by close)

    def write_rows(self, y: int, rows: NDArray[Any]) -> None:
        """Store rows of the whole width.

        Args:
            y: Of the first row.
            rows: `(n, width, bands)`, not crossing a multiple of the tile height.
        """
        for column in range(self._columns):
            x = column * CACHE_TILE.width
            strip = np.zeros((len(rows), CACHE_TILE.width, self._bands), self._dtype)
            part = rows[:, x : x + CACHE_TILE.width]
            strip[:, : part.shape[1]] = part
            with self._naming():
                self._write(self._offset(column, y), strip.tobytes())

    def read(self, box: Box) -> NDArray[Any]:
        """The pixels of a box inside the image, `(height, width, bands)`."""
        pixels = np.empty((box.height, box.width, self._bands), self._dtype)
        for row in range(box.y // CACHE_TILE.height, -(-box.bottom // CACHE_TILE.height)):
            for column in range(box.x // CACHE_TILE.width, -(-box.right // CACHE_TILE.width)):
                x, y = column * CACHE_TILE.width, row * CACHE_TILE.height
                part = Box(x=x, y=y, width=CACHE_TILE.width, height=CACHE_TILE.height).intersection(box)
                values = self._rows(column, part.y, part.height)
                pixels[part.shifted(x=-box.x, y=-box.y).slices] = values[:, part.x - x : part.right - x]
        return pixels

    def close(self) -> None:
        """Delete the file."""
        self._file.close()

    def _rows(self, column: int, y: int, count: int) -> NDArray[Any]:
        with self._naming():
            data = os.pread(self._file.fileno(), count * self._row_bytes, self._offset(column, y))
            return np.frombuffer(data, self._dtype).reshape(count, CACHE_TILE.width, self._bands)

    def _offset(self, column: int, y: int) -> int:
        row, inside = divmod(y, CACHE_TILE.height)
        return ((row * self._columns + column) * CACHE_TILE.height + inside) * self._row_bytes

    def _write(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file.fileno(), view, offset)
            offset += written
            view = view[written:]

    def _naming(self) -> AbstractContextManager[None]:
        return naming(self._folder, "the decoded image cannot be kept here", advice="Free disk, or name another folder")

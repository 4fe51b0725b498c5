"""Encoded tiles kept on disk until their turn: they are made along a Z-curve and stored row by row."""

from __future__ import annotations

from array import array
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Self

from magnet_cli.system.durable import writing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from magnet_cli.geometry import Size


class TileSpool:
    """An unnamed file of tiles: it is gone when closed, also after `kill -9`.

    Memory holds 16 bytes a tile, whatever the tile's size.

    Args:
        target: The file that the tiles are for; the spool lies in its folder and needs as much room.
        grids: Columns and rows of tiles of each level.

    Raises:
        OutputError: The folder cannot be written to; also from `add`.
    """

    def __init__(self, target: Path, grids: Sequence[Size]) -> None:
        self._columns = [grid.width for grid in grids]
        self._starts = [array("Q", bytes(8 * grid.pixels)) for grid in grids]
        self._lengths = [array("Q", bytes(8 * grid.pixels)) for grid in grids]
        self._end = 0
        self._target = target
        with writing(target):
            self._file = TemporaryFile(dir=target.parent)  # noqa: SIM115  # closed by __exit__

    def add(self, encoded: bytes, *, level: int, column: int, row: int) -> None:
        """Append one encoded tile to the spool."""
        place = row * self._columns[level] + column
        self._starts[level][place] = self._end
        self._lengths[level][place] = len(encoded)
        with writing(self._target):
            self._file.write(encoded)
        self._end += len(encoded)

    def tiles(self, level: int) -> Iterator[bytes]:
        """The tiles of a level, row by row; all of them must have been added."""
        for start, length in zip(self._starts[level], self._lengths[level], strict=True):
            self._file.seek(start)
            yield self._file.read(length)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

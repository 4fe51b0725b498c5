"""Encoded tiles kept on disk until their turn: they are made along a Z-curve and stored row by row."""

from __future__ import annotations

from array import array
from functools import partial
from typing import TYPE_CHECKING

from magnet_cli.system.durable import writing
from magnet_cli.system.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from magnet_cli.geometry import Size


class EncodedTiles(Spool):
    """Encoded tiles of the levels of a file that is yet to be written.

    Memory holds 16 bytes a tile, whatever the tile's size.

    Args:
        target: The file of which these are the tiles. The spool lies in its folder and needs as much room.
        grids: Columns and rows of tiles of each level.

    Raises:
        OutputError: The folder cannot be written to; also from `add`.
    """

    def __init__(self, target: Path, grids: Sequence[Size]) -> None:
        super().__init__(target.parent, refusal=partial(writing, target))
        self._columns = [grid.width for grid in grids]
        self._starts = [array("Q", bytes(8 * grid.pixels)) for grid in grids]
        self._lengths = [array("Q", bytes(8 * grid.pixels)) for grid in grids]

    def add(self, encoded: bytes, *, level: int, column: int, row: int) -> None:
        """Keep one encoded tile."""
        place = row * self._columns[level] + column
        self._starts[level][place], self._lengths[level][place] = self.append(encoded), len(encoded)

    def tiles(self, level: int) -> Iterator[bytes]:
        """Yield the tiles of a level, row by row; all of them must have been added."""
        for start, length in zip(self._starts[level], self._lengths[level], strict=True):
            yield self.read(length, start)

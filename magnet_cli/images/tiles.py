"""A bounded memory of decoded tiles."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from magnet_cli.images.store import Pixels

TILE_CACHE_BYTES = 32 << 20
"""Decoded tiles that an opened image keeps, so that neighbouring windows do not decode their common tiles twice."""


class TileCache:
    """Decoded tiles, the least recently used forgotten first.

    Args:
        capacity: Bytes kept at most.
    """

    def __init__(self, capacity: int = TILE_CACHE_BYTES) -> None:
        self._capacity = capacity
        self._tiles: OrderedDict[tuple[int, ...], Pixels] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def get(self, key: tuple[int, ...], decode: Callable[[], Pixels]) -> Pixels:
        """The tile of this key, decoded now where it is not kept; two threads may decode the same tile at once."""
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._tiles.move_to_end(key)
                return tile
        tile = decode()
        self._keep(key, tile)
        return tile

    def clear(self) -> None:
        """Forget every tile."""
        with self._lock:
            self._tiles.clear()
            self._bytes = 0

    def _keep(self, key: tuple[int, ...], tile: Pixels) -> None:
        size = _size(tile)
        if size > self._capacity:
            return
        with self._lock:
            if key in self._tiles:
                return
            self._tiles[key] = tile
            self._bytes += size
            while self._bytes > self._capacity:
                _, old = self._tiles.popitem(last=False)
                self._bytes -= _size(old)


def _size(tile: Pixels) -> int:
    return tile.values.nbytes + (0 if tile.valid is None else tile.valid.nbytes)

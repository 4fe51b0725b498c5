"""Decoded arrays kept for a while, bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class ByteCache:
    """Arrays by key; the least recently used ones go when together they exceed `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._arrays: OrderedDict[int, NDArray[np.generic]] = OrderedDict()
        self._lock = threading.Lock()
        self.nbytes = 0
        """Held now."""

    def get(self, key: int) -> NDArray[np.generic] | None:
        """The array, now the most recently used; None where it is not held."""
        with self._lock:
            array = self._arrays.get(key)
            if array is not None:
                self._arrays.move_to_end(key)
            return array

    def put(self, key: int, array: NDArray[np.generic]) -> None:
        """Hold an array; one larger than the limit is not held at all."""
        with self._lock:
            if key in self._arrays or array.nbytes > self._limit:
                return
            self._arrays[key] = array
            self.nbytes += array.nbytes
            while self.nbytes > self._limit:
                _, oldest = self._arrays.popitem(last=False)
                self.nbytes -= oldest.nbytes

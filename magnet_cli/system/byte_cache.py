"""Values kept in memory for a while, bounded in bytes."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Generic, TypeVar

from cachetools import LRUCache

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

Value = TypeVar("Value")


class ByteCache(Generic[Value]):
    """Values by key, for several threads; the least recently used ones are forgotten first.

    Args:
        capacity: Bytes that the values take together at most. A larger value is not kept at all.
        size: The bytes of a value.
    """

    def __init__(self, capacity: int, *, size: Callable[[Value], int]) -> None:
        self._size = size
        self._values: LRUCache[Hashable, Value] = LRUCache(capacity, getsizeof=size)
        self._lock = Lock()

    @property
    def nbytes(self) -> int:
        """Bytes that are kept now."""
        return int(self._values.currsize)

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of a key, made now where it is not kept; two threads may make the same value at once."""
        with self._lock:
            if key in self._values:
                return self._values[key]
        # The lock is not held meanwhile: decoding takes long, and other threads would wait for other keys.
        value = make()
        with self._lock:
            if key not in self._values and self._size(value) <= self._values.maxsize:
                self._values[key] = value
        return value

    def clear(self) -> None:
        """Forget every value."""
        with self._lock:
            self._values.clear()

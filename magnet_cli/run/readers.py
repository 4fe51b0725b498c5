"""Threads that read groups ahead of the computation."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from magnet_cli.run.clock import Clock


class Readers:
    """Reads groups ahead of the computation in threads, which serve one pass after the other. It is a context manager.

    While a group is computed, at most `ahead` others are being read or wait to be taken. That bounds the memory.

    Args:
        threads: Number of reading threads. With 0 the caller reads each group when it takes it.
        ahead: Number of groups that may be read ahead.
        clock: Measures how long the caller waits.
    """

    def __init__(self, *, threads: int, ahead: int, clock: Clock) -> None:
        self._clock = clock
        self._read: Callable[[int], Any] = _no_pass
        self._groups: Iterator[int] = iter(())
        self._following: deque[int] = deque()
        """Groups whose turn comes next, in order. Reading has begun for the first of them."""
        self._waiting: dict[int, Future[Any]] = {}
        self._pool = ThreadPoolExecutor(threads, "read") if threads and ahead else None
        self._ahead = ahead if self._pool is not None else 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        # The function that reads a pass refers to these readers. Without this, the cycle keeps both, and tensors on a
        # device, until Python collects garbage.
        self._read = _no_pass
        self._waiting.clear()

    @property
    def are_stopped(self) -> bool:
        """Whether nothing is read ahead, because `stop` was called or there are no threads."""
        return self._pool is None

    def begin(self, read: Callable[[int], Any], groups: Iterable[int]) -> None:
        """Begin another pass, once all groups of the pass before were taken.

        Args:
            read: Reads a group. Several threads call it.
            groups: Groups in the order in which they will be taken. The iterator is advanced as late as reading ahead
                allows.
        """
        self._read, self._groups = read, iter(groups)

    def read_first(self) -> None:
        """Begin to read the first group of a pass before its turn."""
        self._read_following(1)

    def turn(self) -> tuple[int, bool] | None:
        """Return the next group and whether it is the last; None after the last. Reading ahead continues.

        The caller takes the group before it calls this again.
        """
        self._read_following(self._ahead + 1)
        if not self._following:
            return None
        return self._following.popleft(), not self._following

    def _read_following(self, count: int) -> None:
        """Begin to read the next groups, as far as that has not begun."""
        # One group more is asked for, to know whether a group is the last.
        self._following.extend(islice(self._groups, max(0, count + 1 - len(self._following))))
        if self._pool is not None:
            for group in islice(self._following, count):
                if group not in self._waiting:
                    self._waiting[group] = self._pool.submit(self._read, group)

    def take(self, group: int) -> Any:
        """Return what was read for a group. A second call for the same group reads it again.

        Raises:
            MagnetError: The group could not be read.
        """
        future = self._waiting.pop(group, None)
        if future is None:
            return self._read(group)
        with self._clock.measure("idle"):
            return future.result()

    def stop(self) -> None:
        """Stop reading ahead. Groups that were read already are dropped, and will be read again when they are taken."""
        if self._pool is None:
            return
        # Reads that have begun cannot be stopped. They are waited for, so that their memory is free before the next
        # try.
        for future in self._waiting.values():
            future.cancel()
        wait(self._waiting.values())
        self._waiting.clear()
        self._pool.shutdown()
        self._pool, self._ahead = None, 0


def _no_pass(group: int) -> Any:
    message = f"group {group} was taken before a pass was begun"
    raise RuntimeError(message)

"""Reading what groups need ahead of the computation."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from magnet_cli.run.clock import Clock


class Ahead:
    """What groups need, in their order: some are read by a thread while earlier ones are computed, as a context.

    Args:
        read: All that a group needs.
        groups: In order.
        most: How many may wait; 0 reads each in the caller's thread when it is asked for.
        clock: Told how long the caller waited.
    """

    def __init__(self, read: Callable[[int], Any], groups: Iterable[int], *, most: int, clock: Clock) -> None:
        self._read = read
        self._unread = deque(groups)
        self._most = most
        self._clock = clock
        self._waiting: dict[int, Future[Any]] = {}
        self.is_stopped = False
        self._pool = ThreadPoolExecutor(1, "read") if most else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def take(self, group: int) -> Any:
        """What the next group needs, or once more what the last one did; those after it are read meanwhile.

        Raises:
            MagnetError: As reading raised it.
        """
        self._fill()
        future = self._waiting.pop(group, None)
        if future is None:
            return self._read(group)
        with self._clock.measure("idle"):
            given = future.result()
        self._fill()
        return given

    def stop(self) -> None:
        """From now on read each group only when it is asked for; what was read ahead is let go, and read again."""
        self.is_stopped, self._most = True, 0
        for future in self._waiting.values():
            future.cancel()
        wait(self._waiting.values())
        self._waiting.clear()

    def _fill(self) -> None:
        while self._pool is not None and self._unread and len(self._waiting) < self._most:
            group = self._unread.popleft()
            self._waiting[group] = self._pool.submit(self._read, group)

"""Reading what groups need ahead of the computation."""

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
    """Threads that read groups ahead of the computation, as a context. They serve one pass after the other.

    At most `ahead` groups that were read, or are being read, wait while another one is computed.

    Args:
        threads: How many read at the same time. With 0 the caller reads each group when it takes it.
        ahead: Groups that may wait.
        clock: Measures how long the caller waits.
    """

    def __init__(self, *, threads: int, ahead: int, clock: Clock) -> None:
        self._clock = clock
        self._read: Callable[[int], Any] = _no_pass
        self._groups: Iterator[int] = iter(())
        self._following: deque[int] = deque()
        """Groups that were named and not begun."""
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
        # What reads a pass holds these readers: without this both, and tensors on a device, wait for a collection.
        self._read = _no_pass
        self._waiting.clear()

    @property
    def are_stopped(self) -> bool:
        """Whether nothing is read ahead any more, or ever was."""
        return self._pool is None

    def begin(self, read: Callable[[int], Any], groups: Iterable[int]) -> None:
        """Turn to another pass, once all groups of the one before were taken.

        Args:
            read: Gives what a group needs; several threads call it.
            groups: In the order in which they will be taken. They are asked for as late as reading ahead allows.
        """
        self._read, self._groups = read, iter(groups)

    def turn(self) -> tuple[int, bool] | None:
        """The group whose turn it is and whether it is the last; None after the last. Reading ahead goes on meanwhile.

        Whoever is given a group takes it before asking for the next.
        """
        # One more than is read, to know whether it is the last.
        self._following.extend(islice(self._groups, max(0, self._ahead + 2 - len(self._following))))
        if self._pool is not None:
            for group in islice(self._following, self._ahead + 1):
                if group not in self._waiting:
                    self._waiting[group] = self._pool.submit(self._read, group)
        if not self._following:
            return None
        return self._following.popleft(), not self._following

    def take(self, group: int) -> Any:
        """What a group needs; asked for again, it is read again.

        Raises:
            MagnetError: As `read` raised it.
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
        for future in self._waiting.values():
            future.cancel()
        wait(self._waiting.values())
        self._waiting.clear()
        self._pool.shutdown()
        self._pool, self._ahead = None, 0


def _no_pass(group: int) -> Any:
    message = f"group {group} was taken before a pass was begun"
    raise RuntimeError(message)

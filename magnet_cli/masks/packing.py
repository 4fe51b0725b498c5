"""Tiles by several threads, once nothing else runs: what compresses them works without the interpreter's lock."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from concurrent.futures import Future

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = 4
"""More than there are cores do no harm: they wait for each other."""
WAITING = 2 * THREADS
"""Results that may wait for those before them; a few hundred kilobytes each."""


def by_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result]:
    """What `work` makes of each item, in their order; memory does not grow with how many there are.

    Args:
        work: Called by several threads at once.
        items: Taken as results are asked for, at most `WAITING` ahead.

    Raises:
        Whatever `work` raises, in its item's turn; nothing after it is begun.
    """
    with ThreadPoolExecutor(THREADS, "pack") as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) == WAITING:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

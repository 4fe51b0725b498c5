"""Tiles are compressed by several threads at once, because the compressors release the lock of the interpreter."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from magnet_cli.system.threads import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from concurrent.futures import Future

Item = TypeVar("Item")
Result = TypeVar("Result")

LEAST, MOST = 4, 16
"""Bounds of the number of threads. More threads than cores do no harm, because they wait for each other."""
WAITING = 2
"""Results for each thread that may wait for those before them; a few hundred kilobytes each."""


def by_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result]:
    """Yield the results of `work` for items, in their order; memory does not grow with the number of items.

    Args:
        work: Called by several threads at once, or by the calling thread where there is one core.
        items: Taken as results are asked for, a few ahead.

    Raises:
        Whatever `work` raises, in its item's turn; nothing after it is begun.
    """
    if usable_cores() == 1:
        yield from map(work, items)
        return
    threads = min(max(LEAST, usable_cores()), MOST)
    with ThreadPoolExecutor(threads, "pack") as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) == WAITING * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # If the caller stops early, items that were not begun are not worked on.
            pool.shutdown(cancel_futures=True)

"""A thread that stores the results of one group while the next is computed."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

from magnet_cli.models.device import SideStream

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    import torch

    from magnet_cli.run.clock import Clock


class Writer:
    """Stores results in a thread beside the computation. At most one group waits for it. It is a context manager.

    Args:
        beside: Whether there is a thread. Without one, the caller stores results itself.
        device: The device that computes the results. From a GPU the thread copies them in a stream of its own.
        clock: Measures how long the caller waits.
    """

    def __init__(self, *, beside: bool, device: str, clock: Clock) -> None:
        self._clock = clock
        self._side = SideStream(device)
        self._pool = ThreadPoolExecutor(1, "write") if beside else None
        self._pending: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        finally:
            self._end()

    @property
    def is_stopped(self) -> bool:
        """Whether the caller stores results itself, because `stop` was called or there is no thread."""
        return self._pool is None

    def put(self, store: Callable[[], None], *, is_last: bool) -> None:
        """Store results after those before. The last results of a pass are stored before this returns.

        Raises:
            MagnetError: These results, or those before, could not be stored.
        """
        self.wait()
        # Nothing is computed beside the last group, so a thread would gain nothing, and PyTorch would start a pool of
        # threads for the operations of that thread.
        if self._pool is None or is_last:
            store()
        else:
            # The mark says which work on a GPU the results come from, so that the copy waits for that and not for the
            # next group.
            self._pending = self._pool.submit(self._store_beside, store, self._side.mark())

    def wait(self) -> None:
        """Return once all results are stored.

        Raises:
            MagnetError: Results could not be stored.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            with self._clock.measure("idle"):
                pending.result()

    def stop(self) -> None:
        """Stop the thread. From now on the caller stores each group before it computes the next."""
        self.wait()
        self._end()

    def _store_beside(self, store: Callable[[], None], computed: torch.cuda.Event | None) -> None:
        with self._side.after(computed):
            store()

    def _end(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

"""Storing the results of one group while the next is computed."""

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
    """A thread that stores results beside the computation, as a context; at most one group waits for it.

    Args:
        beside: Whether there is a thread. Without one results are stored by the caller.
        device: Computes the results. The thread fetches them from a GPU through a queue of its own.
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
        """Whether the caller stores results itself."""
        return self._pool is None

    def put(self, store: Callable[[], None], *, is_last: bool) -> None:
        """Store results, once those before are stored; the last ones of a pass before this returns.

        Raises:
            MagnetError: As storing these results, or those before, raised it.
        """
        self.wait()
        # The last one has nothing beside it, and the operations of another thread start threads of their own.
        if self._pool is None or is_last:
            store()
        else:
            self._pending = self._pool.submit(self._store_beside, store, self._side.mark())

    def wait(self) -> None:
        """Return once everything that was put is stored.

        Raises:
            MagnetError: As storing it raised it.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            with self._clock.measure("idle"):
                pending.result()

    def stop(self) -> None:
        """From now on let the caller store each group before the next is computed."""
        self.wait()
        self._end()

    def _store_beside(self, store: Callable[[], None], computed: torch.cuda.Event | None) -> None:
        with self._side.after(computed):
            store()

    def _end(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

"""Where a run's time goes."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ACTIVITIES = ("read", "forward", "refine", "select", "write", "idle")


class Clock:
    """Seconds by activity, added up over threads; `idle` is the computing thread waiting for pixels or for the disk.

    Args:
        activities: That may be measured.
    """

    def __init__(self, activities: Iterable[str] = ACTIVITIES) -> None:
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(activities, 0.0)
        self._started = time.perf_counter()

    @contextmanager
    def measure(self, activity: str) -> Iterator[None]:
        """Add the time spent inside to an activity."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            with self._lock:
                self._seconds[activity] += spent

    def seconds(self) -> dict[str, float]:
        """Seconds by activity, and `wall` since the clock was made."""
        with self._lock:
            rounded = {activity: round(value, 3) for activity, value in self._seconds.items()}
        return {**rounded, "wall": round(time.perf_counter() - self._started, 3)}

"""Where a run's time goes."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

ACTIVITIES = ("read", "write", "idle")
"""The activities that the engine measures in every run. `idle` is the time in which the computing thread waits for
pixels or for the disk."""
NOTED = "seconds"
"""Among the counts of a group: the time of all runs until then."""
NOTED_EVERY = 10.0
"""Seconds between such notes at least, so that a journal stays short. What an interrupted run did after the last of
its groups that noted the time is not counted."""


class Clock:
    """Seconds by activity, added up over threads.

    Args:
        activities: The activities that may be measured, in the order in which the report has them. A job that measures
            more than the engine does names all of them.
    """

    def __init__(self, activities: Iterable[str] = ACTIVITIES) -> None:
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(activities, 0.0)
        self._before: dict[str, float] = {}
        self._started = self._noted = time.perf_counter()

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

    def go_on(self, finished: Iterable[Mapping[str, Any]]) -> None:
        """Count the time of the runs before, by what they noted with groups that they finished."""
        noted = [counts[NOTED] for counts in finished if NOTED in counts]
        self._before = max(noted, key=lambda found: found["wall"], default={})

    def note(self) -> dict[str, dict[str, float]]:
        """What a group that is finished now notes; nothing where another one did lately."""
        now = time.perf_counter()
        with self._lock:
            if now - self._noted < NOTED_EVERY:
                return {}
            self._noted = now
        return {NOTED: self.seconds()}

    def seconds(self) -> dict[str, float]:
        """Seconds by activity, and `wall` since the clock was made; of runs before this one as well."""
        with self._lock:
            found = {**self._seconds, "wall": time.perf_counter() - self._started}
        return {key: round(value + self._before.get(key, 0.0), 3) for key, value in found.items()}

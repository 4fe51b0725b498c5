"""The time that a run spends on each activity."""

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
"""Key of a group's counts under which the journal has the time of all runs so far."""
NOTED_EVERY = 10.0
"""Least seconds between two such notes, so that a journal stays short. The time that an interrupted run spent after its
last note is not counted."""


class Clock:
    """Counts seconds by activity, summed over threads.

    Args:
        activities: The activities that may be measured, in the order in which the report has them. A job that measures
            more than the engine does names all of them.
        noting: Whether groups get notes of the time. A process that reports its time otherwise leaves none.
    """

    def __init__(self, activities: Iterable[str] = ACTIVITIES, *, noting: bool = True) -> None:
        self._noting = noting
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(activities, 0.0)
        self._before: dict[str, float] = {}
        self._started = self._noted = time.perf_counter()

    def begin(self) -> None:
        """Count the wall time from now on. What was measured of activities before stays."""
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

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add the time that other processes have spent on activities that this clock measures."""
        with self._lock:
            for activity in self._seconds:
                self._seconds[activity] += seconds.get(activity, 0.0)

    def resume(self, finished: Iterable[Mapping[str, Any]]) -> None:
        """Add the time of interrupted runs.

        Args:
            finished: The counts of all finished groups, some of which have a note of the time.
        """
        # Each note holds the time of all runs before it, so the latest one is the sum. Groups finish in any order.
        noted = [counts[NOTED] for counts in finished if NOTED in counts]
        self._before = max(noted, key=lambda found: found["wall"], default={})

    def note(self) -> dict[str, dict[str, float]]:
        """Return the note for a group that is finished now. It is empty if another group noted the time lately."""
        now = time.perf_counter()
        with self._lock:
            if not self._noting or now - self._noted < NOTED_EVERY:
                return {}
            self._noted = now
        return {NOTED: self.seconds()}

    def seconds(self) -> dict[str, float]:
        """Return seconds by activity, and `wall` since the clock was made or begun. Both include interrupted runs."""
        with self._lock:
            found = {**self._seconds, "wall": time.perf_counter() - self._started}
        return {key: round(value + self._before.get(key, 0.0), 3) for key, value in found.items()}

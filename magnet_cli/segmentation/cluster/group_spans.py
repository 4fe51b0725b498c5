"""The missing groups of a pass are cut into tasks while the workers compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

SECONDS = 20.0
"""A task is to take this many seconds. Each task opens the image and reads nothing ahead for the next one."""
ROUNDS = 2
"""The groups that are left make at least this many tasks for each worker, so that the last tasks are small."""
MOST_GROUPS = 4096
"""A task has at most this many groups."""
UNMEASURED = 200.0
"""A task is expected to take this many seconds where no group of the run was measured yet.

If a worker hangs in the only task of the first pass, another worker has to get the task some time. If the task is only
long, that costs nothing but the work of a worker that has no other task.
"""
DOUBTFUL = 3.0
"""Factor of an expectation that comes from other passes, whose groups read and store other amounts."""
LEAST_DOUBTFUL = 10.0
"""Least seconds of such an expectation: groups that are quickly computed wait for their files."""


class GroupSpan(NamedTuple):
    """A group span is a task: neighbouring groups of a pass."""

    step: int
    """The number of the pass."""
    first: int
    last: int

    @property
    def groups(self) -> int:
        """Return the number of groups of the task."""
        return self.last - self.first + 1


class GroupSpans:
    """Cuts the missing groups of a pass into tasks.

    Args:
        step: The number of the pass.
        missing: The groups, in rising order.
        groups: The number of groups of each task. None chooses a number by the time that groups have taken.
        before: Seconds that a group would take by the measurements of earlier passes. None where there are none.
    """

    def __init__(
        self, step: int, missing: Iterable[int], *, groups: int | None = None, before: float | None = None
    ) -> None:
        self._step = step
        self._groups = groups
        self._before = before
        self._runs: list[range] = []
        for group in missing:
            if self._runs and self._runs[-1].stop == group:
                self._runs[-1] = range(self._runs[-1].start, group + 1)
            else:
                self._runs.append(range(group, group + 1))
        self._runs.reverse()
        self._left = sum(map(len, self._runs))
        self._seconds = 0.0
        self._computed = 0

    def note(self, groups: int, seconds: float) -> None:
        """Take the time that groups have taken into account."""
        self._computed += groups
        self._seconds += seconds

    def seconds(self, span: GroupSpan) -> float:
        """Return how long a task is expected to take.

        Before a task of the pass has ended, the expectation is generous, and comes from earlier passes where there are
        any.
        """
        if self._computed:
            return span.groups * self._seconds / self._computed
        if self._before is not None:
            return max(LEAST_DOUBTFUL, DOUBTFUL * span.groups * self._before)
        return UNMEASURED

    def following(self, workers: int) -> GroupSpan | None:
        """Return the next task, for a number of workers; None where no group is left."""
        if not self._runs:
            return None
        run = self._runs.pop()
        size = min(len(run), self._groups or self._size(workers))
        if size < len(run):
            self._runs.append(run[size:])
        self._left -= size
        return GroupSpan(step=self._step, first=run[0], last=run[size - 1])

    def _size(self, workers: int) -> int:
        if not self._computed:
            return 1
        by_time = SECONDS * self._computed / max(self._seconds, 1e-3)
        return max(1, min(int(by_time), self._left // (ROUNDS * workers), MOST_GROUPS))

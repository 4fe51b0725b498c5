"""Simulate a run of several workers over one image: workers of unequal speed, workers that are lost, and late ones.

    python benchmarks/stragglers.py --workers 8 --groups 4000 --seconds 1 --seeds 20

The coordinator is the program's own: it cuts the groups of a pass into tasks, gives them out, and takes back those of
lost workers. Only its workers are made up, and time passes in jumps from one event to the next, so that hours take a
moment and each run is the same for a seed. The result is the ideal time (the work over the speed of all workers while
they are there) as a share of the time that the run took, with and without a second worker for late tasks.
"""

from __future__ import annotations

import argparse
import heapq
import json
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from magnet_cli.events import Events
from magnet_cli.segmentation.cluster.crew import Crew, Shift
from magnet_cli.segmentation.cluster.group_spans import GroupSpan, GroupSpans

if TYPE_CHECKING:
    from collections.abc import Callable

    from magnet_cli.segmentation.cluster.crew import Answer, Question

FOREVER = 1e9
STARTING = 0.3
"""Seconds that a task is assumed to take besides its groups: the image is opened, and nothing is read ahead."""


@dataclass(kw_only=True)
class Worker:
    """A made-up worker."""

    speed: float = 1.0
    lost: float = FOREVER
    """The time at which it is lost."""
    slow: float = FOREVER
    """The time from which it takes longer."""
    factor: float = 10.0
    """How many times as long."""

    def seconds(self, begin: float, work: float) -> float:
        """Return how long it takes for some work, in seconds of a worker of speed 1, from a time on."""
        before = max(0.0, self.slow - begin)
        quick = work / self.speed
        return quick if quick <= before else before + (quick - before) * self.factor

    def done_by(self, end: float) -> float:
        """Return the work that it could have done until a time."""
        end = min(end, self.lost)
        return self.speed * (min(end, self.slow) + max(0.0, end - self.slow) / self.factor)


@dataclass(eq=False)
class Promise:
    """The future of a task."""

    answer: Answer
    at: float
    crew: SimulatedCrew

    def done(self) -> bool:
        """Return whether the answer is there."""
        return self.crew.time >= self.at

    def cancel(self) -> None:
        """Forget the task, as Dask does. The worker goes on."""


@dataclass(kw_only=True)
class SimulatedCrew(Crew):
    """A crew of made-up workers in made-up time."""

    workers: dict[str, Worker]
    work: Callable[[Question], float]
    """Returns the work of a task, in seconds of a worker of speed 1."""
    time: float = 0.0
    ends: dict[str, float] = field(default_factory=dict)
    """The time at which each worker has ended what it was given: it computes one task after another."""
    tasks: int = 0
    _events: list[float] = field(default_factory=list)

    def now(self) -> float:
        """Return the made-up time."""
        return self.time

    def refresh(self) -> None:
        """Count the workers that are there."""
        self.hosts = {name: "host" for name, worker in self.workers.items() if worker.lost > self.time}

    def submit(self, worker: str, question: Question) -> Any:
        """Give a task to a worker."""
        begin = max(self.time, self.ends.get(worker, 0.0))
        spent = 0.0
        if question:
            self.tasks += 1
            spent = self.workers[worker].seconds(begin, self.work(question))
        end = begin + spent
        self.ends[worker] = end
        if end > self.workers[worker].lost:
            end = FOREVER
        heapq.heappush(self._events, end)
        return Promise({"seconds": end - begin}, end, self)

    def wait(self, futures: Any) -> list[Any]:
        """Let time pass until a task has ended, or a second has passed."""
        ends = [future.at for future in futures]
        self.time = min([*ends, self.time + 1.0]) if ends else self.time + 1.0
        return [future for future in futures if future.done()]

    @staticmethod
    def read(future: Any) -> Answer:
        """Return the answer of a task."""
        return cast("Promise", future).answer


class Groups:
    """The work of a pass: each task has its groups."""

    def greeting(self, worker: str) -> Question:
        """Ask nothing."""
        del worker
        return {}

    def objection(self, worker: str, found: Answer) -> None:
        """Admit every worker."""

    def question(self, worker: str, task: GroupSpan) -> Question:
        """Ask for the groups of a task."""
        del worker
        return {"first": task.first, "last": task.last}


def simulated(workers: dict[str, Worker], costs: list[float], *, repeats_late: bool) -> tuple[float, int]:
    """Return the share of the ideal time, and the number of tasks, of a run over groups of given cost in seconds."""

    def work(question: Question) -> float:
        return STARTING + sum(costs[question["first"] : question["last"] + 1])

    crew = SimulatedCrew(client=cast("Any", None), events=Events(), workers=workers, work=work)
    crew.refresh()
    spans = GroupSpans(0, range(len(costs)))
    shift: Shift[GroupSpan] = Shift(
        crew=crew,
        work=Groups(),
        following=spans.following,
        expected=spans.seconds if repeats_late else None,
    )
    computed: set[int] = set()
    for task, _, found in shift.results():
        spans.note(task.groups, found["seconds"])
        groups = range(task.first, task.last + 1)
        assert computed.isdisjoint(groups)
        computed.update(groups)
    assert len(computed) == len(costs)
    return ideal(list(workers.values()), sum(costs)) / crew.time, crew.tasks


def ideal(workers: list[Worker], work: float) -> float:
    """Return the time in which all workers together do some work, if it can be divided at will."""
    low, high = 0.0, work * 100
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if sum(worker.done_by(middle) for worker in workers) < work else (low, middle)
    return high


def scenarios(count: int, length: float, rng: np.random.Generator) -> dict[str, list[Worker]]:
    """Return the crews of all scenarios, for a run that takes some seconds with workers of speed 1.

    From some time in the second half on, the first worker of `one late` takes ten times as long, and that of `stuck` a
    hundred times.
    """

    def equal() -> list[Worker]:
        return [Worker() for _ in range(count)]

    found = {name: equal() for name in ("equal", "one slow", "mixed", "two lost", "one lost last", "one late", "stuck")}
    found["one slow"][0].speed = 0.25
    for worker in found["mixed"]:
        worker.speed = float(rng.choice([0.5, 1.0, 2.0]))
    for worker in found["two lost"][:2]:
        worker.lost = rng.uniform(0.1, 0.9) * length
    found["one lost last"][0].lost = rng.uniform(0.95, 1.0) * length
    found["one late"][0].slow = rng.uniform(0.5, 1.0) * length
    found["stuck"][0].slow, found["stuck"][0].factor = rng.uniform(0.5, 1.0) * length, 100.0
    return found


def main() -> None:
    """Simulate, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--groups", type=int, default=4000)
    parser.add_argument("--seconds", type=float, default=1.0, help="time of a group on a worker of speed 1")
    parser.add_argument("--seeds", type=int, default=20)
    given = parser.parse_args()
    rows: dict[str, dict[bool, list[float]]] = {}
    length = given.groups * given.seconds / given.workers
    for seed in range(given.seeds):
        for repeats_late in (False, True):
            rng = np.random.default_rng(seed)
            # A group with tissue takes longer than one of glass.
            costs = [given.seconds * rng.uniform(0.5, 1.5) for _ in range(given.groups)]
            for name, crew in scenarios(given.workers, length, rng).items():
                workers = {str(number): worker for number, worker in enumerate(crew)}
                share, _ = simulated(workers, costs, repeats_late=repeats_late)
                rows.setdefault(name, {False: [], True: []})[repeats_late].append(share)
    found = {
        name: {
            "without": [round(value, 3) for value in (median(both[False]), min(both[False]))],
            "second worker for late tasks": [round(value, 3) for value in (median(both[True]), min(both[True]))],
        }
        for name, both in rows.items()
    }
    print(json.dumps({"share of the ideal time, median and least": found, **vars(given)}, indent=1))


if __name__ == "__main__":
    main()

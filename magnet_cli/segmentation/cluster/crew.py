"""The workers of a cluster: each gets one task at a time, and a task whose worker is lost goes to another one."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from magnet_cli.errors import DeviceError
from magnet_cli.options.parts import refuse_open_address
from magnet_cli.segmentation.cluster.carried_errors import carried, delivered
from magnet_cli.segmentation.cluster.worker_tasks import answer, lift_limits
from magnet_cli.system.speeds import format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterator, Mapping

    from distributed import Client, Future

    from magnet_cli.events import Events

Question = dict[str, Any]
Answer = dict[str, Any]
T = TypeVar("T", bound="Hashable")
T_contra = TypeVar("T_contra", bound="Hashable", contravariant=True)
POLL = 1.0
"""While no task finishes, the workers are counted again after this many seconds."""
WAITING = 300.0
"""A run waits this many seconds for a first worker, or for another one after it has lost all."""
WAITING_HERE = 30.0
"""A run waits this many seconds for workers that it started itself: they connect at once or not at all."""
GATHERING = 300.0
"""Once a worker has answered the first question of a run, the others have this many seconds. A run begins without those
that have not answered: they may load their networks from a slow disk, or hang."""
SILENT = 60.0
"""A run gives up a scheduler that has not answered for this many seconds."""
LIFTING = 30.0
"""Nannies have this many seconds to lift their memory limits."""
CLOSED = "the connection to the scheduler is closed"
OPEN = ("running", "connecting")
"""A client in one of these states is connected to its scheduler, or tries to be."""
LATE = 1.5
"""A task that has taken this many times as long as expected is late: a worker without a task gets it as well."""
HANGING = 10.0
"""A worker that has computed this many times as long as expected is named to the user, who may have to end it."""
LEAST_HANGING = 60.0
"""Least seconds after which a worker is named."""
UNKNOWN = 360.0
"""Seconds that a task is expected to take where nothing has been measured."""
NO_RESULT = ("error", "lacks", "differs")
"""Keys of answers of workers that could not compute their task."""
MOST_LOSSES = 5
"""Number of workers lost with one task after which the task is taken to be the cause."""


def known_workers(client: Client) -> dict[str, Any]:
    """Return the workers that are connected to the scheduler.

    `Client.scheduler_info` does not serve: it returns what Dask's own periodic query has stored last, which names no
    workers.

    Returns:
        The scheduler's record of each worker, by the worker's address.

    Raises:
        OSError: The scheduler does not answer, or the client is closed.
        RuntimeError: The client is being closed.
    """
    scheduler: Any = client.scheduler
    if scheduler is None or client.status not in OPEN:
        raise OSError(CLOSED)
    found: Mapping[str, Any] = client.sync(scheduler.identity, n_workers=-1, callback_timeout=SILENT)
    return dict(found["workers"])


def _unanswered(reason: str) -> DeviceError:
    return DeviceError(
        "the Dask scheduler does not answer any more",
        value=reason,
        advice="Start the scheduler again and run the same command: what is finished is kept",
    )


class Work(Protocol[T_contra]):
    """Work states the questions to the workers of a run, and which workers may answer them."""

    def greeting(self, worker: str) -> Question:
        """Return the first question to a worker."""

    def objection(self, worker: str, found: Answer) -> str | None:
        """Return why a worker that has answered its first question gets no task; None where it may work."""

    def question(self, worker: str, task: T_contra) -> Question:
        """Return the question that gives a task to a worker.

        The crew adds `again`: whether the task was given to another worker before, which may not have ended yet.
        """


@dataclass(kw_only=True)
class Crew:
    """A crew keeps track of the workers that a scheduler knows, and exchanges questions and answers with them."""

    client: Client
    events: Events
    apart: bool = False
    """Whether the workers were started here, in the group of processes that Ctrl-C interrupts."""
    refused: set[str] = field(default_factory=set)
    """The addresses of the workers that get no task."""
    hosts: dict[str, str] = field(default_factory=dict)
    """The machine of each connected worker, by the worker's address."""
    threads: dict[str, int] = field(default_factory=dict)
    """The number of threads with which each worker was started, lost workers included."""
    overtaken: dict[Future, str] = field(default_factory=dict)
    """The tasks that another worker has finished first, with the workers that still compute them."""
    _done: SimpleQueue[Future] = field(default_factory=SimpleQueue)
    _answered: float = field(default_factory=time.monotonic)

    def refresh(self) -> None:
        """Count the workers.

        Raises:
            UsageError: A worker can be reached by anybody.
            DeviceError: The scheduler has not answered for a while.
        """
        try:
            found = known_workers(self.client)
        except (OSError, RuntimeError) as exc:
            if not self._is_closed and time.monotonic() - self._answered < SILENT:
                return
            raise _unanswered(str(exc)) from exc
        self._answered = time.monotonic()
        for address in found.keys() - self.hosts.keys():
            refuse_open_address(address, "--cluster")
        if found.keys() - self.hosts.keys():
            # A nanny that has not answered may kill its worker, which is then lost: no reason to end the run. Failures
            # of a nanny arrive as the exceptions that it raised, of any class.
            with suppress(Exception):
                self.client.run(lift_limits, nanny=True, on_error="ignore", callback_timeout=LIFTING)
        self.hosts = {address: str(entry["host"]) for address, entry in sorted(found.items())}
        self.threads |= {address: int(entry["nthreads"]) for address, entry in found.items()}

    def now(self) -> float:
        """Return the time in seconds."""
        return time.monotonic()

    def free(self, busy: Collection[str]) -> list[str]:
        """Return the workers that may take part and have nothing to do.

        Args:
            busy: The workers that have a task of the run.
        """
        self.overtaken = {
            future: worker for future, worker in self.overtaken.items() if worker in self.hosts and not future.done()
        }
        occupied = {*busy, *self.overtaken.values(), *self.refused}
        return [worker for worker in self.hosts if worker not in occupied]

    def neighbours(self, worker: str) -> int:
        """Return how many workers are on a worker's machine, itself included."""
        host = self.hosts.get(worker)
        return max(1, sum(other == host for other in self.hosts.values()))

    def refuse(self, worker: str, reason: str) -> None:
        """Give a worker no more tasks, and report the reason."""
        if worker not in self.refused:
            self.refused.add(worker)
            self.events.message(f"magnet: worker {worker} is refused: {reason}")

    def await_workers(self) -> None:
        """Wait for a worker.

        Raises:
            DeviceError: No worker that may take part has connected in time.
        """
        until = time.monotonic() + (WAITING_HERE if self.apart else WAITING)
        self.refresh()
        if not self.hosts.keys() - self.refused:
            self.events.message("magnet: the cluster has no worker that may take part; waiting for one")
        while not self.hosts.keys() - self.refused:
            if time.monotonic() > until:
                raise DeviceError(
                    "the cluster has no worker that may take part",
                    value=f"{len(self.refused)} refused",
                    advice="Start some with dask worker; what is finished is kept",
                )
            time.sleep(min(POLL, 0.1))
            self.refresh()

    def ask_all(self, question: Callable[[str], Question]) -> dict[str, Answer]:
        """Ask the connected workers, and return the answers of those that give one. Those that fail are refused.

        Workers that still owe an answer or a task are left out where there are others: one that hangs would be waited
        for with each image.

        Raises:
            DeviceError: There is no worker, or one worker after another is lost.
        """
        for _ in range(MOST_LOSSES):
            self.await_workers()
            known = [worker for worker in self.hosts if worker not in self.refused]
            asked = self.free(()) or known
            found = self._answers({self.submit(worker, question(worker)): worker for worker in asked})
            if found or self.refused.issuperset(known):
                return dict(sorted(found.items()))
        raise DeviceError(
            "all workers were lost while they loaded the networks",
            advice="Check the memory of their machines; the same command goes on from what is finished",
        )

    def _answers(self, asked: dict[Future, str]) -> dict[str, Answer]:
        """Wait for the answers of workers. Some workers may be lost meanwhile, and some may hang."""
        found: dict[str, Answer] = {}
        began = self.now()
        until, named = inf, began + GATHERING
        while asked and self.now() < until:
            if not found and self.now() >= named:
                named = self.now() + GATHERING
                workers = ", ".join(sorted(asked.values()))
                self.events.message(
                    f"magnet: none of these workers has answered for {format_seconds(self.now() - began)}: {workers}. "
                    "They may load their networks from a slow disk, or hang. The run goes on waiting; a worker that is "
                    "ended is not awaited"
                )
            for future in self.wait(asked):
                worker = asked.pop(future)
                answered = self.read(future)
                if "error" in answered:
                    self.refuse(worker, str(delivered(answered["error"])))
                elif not answered.get("lost"):
                    found[worker] = answered
                    until = min(until, self.now() + GATHERING)
            self.refresh()
            asked = {future: worker for future, worker in asked.items() if worker in self.hosts}
        for worker in asked.values():
            self.events.message(f"magnet: worker {worker} has not answered yet, and the run begins without it")
        # They get a task once they have answered.
        self.overtaken |= asked
        return found

    def submit(self, worker: str, question: Question) -> Future:
        """Give a question to a worker, and to no other one.

        Raises:
            DeviceError: The connection to the scheduler is closed.
        """
        text = json.dumps({"apart": self.apart, "neighbours": self.neighbours(worker), **question})
        if self._is_closed:
            # A client that is being closed takes tasks, and sends none of them.
            raise _unanswered(CLOSED)
        try:
            future = self.client.submit(
                answer,
                text,
                key=f"magnet-{uuid.uuid4().hex}",
                workers=[worker],
                allow_other_workers=False,
                pure=False,
            )
            future.add_done_callback(self._done.put)
        # What fails in Dask where the connection ends in the midst of a call depends on the place, down to attributes
        # of None. The state of the client tells such failures from bugs, which are raised again.
        except Exception as exc:
            if self._is_closed:
                raise _unanswered(str(exc)) from exc
            raise
        return future

    @property
    def _is_closed(self) -> bool:
        """Return whether Dask has given up the connection to the scheduler for good."""
        return self.client.status not in OPEN

    def wait(self, futures: Mapping[Future, object]) -> list[Future]:
        """Wait up to `POLL` seconds for one of the futures, and return those that are done."""
        found = []
        with suppress(Empty):
            found.append(self._done.get(timeout=POLL))
            while True:
                found.append(self._done.get_nowait())
        # Cancelled futures are done as well, and nothing waits for them any more.
        return [future for future in found if future in futures]

    @staticmethod
    def read(future: Future) -> Answer:
        """Return the answer of a worker. An error of Dask itself becomes the answer of a worker that cannot work."""
        try:
            if future.status == "finished":
                found: Answer = json.loads(str(future.result(timeout=SILENT)))
                return found
            if future.status != "error":
                return {"lost": True}
            error = future.exception(timeout=SILENT)
        except (OSError, CancelledError):
            # The worker or the scheduler has gone after the answer was announced and before it was fetched.
            return {"lost": True}
        if type(error).__name__ in ("KilledWorker", "CommClosedError"):
            return {"lost": True}
        words = f"{type(error).__name__}: {error}"
        advice = "Install the same version of magnet-cli on every worker"
        return {
            "error": {
                "kind": "DeviceError",
                "rule": words,
                "value": None,
                "file": None,
                "advice": advice,
                "trace": None,
            }
        }


def _cancel(future: Future) -> None:
    """Cancel a task. The failure of a lost scheduler does not replace the error that ended the run."""
    # Dask raises exceptions of many classes where the scheduler is gone. A task that goes on does no harm: its piece is
    # what any other worker would leave.
    with suppress(Exception):
        future.cancel()


@dataclass(kw_only=True)
class Shift(Generic[T]):
    """A shift gives the tasks of a run, or of one pass of a run, to the workers of a crew."""

    crew: Crew
    work: Work[T]
    following: Callable[[int], T | None]
    """The function returns the next task, for this number of workers; None where no task is left."""
    admitted: set[str] = field(default_factory=set)
    """The workers that have answered the first question as required. The set is kept from pass to pass."""
    is_independent: bool = False
    """Whether a task that fails for its worker's memory or device, or takes one worker after another with it, leaves
    the other tasks to go on. Otherwise the worker gets no more tasks, or the run ends."""
    expected: Callable[[T], float | None] | None = None
    """The function returns how many seconds a task is expected to take; None where that is not known yet. Once no other
    task is left, a task that is late is given to a second worker, and the first result counts: where one of the two
    fails, the other one is waited for. A third worker gets the task if the second one takes twice as long, and so on.
    Without the function no task is given to two workers."""
    size: Callable[[T], float] | None = None
    """The function returns the work of a task in any unit, where tasks differ in it and `expected` is not known."""
    _named: dict[Future, float] = field(default_factory=dict)
    """The seconds after which the user hears of a task again."""
    _longest: float = 0.0
    """The most seconds that a task of this shift has taken."""
    _slowest: float = 0.0
    """The most seconds that a task has taken for its work."""
    _failed_late: set[str] = field(default_factory=set)
    """The workers that could not compute a task that another one computed as well. They get no late tasks."""
    _since: dict[Future, float] = field(default_factory=dict)
    _returned: list[T] = field(default_factory=list)
    _losses: Counter[T] = field(default_factory=Counter)
    _busy: dict[Future, tuple[str, T | None]] = field(default_factory=dict)

    def results(self) -> Iterator[tuple[T, str, Answer]]:
        """Yield each task with its worker and the answer, as they come.

        Raises:
            DeviceError: There are no workers, or one task after another is lost with its worker.
        """
        try:
            while self._give():
                if not self._busy:
                    self.crew.await_workers()
                    if not self.crew.free(()):
                        # All workers still compute tasks that others have finished, in this pass or the one before.
                        self.crew.wait(self.crew.overtaken)
                    self._name_hanging()
                    continue
                for future in self.crew.wait(self._busy):
                    yield from self._taken(future)
                self.crew.refresh()
                yield from self._taken_back()
                self._name_hanging()
        finally:
            for future in self._busy:
                _cancel(future)

    def _give(self) -> bool:
        """Give tasks to all free workers, and return whether there is still an answer to wait for."""
        for worker in self.crew.free({worker for worker, _ in self._busy.values()}):
            if worker not in self.admitted:
                future = self.crew.submit(worker, self.work.greeting(worker))
                self._busy[future], self._since[future] = (worker, None), self.crew.now()
                continue
            task = self._next()
            if task is None and worker in self._failed_late:
                continue
            if task is None:
                task = self._late()
            if task is None:
                break
            question = {**self.work.question(worker, task), "again": self._losses[task] > 0}
            future = self.crew.submit(worker, question)
            self._busy[future], self._since[future] = (worker, task), self.crew.now()
        if any(task is not None for _, task in self._busy.values()):
            return True
        # Workers that only answer the first question are waited for as long as there is a task.
        task = self._next()
        if task is None:
            return False
        self._returned.append(task)
        return True

    def _next(self) -> T | None:
        return self._returned.pop() if self._returned else self.following(max(1, len(self.admitted)))

    def _late(self) -> T | None:
        """Return the task that is late by most; None where there is none.

        A task that several workers compute is late once the last of them is, which gets twice the time of the one
        before: all workers may hang, or the task may take longer than was expected.
        """
        if self.expected is None:
            return None
        running: dict[T, list[float]] = {}
        for future, (_, task) in self._busy.items():
            if task is not None:
                running.setdefault(task, []).append(self._since[future])
        late: list[tuple[float, T]] = []
        for task, since in running.items():
            expected = self.expected(task)
            if expected is not None:
                allowed = LATE * expected * 2 ** (len(since) - 1)
                late.append((self.crew.now() - max(since) - allowed, task))
        most = max(late, key=lambda entry: entry[0], default=None)
        return None if most is None or most[0] < 0 else most[1]

    def _name_hanging(self) -> None:
        """Name workers that have computed much longer than expected. They are waited for, because they may be slow.

        Each is named again after twice the time.
        """
        now = self.crew.now()
        open_futures = self._busy.keys() | self.crew.overtaken.keys()
        self._since = {future: since for future, since in self._since.items() if future in open_futures}
        self._named = {future: after for future, after in self._named.items() if future in open_futures}
        for future, (worker, task) in self._busy.items():
            if task is None:
                self._name_silent(future, worker, GATHERING)
                continue
            expected = None if self.expected is None else self.expected(task)
            # Where tasks differ in size, as images do, the longest is the measure, and a larger one may take more.
            larger = 0.0 if self.size is None else self._slowest * self.size(task)
            expected = expected or max(self._longest, larger) or UNKNOWN
            spent = now - self._since[future]
            if self._is_due(future, max(LEAST_HANGING, HANGING * expected)):
                self.crew.events.message(
                    f"magnet: worker {worker} has computed for {format_seconds(spent)} what was expected to take "
                    f"{format_seconds(expected)}; it may hang. {self._advice(worker, task)}"
                )
        for future, worker in self.crew.overtaken.items():
            self._name_silent(future, worker, max(LEAST_HANGING, HANGING * (self._longest or UNKNOWN)))

    def _name_silent(self, future: Future, worker: str, least: float) -> None:
        """Name a worker that gets no task before it has answered, if it has not answered for too long.

        Args:
            future: The question to which it owes the answer.
            worker: The address of the worker.
            least: Seconds after which it is named.
        """
        if self._is_due(future, least):
            spent = format_seconds(self.crew.now() - self._since[future])
            advice = (
                "The other workers go on without it: end it, or let it answer"
                if self._has_others(worker)
                else "The run goes on waiting: start another worker, then end this one"
            )
            self.crew.events.message(
                f"magnet: worker {worker} has not answered for {spent}, and gets no task before it does; it may hang. "
                f"{advice}"
            )

    def _is_due(self, future: Future, least: float) -> bool:
        """Return whether the worker of a question is named now; then it is named again after twice the time."""
        # What an earlier pass has left is waited for since this pass has met it.
        spent = self.crew.now() - self._since.setdefault(future, self.crew.now())
        if future.done() or spent < self._named.get(future, least):
            return False
        self._named[future] = 2 * spent
        return True

    def _advice(self, worker: str, task: T) -> str:
        """Return what a user may do about a worker that has computed a task for too long."""
        if sum(other == task for _, other in self._busy.values()) > 1:
            return "Another worker computes the same, and the first result counts: this one may be ended"
        if self._has_others(worker):
            return "The run goes on waiting: end the worker to give its task to another one"
        return "The run goes on waiting: start another worker, then end this one, and its task goes to the other one"

    def _has_others(self, worker: str) -> bool:
        """Return whether there is another worker that may take part and has not been named as hanging."""
        hanging = {other for future, (other, _) in self._busy.items() if future in self._named}
        useless = {worker, *hanging, *self.crew.overtaken.values(), *self.crew.refused}
        return not useless.issuperset(self.crew.hosts)

    def _is_running(self, task: T) -> bool:
        return any(other == task for _, other in self._busy.values())

    def _overtake(self, task: T) -> None:
        """Forget the copies of a task that is finished. Their workers get no other task before they have ended."""
        for future, (worker, other) in list(self._busy.items()):
            if other == task:
                del self._busy[future]
                self.crew.overtaken[future] = worker

    def _taken(self, future: Future) -> Iterator[tuple[T, str, Answer]]:
        if future not in self._busy:
            return
        worker, task = self._busy.pop(future)
        since = self._since.pop(future, None)
        self._named.pop(future, None)
        found = self.crew.read(future)
        # An image that was done before says nothing about the time that one takes.
        is_measured = task is not None and not found.get("was_done")
        if since is not None and is_measured and found.keys().isdisjoint((*NO_RESULT, "lost")):
            spent = self.crew.now() - since
            self._longest = max(self._longest, spent)
            if task is not None and self.size is not None:
                self._slowest = max(self._slowest, spent / self.size(task))
        failure = delivered(found["error"]) if "error" in found else None
        if found.get("lost"):
            self._report_loss(worker)
            yield from self._lost(task, worker)
        elif task is None:
            reason = self.work.objection(worker, found) if failure is None else str(failure)
            if reason is None:
                self.admitted.add(worker)
            else:
                self.crew.refuse(worker, reason)
        elif isinstance(failure, DeviceError) and not self.is_independent:
            # Another worker may have more memory, or a device that works.
            self.crew.refuse(worker, str(failure))
            yield from self._lost(task, worker)
        elif self._is_running(task) and not found.keys().isdisjoint(NO_RESULT):
            # The failure may be that of the worker's machine alone, and the other worker's answer is still to come.
            self._failed_late.add(worker)
            reason = "it could not repeat the task" if failure is None else str(failure)
            self.crew.events.message(f"magnet: worker {worker} failed, and another one has the same task: {reason}")
        else:
            self._overtake(task)
            yield task, worker, found

    def again(self, task: T, worker: str) -> None:
        """Give out a task once more that a worker could not compute.

        Raises:
            DeviceError: The task has failed too often.
        """
        list(self._lost(task, worker))

    def _taken_back(self) -> Iterator[tuple[T, str, Answer]]:
        """Take back the tasks of lost workers."""
        for future, (worker, task) in list(self._busy.items()):
            if worker not in self.crew.hosts and not future.done():
                del self._busy[future]
                self._since.pop(future, None)
                self._named.pop(future, None)
                _cancel(future)
                self.admitted.discard(worker)
                self._report_loss(worker)
                yield from self._lost(task, worker)

    def _report_loss(self, worker: str) -> None:
        self.crew.events.message(f"magnet: worker {worker} is lost; its task goes to another one")

    def _lost(self, task: T | None, worker: str) -> Iterator[tuple[T, str, Answer]]:
        """Put a task back that was lost with its worker. One that was lost too often fails."""
        if task is None:
            return
        self._losses[task] += 1
        if self._is_running(task):
            return
        if self._losses[task] < MOST_LOSSES:
            self._returned.append(task)
            return
        error = DeviceError(
            f"{MOST_LOSSES} workers were lost or failed with the same task",
            advice="Check the memory of their machines; what is finished is kept, and the same command goes on",
        )
        if not self.is_independent:
            raise error
        yield task, worker, {"error": carried(error, file="")}

"""One pass after the other, one group after the other: read ahead, compute, store, skip what is already durable."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from magnet_cli.errors import MemoryShortageError
from magnet_cli.masks.spec import GroupId
from magnet_cli.models.device import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from magnet_cli.pipeline.clock import Clock
    from magnet_cli.refining.method import Job, Opened, Runner, Step


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A group was finished, in this run or before it."""

    step: Step
    done: int
    resumed: bool


@dataclass(frozen=True, kw_only=True)
class Run:
    """A job, its files, and what is noted of them."""

    job: Job
    opened: Opened
    clock: Clock
    threads: int
    """Of operations; noted with each group: a resumed run has to use as many."""
    on_progress: Callable[[Progress], None]

    def passes(self) -> None:
        """Compute every group that the journal does not hold yet.

        Raises:
            SourceError, WeightsError, OutputError: What finished before stays finished.
            MemoryShortageError: Likewise; a group did not fit into memory.
        """
        for step in self.job.plan.passes:
            self._pass(step)

    def _pass(self, step: Step) -> None:
        journal = self.opened.journal
        finished = journal.finished(step.number)
        done = len(finished)
        if done:
            self.on_progress(Progress(step=step, done=done, resumed=True))
        missing = [group for group in range(step.groups) if group not in finished]
        runner = self.job.runner(step, self.opened)
        for group, given in self._ahead(runner, missing):
            key = GroupId(pass_index=step.number, index=group)
            found = self._computed(runner, given)
            with self.clock.measure("write"):
                counts = runner.store(key, found)
                journal.finish_group(key, counts={**counts, "threads": self.threads})
            done += 1
            self.on_progress(Progress(step=step, done=done, resumed=False))

    def _computed(self, runner: Runner, given: Any) -> Any:
        try:
            with self.clock.measure("refine"):
                return runner.compute(given)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise MemoryShortageError(
                "out of memory while a mask was refined",
                file=self.job.plan.seen.info.path,
                advice="Nothing that was finished is lost: run the same command with more memory",
            ) from error

    def _ahead(self, runner: Runner, groups: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """What groups need, in order; as many as planned are read by a thread while earlier ones are computed."""
        ahead = self.job.plan.memory.ahead

        def read(group: int) -> Any:
            with self.clock.measure("read"):
                return runner.read(group)

        if not ahead:
            for group in groups:
                yield group, read(group)
            return
        waiting: deque[tuple[int, Future[Any]]] = deque()
        remaining = iter(groups)
        with ThreadPoolExecutor(1, "read") as pool:
            try:
                while True:
                    for group in islice(remaining, ahead - len(waiting)):
                        waiting.append((group, pool.submit(read, group)))
                    if not waiting:
                        return
                    group, future = waiting.popleft()
                    with self.clock.measure("idle"):
                        given = future.result()
                    yield group, given
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

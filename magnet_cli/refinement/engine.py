"""One pass after the other, one group after the other: read ahead, compute, store, skip what is already durable."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from magnet_cli.errors import MemoryShortageError
from magnet_cli.masks.spec import GroupId
from magnet_cli.models.device import is_out_of_memory, release_device_memory
from magnet_cli.refinement.read_ahead import Ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from magnet_cli.refinement.method import Job, Opened, Runner, Step
    from magnet_cli.run.clock import Clock


@contextmanager
def naming_shortage(what: str, image: str) -> Iterator[None]:
    """Name a shortage of memory by what was done when it came.

    Raises:
        MemoryShortageError: Memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryShortageError(
            f"out of memory while {what}",
            file=image,
            advice="Nothing that was finished is lost: run the same command with more memory",
        ) from error


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
    on_note: Callable[[str], None]
    """Hears what a user should know of the run, such as that memory was short."""

    def passes(self) -> None:
        """Compute every group that the journal does not hold yet.

        Raises:
            SourceError, WeightsError, OutputError: What finished before stays finished.
            MemoryShortageError: Likewise; a group did not fit into memory, not even with nothing beside it.
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

        def read(group: int) -> Any:
            with self.clock.measure("read"), self._naming_shortage("read"):
                return runner.read(group)

        with Ahead(read, missing, most=self.job.plan.memory.ahead, clock=self.clock) as ahead:
            for group in missing:
                found = self._found(runner, ahead, group)
                key = GroupId(pass_index=step.number, index=group)
                with self.clock.measure("write"), self._naming_shortage("stored"):
                    counts = runner.store(key, found)
                    journal.finish_group(key, counts={**counts, "threads": self.threads, **self.clock.note()})
                done += 1
                self.on_progress(Progress(step=step, done=done, resumed=False))

    def _found(self, runner: Runner, ahead: Ahead, group: int) -> Any:
        """What follows from a group; where memory is short it is tried once more, with nothing beside it."""
        try:
            return self._computed(runner, ahead.take(group))
        except MemoryShortageError as error:
            if not ahead.is_stopped:
                self.on_note(f"{error.rule}: from here on nothing is read while a group is computed")
        # Not in the handler: the error holds on to the frames in which memory ran out, and with them to what filled it.
        ahead.stop()
        release_device_memory(self.job.plan.machine.device)
        return self._computed(runner, ahead.take(group))

    def _computed(self, runner: Runner, given: Any) -> Any:
        with self.clock.measure("refine"), self._naming_shortage("refined"):
            return runner.compute(given)

    def _naming_shortage(self, done: str) -> AbstractContextManager[None]:
        return naming_shortage(f"a part of the mask was {done}", self.job.plan.seen.info.path)

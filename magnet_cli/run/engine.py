"""The engine of every job: it runs pass after pass, reads groups ahead, computes them, and stores each beside the next.

The first group of a job may be read before the job is run, beside the end of another one. If memory runs out, a group
is tried once more while nothing is read or written. If that is not enough and no group of the pass is finished yet, the
pass begins again with smaller batches.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from typing import TYPE_CHECKING, Any

from magnet_cli.errors import HiddenShortageError, MemoryShortageError
from magnet_cli.masks.spec import GroupId
from magnet_cli.models.device import failed_allocations, release_device_memory
from magnet_cli.run.guards import naming_shortage
from magnet_cli.run.readers import Readers
from magnet_cli.run.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from magnet_cli.run.job import Job, Resources, Runner, RunPass


def missing(step: RunPass, finished: Collection[int]) -> Iterator[int]:
    """Yield the groups of a pass that are not finished, in rising order.

    A list of them would take memory that grows with the image.
    """
    return (group for group in range(step.groups) if group not in finished)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of a pass, after a group of it was finished or found finished."""

    step: RunPass
    done: int
    """Groups of the pass that are finished now."""
    resumed: bool
    """Whether earlier runs had finished all of these groups. Otherwise this run has just finished the last of them."""


def _ignore(_: object) -> None:
    """Drop a message for which the caller gave no function."""


def _do_nothing() -> None:
    """Answer a call for which the caller gave no function."""


@dataclass(frozen=True, kw_only=True)
class FirstGroup:
    """The first missing group of a job, which is being read before the job is run."""

    number: int
    """The number of its pass. Nothing is missing of the passes before."""
    runner: Runner
    readers: Readers
    """The readers of the whole job, which have begun with this group. Who does not run the job closes them."""


@dataclass(frozen=True, kw_only=True)
class WorkBeside:
    """Work of another job that may begin while the last group of a job is computed."""

    begin: Callable[[], None] = _do_nothing
    """Called when the last group of the job is about to be computed. Nothing is read ahead from then on, so the memory
    of groups that wait is free. It is called again if the group is computed again."""
    end: Callable[[], None] = _do_nothing
    """Called where memory ran out, before the group is computed again: the work ends, and holds no memory from then
    on."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Runs jobs over opened files."""

    resources: Resources
    readers: int
    """Threads that read ahead. With 0 the calling thread reads, computes and stores each group in turn."""
    threads: int = 1
    """Threads of each operation. The number is stored with each group, because another number may change the last bits
    of a sum: a resumed run has to use as many."""
    pieces: Callable[[RunPass, Collection[int]], Iterable[int]] = missing
    """Gives the groups of a pass that are computed, in order, from the pass and its finished groups. The default is
    every missing group; a caller that shares a run between machines chooses some."""
    on_progress: Callable[[Progress], None] = _ignore
    """Receives each finished group, in the thread that stored it."""
    on_note: Callable[[str], None] = _ignore
    """Receives notes for the user, such as that memory was short."""
    beside: WorkBeside = WorkBeside()
    """Work of the next job."""

    def first(self, job: Job) -> FirstGroup | None:
        """Begin to read the first group that is wanted and not finished, before the job is run.

        Another thread may call this while the engine of another job runs. A failure to read the group is raised when
        the job is run.

        Returns:
            What `run` takes; None where no group is missing or nothing may be read ahead.

        Raises:
            MagnetError: The job cannot be run.
        """
        for step in job.passes:
            groups = iter(self.pieces(step, self.resources.results.finished(step.number)))
            group = next(groups, None)
            if group is None:
                continue
            readers = Readers(threads=self.readers, ahead=job.memory.ahead, clock=self.resources.clock)
            if readers.are_stopped:
                return None
            run = _PassRun(engine=self, job=job, step=step, groups=(), readers=readers)
            runner = job.runner(step, self.resources)
            readers.begin(partial(run.read, runner), chain([group], groups))
            readers.read_first()
            return FirstGroup(number=step.number, runner=runner, readers=readers)
        return None

    def run(self, job: Job, first: FirstGroup | None = None) -> Job:
        """Compute every group that is wanted and not finished.

        Args:
            job: The job.
            first: Its first group, if that is being read already.

        Returns:
            The job as it was run, which may have taken smaller batches.

        Raises:
            SourceError, WeightsError, OutputError: A group failed. Groups that were finished before stay finished.
            MemoryShortageError: A group did not fit into memory, not even alone. Finished groups stay finished.
        """
        begin = 0
        while True:
            try:
                self._try(job, first, begin)
            except MemoryShortageError as exc:
                step = self._unfinished(job)
                smaller = job.smaller(step)
                if smaller is None:
                    raise
                if self.resources.results.finished(step.number):
                    # What is finished was computed with these batches, and others may give another last bit.
                    anew = "begin again with a smaller --batch-size and --no-resume"
                    advice = f"{exc.advice}; or {anew}" if exc.advice else f"{anew[0].upper()}{anew[1:]}"
                    raise type(exc)(exc.rule, value=exc.value, file=exc.file, advice=advice) from exc
                job, note = smaller
                first, begin = None, step.number
                self.on_note(note)
            else:
                return job
            # This stands outside the handler, where the error still refers to the frames in which memory ran out: their
            # tensors would not be freed.
            release_device_memory(job.machine.device)

    def _try(self, job: Job, first: FirstGroup | None, begin: int) -> None:
        """Compute what is missing of a job from a pass on, by its number. Nothing is missing of the passes before."""
        clock = self.resources.clock
        begun = first and first.readers
        with (
            begun or Readers(threads=self.readers, ahead=job.memory.ahead, clock=clock) as readers,
            Writer(beside=bool(self.readers), device=job.machine.device, clock=clock) as writer,
        ):
            passes = job.passes
            groups = [step.groups for step in passes]
            for step in passes:
                if step.number < begin:
                    continue
                _PassRun(engine=self, job=job, step=step, groups=groups, readers=readers).run(writer, first)

    def _unfinished(self, job: Job) -> RunPass:
        """Return the pass that a job has come to: the last with finished groups, or the next where it is complete."""
        passes = job.passes
        finished = [len(self.resources.results.finished(step.number)) for step in passes]
        last = max((index for index, count in enumerate(finished) if count), default=0)
        return passes[min(last + (finished[last] >= passes[last].groups), len(passes) - 1)]


@dataclass(frozen=True, kw_only=True)
class _PassRun:
    """A pass of a job that is being run."""

    engine: Engine
    job: Job
    step: RunPass
    groups: Sequence[int]
    """The number of groups in each pass of the job. It is stored with each group, so that a reader of the journal knows
    the share that is finished."""
    readers: Readers

    def run(self, writer: Writer, first: FirstGroup | None) -> None:
        """Compute the groups of the pass. They are stored when this returns.

        Args:
            writer: Stores groups beside the computation.
            first: The first group of the job, if that is being read already.
        """
        finished = self.engine.resources.results.finished(self.step.number)
        done = count(len(finished) + 1)
        if finished:
            self.engine.on_progress(Progress(step=self.step, done=len(finished), resumed=True))
        if first is not None and self.step.number < first.number:
            return
        if first is not None and self.step.number == first.number:
            runner = first.runner
        else:
            runner = self.job.runner(self.step, self.engine.resources)
            self.readers.begin(partial(self.read, runner), self.engine.pieces(self.step, finished))
        ends_job = self.step.number == self.job.passes[-1].number
        while (turn := self.readers.turn()) is not None:
            group, is_last = turn
            if is_last and ends_job:
                self.engine.beside.begin()
            # The result has no name here: a variable would keep its memory while the next group is computed.
            writer.put(partial(self._store, runner, group, self._found(runner, group, writer), done), is_last=is_last)
        # The next pass reads this one's field, so the last group has to be stored first.
        writer.wait()

    def read(self, runner: Runner, group: int) -> Any:
        """Read what a group needs. Several threads call this, ahead of the computation."""
        with self._measured("read"), self._naming("read", group):
            return runner.read(group)

    def _found(self, runner: Runner, group: int, writer: Writer) -> Any:
        """Compute a group. If memory runs out, compute it once more while nothing is read or written."""
        try:
            return self._computed(runner, group)
        except HiddenShortageError:
            raise
        except MemoryShortageError as error:
            if not (self.readers.are_stopped and writer.is_stopped):
                self.engine.on_note(f"{error.rule}: from here on nothing is read or written while a group is computed")
        # This stands outside the handler, where the error still refers to the frames whose tensors filled the memory.
        self.readers.stop()
        writer.stop()
        self.engine.beside.end()
        release_device_memory(self.job.machine.device)
        return self._computed(runner, group)

    def _computed(self, runner: Runner, group: int) -> Any:
        given = self.readers.take(group)
        with self._naming("computed", group):
            with self._measured("read"):
                known = runner.recall(given)
            before = failed_allocations(self.job.machine.device)
            with nullcontext() if self.job.activity is None else self._measured(self.job.activity):
                found = runner.compute(given, known)
        # cuDNN answers a failed allocation of its workspace with another algorithm, without an error. Its last bits may
        # differ, so such a group is refused: the mask must not depend on the memory that happens to be free.
        if failed_allocations(self.job.machine.device) > before:
            raise HiddenShortageError(
                f"memory was so short while group {group + 1} of {self.step.groups} of pass {self.step.number + 1} was "
                "computed that an operation may have taken another algorithm, and the mask other last bits",
                file=self.job.image.path,
                advice="Run the same command with more memory: what was finished is kept",
            )
        return found

    def _store(self, runner: Runner, group: int, found: Any, done: Iterator[int]) -> None:
        """Make the results of a group durable, and report progress."""
        resources, key = self.engine.resources, GroupId(pass_index=self.step.number, index=group)
        with self._measured("write"):
            try:
                with self._naming("stored", group):
                    counts = runner.store(key, found)
            except MemoryShortageError:
                resources.sink.drop_group(key)
                raise
            alike = {"threads": self.engine.threads, "groups": list(self.groups), **self.job.noted, **self.job.shown}
            resources.sink.finish_group(key, counts={**counts, **alike, **resources.clock.note()})
        # Progress counts durable groups only: `kill -9` takes none of them back.
        self.engine.on_progress(Progress(step=self.step, done=next(done), resumed=False))

    def _measured(self, activity: str) -> AbstractContextManager[None]:
        return self.engine.resources.clock.measure(activity)

    def _naming(self, done: str, group: int) -> AbstractContextManager[None]:
        what = f"group {group + 1} of {self.step.groups} of pass {self.step.number + 1} was {done}"
        return naming_shortage(what, self.job.image.path)

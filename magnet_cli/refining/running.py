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
from magnet_cli.refining.joining import Joining
from magnet_cli.refining.levels import Levels
from magnet_cli.refining.plan import FusionPass, LevelPass, SharesPass
from magnet_cli.refining.shares import Sharing
from magnet_cli.refining.single import Objects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from magnet_cli.refining.plan import RefinePass
    from magnet_cli.refining.work import RefineWork, Runner


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A group was finished, in this run or before it."""

    step: RefinePass
    done: int
    resumed: bool


def run_passes(work: RefineWork, *, on_progress: Callable[[Progress], None]) -> None:
    """Compute every group that the journal does not hold yet.

    Raises:
        SourceError, WeightsError, OutputError: What finished before stays finished.
        MemoryShortageError: Likewise; a group did not fit into memory.
    """
    for step in work.plan.passes:
        _run(work, step, on_progress)


def _run(work: RefineWork, step: RefinePass, on_progress: Callable[[Progress], None]) -> None:
    finished = work.journal.finished(step.number)
    done = len(finished)
    if done:
        on_progress(Progress(step=step, done=done, resumed=True))
    missing = [group for group in range(step.groups) if group not in finished]
    runner = _runner(work, step)
    for group, given in _ahead(work, runner, missing):
        key = GroupId(pass_index=step.number, index=group)
        found = _computed(work, runner, given)
        with work.clock.measure("write"):
            counts = runner.store(key, found)
            work.journal.finish_group(key, counts={**counts, "threads": work.threads})
        done += 1
        on_progress(Progress(step=step, done=done, resumed=False))


def _runner(work: RefineWork, step: RefinePass) -> Runner:
    if isinstance(step, LevelPass):
        return Levels(work, step)
    if isinstance(step, SharesPass):
        return Sharing(work, step)
    return Joining(work, step) if isinstance(step, FusionPass) else Objects(work)


def _computed(work: RefineWork, runner: Runner, given: Any) -> Any:
    try:
        with work.clock.measure("refine"):
            return runner.compute(given)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryShortageError(
            "out of memory while an object was refined",
            file=work.plan.image.path,
            advice="Nothing that was finished is lost: run the same command with more memory",
        ) from error


def _ahead(work: RefineWork, runner: Runner, groups: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """What groups need, in order; as many as the plan allows are read by a thread while earlier ones are computed."""

    def read(group: int) -> Any:
        with work.clock.measure("read"):
            return runner.read(group)

    if not work.plan.memory.ahead:
        for group in groups:
            yield group, read(group)
        return
    waiting: deque[tuple[int, Future[Any]]] = deque()
    remaining = iter(groups)
    with ThreadPoolExecutor(1, "read") as pool:
        try:
            while True:
                for group in islice(remaining, work.plan.memory.ahead - len(waiting)):
                    waiting.append((group, pool.submit(read, group)))
                if not waiting:
                    return
                group, future = waiting.popleft()
                with work.clock.measure("idle"):
                    given = future.result()
                yield group, given
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

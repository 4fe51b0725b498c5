"""The engine works in the right order, reads and stores beside the computation, and survives short memory."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import TYPE_CHECKING

import pytest
import torch
from typing_extensions import override

from magnet_cli.errors import HiddenShortageError, MemoryShortageError, SourceError
from magnet_cli.masks.spec import GroupId
from magnet_cli.run.engine import WorkBeside, missing
from magnet_cli.run.guards import naming_shortage
from tests.run.support import PATIENCE, Counting, CountingRunner, Groups, Memory, engine

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from magnet_cli.run.engine import Progress
    from magnet_cli.run.job import Resources, RunPass

TWO = (Groups(number=0, groups=3), Groups(number=1, groups=5))


def out_of_memory(*_: object) -> None:
    raise torch.OutOfMemoryError


@pytest.mark.parametrize("readers", [0, 1, 3])
def test_every_group_is_read_recalled_computed_and_stored_once(readers: int) -> None:
    job, memory, seen = Counting(steps=TWO), Memory(), list[tuple[int, int, bool]]()
    progress = lambda one: seen.append((one.step.number, one.done, one.resumed))  # noqa: E731 - the shortest hook
    assert engine(memory, readers=readers, threads=3, on_progress=progress).run(job) is job
    assert sorted(job.log) == sorted(
        (what, step.number, group)
        for what in ("read", "recall", "compute", "store")
        for step in TWO
        for group in range(step.groups)
    )
    assert job.done("store") == [0, 1, 2, 0, 1, 2, 3, 4]
    assert memory.groups[1][4] == {"value": 5, "before": 3, "threads": 3, "batch": 4, "groups": [3, 5]}
    assert seen == [(0, 1, False), (0, 2, False), (0, 3, False), *((1, done, False) for done in range(1, 6))]


def test_a_pass_begins_once_all_of_the_one_before_is_stored() -> None:
    job, memory = Counting(steps=TWO, ahead=4), Memory()
    engine(memory, readers=4).run(job)
    assert [counts["before"] for counts in memory.groups[1].values()] == [3] * 5


@pytest.mark.parametrize("readers", [1, 2, 4])
def test_as_many_groups_are_read_at_once_as_there_are_readers(readers: int) -> None:
    together = threading.Barrier(readers)
    job = Counting(ahead=8, steps=(Groups(number=0, groups=2 * readers),), reading=lambda _: together.wait(PATIENCE))
    engine(Memory(), readers=readers).run(job)
    assert len(job.done("store")) == 2 * readers


def test_no_more_groups_are_read_ahead_than_the_plan_says() -> None:
    allowed, held, most = threading.Semaphore(0), set[int](), list[int]()

    def reading(group: int) -> None:
        held.add(group)
        allowed.release()

    def computing(group: int) -> None:
        if group == 0:
            # Its own group and two more are read. A fourth would not be long.
            assert all(allowed.acquire(timeout=PATIENCE) for _ in range(3))
            allowed.acquire(timeout=0.3)
        most.append(len(held - set(range(group + 1))))

    job = Counting(ahead=2, steps=(Groups(number=0, groups=9),), reading=reading, computing=computing)
    engine(Memory(), readers=8).run(job)
    assert max(most) == 2
    assert len(job.done("read")) == 9


def test_a_group_is_stored_while_the_next_is_computed() -> None:
    begun = [threading.Event() for _ in range(6)]
    beside = list[bool]()
    job = Counting(
        computing=lambda group: begun[group].set(),
        # The last group has nothing beside it.
        storing=lambda group: beside.append(group == 5 or begun[group + 1].wait(PATIENCE)),
    )
    engine(Memory(), readers=1).run(job)
    assert beside == [True] * 6


def test_the_first_group_is_read_before_the_job_is_run() -> None:
    read, memory = threading.Event(), Memory({0: {0: {}, 1: {}, 2: {}}, 1: {0: {}}})
    job = Counting(steps=TWO, ahead=3, reading=lambda _: read.set())
    own = engine(memory, readers=3)
    first = own.first(job)
    assert first is not None
    assert read.wait(PATIENCE)
    assert first.readers._pool is not None
    first.readers._pool.submit(int).result()
    assert job.log == [("read", 1, 1)]
    own.run(job, first)
    assert sorted(job.done("read")) == job.done("compute") == [1, 2, 3, 4]
    assert [counts.get("before", 3) for counts in memory.groups[1].values()] == [3] * 5


def test_a_group_that_could_not_be_read_before_the_run_fails_in_it() -> None:
    def failing(_: int) -> None:
        raise SourceError("damaged", file="none")

    job, own = Counting(reading=failing), engine(Memory(), readers=2)
    first = own.first(job)
    with pytest.raises(SourceError, match="damaged"):
        own.run(job, first)


@pytest.mark.parametrize(("readers", "finished"), [(0, 0), (2, 6)])
def test_nothing_is_read_before_the_run_without_readers_or_missing_groups(readers: int, finished: int) -> None:
    memory = Memory({0: {group: {} for group in range(finished)}})
    assert engine(memory, readers=readers).first(Counting()) is None


def test_batches_are_halved_after_the_first_group_was_read_before_the_run() -> None:
    job = Counting(computing=lambda _: out_of_memory() if len(job.done("compute")) < 3 else None)
    own = engine(Memory(), readers=2)
    first = own.first(job)
    ran = own.run(job, first)
    assert isinstance(ran, Counting)
    assert ran.batch == 2
    assert sorted(ran.done("store")) == list(range(6))


@pytest.mark.parametrize("readers", [0, 2])
def test_the_last_group_of_a_job_is_announced_before_it_is_computed(readers: int) -> None:
    job = Counting(steps=TWO)
    engine(Memory(), readers=readers, beside=WorkBeside(begin=lambda: job.note("last", 1, 4))).run(job)
    done = [entry for entry in job.log if entry[0] in ("last", "compute")]
    assert done == [*(("compute", 0, n) for n in range(3)), *(("compute", 1, n) for n in range(4)), *done[-2:]]
    assert done[-2:] == [("last", 1, 4), ("compute", 1, 4)]


def test_without_readers_everything_is_done_in_turn_by_one_thread() -> None:
    threads = set[int]()
    note = lambda _: threads.add(threading.get_ident())  # noqa: E731 - the shortest hook
    job = Counting(reading=note, computing=note, storing=note)
    engine(Memory(), readers=0).run(job)
    assert threads == {threading.get_ident()}
    assert [what for what, _, _ in job.log] == ["read", "recall", "compute", "store"] * 6


@pytest.mark.parametrize("readers", [0, 2])
def test_what_is_finished_is_not_done_again(readers: int) -> None:
    memory = Memory({0: {1: {}, 4: {}}})
    seen: list[Progress] = []
    job = Counting()
    engine(memory, readers=readers, on_progress=seen.append).run(job)
    assert job.done("compute") == [0, 2, 3, 5]
    assert [(one.done, one.resumed) for one in seen] == [(2, True), (3, False), (4, False), (5, False), (6, False)]


def test_which_groups_are_done_is_an_argument() -> None:
    def mine(step: RunPass, finished: Collection[int]) -> Iterator[int]:
        yield from reversed([group for group in missing(step, finished) if group % 2])

    job, memory = Counting(), Memory({0: {3: {}}})
    engine(memory, readers=2, pieces=mine).run(job)
    assert job.done("compute") == [5, 1]
    assert sorted(memory.groups[0]) == [1, 3, 5]


def test_groups_are_asked_for_no_earlier_than_they_can_be_read() -> None:
    """A machine that shares the run can then take the next group when it is free."""
    asked, ahead = list[int](), list[int]()

    def some(step: RunPass, _: Collection[int]) -> Iterator[int]:
        for group in range(step.groups):
            asked.append(group)
            yield group

    job = Counting(
        ahead=1, steps=(Groups(number=0, groups=9),), computing=lambda group: ahead.append(max(asked) - group)
    )
    engine(Memory(), readers=1, pieces=some).run(job)
    assert max(ahead) == 2


@pytest.mark.parametrize("readers", [0, 2])
def test_a_group_that_did_not_fit_is_tried_again_alone(readers: int) -> None:
    failed, notes = list[int](), list[str]()

    def once(group: int) -> None:
        if group in (2, 4) and group not in failed:
            failed.append(group)
            raise torch.OutOfMemoryError

    job, memory = Counting(computing=once, least=4), Memory()
    engine(memory, readers=readers, on_note=notes.append).run(job)
    assert sorted(memory.groups[0]) == list(range(6))
    assert job.done("read").count(2) == job.done("read").count(4) == 2
    # From then on nothing is read ahead: each group is read when its turn has come.
    last = [entry[::2] for entry in job.log if entry[2] == 5]
    assert last == [("read", 5), ("recall", 5), ("compute", 5), ("store", 5)]
    assert job.log.index(("read", 0, 5)) > job.log.index(("store", 0, 4))
    if readers:
        assert [note.partition(":")[0] for note in notes] == ["out of memory while group 3 of 6 of pass 1 was computed"]


def test_a_shortage_that_a_runner_names_gets_the_image() -> None:
    def named(_: int) -> None:
        with naming_shortage("stage 3 was computed"):
            raise torch.OutOfMemoryError

    with pytest.raises(MemoryShortageError, match="none: out of memory while stage 3 was computed"):
        engine(Memory(), readers=0).run(Counting(computing=named, least=4))


def test_what_could_not_be_read_is_read_again() -> None:
    failed = list[int]()

    def once(group: int) -> None:
        if group == 3 and not failed:
            failed.append(group)
            raise MemoryError

    job, memory = Counting(reading=once), Memory()
    engine(memory, readers=2).run(job)
    assert sorted(memory.groups[0]) == list(range(6))


def test_before_anything_is_finished_batches_are_halved() -> None:
    job = Counting(batch=5)
    tight = Counting(**{**vars(job), "computing": lambda _: out_of_memory() if len(job.done("compute")) < 6 else None})
    memory, notes = Memory(), list[str]()
    ran = engine(memory, readers=2, on_note=notes.append).run(tight)
    assert isinstance(ran, Counting)
    assert ran.batch == 1
    assert {counts["batch"] for counts in memory.groups[0].values()} == {1}
    assert [note for note in notes if "instead" in note] == ["2 instead of 5", "1 instead of 2"]


@pytest.mark.parametrize("readers", [0, 2])
def test_before_anything_of_a_later_pass_is_finished_its_batches_are_halved(readers: int) -> None:
    job = Counting(steps=TWO)
    tight = Counting(
        **{**vars(job), "computing": lambda _: out_of_memory() if 4 <= len(job.done("compute")) < 8 else None}
    )
    memory, notes, seen = Memory(), list[str](), list[tuple[int, int, bool]]()
    own = engine(
        memory,
        readers=readers,
        on_note=notes.append,
        on_progress=lambda found: seen.append((found.step.number, found.done, found.resumed)),
    )
    ran = own.run(tight)
    assert isinstance(ran, Counting)
    assert ran.batch == 1
    assert [{counts["batch"] for counts in memory.groups[number].values()} for number in (0, 1)] == [{4}, {1}]
    assert [note for note in notes if "instead" in note] == ["2 instead of 4", "1 instead of 2"]
    # The pass before is neither computed nor counted again.
    assert [entry for entry in job.log if entry[:2] == ("store", 0)] == [("store", 0, group) for group in range(3)]
    assert seen == [*((0, done, False) for done in (1, 2, 3)), *((1, done, False) for done in range(1, 6))]


def test_once_a_group_of_a_later_pass_is_finished_the_run_ends() -> None:
    memory = Memory()
    job = Counting(steps=TWO, computing=lambda group: out_of_memory() if group == 4 else None)
    with pytest.raises(MemoryShortageError, match=r"group 5 of 5 of pass 2.*smaller --batch-size and --no-resume"):
        engine(memory, readers=2).run(job)
    assert sorted(memory.groups[1]) == [0, 1, 2, 3]


def test_afterwards_the_run_ends_and_keeps_what_is_finished() -> None:
    memory = Memory()
    job = Counting(computing=lambda group: out_of_memory() if group == 2 else None)
    with pytest.raises(MemoryShortageError, match="group 3 of 6 of pass 1 was computed"):
        engine(memory, readers=2).run(job)
    assert sorted(memory.groups[0]) == [0, 1]


@pytest.mark.parametrize("finished", [False, True])
def test_what_was_computed_in_another_way_for_want_of_memory_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, *, finished: bool
) -> None:
    """cuDNN uses another algorithm where memory is short, and only the allocator's count of failures shows it."""
    failed = [7]
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda *_: {"num_ooms": failed[0]})
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda *_, **__: None)
    job = Counting(device="cuda:0", batch=4)

    def silently(group: int) -> None:
        # Once with the first batch, or for good after some groups.
        failed[0] += group == 3 if finished else len(job.done("compute")) == 1

    memory, notes = Memory(), list[str]()
    tight = Counting(**{**vars(job), "computing": silently})
    running = engine(memory, readers=0, on_note=notes.append)
    if not finished:
        ran = running.run(tight)
        assert isinstance(ran, Counting)
        assert ran.batch == 2
        assert {counts["batch"] for counts in memory.groups[0].values()} == {2}
        return
    with pytest.raises(HiddenShortageError, match="group 4 of 6 of pass 1") as raised:
        running.run(tight)
    assert raised.value.exit_code == 6
    assert sorted(memory.groups[0]) == [0, 1, 2]
    assert job.done("compute").count(3) == 1, "it takes the other algorithm again"


@pytest.mark.parametrize("readers", [0, 2])
def test_what_was_put_of_a_group_that_could_not_be_stored_is_dropped(readers: int) -> None:
    memory = Memory()
    job = Counting(storing=lambda group: out_of_memory() if group == 1 else None)
    with pytest.raises(MemoryShortageError, match="group 2 of 6 of pass 1 was stored"):
        engine(memory, readers=readers).run(job)
    assert memory.dropped == [GroupId(pass_index=0, index=1)]
    assert sorted(memory.groups[0]) == [0]


@pytest.mark.parametrize("readers", [0, 2])
def test_a_group_that_cannot_be_read_ends_the_run(readers: int) -> None:
    def broken(group: int) -> None:
        if group == 3:
            raise SourceError("broken", file="x")

    memory = Memory()
    with pytest.raises(SourceError, match="broken"):
        engine(memory, readers=readers).run(Counting(reading=broken))
    assert sorted(memory.groups[0]) == [0, 1, 2]


@pytest.mark.parametrize("readers", [0, 2])
def test_what_computed_a_pass_is_gone_when_the_run_ends(readers: int) -> None:
    """A group is released without waiting for the garbage collector, because it holds tensors on a device."""
    held: list[weakref.ref[object]] = []

    class Watched(Counting):
        @override
        def runner(self, step: RunPass, resources: Resources) -> CountingRunner:
            runner = super().runner(step, resources)
            held.append(weakref.ref(runner))
            return runner

    gc.disable()
    try:
        engine(Memory(), readers=readers).run(Watched(steps=TWO))
        assert [reference() for reference in held] == [None, None]
    finally:
        gc.enable()

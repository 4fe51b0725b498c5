"""A task of a worker that is lost or fails goes to another worker, and no task is repeated without end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from magnet_cli.errors import DeviceError, OutputError, SourceError
from magnet_cli.events import Events
from magnet_cli.segmentation.cluster import crew as crew_module
from magnet_cli.segmentation.cluster.carried_errors import carried, delivered
from magnet_cli.segmentation.cluster.crew import MOST_LOSSES, Crew, Shift


class Promise:
    """A future that is done from the beginning, or never."""

    def __init__(self, found: dict[str, Any] | None) -> None:
        self.found = found
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def done(self) -> bool:
        return self.found is not None


@dataclass
class Workers(Crew):
    """Workers without a cluster. A script gives the answers of each, or the worker is lost together with its task."""

    script: dict[str, list[dict[str, Any] | None]] = field(default_factory=dict)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)
    time: float = 0.0

    def now(self) -> float:
        return self.time

    def refresh(self) -> None:
        self.hosts = {worker: "host" for worker in self.script if worker not in self.lost}

    def submit(self, worker: str, question: dict[str, Any]) -> Any:
        self.asked.append((worker, question.get("task")))
        if not question:
            return Promise({})
        answers = self.script[worker]
        found = answers.pop(0) if answers else {"ok": worker}
        if found is None:
            self.lost.append(worker)
        return Promise(found)

    def wait(self, futures: Any) -> list[Any]:
        return [future for future in futures if future.done()]

    @staticmethod
    def read(future: Any) -> dict[str, Any]:
        return cast("dict[str, Any]", future.found)


class Counting:
    """Work whose tasks are numbers."""

    def greeting(self, worker: str) -> dict[str, Any]:
        del worker
        return {}

    def objection(self, worker: str, found: dict[str, Any]) -> str | None:
        del found
        return "it is odd" if worker == "odd" else None

    def question(self, worker: str, task: int) -> dict[str, Any]:
        del worker
        return {"task": task}


def done(
    script: dict[str, list[dict[str, Any] | None]], tasks: int = 6, *, is_independent: bool = False
) -> tuple[Workers, list[tuple[int, str]]]:
    numbers = iter(range(tasks))
    crew = Workers(client=cast("Any", None), events=Events(), script=script)
    crew.refresh()
    shift: Shift[int] = Shift(
        crew=crew, work=Counting(), following=lambda _: next(numbers, None), is_independent=is_independent
    )
    found = list(shift.results())
    crew.failures = [task for task, _, answered in found if "error" in answered]
    return crew, [(task, worker) for task, worker, _ in found]


def test_a_task_whose_worker_is_lost_goes_to_another_one() -> None:
    crew, found = done({"a": [{"ok": 1}, None], "b": []})
    assert sorted(task for task, _ in found) == list(range(6))
    assert crew.lost == ["a"]


def test_a_worker_that_is_refused_gets_no_task() -> None:
    crew, found = done({"a": [], "odd": []})
    assert {worker for _, worker in found} == {"a"}
    assert crew.refused == {"odd"}


def test_a_worker_whose_device_fails_gets_no_more_tasks() -> None:
    short = {"error": carried(DeviceError("out of memory"), file="x")}
    crew, found = done({"a": [short], "b": []})
    assert sorted(task for task, _ in found) == list(range(6))
    assert crew.refused == {"a"}
    assert [worker for worker, task in crew.asked if task is not None].count("a") == 1


def test_a_task_that_every_worker_is_lost_with_ends_the_run() -> None:
    with pytest.raises(DeviceError, match="with the same task"):
        done({str(number): [None] for number in range(MOST_LOSSES)}, tasks=1)


def test_an_image_that_no_machine_can_hold_fails_alone() -> None:
    short = {"error": carried(DeviceError("out of memory"), file="x")}
    crew, found = done({"a": [short], "b": []}, is_independent=True)
    assert sorted(task for task, _ in found) == list(range(6))
    assert crew.failures == [0]
    assert crew.refused == set()
    # Each worker that gets the first image is killed.
    script: dict[str, list[dict[str, Any] | None]] = {str(number): [None] for number in range(MOST_LOSSES)}
    crew, found = done({**script, "z": []}, tasks=1, is_independent=True)
    assert crew.failures == [0]


HANGING: dict[str, Any] = {"ok": "late"}


class Messages(Events):
    """Keeps messages."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def message(self, text: str) -> None:
        self.found.append(text)


class LateWorkers(Workers):
    """Workers of which one holds its first task back, and whose waiting takes a second."""

    late: Promise | None = None

    def submit(self, worker: str, question: dict[str, Any]) -> Any:
        found = super().submit(worker, question)
        if found.found is HANGING:
            self.late = found = Promise(None)
        return found

    def wait(self, futures: Any) -> list[Any]:
        self.time += 1
        return super().wait(futures)


def late_shift(*, expected: float | None, tasks: int = 4) -> tuple[LateWorkers, Shift[int]]:
    """Return a shift over three workers, the first of which does not answer."""
    numbers = iter(range(tasks))
    script: dict[str, list[dict[str, Any] | None]] = {"a": [HANGING], "b": [], "c": []}
    crew = LateWorkers(client=cast("Any", None), events=Events(), script=script)
    crew.refresh()
    return crew, Shift(
        crew=crew,
        work=Counting(),
        following=lambda _: next(numbers, None),
        admitted={"a", "b", "c"},
        expected=None if expected is None else lambda _: expected,
    )


def test_a_late_task_is_given_to_one_more_worker_and_the_first_answer_counts() -> None:
    crew, shift = late_shift(expected=4.0)
    found = [(task, worker) for task, worker, _ in shift.results()]
    assert sorted(task for task, _ in found) == [0, 1, 2, 3]
    assert crew.time > crew_module.LATE * 4
    assert [worker for worker, task in crew.asked if task == 0] == ["a", dict(found)[0]]
    assert dict(found)[0] in ("b", "c")
    # Its worker gets nothing before it has ended, in this pass and in the next.
    assert crew.free(set()) == ["b", "c"]
    assert crew.late is not None
    crew.late.found = {"ok": "at last"}
    assert crew.free(set()) == ["a", "b", "c"]


def test_a_late_task_whose_second_worker_is_lost_is_not_given_out_a_third_time_at_once() -> None:
    crew, shift = late_shift(expected=0.1, tasks=1)
    crew.script.update(b=[None], c=[None])
    results = shift.results()
    for _ in range(3):
        assert shift._give()
        for future in crew.wait(shift._busy):
            assert list(shift._taken(future)) == []
        crew.refresh()
        assert list(shift._taken_back()) == []
    given = [worker for worker, task in crew.asked if task == 0]
    assert given == ["a", "b", "c"]
    assert crew.late is not None
    crew.late.found = {"ok": "at last"}
    assert [(task, worker) for task, worker, _ in results] == [(0, "a")]


@pytest.mark.parametrize(
    "useless",
    [{"error": carried(OutputError("the disk is full"), file="x")}, {"lacks": "cells"}, {"differs": {}}],
    ids=["error", "lacks", "differs"],
)
@pytest.mark.parametrize("last", [{"ok": "at last"}, {"error": carried(SourceError("damaged"), file="x")}])
def test_a_second_worker_that_fails_leaves_the_task_to_the_first_one(
    useless: dict[str, Any], last: dict[str, Any]
) -> None:
    crew, shift = late_shift(expected=0.1, tasks=1)
    crew.script.update(b=[useless], c=[useless])
    results = shift.results()
    for _ in range(6):
        assert shift._give()
        for future in crew.wait(shift._busy):
            assert list(shift._taken(future)) == []
    assert [worker for worker, task in crew.asked if task == 0] == ["a", "b", "c"]
    assert crew.overtaken == {}
    assert crew.late is not None
    crew.late.found = last
    assert list(results) == [(0, "a", last)]


@pytest.mark.parametrize(
    ("expected", "least"),
    [(4.0, crew_module.LEAST_HANGING), (20.0, 200.0), (None, crew_module.HANGING * crew_module.UNKNOWN)],
)
def test_an_only_worker_that_hangs_is_named_and_waited_for(expected: float | None, least: float) -> None:
    crew, shift = late_shift(expected=expected, tasks=1)
    messages = Messages()
    crew.script, crew.events = {"a": crew.script["a"]}, messages
    crew.refresh()
    heard: list[float] = []
    wait = crew.wait

    def waiting(futures: Any) -> list[Any]:
        heard.extend([crew.time] * (len(messages.found) - len(heard)))
        if len(heard) == 3:
            assert crew.late is not None
            crew.late.found = {"ok": "at last"}
        return wait(futures)

    crew.wait = waiting  # type: ignore[method-assign]
    assert [(task, worker) for task, worker, _ in shift.results()] == [(0, "a")]
    # It is named again after twice the time, and never more often.
    assert heard[0] == pytest.approx(least, abs=2)
    assert heard[1:] == pytest.approx([2 * heard[0], 4 * heard[0]], abs=4)
    assert all("worker a has computed for" in text for text in messages.found)
    # Nobody else could take its task.
    assert all("start another worker, then end this one" in text for text in messages.found)


def test_of_images_the_longest_says_what_to_expect_and_no_worker_is_named_early() -> None:
    crew, shift = late_shift(expected=None)
    messages = Messages()
    crew.events = messages
    shift._longest = 30.0
    results = shift.results()
    for _ in range(3):
        next(results)
    assert crew.late is not None
    while not messages.found:
        crew.time += 1
        shift._name_hanging()
    assert crew.time == pytest.approx(crew_module.HANGING * 30, abs=3)
    crew.late.found = {"ok": "at last"}
    assert [task for task, _, _ in results] == [0]


def test_a_larger_image_is_given_more_time_by_its_size() -> None:
    crew, shift = late_shift(expected=None)
    messages = Messages()
    crew.events = messages
    # The image that hangs is a hundred times as large as those that take a while.
    shift.size = lambda task: 100.0 if task == 0 else 1.0
    results = shift.results()
    for _ in range(3):
        next(results)
    assert crew.late is not None
    longest, slowest = shift._longest, shift._slowest
    assert 0 < longest == slowest
    while not messages.found:
        crew.time += 1
        shift._name_hanging()
    assert crew.time == pytest.approx(crew_module.HANGING * 100 * slowest, abs=10)
    crew.late.found = {"ok": "at last"}
    assert [task for task, _, _ in results] == [0]


def test_images_that_were_done_before_say_nothing_about_the_time_of_one() -> None:
    crew, shift = late_shift(expected=None, tasks=6)
    messages = Messages()
    crew.events = messages
    crew.script.update(b=[{"was_done": True}] * 3, c=[{"was_done": True}] * 3)
    results = shift.results()
    for _ in range(5):
        next(results)
    crew.time += crew_module.HANGING * crew_module.UNKNOWN - 60
    shift._name_hanging()
    assert messages.found == []
    crew.time += 60
    shift._name_hanging()
    assert len(messages.found) == 1
    assert "end the worker to give its task to another one" in messages.found[0]


def test_a_worker_whose_task_another_one_computes_may_be_ended() -> None:
    crew, shift = late_shift(expected=4.0, tasks=1)
    messages = Messages()
    crew.events = messages
    crew.script["b"] = [HANGING]
    assert shift._give()
    crew.time += crew_module.LATE * 4
    assert shift._give()
    assert [worker for worker, task in crew.asked if task == 0] == ["a", "b"]
    crew.time += crew_module.LEAST_HANGING
    shift._name_hanging()
    assert len(messages.found) == 2
    assert all("Another worker computes the same" in text for text in messages.found)


def named_silent(crew: LateWorkers, shift: Shift[int], hanging: Promise, least: float) -> str:
    """Run a shift until a message comes, let the worker that hangs answer, and return the message."""
    messages = Messages()
    crew.events = messages
    wait = crew.wait

    def waiting(futures: Any) -> list[Any]:
        assert crew.time < least + 5
        if messages.found:
            hanging.found = {"ok": "at last"}
        return wait(futures)

    crew.wait = waiting  # type: ignore[method-assign]
    assert [task for task, _, _ in shift.results()] == [0]
    assert crew.time >= least
    assert len(messages.found) == 1
    return messages.found[0]


def test_an_only_worker_that_still_computes_for_another_pass_is_named() -> None:
    crew, shift = late_shift(expected=4.0, tasks=1)
    crew.script = {"a": []}
    crew.refresh()
    before = Promise(None)
    crew.overtaken = {cast("Any", before): "a"}
    said = named_silent(crew, shift, before, crew_module.HANGING * crew_module.UNKNOWN)
    assert "worker a has not answered for 60 min" in said
    assert "start another worker" in said


def test_a_worker_that_comes_later_and_does_not_answer_is_named() -> None:
    crew, shift = late_shift(expected=4.0, tasks=1)
    shift.admitted = set()
    crew.script = {"a": []}
    crew.refresh()
    greeting = Promise(None)
    submit = crew.submit
    vars(crew)["submit"] = lambda worker, question: submit(worker, question) if question else greeting
    said = named_silent(crew, shift, greeting, crew_module.GATHERING)
    assert "worker a has not answered for 5.0 min" in said


def test_a_worker_that_does_not_answer_at_first_is_named_and_waited_for() -> None:
    crew, _ = late_shift(expected=None)
    messages = Messages()
    crew.script, crew.events = {"a": crew.script["a"]}, messages
    crew.refresh()
    wait = crew.wait

    def waiting(futures: Any) -> list[Any]:
        if len(messages.found) == 2:
            assert crew.late is not None
            crew.late.found = {"ok": "at last"}
        return wait(futures)

    crew.wait = waiting  # type: ignore[method-assign]
    assert crew.ask_all(lambda _: {"task": None}) == {"a": {"ok": "at last"}}
    assert crew.time >= 2 * crew_module.GATHERING
    said = "magnet: none of these workers has answered for "
    assert [text.partition(": a.")[0] for text in messages.found] == [f"{said}{time}" for time in ("5.0 min", "10 min")]


def test_a_worker_that_still_computes_for_another_pass_is_awaited_without_haste() -> None:
    crew, shift = late_shift(expected=None, tasks=1)
    crew.script = {"a": []}
    crew.refresh()
    before = cast("Any", Promise(None))
    crew.overtaken = {before: "a"}
    counted = 0
    refresh = crew.refresh

    def counting() -> None:
        nonlocal counted
        counted += 1
        assert counted < 100
        if crew.time > 5:
            before.found = {"ok": "late"}
        refresh()

    vars(crew)["refresh"] = counting
    assert [(task, worker) for task, worker, _ in shift.results()] == [(0, "a")]
    assert crew.time > 5


def test_a_task_whose_second_worker_hangs_too_is_given_to_a_third_one() -> None:
    crew, shift = late_shift(expected=4.0, tasks=1)
    crew.script["b"] = [HANGING]
    assert [(task, worker) for task, worker, _ in shift.results()] == [(0, "c")]
    assert [worker for worker, task in crew.asked if task == 0] == ["a", "b", "c"]
    # The third worker comes when the second one has had twice the time of the first one.
    assert 3 * crew_module.LATE * 4.0 <= crew.time < 3 * crew_module.LATE * 4.0 + 4


def test_without_an_expected_time_no_task_is_given_to_two_workers() -> None:
    crew, shift = late_shift(expected=None)
    results = shift.results()
    assert sorted(next(results)[0] for _ in range(3)) == [1, 2, 3]
    for _ in range(20):
        assert shift._give()
        crew.wait(shift._busy)
    assert [task for _, task in crew.asked].count(0) == 1


def test_workers_that_are_lost_before_they_answer_are_waited_for() -> None:
    crew = Workers(client=cast("Any", None), events=Events(), script={"a": [None], "b": [None]})
    refresh = crew.refresh

    def restarted() -> None:
        refresh()
        if not crew.hosts:
            crew.script["c"] = [{"ok": "c"}]
            refresh()

    vars(crew)["refresh"] = restarted
    assert crew.ask_all(lambda _: {"task": 0}) == {"c": {"ok": "c"}}


def test_a_worker_that_does_not_answer_does_not_keep_the_others_from_beginning() -> None:
    script: dict[str, list[dict[str, Any] | None]] = {"a": [{"ok": "a"}], "b": [HANGING]}
    crew = LateWorkers(client=cast("Any", None), events=Events(), script=script)
    assert crew.ask_all(lambda _: {"task": 0}) == {"a": {"ok": "a"}}
    assert crew_module.GATHERING < crew.time < crew_module.GATHERING + 5
    assert crew.free(()) == ["a"]
    assert crew.late is not None
    crew.late.found = {"ok": "at last"}
    assert crew.free(()) == ["a", "b"]


def test_a_worker_that_hangs_is_waited_for_with_the_first_image_alone() -> None:
    script: dict[str, list[dict[str, Any] | None]] = {"a": [], "b": [HANGING]}
    crew = LateWorkers(client=cast("Any", None), events=Events(), script=script)
    assert crew.ask_all(lambda _: {"task": 0}) == {"a": {"ok": "a"}}
    before = crew.time
    assert crew.ask_all(lambda _: {"task": 1}) == {"a": {"ok": "a"}}
    assert crew.time < before + 5
    assert crew.asked == [("a", 0), ("b", 0), ("a", 1)]
    # It is asked again once it has answered.
    assert crew.late is not None
    crew.late.found = {"ok": "at last"}
    assert set(crew.ask_all(lambda _: {"task": 2})) == {"a", "b"}


def test_a_worker_that_still_works_is_asked_where_all_others_fail() -> None:
    short = {"error": carried(DeviceError("out of memory"), file="x")}
    crew = LateWorkers(client=cast("Any", None), events=Events(), script={"a": [short], "b": []})
    crew.refresh()
    crew.overtaken = {cast("Any", Promise(None)): "b"}
    assert crew.ask_all(lambda _: {"task": 0}) == {"b": {"ok": "b"}}
    assert crew.refused == {"a"}


def test_without_workers_the_run_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew_module, "WAITING", 0.05)
    with pytest.raises(DeviceError, match="no worker"):
        done({"odd": []})


@pytest.mark.parametrize("error", [SourceError("damaged", value=3, file="a.tif", advice="Copy it"), ValueError("oh")])
def test_a_failure_is_carried_as_words(error: Exception) -> None:
    found = delivered(carried(error, file="b.tif"))
    if isinstance(error, SourceError):
        assert type(found) is SourceError
        assert str(found) == str(error)
    else:
        assert found.exit_code == 1
        assert "ValueError: oh" in str(found)
        assert found.details is not None

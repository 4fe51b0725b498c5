"""A series of images: what is read, computed and written at the same time, if it fits into memory, and how it ends."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from magnet_cli.errors import DeviceError, MemoryShortageError, SourceError
from magnet_cli.events import Events
from magnet_cli.masks import output
from magnet_cli.masks.report_file import read_report, write_report
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan import MemoryPlan
from magnet_cli.segmentation import api, image_series, pass_runner
from magnet_cli.segmentation.group_reader import read_group
from magnet_cli.segmentation.image_series import FINISHING_BYTES, DeferredEvents, ImageAhead, ImageSeries, fits_beside
from magnet_cli.segmentation.pass_runner import PassRunner
from tests.cli.support import write_colours_bundle, write_image
from tests.run.support import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from magnet_cli.segmentation.image_run import PreparedImage

NAMES = ("a", "b", "c")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a bundle whose class is the brightest band."""
    return write_colours_bundle(tmp_path_factory.mktemp("series") / "colours")


class Log:
    """What was done with which image, in order; hooks run before a group is read and before one is computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entries: list[tuple[str, str]] = []
        self._read = {name: threading.Event() for name in NAMES}
        self.reading: Callable[[str], object] = str
        self.computing: Callable[[str], object] = str
        read, compute, write = read_group, PassRunner.compute, write_report

        def reading(image: Any, bound: Any, group: int) -> Any:
            name = self._note("read", bound.plan.image.path)
            self._read[name].set()
            self.reading(name)
            return read(image, bound, group)

        def computing(own: PassRunner, given: Any, known: Any) -> Any:
            self.computing(self._note("compute", own.bound.plan.image.path))
            return compute(own, given, known)

        def writing(path: Path, report: Any) -> None:
            self._note("report", str(path))
            write(path, report)

        monkeypatch.setattr(pass_runner, "read_group", reading)
        monkeypatch.setattr(PassRunner, "compute", computing)
        monkeypatch.setattr(output, "write_report", writing)

    def _note(self, what: str, path: str) -> str:
        name = Path(path).stem
        self.entries.append((what, name))
        return name

    def await_next(self, name: str) -> None:
        """Wait until reading has begun of the image after this one."""
        if name != NAMES[-1]:
            assert self._read[NAMES[NAMES.index(name) + 1]].wait(PATIENCE), f"nothing is read beside {name}"


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, here: Path) -> Log:
    """Three images of one group of windows each, and what is done with them."""
    for seed, name in enumerate(NAMES):
        write_image(here / "in" / f"{name}.tif", seed=seed, size=(30, 32))
    return Log(monkeypatch)


def segment(bundle: Path, out: str = "out", **more: Any) -> list[str]:
    """Segment the folder, and return the status of each image."""
    options = SegmentOptions(weights=str(bundle), method="patch")
    return [result.status for result in api.segment("in", out, options, **more)]


def masks(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder).glob("*.tif"))}


def nothing_is_left() -> None:
    assert not list(Path("out").glob("*.journal*"))
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("plan", "read", "finish"))]


def test_the_next_image_is_read_while_the_one_before_is_computed(log: Log, bundle: Path) -> None:
    assert segment(bundle, "alone", stop_on_error=True) == ["done"] * 3
    assert [what for what, _ in log.entries] == ["read", "compute", "report"] * 3
    log.entries.clear()
    log.computing = log.await_next
    for event in log._read.values():
        event.clear()
    assert segment(bundle) == ["done"] * 3
    for name, following in pairwise(NAMES):
        assert log.entries.index(("read", following)) < log.entries.index(("report", name))
    assert sorted(log.entries) == sorted((what, name) for what in ("read", "compute", "report") for name in NAMES)
    assert masks("out") == masks("alone")
    nothing_is_left()


def test_without_memory_for_both_the_next_image_is_read_in_its_turn(
    log: Log, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_series, "fits_beside", lambda *_, **__: False)
    assert segment(bundle) == ["done"] * 3
    order = [entry for entry in log.entries if entry[0] != "report"]
    assert order == [(what, name) for name in NAMES for what in ("read", "compute")]


def test_a_failure_to_read_ahead_is_that_of_its_image(log: Log, bundle: Path) -> None:
    def failing(name: str) -> None:
        if name == "b":
            raise SourceError("the tile is damaged", file="in/b.tif")

    log.reading, log.computing = failing, lambda name: log.await_next(name) if name == "a" else None
    assert segment(bundle) == ["done", "failed", "done"]
    rows = read_report(Path("out/run.json"))["images"]
    assert [(row["status"], row.get("exit_code")) for row in cast("list[dict[str, Any]]", rows)] == [
        ("done", None),
        ("failed", 3),
        ("done", None),
    ]
    nothing_is_left()
    log.reading = str
    assert segment(bundle) == ["already done", "done", "already done"]


def test_a_failure_to_open_ahead_is_that_of_its_image(log: Log, bundle: Path) -> None:
    assert segment(bundle) == ["done"] * 3
    for name in ("a", "c"):
        Path(f"out/{name}.tif").unlink()
        Path(f"out/{name}.json").unlink()
    report = Path("out/b.json")
    report.write_bytes(report.read_bytes().replace(b'"bundle": "', b'"bundle": "0'))
    log.computing = lambda name: log.await_next("b") if name == "a" else None
    log.entries.clear()
    results = api.segment("in", "out", SegmentOptions(weights=str(bundle), method="patch"))
    assert [result.error and result.error.exit_code for result in results] == [None, 5, None]


def test_memory_that_runs_out_while_images_are_planned_is_no_bug(
    log: Log, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> object:
        raise MemoryError

    monkeypatch.setattr("magnet_cli.segmentation.image_run.plan_image", full)
    options = SegmentOptions(weights=str(bundle), method="patch")
    for inputs in ("in", "in/a.tif"):
        errors = [result.error for result in api.segment(inputs, "out", options)]
        assert {type(error) for error in errors} == {DeviceError}
    assert not log.entries
    nothing_is_left()


def test_an_image_that_was_read_ahead_is_closed_when_the_run_is_interrupted(log: Log, bundle: Path) -> None:
    def interrupted(name: str) -> None:
        log.await_next(name)
        if name == "b":
            raise KeyboardInterrupt

    log.computing = interrupted
    with pytest.raises(KeyboardInterrupt):
        segment(bundle)
    nothing_is_left()
    assert read_report(Path("out/run.json"))["state"] == "stopped"
    assert sorted(masks("out")) == ["a.tif"]
    log.computing = str
    assert segment(bundle) == ["already done", "done", "done"]


@pytest.mark.parametrize("shortages", [1, 2])
def test_the_next_image_gives_its_memory_back_where_memory_is_short(log: Log, bundle: Path, shortages: int) -> None:
    assert segment(bundle, "alone", stop_on_error=True) == ["done"] * 3
    left = [shortages]

    def computing(name: str) -> None:
        if name == "a" and left[0]:
            log.await_next(name)
            left[0] -= 1
            raise MemoryShortageError("memory is short", file="in/a.tif")

    for event in log._read.values():
        event.clear()
    log.entries.clear()
    log.computing = computing
    assert segment(bundle) == ["done"] * 3
    # The next image is read once beside the first, and once more in its turn.
    assert [entry for entry in log.entries if entry == ("read", "b")] == [("read", "b")] * 2
    tries = [number for number, entry in enumerate(log.entries) if entry == ("compute", "a")]
    assert len(tries) == shortages + 1
    assert ("read", "b") not in log.entries[tries[1] : tries[-1] + 1]
    assert masks("out") == masks("alone")
    nothing_is_left()


@pytest.mark.parametrize("is_writing", [False, True])
def test_an_image_is_read_ahead_if_both_fit_into_memory(*, is_writing: bool) -> None:
    before = MemoryPlan(budget=0, base=1000, cache=10, compute=500, group=100, output=50, ahead=2)
    following = MemoryPlan(budget=0, base=900, cache=20, compute=900, group=70, ahead=1, processes=2, process=5)
    # Of the image before one group is left; of the next image there are its open file and one group.
    needed = 1000 + 10 + 500 + 50 + 100 + 20 + 70 + 2 * 5 + is_writing * FINISHING_BYTES
    assert fits_beside(following, replace(before, budget=needed), is_writing=is_writing)
    assert not fits_beside(following, replace(before, budget=needed - 1), is_writing=is_writing)
    assert not fits_beside(replace(following, ahead=0), replace(before, budget=1 << 40), is_writing=is_writing)


def test_events_wait_for_the_turn_of_their_image() -> None:
    class Heard(Events):
        texts: list[str] = []  # noqa: RUF012 - one instance

        def message(self, text: str) -> None:
            self.texts.append(text)

    heard = Heard()
    deferred = DeferredEvents(heard)
    deferred.message("one")
    assert heard.texts == []
    deferred.begin()
    deferred.message("two")
    assert heard.texts == ["one", "two"]


@pytest.mark.parametrize(("spare", "waits"), [(FINISHING_BYTES - 1, True), (FINISHING_BYTES, False)])
def test_an_image_waits_for_the_mask_before_it_where_memory_is_short(spare: int, *, waits: bool) -> None:
    class Watched(Future):  # type: ignore[type-arg]
        asked = False

        def exception(self, timeout: float | None = None) -> None:
            del timeout
            self.asked = True

    pending = Watched()
    seen: list[bool] = []
    memory = SimpleNamespace(total=1000, budget=1000 + spare)
    image = SimpleNamespace(plan=SimpleNamespace(memory=memory), computed=lambda _: seen.append(pending.asked))
    ImageSeries._computed(cast("PreparedImage", image), pending, None)
    assert seen == [waits]


def test_a_failure_of_the_plan_is_kept_for_its_turn() -> None:
    error = ValueError("no image")
    assert ImageSeries._computed(error, None, None) is error


@pytest.mark.parametrize("is_planning", [False, True])
def test_memory_is_given_back_without_waiting_for_a_plan(*, is_planning: bool) -> None:
    begun, goes_on = threading.Event(), threading.Event()
    image = cast("PreparedImage", SimpleNamespace())

    def prepared(_: Events) -> PreparedImage:
        begun.set()
        assert goes_on.wait(2)
        return image

    with ThreadPoolExecutor(1) as thread:
        if not is_planning:
            thread.submit(goes_on.wait, 2)
        ahead = ImageAhead(thread, prepared, Events())
        ahead.open(cast("MemoryPlan", SimpleNamespace()), None)
        assert begun.wait(PATIENCE) if is_planning else not begun.is_set()
        ahead.give_up()
        assert not ahead._planned.done()
        goes_on.set()
        assert ahead.turn() is image

"""With `--num-workers`, `refine` reads in that many threads, stores in another one, and plans memory for them."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from magnet_cli.errors import DeviceError
from magnet_cli.masks.journal import Journal
from magnet_cli.models import device
from magnet_cli.options.refine import RefineOptions
from magnet_cli.refinement import classical_method, large_objects, method_loader, wholes
from magnet_cli.refinement.api import plan_refine, refine
from tests.refinement.support import Bright, discs, model_of, use, write_grey, write_image
from tests.refinement.test_squares import Same
from tests.refinement.test_squares import use as use_tool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from magnet_cli.options.segment import RefineMethod
    from magnet_cli.plan import MemoryPlan

SHAPE = (330, 351)
PATIENCE = 60
"""Seconds that a thread waits for the others before the test fails."""
READING: dict[str, tuple[Any, RefineMethod, tuple[tuple[int, int, int], ...]]] = {
    "objects": (wholes.Objects, "cascadepsp", ((40, 40, 15), (40, 120, 15), (120, 40, 15), (120, 120, 15))),
    "levels": (large_objects.Levels, "cascadepsp", ((160, 170, 145),)),
    "squares": (classical_method.Squares, "guided", ((160, 170, 145),)),
}


@pytest.mark.parametrize("what", READING)
def test_as_many_threads_read_as_there_are_workers(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, method, circles = READING[what]
    use(monkeypatch, Bright())
    use_tool(monkeypatch, Same())
    truth = discs(SHAPE, *circles)
    image, mask = write_image(tmp_path / "i.tif", truth), write_grey(tmp_path / "m.tif", truth.astype(np.uint8))
    alone = refine(image, mask, tmp_path / "alone.tif", RefineOptions(method=method, num_workers=0))
    together, original, threads = threading.Barrier(4), runner.read, set[int]()

    def read(self: Any, group: int) -> Any:
        if threading.get_ident() not in threads:
            threads.add(threading.get_ident())
            together.wait(PATIENCE)
        return original(self, group)

    if what == "levels":
        # The first level is one block; its last has several.
        level, inner = original, read
        read = lambda self, group: (inner if self._step.is_last else level)(self, group)  # noqa: E731 - by level
    monkeypatch.setattr(runner, "read", read)
    found = refine(image, mask, tmp_path / "many.tif", RefineOptions(method=method, num_workers=4))
    assert len(threads) == 4
    assert found.output.read_bytes() == alone.output.read_bytes()


def test_an_object_is_stored_while_the_next_is_refined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, beside = threading.Semaphore(0), list[bool]()

    class Noted(Bright):
        def sharpened(self, images: Tensor, inside: Tensor) -> Tensor:
            calls.release()
            return super().sharpened(images, inside)

    use(monkeypatch, Noted())
    truth = discs(SHAPE, (40, 40, 10), (40, 120, 10), (120, 40, 10), (120, 120, 10))
    image, mask = write_image(tmp_path / "i.tif", truth), write_grey(tmp_path / "m.tif", truth.astype(np.uint8))
    original = Journal.put_field

    def put_field(*arguments: Any, **named: Any) -> None:
        assert calls.acquire(timeout=PATIENCE)
        # One call was its own object's; the other is the next one's, but for the last.
        beside.append(len(beside) == 3 or calls.acquire(timeout=PATIENCE))
        calls.release()
        original(*arguments, **named)

    monkeypatch.setattr(Journal, "put_field", put_field)
    refine(image, mask, tmp_path / "out.tif", RefineOptions(num_workers=2))
    assert beside == [True] * 4


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[RefineMethod, int, int], MemoryPlan]:
    """Return the memory of a run by a method, with a number of workers and a budget."""
    use(monkeypatch, Bright())
    use_tool(monkeypatch, Same())
    monkeypatch.setattr(device, "host_memory", lambda: 500 << 20)
    truth = discs(SHAPE, (160, 170, 145))
    image, mask = write_image(tmp_path / "i.tif", truth), write_grey(tmp_path / "m.tif", truth.astype(np.uint8))

    def plan(method: RefineMethod, workers: int, budget: int) -> MemoryPlan:
        model = model_of(Bright())
        model = replace(model, machine=replace(model.machine, memory=budget))
        monkeypatch.setattr(method_loader, "load_refine_model", lambda *_: model)
        options = RefineOptions(method=method, num_workers=workers, memory=budget)
        return plan_refine(image, mask, options).plan.memory

    return plan


@pytest.mark.parametrize("method", ["cascadepsp", "guided"])
def test_planned_memory_grows_with_the_readers(
    method: RefineMethod, planned: Callable[[RefineMethod, int, int], MemoryPlan]
) -> None:
    none, one, two, eight = (planned(method, workers, 8 << 30) for workers in (0, 1, 2, 8))
    assert [memory.ahead for memory in (none, one, two, eight)] == [0, 1, 2, 8]
    # A thread that writes holds a result of its own.
    assert one.output == eight.output == 2 * none.output
    assert one.total == none.total + none.group + none.output
    assert eight.total == one.total + 7 * one.group


@pytest.mark.parametrize("method", ["cascadepsp", "guided"])
def test_less_is_read_ahead_where_memory_is_short(
    method: RefineMethod, planned: Callable[[RefineMethod, int, int], MemoryPlan]
) -> None:
    plenty = planned(method, 8, 8 << 30)
    for ahead in (0, 3):
        budget = plenty.total - (8 - ahead) * plenty.group
        short = planned(method, 8, budget)
        assert short.ahead == ahead
        assert short.total == short.budget == budget
    with pytest.raises(DeviceError, match="needs at least"):
        planned(method, 8, plenty.total - 9 * plenty.group)

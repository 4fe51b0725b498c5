"""Work by several threads comes back in order, and little of it waits."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from magnet_cli.masks import compression as packing
from magnet_cli.masks.compression import LEAST, MOST, by_threads

if TYPE_CHECKING:
    from collections.abc import Iterator

CORES = 5
WAITING = packing.WAITING * CORES


@pytest.fixture(autouse=True)
def some_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "usable_cores", lambda: CORES)


def test_results_come_in_the_order_of_the_items() -> None:
    later = threading.Event()

    def slow_at_first(item: int) -> int:
        if item == 0:
            assert later.wait(30), "the second item waits for the first"
        later.set()
        return item * item

    assert list(by_threads(slow_at_first, range(50))) == [item * item for item in range(50)]


@pytest.mark.parametrize("count", [0, 1, WAITING - 1, WAITING, WAITING + 1])
def test_any_number_of_items_comes_back(count: int) -> None:
    assert list(by_threads(str, range(count))) == [str(item) for item in range(count)]


def test_items_are_taken_as_results_are_asked_for() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(1000):
            taken.append(item)
            yield item

    results = by_threads(abs, items())
    for number in range(10):
        assert next(results) == number
        assert len(taken) <= number + WAITING


def test_an_error_comes_in_its_turn_and_ends_the_work() -> None:
    done: list[int] = []

    def breaks(item: int) -> int:
        if item == 5:
            message = "no more"
            raise RuntimeError(message)
        done.append(item)
        return item

    results = by_threads(breaks, range(1000))
    assert [next(results) for _ in range(5)] == list(range(5))
    with pytest.raises(RuntimeError, match="no more"):
        next(results)
    assert len(done) <= 5 + WAITING


def test_no_thread_outlives_it() -> None:
    results = by_threads(abs, range(1000))
    assert next(results) == 0
    assert sum(thread.name.startswith("pack") for thread in threading.enumerate()) <= CORES
    results.close()
    assert not any(thread.name.startswith("pack") for thread in threading.enumerate())


@pytest.mark.parametrize(("cores", "threads"), [(2, LEAST), (CORES, CORES), (200, MOST)])
def test_there_are_as_many_threads_as_cores_within_bounds(
    monkeypatch: pytest.MonkeyPatch, cores: int, threads: int
) -> None:
    monkeypatch.setattr(packing, "usable_cores", lambda: cores)
    together = threading.Barrier(threads)
    assert list(by_threads(lambda item: together.wait(30) >= 0 and item, range(threads))) == list(range(threads))


def test_with_one_core_the_calling_thread_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "usable_cores", lambda: 1)
    assert set(by_threads(lambda _: threading.current_thread(), range(5))) == {threading.current_thread()}

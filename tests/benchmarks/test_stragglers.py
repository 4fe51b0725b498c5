"""The simulation of unequal workers: what it computes by hand, and that late tasks cost less with a second worker."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.stragglers import FOREVER, STARTING, Worker, ideal, scenarios, simulated
from magnet_cli.segmentation.cluster.crew import LATE
from magnet_cli.segmentation.cluster.group_spans import UNMEASURED


def test_the_ideal_time_counts_workers_as_long_as_they_are_there() -> None:
    workers = [Worker(), Worker(speed=0.5), Worker(lost=10.0), Worker(slow=20.0, factor=10.0)]
    # 40 + 20 + 10 + 20 + 2
    assert ideal(workers, 92.0) == pytest.approx(40.0, abs=0.01)
    assert Worker(slow=5.0, factor=4.0).seconds(3.0, 4.0) == 2.0 + 4 * 2.0


def test_one_worker_takes_the_time_of_all_groups_and_of_beginning_each_task() -> None:
    share, tasks = simulated({"0": Worker()}, [10.0] * 8, repeats_late=True)
    assert share == pytest.approx(80.0 / (80.0 + tasks * STARTING), abs=0.001)


@pytest.mark.parametrize("name", ["equal", "one slow", "mixed", "two lost", "one lost last", "one late", "stuck"])
def test_a_second_worker_for_late_tasks_costs_nothing_and_spares_waiting(name: str) -> None:
    shares, crew = [], list[Worker]()
    for repeats_late in (False, True):
        rng = np.random.default_rng(3)
        crew = scenarios(8, 500.0, rng)[name]
        costs = [10.0 * rng.uniform(0.5, 1.5) for _ in range(400)]
        workers = {str(number): worker for number, worker in enumerate(crew)}
        shares.append(simulated(workers, costs, repeats_late=repeats_late)[0])
    assert shares[1] >= shares[0] - 0.01
    assert shares[1] > 0.9
    assert min(worker.lost for worker in crew) < FOREVER or "lost" not in name
    if name == "stuck":
        assert shares[0] < 0.8


def test_the_only_task_of_a_pass_does_not_wait_for_a_worker_that_hangs() -> None:
    workers = {"0": Worker(slow=1.0, factor=1e6), "1": Worker()}
    share, tasks = simulated(workers, [20.0], repeats_late=True)
    assert tasks == 2
    assert LATE * UNMEASURED < ideal(list(workers.values()), 20.0) / share < LATE * UNMEASURED + 30.0

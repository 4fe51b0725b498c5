"""Measure what giving out a task costs: the coordinator, Dask's scheduler and its workers, for tasks that do nothing.

    python benchmarks/scheduler.py --tasks 400 --workers 4

The coordinator is the program's own, and the workers are those of a local Dask cluster in this process, so that the CPU
seconds are those of all three together.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from time import process_time
from typing import Any

import distributed

from magnet_cli.events import Events
from magnet_cli.segmentation.cluster import crew as crew_module
from magnet_cli.segmentation.cluster.crew import Crew, Shift


def answer_nothing(text: str) -> str:
    """Answer a question without doing anything."""
    del text
    return "{}"


class Nothing:
    """Work whose tasks are numbers."""

    def greeting(self, worker: str) -> dict[str, Any]:
        """Ask nothing."""
        del worker
        return {}

    def objection(self, worker: str, found: dict[str, Any]) -> None:
        """Admit every worker."""

    def question(self, worker: str, task: int) -> dict[str, Any]:
        """Ask for a task. A question of a run has some two kilobytes."""
        del worker
        return {"task": task, "job": "x" * 2000}


def local_cluster(workers: int) -> distributed.LocalCluster:
    """Start workers in this process that are spoken to as those of other machines, with a thread each."""
    return distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=False,
        protocol="tcp",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,
    )


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=400)
    parser.add_argument("--workers", type=int, default=4)
    given = parser.parse_args()
    vars(crew_module)["answer"] = answer_nothing
    with (
        local_cluster(given.workers) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        crew = Crew(client=client, events=Events())
        crew.await_workers()
        numbers = iter(range(given.tasks))
        shift: Shift[int] = Shift(crew=crew, work=Nothing(), following=lambda _: next(numbers, None))
        began = process_time()
        done = sum(1 for _ in shift.results())
        spent = process_time() - began
    print(
        json.dumps({**vars(given), "cpu_milliseconds_a_task": round(1000 * spent / done, 2), "load": os.getloadavg()})
    )


if __name__ == "__main__":
    main()

"""The script of the paper's run counts the windows that it states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.make_bundle import write_fpn
from benchmarks.paper_run import Contender, compared, described, outside
from magnet_cli.bench.task import Took
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.facts import model_facts

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


def contender(name: str, *runs: Took) -> Contender:
    return Contender(name=name, process=None, runs=list(runs))  # type: ignore[arg-type]


def took(seconds: float, *, base: int, peak: int, **parts: float) -> Took:
    return Took(seconds=seconds, windows=21, host_base=base * MIB, host_peak=peak * MIB, parts=parts)


def test_ratios_are_of_rounds_and_memory_is_above_the_loaded_program() -> None:
    ours = contender(
        "program float32",
        took(10, base=500, peak=800, networks_backbone=6, networks_refiner=3, forward=7),
        took(20, base=700, peak=800, networks_backbone=12, networks_refiner=6, forward=14),
    )
    naive = contender(
        "naive float32",
        took(30, base=600, peak=1800, backbone=16, refiner=10, rest=4),
        took(50, base=900, peak=1800, backbone=25, refiner=15, rest=10),
    )

    found = compared(ours, naive)

    assert [outside(run) for run in (*ours.runs, *naive.runs)] == [1, 2, 4, 10]
    assert found["times_as_fast"] == {"median": 2.75, "least": 2.5, "most": 3.0, "all": [3.0, 2.5]}
    assert found["outside_share"] == {"median": 0.225, "least": 0.2, "most": 0.25, "all": [0.25, 0.2]}
    assert found["memory_share"] == pytest.approx(300 / 1200)
    assert described(ours)["shares"] == {"backbone": 0.6, "refiner": 0.3, "rest": 0.1}


def test_the_bundle_is_the_papers(tmp_path: Path) -> None:
    write_fpn(tmp_path / "fpn508")

    facts = model_facts(load_bundle(str(tmp_path / "fpn508")))
    assert (facts.classes, facts.input.width, facts.has_refiner) == (7, 508, True)
    assert [size.width for size in facts.trained] == [2448, 1224, 612]
    assert facts.defaults.merge == "refiner"
    assert facts.defaults.points.spelled("q") == "75%"
    assert facts.defaults.median == 11

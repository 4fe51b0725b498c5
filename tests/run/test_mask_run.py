"""A run that makes a mask keeps its journal around the engine, and its report has the facts of the run."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from magnet_cli.events import Events, Step
from magnet_cli.masks.journal import Journal
from magnet_cli.masks.output import OutputPaths
from magnet_cli.run.clock import Clock
from magnet_cli.run.engine import Progress
from magnet_cli.run.mask_run import MaskRun, Tally
from magnet_cli.run.measured import Totals
from magnet_cli.system.memory import PeakSampler
from tests.run.support import Counting, Groups

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("device", "threaded"), [("cpu", False), ("cuda:0", True), ("mps", True)])
def test_several_threads_pack_results_where_the_networks_have_another_device(
    device: str, *, threaded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, opened = list[bool](), Journal.open

    def noted(*arguments: Any, **named: Any) -> Journal:
        given.append(named["threaded"])
        return opened(*arguments, **named)

    monkeypatch.setattr(Journal, "open", noted)
    run = MaskRun(
        job=Counting(device=device),
        paths=OutputPaths.of(tmp_path / "m.tif"),
        hashes={},
        workers=None,
        resume=True,
        overwrite=False,
        events=Events(),
        clock=Clock(),
    )
    with ExitStack() as stack:
        run._journal(stack)
    assert given == [threaded]


def test_progress_names_the_pass_and_counts_groups() -> None:
    class Heard(Events):
        def __init__(self) -> None:
            self.steps: list[Step] = []

        def step(self, step: Step) -> None:
            self.steps.append(step)

    passes, heard = (Groups(number=0, groups=4, what="objects"), Groups(number=1, groups=2)), Heard()
    tally = Tally(Counting(steps=passes), "m.tif", heard, PeakSampler())
    tally(Progress(step=passes[0], done=3, resumed=True))
    tally(Progress(step=passes[0], done=4, resumed=False))
    tally(Progress(step=passes[1], done=1, resumed=False))
    assert [(step.what, step.done, step.total) for step in heard.steps] == [
        ("pass 1 of 2, objects", 3, 4),
        ("pass 1 of 2, objects", 4, 4),
        ("pass 2 of 2", 1, 2),
    ]
    assert (tally.resumed, tally.computed) == (3, 2)
    shares = [step.share for step in heard.steps]
    assert all(share is not None for share in shares)
    # Three of four groups in a pass of four of six, and a little for the writing of the mask.
    assert shares[0] == pytest.approx(0.5, abs=0.05)
    assert shares[1] == pytest.approx(2 / 3, abs=0.05)
    assert shares[2] == pytest.approx(5 / 6, abs=0.05)


def test_totals_are_sums_of_what_groups_count() -> None:
    groups: list[dict[str, object]] = [
        {"labels": [1, 2], "nodata": 3, "threads": 2, "batch": 4, "stages": {"1": {"run": 5}}, "statuses": "rn"},
        {"labels": [10, 0], "nodata": 0, "threads": 2, "batch": 4, "stages": {"1": {"run": 1}, "2": {"points": 7}}},
        {"windows": 8, "threads": 2},
    ]
    assert Totals.of(groups) == Totals(
        labels=(11, 2), counts={"nodata": 3, "windows": 8}, stages={1: {"run": 6}, 2: {"points": 7}}
    )
    assert Totals.of([]) == Totals()

"""The seconds of a run are noted by activity, and include those of earlier runs that were interrupted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from magnet_cli.events import Events, Step
from magnet_cli.models.bundle_writer import describe, write_bundle
from magnet_cli.models.registry import build_backbone
from magnet_cli.options.refine import RefineOptions
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.refinement.api import refine
from magnet_cli.run import clock
from magnet_cli.run.clock import NOTED_EVERY, Clock
from magnet_cli.segmentation import api as segmentation
from tests.cli.support import write_image
from tests.refinement.support import Bright, discs, use, write_grey
from tests.refinement.support import write_image as write_bright

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Time:
    """A clock that advances by a step whenever it is read."""

    def __init__(self, step: float) -> None:
        self.step = step
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Time]:
    def pass_by(step: float) -> Time:
        found = Time(step)
        monkeypatch.setattr(clock, "time", found)
        return found

    return pass_by


def test_activities_and_the_whole_add_up(passing: Callable[[float], Time]) -> None:
    passing(1.0)
    found = Clock(("read", "write"))
    with found.measure("read"):
        pass
    with pytest.raises(ValueError, match="x"), found.measure("write"):
        raise ValueError("x")
    assert found.seconds() == {"read": 1.0, "write": 1.0, "wall": 5.0}


def test_notes_are_seldom_and_a_run_goes_on_from_the_last(passing: Callable[[float], Time]) -> None:
    time = passing(1.0)
    first = Clock(("read",))
    noted = [first.note() for _ in range(40)]
    some = [note for note in noted if note]
    assert 2 <= len(some) <= 40 / NOTED_EVERY
    assert noted[0] == {}
    time.now, time.step = 0.0, 0.25
    second = Clock(("read",))
    second.resume([{"labels": [1]}, *reversed(noted)])
    last = some[-1]["seconds"]["wall"]
    assert second.seconds()["wall"] == last + 0.25
    with second.measure("read"):
        pass
    assert second.seconds()["read"] == some[-1]["seconds"]["read"] + 0.25
    second.resume([])
    assert second.seconds()["wall"] < last


def noted_in(journal: Path) -> float:
    """Return the largest time that a journal's groups have noted."""
    parts = journal.read_bytes().split(b'"seconds":')[1:]
    found = [json.JSONDecoder().raw_decode(part.decode(errors="replace").lstrip())[0] for part in parts]
    return max(float(each["wall"]) for each in found)


class Stop(Events):
    """Events that interrupt a run after some groups."""

    def step(self, step: Step) -> None:
        if step.what.startswith("pass") and step.done == 2:
            raise KeyboardInterrupt


def test_the_report_of_a_mask_that_was_interrupted_has_the_time_of_both_runs(
    tmp_path: Path, passing: Callable[[float], Time]
) -> None:
    network = build_backbone("conv", classes=3, bands=3, options={})
    write_bundle(tmp_path / "bundle", describe(classes=3, scales=(128, 64, 32)), {"backbone.safetensors": network})
    image, mask = write_image(tmp_path / "i.tif", size=(200, 260)), tmp_path / "m.tif"
    options = SegmentOptions(weights=str(tmp_path / "bundle"), batch_size=1, num_workers=0)
    passing(1000.0)
    with pytest.raises(KeyboardInterrupt):
        segmentation.segment([image], mask, options, events=Stop())
    noted = noted_in(tmp_path / "m.tif.journal")
    passing(0.001)
    (result,) = segmentation.segment([image], mask, options)
    report: Any = result.report
    assert report["groups"]["resumed"] > 0
    assert noted < report["seconds"]["wall"] < noted + 100
    assert report["seconds"]["read"] > 1000


def test_a_mask_that_is_refined_likewise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passing: Callable[[float], Time]
) -> None:
    truth = discs((220, 240), (60, 70, 40), (150, 160, 55))
    image, mask = write_bright(tmp_path / "i.tif", truth), write_grey(tmp_path / "m.tif", truth.astype("uint8"))
    use(monkeypatch, Bright(fail_at=2))
    passing(1000.0)
    options = RefineOptions(num_workers=0)
    with pytest.raises(KeyboardInterrupt):
        refine(image, mask, tmp_path / "out.tif", options)
    noted = noted_in(tmp_path / "out.tif.journal")
    use(monkeypatch, Bright())
    passing(0.001)
    report: Any = refine(image, mask, tmp_path / "out.tif", options).report
    assert report["groups"]["resumed"] == 1
    assert noted < report["seconds"]["wall"] < noted + 100

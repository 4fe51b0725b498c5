"""`scripts/gpu` also runs as a whole on a CPU, so that its own mistakes do not appear first on a machine with a GPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.gpu import huge
from benchmarks.gpu.bundles import convolution
from benchmarks.gpu.conductor import PARTS, Conductor, Running
from benchmarks.gpu.part import Findings, Setting
from benchmarks.gpu.running import Watch
from benchmarks.gpu.sampler import Busy
from magnet_cli.events import Events, Step
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.segmentation.segment_model import load_model

ROOT = Path(__file__).parents[2]
PART = """#!/bin/sh
while [ "$1" != --part ]; do shift; done
echo "$2 was started"
echo $$ > {pid}
case "$2" in
    masks) exit 3 ;;
    tests) exit 0 ;;
    *) sleep 60 ;;
esac
"""
"""A program in the place of Python that does what a part may do: fail, end, or never end."""


@pytest.mark.full
def test_every_part_runs_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "scripts/gpu", "--device", "cpu", "--short", "--out", str(out), "--work", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads((out / "gpu.json").read_text())
    assert [part["state"] for part in found["parts"]] == ["ended"] * len(found["parts"]), ended.stdout
    rows = [row for part in found["parts"] for row in part["rows"]]
    assert [row for row in rows if row["met"] is False] == []
    # Labels compared, and memory that ran out in each of three ways.
    assert sum(row["met"] is True for row in rows) >= 4
    assert all(part["rows"] for part in found["parts"])
    table = (out / "gpu.md").read_text()
    assert all(f"| {row['what']} |" in table for row in rows)


def test_an_unknown_part_is_refused_before_any_work(tmp_path: Path) -> None:
    command = [sys.executable, "scripts/gpu", "--out", str(tmp_path / "out"), "--parts", "tests,noise"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "noise" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_a_watch_counts_the_groups_of_passes_and_not_the_writing() -> None:
    watch = Watch()
    for what, done, total, share in (
        ("pass 1 of 2", 1, 2, 0.4),
        ("pass 1 of 2", 2, 2, 0.8),
        ("pass 2 of 2, borders of blocks", 1, 5, 0.82),
        ("writing", 0, 1, 0.9),
    ):
        watch.step(Step(image="mask.tif", what=what, done=done, total=total, share=share))
    assert [entry[1:] for entry in watch.done] == [(1, 0.4), (2, 0.8), (1, 0.82)]
    assert (watch.what, watch.total) == ("pass 2 of 2, borders of blocks", 5)


@pytest.mark.parametrize("most", [0.15, 0.99])
def test_a_pass_that_is_little_of_a_run_does_not_judge_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: float
) -> None:
    """MagNet-Fast begins with a pass over the coarsest windows alone, which are few."""

    def run(*given: object) -> None:
        watch = given[-1]
        assert isinstance(watch, Watch)
        for done in (1, 2):
            watch.step(Step(image="mask.tif", what="pass 1 of 2", done=done, total=2, share=most * done / 2))
            time.sleep(0.01)

    monkeypatch.setattr(huge, "run_once", run)
    monkeypatch.setattr(huge, "device_peak", lambda _: {})
    monkeypatch.setattr(huge, "reset_device_peak", lambda _: None)
    setting = Setting(device="cuda:0", short=False, folder=tmp_path, seconds=60)
    options = SegmentOptions(weights=convolution(tmp_path), device="cpu", precision="float32")
    model = load_model(options, Events())
    busy = Busy(path=tmp_path / "busy.txt")
    scene = huge.Scene(image=tmp_path / "scene.tif", side=100_000, model=model, options=options, busy=busy)
    findings = Findings(path=tmp_path / "rows.json")
    huge._measure(setting, findings, huge.Variant(name="magnet-fast", method="magnet-fast", seconds=60.0), scene)
    row = findings.rows[0]
    assert row["met"] is (True if most > 0.9 else None)
    assert row["value"].endswith(" s the whole" if most > 0.9 else " s the whole, by pass 1 of 2 alone")
    # Half of the pass took at least a hundredth of a second.
    assert row["rate"] <= 1e10 * most / 2 / 0.01


def fake_python(folder: Path) -> Path:
    path = folder / "python"
    path.write_text(PART.format(pid=folder / "pid"))
    path.chmod(0o755)
    return path


@pytest.mark.full
def test_parts_that_fail_or_do_not_end_cost_only_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(fake_python(tmp_path)))
    out = tmp_path / "out"
    out.mkdir()
    limits = {"masks": 30.0, "flat": 0.5, "tests": 30.0, "small": 30.0, "huge": 30.0}
    known = {part.name: part for part in PARTS}
    parts = [Running(part=replace(known[name], seconds=limits[name]), folder=tmp_path / name) for name in limits]
    conductor = Conductor(device="cpu", short=True, out=out, budget=3.0, parts=parts)
    assert not conductor.run()
    found = json.loads((out / "gpu.json").read_text())
    states = {part["part"]: part["state"] for part in found["parts"]}
    assert states["masks"] == "failed, exit status 3"
    assert states["tests"] == "ended"
    assert states["flat"].endswith("s, its time limit")
    assert states["small"].endswith("s, as no time was left for any part")
    assert states["huge"] != "ended"
    assert sorted(path.name for path in out.iterdir()) == ["gpu.json", "gpu.log", "gpu.md"]
    assert "== masks ==\nmasks was started" in (out / "gpu.log").read_text()


@pytest.mark.full
def test_a_check_that_is_terminated_ends_its_parts_and_keeps_its_tables(tmp_path: Path) -> None:
    program = f"import sys; from benchmarks.gpu.conductor import main; sys.executable = {str(fake_python(tmp_path))!r}"
    command = [sys.executable, "-c", f"{program}; main()", "--device", "cpu", "--parts", "flat"]
    process = subprocess.Popen([*command, "--out", str(tmp_path / "out")], cwd=ROOT, stdout=subprocess.DEVNULL)
    pid = tmp_path / "pid"
    while not (pid.exists() and pid.read_text().strip()):
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert json.loads((tmp_path / "out" / "gpu.json").read_text())["parts"][0]["part"] == "flat"

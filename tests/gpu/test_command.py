"""`scripts/gpu` also runs as a whole on a CPU, so that its own mistakes do not appear first on a machine with a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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

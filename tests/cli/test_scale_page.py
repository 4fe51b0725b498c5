"""The submit scripts of docs/scale.md work: their jobs run here one after another, and together make every mask."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from magnet_cli.masks.report_file import read_report
from tests.cli.support import ROOT, invoke, write_image

PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
SCRIPTS = dict(re.findall(r"### ([^\n]+)\n.*?```bash\n(.*?)```", PAGE, flags=re.DOTALL))
JOBS = 16
"""Number of jobs in an array of the scripts."""


def environment(system: str, index: int) -> dict[str, str]:
    """Return the environment variables that a scheduler sets for one of its jobs."""
    if system == "SLURM":
        edges = {"SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": str(JOBS - 1), "SLURM_ARRAY_TASK_STEP": "1"}
        return {"SLURM_ARRAY_TASK_ID": str(index), "SLURM_ARRAY_TASK_COUNT": str(JOBS), **edges}
    if system == "AWS Batch":
        return {"AWS_BATCH_JOB_ARRAY_INDEX": str(index), "AWS_BATCH_JOB_ARRAY_SIZE": str(JOBS)}
    return {"JOB_COMPLETION_INDEX": str(index)}


def words(script: str) -> list[str]:
    """Return the words that follow `magnet` in a script."""
    (line,) = [line for line in script.splitlines() if "magnet " in line]
    return shlex.split(line)[shlex.split(line).index("magnet") + 1 :]


def test_every_system_has_a_script() -> None:
    assert list(SCRIPTS) == ["SLURM", "AWS Batch", "Kubernetes"]
    assert f"--array=0-{JOBS - 1}" in SCRIPTS["SLURM"]
    assert f"completions: {JOBS}" in PAGE


@pytest.mark.parametrize("system", SCRIPTS)
def test_the_jobs_of_an_array_share_the_images(system: str, here: Path, bundle: Path) -> None:
    for number in range(3):
        write_image(here / "slides" / f"{number}.tif", seed=number)
    (here / "s3.csv").write_text("path\n" + "".join(f"slides/{number}.tif\n" for number in range(3)))
    for index in reversed(range(JOBS)):
        result = invoke(
            *words(SCRIPTS[system]), "--weights", bundle, "--method", "patch", env=environment(system, index)
        )
        assert result.exit_code == 0, result.stderr
    found = read_report(Path("masks/run.json"))
    assert found["counts"] == {"done": 3, "already done": 0, "failed": 0, "waiting": 0}
    assert len(list(Path("masks").rglob("*.tif"))) == 3

"""The submit scripts of docs/scale.md work: their jobs run here one after another, and together make every mask.

The script for workers of Dask runs as it stands on the page, with an `srun` that starts its tasks on this machine.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
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


WITH_DASK = PAGE[PAGE.index("## Workers of a Dask cluster") :]
SHARED = "/shared/dask"
"""Folder of keys and configuration on the page."""
PROGRAMS = {
    "magnet": '{python} -m magnet_cli.cli.app "$@" --weights {bundle} --method patch',
    # Port and dashboard would meet those of other schedulers on this machine.
    "dask": '{python} -m dask "$@" $([ "$1" = scheduler ] && echo --port 0 --no-dashboard || echo --no-dashboard)',
    "srun": 'for task in 0 1; do SLURM_PROCID=$task "$@" & done; wait',
}


@pytest.mark.full
def test_the_job_with_dask_shares_the_images_among_its_tasks(here: Path, bundle: Path) -> None:
    pytest.importorskip("distributed")
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl")
    for number in range(3):
        write_image(here / "slides" / f"{number}.tif", seed=number)
    shared, programs = here / "dask", here / "bin"
    shared.mkdir()
    programs.mkdir()
    (keys,) = re.findall(r"(    openssl .*?)\n\n", WITH_DASK, flags=re.DOTALL)
    subprocess.run(["bash", "-ec", keys], cwd=shared, check=True, capture_output=True)
    (settings,) = re.findall(r"```yaml\n(.*?)```", WITH_DASK, flags=re.DOTALL)
    (shared / "dask.yaml").write_text(settings.replace(SHARED, str(shared)), encoding="utf-8")
    for name, line in PROGRAMS.items():
        text = line.format(python=shlex.quote(sys.executable), bundle=shlex.quote(str(bundle)))
        (programs / name).write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    (script,) = re.findall(r"```bash\n(.*?)```", WITH_DASK, flags=re.DOTALL)
    assert "#SBATCH --ntasks=16\n" in script
    with subprocess.Popen(
        ["bash", "-c", script.replace(SHARED, str(shared))],
        cwd=here,
        env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    ) as job:
        try:
            code = job.wait(timeout=240)
        finally:
            # SLURM ends what a job has left, which here are the scheduler and its workers.
            os.killpg(job.pid, signal.SIGKILL)
        assert job.stderr is not None
        assert code == 0, job.stderr.read()
    found = read_report(Path("masks/run.json"))
    assert found["counts"] == {"done": 3, "already done": 0, "failed": 0, "waiting": 0}
    assert len(list(Path("masks").rglob("*.tif"))) == 3

"""The campaign's own tools, a sample of it, its page, and that it notices a program that breaks the laws."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import tifffile

from tests.campaign import mutations
from tests.campaign.commands import COMMANDS, differences, outputs_of
from tests.campaign.page import PAGE, RESULTS, filled
from tests.campaign.specimens import segment_words
from tests.campaign.tally import Tally, read_results
from tests.campaign.verdict import Verdict, chance
from tests.cli.support import invoke

ROOT = Path(__file__).parents[2]
MINUTES = os.environ.get("CAMPAIGN_MINUTES", "")
"""How long a sample of all parts takes; empty: the full tests hold `SAMPLES`, which are the same on every machine."""
SAMPLES = {
    "steps and faults": ("--cases", "9", "--only", "steps", "--only", "faults"),
    "mutations": ("--cases", "15", "--only", "mutations"),
    "bombs": ("--cases", "1", "--only", "bombs"),
}
"""About as many cases of each part as a campaign of ten minutes has. Random moments depend on the machine."""
PROBE = """
import errno, os, sys
from pathlib import Path
from tests.campaign.steps import Steps, failing, nothing
folder, at = Path(sys.argv[1]), int(sys.argv[2])
steps = Steps(root=folder, act=failing(errno.ENOSPC) if at else nothing, at=at)
steps.install()
try:
    (folder / "a").mkdir()
    with open(folder / "a" / "b", "wb") as file:
        os.fsync(file.fileno())
    descriptor = os.open(folder / "c", os.O_RDWR | os.O_CREAT)
    os.pwrite(descriptor, b"12", 0)
    os.replace(folder / "c", folder / "d")
    os.unlink(folder / "d")
    open(folder / "a" / "b", "rb").close()
    Path(sys.argv[3]).read_bytes()
except OSError as error:
    print("failed", error.errno)
print("\\n".join(steps.seen))
"""
BROKEN = """
import sys
from pathlib import Path
from tests.campaign import loaded
from tests.campaign.interruptions import Bench
from magnet_cli.masks.journal import Journal
from magnet_cli.system import durable
loaded.load()
bench = Bench(folder=Path(sys.argv[1]), seed=1)
print(bench.step("steps/segment/0").faults)
discard, replace = Journal.discard, durable.replace
Journal.discard = lambda self: None
print(bench.step("steps/segment/0").faults)
def longer(source, target):
    if target.suffix == ".tif":
        with source.open("ab") as file:
            file.write(b"x")
    replace(source, target)
Journal.discard, durable.replace = discard, longer
print(bench.step("steps/segment/0").faults)
"""


def run(*words: str | Path, code: int = 0) -> str:
    """Run a process of one thread in the checkout and return its standard output."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_steps_are_counted_and_one_of_them_fails(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"")
    seen = ["mkdir a", "open a/b", "fsync a/b", "open c", "pwrite c", "rename c", "unlink d"]
    for at in (0, 1, 4, 5):
        folder = tmp_path / str(at)
        folder.mkdir()
        found = run("-c", PROBE, folder, str(at), other).splitlines()
        assert found == ([f"failed {errno.ENOSPC}", *seen[:at]] if at else seen)


def test_a_case_is_the_same_whenever_it_is_tried(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), tile=(16, 16), photometric="rgb")
    data = path.read_bytes()
    for group in (mutations.BYTES, mutations.TIFF, mutations.TEXT):
        for mutate in group:
            once, again, other = (mutate(data, chance(seed, "a/b/1")) for seed in (1, 1, 2))
            assert once == again
            assert len({once, other, data}) > 1


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_directories_of_a_tiff_are_found(tmp_path: Path, order: Literal["<", ">"], big: bool) -> None:  # noqa: FBT001
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, bigtiff=big, byteorder=order) as writer:
        for _ in range(2):
            writer.write(np.zeros((64, 64), np.uint8), subifds=1, metadata=None)
            writer.write(np.zeros((32, 32), np.uint8), subfiletype=1, metadata=None)
    read = mutations.directories(path.read_bytes())
    assert read is not None
    assert len(read[1]) == 4
    with tifffile.TiffFile(path) as file:
        assert max(count for _, count in read[1]) == len(file.pages.first.tags)


def test_values_of_json_change_and_stay_json() -> None:
    data = json.dumps({"a": [1, 2, {"b": "c"}], "d": 0.5}).encode()
    found = {mutations.revalued(data, chance(seed, "json")) for seed in range(50)}
    assert len(found) > 25
    assert sum(isinstance(json.loads(text), dict) for text in found) == len(found)


def test_the_program_knows_every_word_of_the_commands(tmp_path: Path) -> None:
    """Words are read before `--help` is answered."""
    for words in (*(command.line(tmp_path) for command in COMMANDS), segment_words(tmp_path)):
        assert invoke(*words, "--help").exit_code == 0, words
    assert invoke(*COMMANDS[0].line(tmp_path), "--unknown", "--help").exit_code == 2


def test_outputs_are_compared_by_their_bytes_but_for_times(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        (folder / "m.tif").write_bytes(b"mask")
        (folder / "m.json").write_text(json.dumps({"seconds": number, "mask": {"bytes": 4}}))
    first, second = map(outputs_of, folders)
    assert differences(first, second) == []
    (folders[1] / "m.tif").write_bytes(b"Mask")
    (folders[1] / "m.tif.part").write_bytes(b"")
    (folders[1] / "m.json").unlink()
    assert differences(first, outputs_of(folders[1])) == ["missing: m.json", "left over: m.tif.part", "differs: m.tif"]


def test_counts_are_written_and_read(tmp_path: Path) -> None:
    tally = Tally(about={"date": "2026-01-01", "commit": "abc", "seed": 3, "minutes": 2})
    tally.add(Verdict(case="steps/x/0", outcomes=("SIGKILL at a step", "finished with equal bytes")))
    tally.add(Verdict(case="steps/x/1", outcomes=("SIGINT at a step",), faults=("it printed a traceback",)))
    results = tmp_path / "results.jsonl"
    results.write_text(tally.line() * 2)
    page = filled("", read_results(results))
    assert "### Kills at chosen steps: 4 cases with 4 signals, of which 2 fell" in page
    assert "| x | 4 | 2 | SIGKILL at a step: 2, finished with equal bytes: 2, SIGINT at a step: 2 |" in page
    assert '`--case "steps/x/1" --seed 3`' in page


def test_the_page_is_that_of_the_results() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert filled(text, read_results(RESULTS)) == text


@pytest.mark.full
def test_a_program_that_breaks_a_law_falls(tmp_path: Path) -> None:
    sound, journal, mask = run("-c", BROKEN, tmp_path).splitlines()
    assert sound == "()"
    assert "left over: m.tif.journal" in journal
    assert "differs: m.tif" in mask


@pytest.mark.full
@pytest.mark.parametrize("name", ["all parts"] if MINUTES else SAMPLES)
def test_a_sample_of_the_campaign_holds(tmp_path: Path, name: str) -> None:
    words = ("--minutes", MINUTES) if MINUTES else (*SAMPLES[name], "--seed", "1")
    run("-m", "tests.campaign", *words, "--keep", tmp_path / "fell")

"""Law 6, and law 1 for interrupted runs: killed and resumed equals never killed, and little is computed twice."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from magnet_cli.geometry import Size
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.verification import verify_mask
from magnet_cli.plan import GROUP
from magnet_cli.scene import Pyramid, Scene, write_scene
from tests.laws.driver import FAULTS, Script, forked, started
from tests.laws.support import KILLED, blurry_bundle, digest, magnet, number, part, report_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess
    from pathlib import Path

PASSES = {0: 4, 1: 12, 2: 12}
"""Number of groups in each pass of the scene below. The last pass joins the borders of blocks."""
GROUPS = sum(PASSES.values())
IN_FLIGHT = 2
"""Most groups that are computed and not yet durable: one is being computed, one is being stored."""

if sys.platform == "win32":
    pytest.skip("Windows has no SIGKILL", allow_module_level=True)


@dataclass(frozen=True, kw_only=True)
class Work:
    """A scene, a bundle, and the mask of an undisturbed run."""

    image: Path
    bundle: Path
    mask: Path
    image_digest: str

    def words(self, out: Path) -> tuple[str, ...]:
        """Return the words of a command. With single patches a group is one block, so that there are many groups."""
        method = ("--scales=512,256,128,64,32", "--overlap=4", "--batch-size=1")
        return ("segment", str(self.image), f"--weights={self.bundle}", *method, f"-o{out}", "--json")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    folder = tmp_path_factory.mktemp("work")
    image, mask = folder / "scene.tif", folder / "never-killed" / "m.tif"
    write_scene(image, Scene(size=Size(width=840, height=600), seed=2, plain=True), pyramid=Pyramid(tile=128))
    found = Work(
        image=image,
        bundle=blurry_bundle(folder / "bundle", scales=(32, 64, 128)),
        mask=mask,
        image_digest=digest(image),
    )
    assert forked(Script(words=found.words(mask), log=str(folder / "log"))) == 0
    assert computed(folder / "log") == GROUPS
    assert number(report_of(mask), "groups", "computed") == GROUPS
    return found


def computed(log: Path) -> int:
    """Return the number of groups that were noted until now."""
    return len(log.read_bytes().splitlines()) if log.exists() else 0


def wait_for(process: BaseProcess, done: Callable[[], bool]) -> None:
    while not done():
        assert process.is_alive(), "the run ended too early"
        time.sleep(0.005)


def ended(process: BaseProcess) -> int | None:
    process.join()
    return process.exitcode


def check_open(work: Work, mask: Path) -> None:
    """Check an interrupted output: there is a journal, nothing has the final name, and the input is unchanged."""
    paths = OutputPaths.of(mask)
    assert paths.journal.exists()
    assert not mask.exists()
    assert digest(work.image) == work.image_digest


def check_done(work: Work, mask: Path) -> dict[str, object]:
    """Check a finished output: it equals the undisturbed one, and nothing is left over."""
    assert digest(mask) == digest(work.mask)
    found, expected = report_of(mask), report_of(work.mask)
    for key in ("hashes", "mask", "passes", "classes", "options", "not_computed", "maps"):
        assert found[key] == expected[key]
    assert number(found, "groups", "computed") + number(found, "groups", "resumed") == GROUPS
    assert verify_mask(mask).ok
    assert sorted(file.name for file in mask.parent.iterdir()) == sorted([mask.name, OutputPaths.of(mask).report.name])
    assert digest(work.image) == work.image_digest
    return found


# The default suite kills once or twice in each way, at the ends; `test_killed_again_and_again_at_random_moments` kills
# between them.
@pytest.mark.parametrize(
    ("fault", "at"),
    [
        ("half a record", 17),
        pytest.param("half a record", 50, marks=pytest.mark.full),
        ("group not finished", 1),
        pytest.param("group not finished", 10, marks=pytest.mark.full),
        pytest.param("group not finished", GROUPS, marks=pytest.mark.full),
        ("assembly", 1),
        pytest.param("assembly", 4, marks=pytest.mark.full),
        ("before the rename", 1),
        ("before the journal goes", 1),
    ],
)
def test_killed_at_a_chosen_point_and_resumed_equals_never_killed(
    work: Work, tmp_path: Path, fault: str, at: int
) -> None:
    mask, log = tmp_path / "m.tif", tmp_path.parent / f"{tmp_path.name}.log"
    words = work.words(mask)

    assert forked(Script(words=words, log=str(log), fault=fault, at=at)) == KILLED
    if fault == "before the journal goes":
        assert mask.exists()
        assert OutputPaths.of(mask).journal.exists()
    else:
        check_open(work, mask)
    before = computed(log)
    resumed = magnet(*words)
    assert resumed.code == 0

    groups = check_done(work, mask)["groups"]
    assert isinstance(groups, dict)
    said = f"an interrupted run is resumed, which had finished {groups['resumed']} of {GROUPS} groups of windows"
    assert (said in resumed.said) == (groups["resumed"] > 0)
    assert before + groups["computed"] <= GROUPS + IN_FLIGHT
    assert groups["resumed"] >= before - IN_FLIGHT
    if fault not in ("half a record", "group not finished"):
        assert groups == {"computed": 0, "resumed": GROUPS}


def test_all_faults_are_tried() -> None:
    """Five faults are tried above, and that of a cluster in `tests/laws/test_cluster.py`."""
    assert len(FAULTS) == 6


def test_killed_again_and_again_at_random_moments(work: Work, tmp_path: Path) -> None:
    mask, log = tmp_path / "out" / "m.tif", tmp_path / "log"
    script = Script(words=work.words(mask), log=str(log), pause=0.02, hold=12)
    chance = np.random.default_rng(7)
    for _ in range(2):
        goal = computed(log) + int(chance.integers(3, 9))
        process = started(script)
        wait_for(process, lambda goal=goal: computed(log) >= goal)  # type: ignore[misc]
        time.sleep(chance.random() * 0.03)
        process.kill()
        assert ended(process) == KILLED
        check_open(work, mask)
    before = computed(log)

    assert magnet(*work.words(mask)).code == 0

    report = check_done(work, mask)
    assert number(report, "groups", "resumed") >= before - 2 * IN_FLIGHT
    assert before + number(report, "groups", "computed") <= GROUPS + 2 * IN_FLIGHT


# `test_streams.py` sends SIGINT to the command.
@pytest.mark.parametrize("number_of_signal", [pytest.param(signal.SIGINT, marks=pytest.mark.full), signal.SIGTERM])
def test_an_interrupted_run_ends_with_130_and_can_be_resumed(
    work: Work, tmp_path: Path, number_of_signal: signal.Signals
) -> None:
    mask, log = tmp_path / "out" / "m.tif", tmp_path / "log"
    process = started(Script(words=work.words(mask), log=str(log), pause=0.05, hold=8))
    wait_for(process, lambda: computed(log) >= 5)
    beside = magnet(*work.words(mask))
    assert process.pid is not None
    os.kill(process.pid, number_of_signal)
    assert ended(process) == 130
    check_open(work, mask)
    before = computed(log)

    assert beside.code == 5
    assert "another run is writing this output" in beside.said
    assert magnet(*work.words(mask)).code == 0
    report = check_done(work, mask)
    assert before + number(report, "groups", "computed") <= GROUPS + IN_FLIGHT


def test_a_finished_output_is_not_computed_again(work: Work) -> None:
    before = digest(work.mask)
    again = magnet(*work.words(work.mask))
    assert again.code == 0
    assert "already done" in again.said
    assert digest(work.mask) == before


def test_groups_of_several_blocks_are_resumed(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The forward passes of a group do not depend on what was finished before it."""
    monkeypatch.setitem(GROUP, "cpu", 4)
    groups = sum(-(-blocks // 4) for blocks in PASSES.values())
    outs = [tmp_path / name / "m.tif" for name in ("killed", "whole")]
    # A group has no more blocks than a forward pass has patches.
    killed, whole = ((*work.words(out), "--batch-size=4") for out in outs)
    script = Script(words=killed, log=str(tmp_path / "log"), fault="group not finished", at=groups // 2, blocks=4)
    assert forked(script) == KILLED
    for words in (killed, whole):
        assert magnet(*words).code == 0
    assert digest(outs[0]) == digest(outs[1])
    assert part(report_of(outs[0]), "groups") == {"computed": groups - groups // 2 + 1, "resumed": groups // 2 - 1}


def test_no_resume_starts_anew(work: Work, tmp_path: Path) -> None:
    mask, log = tmp_path / "out" / "m.tif", tmp_path / "log"
    fault = Script(words=work.words(mask), log=str(log), fault="group not finished", at=10)
    assert forked(fault) == KILLED
    assert magnet(*work.words(mask), "--no-resume").code == 0
    assert number(check_done(work, mask), "groups", "resumed") == 0


def test_other_options_are_refused_while_a_journal_stands_there(work: Work, tmp_path: Path) -> None:
    mask, log = tmp_path / "out" / "m.tif", tmp_path / "log"
    words = work.words(mask)
    assert forked(Script(words=words, log=str(log), fault="group not finished", at=10)) == KILLED
    other = magnet(*words, "--merge=mean")
    assert other.code == 5
    check_open(work, mask)
    assert magnet(*words, "--merge=mean", "--overwrite").code == 0
    assert digest(mask) != digest(work.mask)
    assert json.dumps(report_of(mask)["hashes"]) != json.dumps(report_of(work.mask)["hashes"])


def test_a_resumed_run_uses_as_many_threads_as_the_one_before(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread uses other kernels than two, so the journal and not the machine decides on the number of threads."""
    used: list[int] = []
    mask = tmp_path / "m.tif"
    script = Script(words=work.words(mask), log=str(tmp_path / "log"), fault="group not finished", at=10)
    assert forked(script) == KILLED
    monkeypatch.setattr("magnet_cli.run.mask_run.usable_cores", lambda: 7)
    monkeypatch.setattr("magnet_cli.run.mask_run.pin_arithmetic", used.append)
    assert magnet(*work.words(mask)).code == 0
    assert used == [1]
    assert number(report_of(mask), "machine", "threads") == 1
    assert digest(mask) == digest(work.mask)

"""Laws 1 and 6 for `segment --refine`: killed in either stage and resumed equals never killed, and no mask is lost."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from magnet_cli.geometry import Size
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.verification import verify_mask
from magnet_cli.refinement import squares
from magnet_cli.scene import Scene, write_scene
from tests.forked import context
from tests.laws.driver import Script, play
from tests.laws.support import KILLED, blurry_bundle, labels_in, report_of

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("cv2.ximgproc")
if sys.platform == "win32":
    pytest.skip("Windows has no SIGKILL", allow_module_level=True)

GROUPS = 9
"""The number of groups of the last stage."""
FILES = ["m.json", "m.tif", "m.unrefined.json", "m.unrefined.probabilities.zarr", "m.unrefined.tif"]


def play_small(script: Script) -> None:
    """Run the program with a last stage of several groups. The call does not return."""
    squares.SIDE = 128
    play(script)


def forked(script: Script) -> int | None:
    """Run a script to its end in a process of its own and return its exit code."""
    process = context().Process(target=play_small, args=(script,))
    process.start()
    process.join()
    return process.exitcode


@dataclass(frozen=True, kw_only=True)
class Work:
    """A scene, and the outputs of undisturbed runs."""

    image: Path
    bundle: Path
    folder: Path
    first: int
    """Number of groups of the mask that is refined."""

    def words(self, out: Path, *more: str) -> tuple[str, ...]:
        return ("segment", str(self.image), f"--weights={self.bundle}", "--method=patch", "-b1", f"-o{out}", *more)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    folder = tmp_path_factory.mktemp("work")
    write_scene(folder / "scene.tif", Scene(size=Size(width=270, height=262), seed=2, plain=True))
    bundle = blurry_bundle(folder / "bundle", scales=(64, 128))
    found = Work(image=folder / "scene.tif", bundle=bundle, folder=folder, first=0)
    log = folder / "log"
    assert forked(Script(words=found.words(folder / "m.tif", "--refine=guided"), log=str(log))) == 0
    assert forked(Script(words=found.words(folder / "plain" / "m.tif", "--probabilities"), log=str(folder / "l"))) == 0
    return Work(image=found.image, bundle=bundle, folder=folder, first=len(log.read_bytes().splitlines()))


def test_the_mask_before_is_the_one_that_segment_makes_alone(work: Work) -> None:
    before = work.folder / "m.unrefined.tif"
    assert before.read_bytes() == (work.folder / "plain" / "m.tif").read_bytes()
    refined, unrefined = labels_in(work.folder / "m.tif"), labels_in(before)
    assert np.count_nonzero(refined != unrefined) > 100
    report = report_of(work.folder / "m.tif")
    assert report["refined"]["changed_pixels"] == np.count_nonzero(refined != unrefined)  # type: ignore[index]


@pytest.mark.parametrize(
    ("fault", "stage", "at"),
    [
        # `test_resume.py` kills the same stage in the same way where no other follows.
        pytest.param("group not finished", 1, 3, marks=pytest.mark.full),
        ("before the journal goes", 1, 1),
        ("group not finished", 2, 6),
        ("before the rename", 2, 1),
        pytest.param("before the journal goes", 2, 1, marks=pytest.mark.full),
    ],
)
def test_killed_in_either_stage_and_resumed_equals_never_killed(
    work: Work, tmp_path: Path, fault: str, stage: int, at: int
) -> None:
    """The visits of a fault's place are counted through both stages."""
    counted = work.first if fault == "group not finished" else 1
    mask, log = tmp_path / "out" / "m.tif", tmp_path / "log"
    words = work.words(mask, "--refine=guided")
    at += counted * (stage - 1)
    assert forked(Script(words=words, log=str(log), fault=fault, at=at)) == KILLED
    assert mask.exists() == (stage == 2 and fault == "before the journal goes")
    if stage == 2:
        assert OutputPaths.of(mask).journal.exists()
    assert forked(Script(words=words, log=str(log))) == 0
    for name in ("m.tif", "m.unrefined.tif"):
        assert (mask.parent / name).read_bytes() == (work.folder / name).read_bytes()
        assert verify_mask(mask.parent / name).ok
    assert sorted(file.name for file in mask.parent.iterdir()) == FILES
    for key in ("hashes", "classes", "passes", "maps", "not_computed"):
        assert report_of(mask)[key] == report_of(work.folder / "m.tif")[key]
    # At most the groups in flight of the first stage are computed again, none where it was finished.
    assert len(log.read_bytes().splitlines()) <= work.first + (2 if stage == 1 else 0)


def test_what_was_refined_of_a_mask_that_is_gone_is_refined_again(work: Work, tmp_path: Path) -> None:
    mask, log = tmp_path / "out" / "m.tif", tmp_path / "log"
    words = work.words(mask, "--refine=guided")
    script = Script(words=words, log=str(log), fault="group not finished", at=work.first + 6)
    assert forked(script) == KILLED
    (mask.parent / "m.unrefined.tif").unlink()
    assert forked(Script(words=words, log=str(log))) == 0
    assert mask.read_bytes() == (work.folder / "m.tif").read_bytes()
    assert report_of(mask)["refined"]["groups"] == {"computed": GROUPS, "resumed": 0}  # type: ignore[index]

"""Laws 1 and 6 where windows are chosen across passes: killed in any pass and resumed otherwise equals never killed."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from magnet_cli.geometry import Size
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.verification import verify_mask
from tests.laws.driver import Script, forked
from tests.laws.support import KILLED, blurry_bundle, digest, labels_in, part, report_of, scene_pixels, write_tiled

if TYPE_CHECKING:
    from pathlib import Path

if sys.platform == "win32":
    pytest.skip("Windows has no SIGKILL", allow_module_level=True)

SIZE = Size(width=200, height=170)
CHOSEN = {
    "a selector and a budget": (3, ("--select=ppn", "--budget=45%", "--scales=128,64,32")),
    "a selector and a limit": (3, ("--select=ppn", "--patches=w>0.28", "--scales=150,100,50")),
    "change and a limit": (4, ("--select=change", "--patches=w>0.2", "--scales=192,96,64,32")),
}
"""Number of passes and options, for each way of choosing windows."""
OTHERWISE = ("--num-workers=0", "--memory=3GiB")
"""Options that do not change a mask, to which the order of blocks is added."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """An image, and a bundle with a selector that uses the field."""

    folder: Path
    image: Path
    bundle: Path

    def words(self, name: str, out: Path, *more: str) -> tuple[str, ...]:
        """Return the words of a command. With single patches a group has few blocks, so that there are many groups."""
        _, chosen = CHOSEN[name]
        method = ("--method=magnet-fast", *chosen, "--batch-size=1")
        return ("segment", str(self.image), f"--weights={self.bundle}", *method, f"-o{out}", *more)


@dataclass(frozen=True, kw_only=True)
class Whole:
    """The outputs of an undisturbed run."""

    mask: Path
    groups: tuple[int, ...]
    """Number of groups of each pass, and of the pass after them that joins the borders of blocks."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    folder = tmp_path_factory.mktemp("work")
    image = write_tiled(folder / "scene.tif", scene_pixels(SIZE, nodata=True), nodata=0)
    return Work(folder=folder, image=image, bundle=blurry_bundle(folder / "bundle", selector=True))


@pytest.fixture(scope="module")
def wholes(work: Work) -> dict[str, Whole]:
    """Make a mask with each choice of windows, without an interruption."""
    found = {}
    for number, (name, (passes, _)) in enumerate(CHOSEN.items()):
        mask, log = work.folder / str(number) / "m.tif", work.folder / f"{number}.log"
        assert forked(Script(words=work.words(name, mask), log=str(log))) == 0
        groups = Counter(passes_in(log))
        assert len(groups) == passes + 1
        found[name] = Whole(mask=mask, groups=tuple(groups[step] for step in range(passes + 1)))
    return found


def passes_in(log: Path) -> list[int]:
    """Return the pass of each group that was computed, in order."""
    return [int(line.split()[0]) for line in log.read_text(encoding="ascii").splitlines()]


def stages_of(mask: Path) -> list[dict[str, Any]]:
    """Return the report's entry of each stage."""
    passes = part(report_of(mask), "passes")
    assert isinstance(passes, list)
    return [stage for step in passes for stage in step["stages"]]


# The default suite kills in the first pass of a selector with a budget, and in a pass of a limit on the
# change: a selector with a limit joins the two.
TRIED_IN_FULL = {
    *(("a selector and a limit", step) for step in range(3)),
    *(("change and a limit", step) for step in (0, 2, 3)),
    *(("a selector and a budget", step) for step in (1, 2)),
}


@pytest.mark.parametrize(
    ("name", "step"),
    [
        pytest.param(name, step, marks=pytest.mark.full if (name, step) in TRIED_IN_FULL else ())
        for name, (passes, _) in CHOSEN.items()
        for step in range(passes)
    ],
)
def test_killed_in_any_pass_and_resumed_otherwise_equals_never_killed(
    work: Work, wholes: dict[str, Whole], tmp_path: Path, name: str, step: int
) -> None:
    """The resumed run takes the blocks in another order, with other workers and less memory."""
    whole, mask, log = wholes[name], tmp_path / "m.tif", tmp_path.parent / f"{tmp_path.name}.log"
    words = work.words(name, mask)
    at = sum(whole.groups[:step]) + (whole.groups[step] + 1) // 2
    assert forked(Script(words=words, log=str(log), fault="group not finished", at=at)) == KILLED
    assert set(passes_in(log)) == set(range(step + 1))
    assert OutputPaths.of(mask).journal.exists()
    assert not mask.exists()

    assert forked(Script(words=(*words, *OTHERWISE), log=str(log), backwards=True)) == 0

    assert digest(mask) == digest(whole.mask)
    found, expected = report_of(mask), report_of(whole.mask)
    for key in ("hashes", "passes", "classes", "not_computed", "maps"):
        assert found[key] == expected[key]
    assert found["groups"] == {"computed": sum(whole.groups) - at + 1, "resumed": at - 1}
    assert verify_mask(mask).ok


def test_what_is_chosen_depends_on_what_chooses(wholes: dict[str, Whole]) -> None:
    """Equal bytes mean something only if some windows of the last stage were computed and some were not."""
    masks = [labels_in(whole.mask) for whole in wholes.values()]
    for index, (labels, whole) in enumerate(zip(masks, wholes.values(), strict=True)):
        last = stages_of(whole.mask)[-1]
        assert 0 < last["windows_run"] < last["windows_considered"]
        assert not any(np.array_equal(labels, other) for other in masks[:index])

"""A folder or a list holds what users have: names of every kind, links in circles, rows twice, and disks that fill."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from magnet_cli.errors import OutputError
from magnet_cli.masks.report_file import read_report
from magnet_cli.masks.targets import input_images
from magnet_cli.options.parts import JobPart
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.segmentation import api
from magnet_cli.segmentation.pass_runner import PassRunner
from tests.cli.support import invoke, write_image
from tests.files import tree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magnet_cli.segmentation.block import BlockState
    from magnet_cli.segmentation.group_reader import GroupPixels
    from magnet_cli.segmentation.window_scores import Known

PATCH = ("--method", "patch")
NAMES = ("two\nlines", 'say "aah"', "it's", "-o", "schnee \u2603 \U0001f52c", "e\u0301", "  blank ", "%d{x}", "x" * 230)
"""Names without a suffix that files may have on Linux. Working names of the last one are too long, and shortened."""

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows refuses such names")


@pytest.fixture
def odd(here: Path) -> Path:
    """Write small images of odd names, with links that lead back to their folder and nowhere."""
    for seed, name in enumerate(NAMES):
        write_image(here / "in" / f"{name}.tif", seed=seed)
    (here / "in" / "loop").symlink_to(here / "in", target_is_directory=True)
    (here / "in" / "self").symlink_to("self")
    (here / "in" / "gone.tif.lnk").symlink_to("nowhere")
    return Path("in")


@posix
def test_names_of_every_kind_and_links_in_circles(odd: Path, bundle: Path) -> None:
    for index in (1, 0):
        part = ("--num-parts", "2", "--part-id", str(index))
        result = invoke("segment", odd, "--weights", bundle, *PATCH, "-o", "out", *part)
        assert result.exit_code == 0, result.stderr
        # A name is one line of the messages, whatever it holds.
        assert not any(line.startswith("lines") for line in result.stderr.splitlines())
    found = read_report(Path("out/run.json"))
    assert found["counts"] == {"done": len(NAMES), "already done": 0, "failed": 0, "waiting": 0}
    assert {path.stem for path in Path("out").rglob("*.tif")} == set(NAMES)
    assert invoke("verify", "out", "-q").exit_code == 0
    again = invoke("segment", odd, "--weights", bundle, *PATCH, "-o", "out")
    assert f"{len(NAMES)} already done" in again.stderr


@pytest.mark.parametrize("rows", ['a.tif,,\na.tif,,"0,0,9,9"\n', "a.tif,x,\nb.tif,x,\n"])
def test_rows_whose_outputs_are_one_file_are_refused_before_any_work(here: Path, bundle: Path, rows: str) -> None:
    for name in "ab":
        write_image(here / f"{name}.tif")
    (here / "list.csv").write_text(f"path,name,roi\n{rows}")
    result = invoke("segment", "list.csv", "--weights", bundle, "-o", "out", "--num-parts", "2", "--part-id", "0")
    assert result.exit_code == 2, result.stderr
    assert "a.tif" in result.stderr
    assert not Path("out").exists()


def test_a_row_that_is_there_twice_counts_once(here: Path, bundle: Path) -> None:
    for name in "ab":
        write_image(here / f"{name}.tif")
    (here / "list.csv").write_text("path\na.tif\nb.tif\na.tif\n")
    for index in "01":
        words = ("segment", "list.csv", "--weights", bundle, *PATCH, "-o", "out", "--num-parts", "2")
        assert invoke(*words, "--part-id", index).exit_code == 0
    found: dict[str, Any] = read_report(Path("out/run.json"))
    assert [row["image"] for row in found["images"]] == ["a.tif", "b.tif"]


def test_parts_whose_lists_give_other_names_or_regions_are_not_joined(here: Path, bundle: Path) -> None:
    for name in "ab":
        write_image(here / f"{name}.tif")
    options = SegmentOptions(weights=bundle, method="patch")
    (here / "list.csv").write_text('path,name,roi\na.tif,one,\nb.tif,two,"0,0,20,20"\n')
    api.segment("list.csv", "out", options, part=JobPart(index=0, count=2))
    (here / "list.csv").write_text('path,name,roi\na.tif,one,\nb.tif,two,"0,0,30,20"\n')
    with pytest.raises(OutputError, match="different lists of images"):
        api.segment("list.csv", "out", options, part=JobPart(index=1, count=2))


def test_a_disk_that_fills_in_the_midst_of_a_folder(here: Path, bundle: Path, disk: list[int]) -> None:
    for seed in range(3):
        write_image(here / "in" / f"{seed}.tif", seed=seed)
    words = ("segment", "in", "--weights", bundle, *PATCH, "-o")
    assert invoke(*words, "whole").exit_code == 0
    disk.append(14)
    result = invoke(*words, "out")
    assert result.exit_code in (5, 7), result.stderr
    assert "Free space there" in result.stderr
    disk.clear()
    assert invoke(*words, "out").exit_code == 0
    masks = {name: data for name, data in tree(Path("whole")).items() if name.endswith(".tif")}
    assert {name: data for name, data in tree(Path("out")).items() if not name.endswith(".json")} == masks


def test_passing_over_outputs_of_a_large_folder_compares_no_pairs(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    images = [here / f"{number}.tif" for number in range(300)]
    for path in images:
        path.touch()
    compared = 0

    def earlier(_: object) -> bool:
        return False

    def equal(one: object, other: object) -> bool:
        nonlocal compared
        compared += 1
        return one is other

    monkeypatch.setattr("magnet_cli.masks.targets._is_earlier", earlier)
    monkeypatch.setattr("magnet_cli.images.FoundImage.__eq__", equal)
    assert len(input_images([str(here)])) == 300
    assert compared < 300


def test_a_part_whose_image_is_mended_is_repeated_and_the_summary_follows(here: Path, bundle: Path) -> None:
    write_image(here / "in" / "a.tif")
    (here / "in" / "b.tif").write_text("no image")
    words = ("segment", "in", "--weights", bundle, *PATCH, "-o", "out", "--num-parts", "2", "--part-id")
    assert [invoke(*words, index).exit_code for index in "01"] == [0, 3]
    assert read_report(Path("out/run.json"))["counts"] == {"done": 1, "already done": 0, "failed": 1, "waiting": 0}
    write_image(here / "in" / "b.tif", seed=1)
    assert invoke(*words, "1").exit_code == 0
    assert read_report(Path("out/run.json"))["counts"] == {"done": 2, "already done": 0, "failed": 0, "waiting": 0}


def test_an_image_that_grows_while_a_folder_is_read_fails_alone(
    here: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        write_image(here / "in" / f"{seed}.tif", seed=seed)
    compute, growing = PassRunner.compute, here / "in" / "1.tif"

    def computed(self: PassRunner, given: GroupPixels, known: Sequence[Known | None]) -> list[BlockState]:
        if self.bound.plan.image.path.endswith("1.tif"):
            with growing.open("ab") as file:
                file.write(bytes(100))
        return compute(self, given, known)

    monkeypatch.setattr(PassRunner, "compute", computed)
    result = invoke("segment", "in", "--weights", bundle, *PATCH, "-o", "out")
    assert result.exit_code == 7, result.stderr
    assert "in/1.tif" in result.stderr
    found: dict[str, Any] = read_report(Path("out/run.json"))
    assert [row["status"] for row in found["images"]] == ["done", "failed", "done"]
    assert not Path("out/1.tif").exists()

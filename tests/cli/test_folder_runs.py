"""A run over several images has a summary beside the masks, takes lists with options for each image, and has parts."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import tifffile

from magnet_cli.cli.progress import Display
from magnet_cli.events import Events, Images
from magnet_cli.masks.report_file import read_report
from magnet_cli.options.parts import JobPart
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.segmentation import api, run_summary
from magnet_cli.system import durable
from tests.cli.support import invoke, invoke_json, write_image
from tests.forked import context

PATCH = ("--method", "patch")


@pytest.fixture
def folder(here: Path) -> Path:
    """Write three images, of which two have the same name in two folders, and a file that is no image."""
    write_image(here / "in" / "a.tif")
    write_image(here / "in" / "sub" / "a.tif", seed=1)
    write_image(here / "in" / "z.tif", seed=2)
    (here / "in" / "b.tif").write_text("no image")
    return Path("in")


def summary(name: str = "run.json") -> dict[str, Any]:
    return read_report(Path("out") / name)


def statuses(found: dict[str, Any]) -> dict[str, str]:
    return {row["image"]: row["status"] for row in found["images"]}


def test_the_summary_says_what_became_of_every_image(folder: Path, bundle: Path) -> None:
    result = invoke("segment", folder, "--weights", bundle, *PATCH, "-o", "out")
    assert result.exit_code == 7
    found = summary()
    assert found["state"] == "finished"
    assert found["counts"] == {"done": 3, "already done": 0, "failed": 1, "waiting": 0}
    assert statuses(found) == {"in/a.tif": "done", "in/b.tif": "failed", "in/sub/a.tif": "done", "in/z.tif": "done"}
    for row in found["images"]:
        if row["status"] == "failed":
            assert row["exit_code"] == 3
            assert "this file is not an image" in row["error"]
            continue
        report = read_report(Path(row["mask"]).with_suffix(".json"))
        assert row["seconds"] == report["seconds"]["wall"]  # type: ignore[index]
        assert [entry["pixels"] for entry in row["classes"]] == [entry["pixels"] for entry in report["classes"]]  # type: ignore[attr-defined]
    assert sum(entry["pixels"] for entry in found["classes"]) == 3 * tifffile.imread("out/a.tif").size
    said = result.stderr.splitlines()
    assert any(line.startswith("4 images: 3 done, 1 failed; ") for line in said)
    assert "  failed: in/b.tif (exit code 3)" in said


def test_a_second_run_finds_the_masks_and_not_its_own_summary(folder: Path, bundle: Path) -> None:
    words = ("segment", folder, "--weights", bundle, *PATCH, "-o", folder / "out")
    assert invoke(*words).exit_code == 7
    (folder / "b.tif").unlink()
    found = invoke_json("segment", ".", "--weights", bundle, *PATCH, "-o", "out")
    assert [entry["image"] for entry in found["images"]] == ["in/a.tif", "in/sub/a.tif", "in/z.tif"]


def segment_and_die(folder: Path, bundle: Path, death: int) -> None:
    """Segment the images of a folder, and die by SIGKILL at some step of writing its list.

    Args:
        folder: Current folder of the run.
        bundle: Folder of the bundle.
        death: Number of the step, from 0. Each writing has four: before the working file is made, with half of it
            written, before it gets its name, and after.
    """
    os.chdir(folder)
    run_summary.AT_LEAST = run_summary.SELDOM = 0
    new_file, replace = durable.new_file, durable.replace
    steps = 0

    def step() -> None:
        nonlocal steps
        if steps == death:
            os.kill(os.getpid(), signal.SIGKILL)
        steps += 1

    def made(target: Path, **more: Any) -> Any:
        if target.name != "run.json":
            return new_file(target, **more)
        step()
        file = new_file(target, **more)
        write = file.write

        def half(data: bytes) -> int:
            write(data[: len(data) // 2])
            file.flush()
            step()
            return write(data[len(data) // 2 :])

        vars(file)["write"] = half
        return file

    def renamed(source: Path, target: Path) -> None:
        is_list = target.name == "run.json"
        if is_list:
            step()
        replace(source, target)
        if is_list:
            step()

    durable.new_file, durable.replace = made, renamed
    api.segment("in", "out", SegmentOptions(weights=str(bundle), method="patch"))


def table(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a list without the columns that differ between two runs."""
    return [{key: row[key] for key in row if key not in ("status", "seconds", "mask")} for row in found["images"]]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(
    "deaths", [(5, 15), pytest.param(tuple(range(16)), marks=pytest.mark.full)], ids=["some", "all"]
)
def test_a_list_is_whole_after_a_kill_at_any_step_of_its_writing(
    here: Path, bundle: Path, deaths: tuple[int, ...]
) -> None:
    for number in range(3):
        write_image(here / "in" / f"{number}.tif", seed=number)
    options = SegmentOptions(weights=str(bundle), method="patch")
    api.segment("in", "whole", options)
    expected = read_report(Path("whole/run.json"))
    for death in deaths:
        shutil.rmtree("out", ignore_errors=True)
        process = context().Process(target=segment_and_die, args=(here, bundle, death))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        if Path("out/run.json").exists():
            left = summary()
            assert left["state"] == ("finished" if death == 15 else "running")
            done = [row for row in left["images"] if row["status"] == "done"]
            assert len(done) == left["counts"]["done"] == min(3, (death + 1) // 4)
            assert all(Path(row["mask"]).exists() for row in done)
        else:
            assert death < 3
        resumed = api.segment("in", "out", options)
        assert [result.error for result in resumed] == [None] * 3
        found = summary()
        assert found["state"] == "finished"
        assert table(found) == table(expected)
        assert found["classes"] == expected["classes"]
        assert {row["status"] for row in found["images"]} <= {"done", "already done"}
        assert not list(Path("out").glob("run.json.*"))


def test_a_run_that_is_interrupted_leaves_its_summary(folder: Path, bundle: Path) -> None:
    class Interrupting(Events):
        def images(self, progress: Images) -> None:
            if progress.done == 2:
                raise KeyboardInterrupt

    options = SegmentOptions(weights=bundle, method="patch")
    with pytest.raises(KeyboardInterrupt):
        api.segment(folder, "out", options, events=Interrupting())
    found = summary()
    assert found["state"] == "stopped"
    assert found["counts"]["done"] >= 1
    assert found["counts"]["waiting"] >= 1
    for row in found["images"]:
        assert Path(row["mask"]).exists() == (row["status"] == "done")
    assert invoke("segment", folder, "--weights", bundle, *PATCH, "-o", "out").exit_code == 7
    assert summary()["counts"] == {
        "done": 4 - found["counts"]["done"] - 1,
        "already done": found["counts"]["done"],
        "failed": 1,
        "waiting": 0,
    }


def test_a_summary_that_cannot_be_written_does_not_hide_that_the_run_was_interrupted(
    folder: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def images(display: Display, progress: Images) -> None:
        del display
        if progress.done == 1:
            Path("out/run.json").unlink()
            Path("out/run.json").mkdir()
            raise KeyboardInterrupt

    monkeypatch.setattr(Display, "images", images)
    found = invoke("segment", folder, "--weights", bundle, *PATCH, "-o", "out")
    assert found.exit_code == 130
    assert "out/run.json: " in found.stderr
    assert "lists every image" not in found.stderr
    assert found.stderr.splitlines()[-1].startswith("magnet: interrupted; ")


def test_a_file_of_another_program_is_not_replaced(folder: Path, bundle: Path) -> None:
    Path("out").mkdir()
    Path("out/run.json").write_text("{}")
    result = invoke("segment", folder, "--weights", bundle, *PATCH, "-o", "out", "--overwrite")
    assert result.exit_code == 5
    assert "run.json" in result.stderr
    assert Path("out/run.json").read_text() == "{}"


def test_an_image_whose_report_would_be_the_summary_is_refused(folder: Path, bundle: Path) -> None:
    write_image(folder / "run.tif")
    result = invoke("segment", folder, "--weights", bundle, *PATCH, "-o", "out")
    assert result.exit_code == 2
    assert "run.json" in result.stderr
    assert not Path("out").exists()


def test_a_list_gives_images_options_and_names_of_their_own(folder: Path, bundle: Path) -> None:
    (folder / "list.csv").write_text('path,roi,name\na.tif,"0,0,40,110",left\na.tif,,whole\nsub/a.tif,,\n')
    found = invoke_json("segment", folder / "list.csv", "--weights", bundle, *PATCH, "-o", "out")
    assert [Path(entry["mask"]).as_posix() for entry in found["images"]] == [
        "out/left.tif",
        "out/whole.tif",
        "out/sub/a.tif",
    ]
    left, whole = (tifffile.imread(f"out/{name}.tif") for name in ("left", "whole"))
    assert (left[:, 40:] == 255).all()
    assert (left[:, :40] == whole[:, :40]).all()
    assert (whole != 255).all()
    command = found["images"][0]["report"]["command"]
    assert command[command.index("--roi") + 1] == "0,0,40,110"
    plans = invoke_json("plan", folder / "list.csv", "--weights", bundle, *PATCH)["images"]
    assert [[area["kind"] for area in plan["areas"]] for plan in plans] == [["roi"], [], []]


def test_an_unknown_column_is_refused_by_name(folder: Path, bundle: Path) -> None:
    (folder / "list.csv").write_text("path,colour\na.tif,red\n")
    result = invoke("segment", folder / "list.csv", "--weights", bundle, "-o", "out")
    assert result.exit_code == 3
    assert "'colour'" in result.stderr


def test_images_of_a_folder_are_shared_between_parts(folder: Path, bundle: Path) -> None:
    seen: list[str] = []
    for index in (2, 0, 1):
        words = (
            "segment",
            folder,
            "--weights",
            bundle,
            *PATCH,
            "-o",
            "out",
            "--num-parts",
            "3",
            "--part-id",
            str(index),
        )
        found = json.loads(invoke(*words, "--json").stdout)
        seen += [entry["image"] for entry in found["images"]]
        assert Path("out/run.json").exists() == (index == 1)
    assert sorted(seen) == ["in/a.tif", "in/b.tif", "in/sub/a.tif", "in/z.tif"]
    joined = summary()
    assert statuses(joined) == {"in/a.tif": "done", "in/b.tif": "failed", "in/sub/a.tif": "done", "in/z.tif": "done"}
    assert joined["counts"] == {"done": 3, "already done": 0, "failed": 1, "waiting": 0}
    assert summary("run-0-of-3.json")["part"] == {"index": 0, "count": 3}


def test_parts_of_other_lists_are_not_joined(folder: Path, bundle: Path) -> None:
    options = SegmentOptions(weights=bundle, method="patch")
    api.segment(folder, "out", options, part=JobPart(index=0, count=2))
    write_image(folder / "new.tif", seed=3)
    with pytest.raises(Exception, match="different lists of images"):
        api.segment(folder, "out", options, part=JobPart(index=1, count=2))


def test_more_parts_than_images(folder: Path, bundle: Path) -> None:
    words = ("segment", folder, "--weights", bundle, *PATCH, "-o", "out", "--num-parts", "9")
    result = invoke(*words, "--part-id", "8")
    assert result.exit_code == 0
    assert "part 8 of 9 has no image" in result.stderr
    assert json.loads(invoke(*words, "--part-id", "7", "--json").stdout)["images"] == []


def test_masks_do_not_depend_on_what_overlaps(folder: Path, bundle: Path) -> None:
    (folder / "b.tif").unlink()
    assert invoke("segment", folder, "--weights", bundle, "-o", "out").exit_code == 0
    for image in sorted(folder.rglob("*.tif")):
        alone = Path("alone") / image.relative_to(folder)
        assert invoke("segment", image, "--weights", bundle, "-o", alone).exit_code == 0
        assert alone.read_bytes() == (Path("out") / image.relative_to(folder)).read_bytes()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux counts open files there")
def test_open_files_threads_and_memory_do_not_grow_with_the_images(here: Path, bundle: Path) -> None:
    for number in range(16):
        write_image(here / "in" / f"{number:02}.tif", seed=number)

    class Counting(Events):
        def __init__(self) -> None:
            self.counts: list[tuple[int, int]] = []

        def images(self, progress: Images) -> None:
            del progress
            self.counts.append((len(list(Path("/proc/self/fd").iterdir())), threading.active_count()))

    counting = Counting()
    results = api.segment_each(Path("in"), "out", SegmentOptions(weights=bundle, method="patch"), events=counting)
    first, last = 0, 0
    for number, _ in enumerate(results):
        if number == 5:
            gc.collect()
            tracemalloc.start()
            first = tracemalloc.get_traced_memory()[0]
        if number == 14:
            gc.collect()
            last = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    # Some images overlap with their neighbours more than others, as the machine has time. What every image kept would
    # add up to 10 over the later ones.
    for kind in (0, 1):
        counts = [count[kind] for count in counting.counts]
        assert max(counts[6:]) <= max(counts[:6]) + 6
    # A row of the summary takes a few kilobytes, and a report that was kept would take more than a hundred.
    assert last - first < 9 * 20_000

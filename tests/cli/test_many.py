"""One of several images that fails does not stop the others, and the exit code and the JSON name it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.support import invoke, invoke_json, write_image

PATCH = ("--method", "patch")


@pytest.fixture
def folder(here: Path) -> Path:
    """Write two images and a file that is no image."""
    write_image(here / "in" / "a.tif")
    (here / "in" / "b.tif").write_text("no image")
    write_image(here / "in" / "c.tif", seed=1)
    return Path("in")


def test_one_bad_image_stops_no_other(folder: Path, bundle: Path) -> None:
    found = invoke_json("segment", folder, "--weights", bundle, *PATCH, "-o", "out", code=7)
    assert set(found) == {"schema", "images"}
    assert [entry["status"] for entry in found["images"]] == ["done", "failed", "done"]
    bad = found["images"][1]
    assert bad["image"] == "in/b.tif"
    assert bad["exit_code"] == 3
    assert "in/b.tif: this file is not an image" in bad["error"]
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.json", "a.tif", "c.json", "c.tif", "run.json"]


def test_the_failure_is_told_once_and_named(folder: Path, bundle: Path) -> None:
    result = invoke("segment", folder, "--weights", bundle, *PATCH, "-o", "out")
    assert result.exit_code == 7
    line, listed = [line for line in result.stderr.splitlines() if "b.tif" in line]
    assert listed == "  failed: in/b.tif (exit code 3)"
    assert line.startswith("magnet: in/b.tif: Give a TIFF, PNG, ")
    assert "  Why: this file is not an image that can be read" in result.stderr.splitlines()


def test_the_run_goes_on_where_the_bad_image_is_mended(folder: Path, bundle: Path) -> None:
    words = ("segment", folder, "--weights", bundle, *PATCH, "-o", "out")
    assert invoke(*words).exit_code == 7
    write_image(folder / "b.tif", seed=2)
    found = invoke_json(*words)
    assert [entry["status"] for entry in found["images"]] == ["already done", "done", "already done"]


def test_stop_at_the_first_failure(folder: Path, bundle: Path) -> None:
    words = ("segment", folder, "--weights", bundle, *PATCH, "-o", "out", "--on-error", "fail")
    result = invoke(*words, "--json")
    assert result.exit_code == 3
    found = json.loads(result.stdout)
    assert [entry["status"] for entry in found["images"]] == ["done", "failed"]
    assert result.stderr.count("  Why: this file is not an image") == 1
    assert not Path("out/c.tif").exists()


def test_all_failed(folder: Path, bundle: Path) -> None:
    for name in ("a.tif", "c.tif"):
        (folder / name).write_text("no image either")
    found = invoke_json("segment", folder, "--weights", bundle, "-o", "out", code=3)
    assert [entry["status"] for entry in found["images"]] == ["failed"] * 3
    assert [path.name for path in Path("out").iterdir()] == ["run.json"]


def test_different_failures_of_all_images_count_as_unreadable(here: Path, bundle: Path) -> None:
    write_image(here / "grey.tif", bands=1)
    (here / "none.tif").write_text("no image")
    found = invoke_json("segment", "grey.tif", "none.tif", "--weights", bundle, code=3)
    assert [entry["exit_code"] for entry in found["images"]] == [4, 3]
    assert invoke("segment", "grey.tif", "--weights", bundle).exit_code == 4


def test_what_nothing_could_be_done_for_is_one_object_too(here: Path, bundle: Path) -> None:
    found = invoke_json("segment", "gone.tif", "--weights", bundle, code=3)
    assert found["images"] == []
    assert found["exit_code"] == 3
    assert "gone.tif: there is no such file" in found["error"]
    write_image(here / "a.tif")
    found = invoke_json("plan", "a.tif", "--weights", "nowhere", code=4)
    assert found["images"] == []
    assert "nowhere" in found["error"]

"""With `--series` every command that reads images chooses one of a file's images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tifffile

from tests.cli.support import expected_labels, invoke, invoke_json, write_image

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SMALL, LARGE = (60, 90), (110, 150)


@pytest.fixture
def two(here: Path) -> Path:
    """Write `two.ome.tif`: an overview, and a larger scan that is its mirror image."""
    overview = tifffile.imread(write_image(here / "overview.tif", size=SMALL))
    scan = tifffile.imread(write_image(here / "scan.tif", size=LARGE))[:, ::-1]
    with tifffile.TiffWriter(here / "two.ome.tif", ome=True) as writer:
        for array, name in ((overview, "overview"), (scan, "scan")):
            writer.write(array, metadata={"axes": "YXS", "Name": name}, photometric="rgb", tile=(64, 64))
    return Path("two.ome.tif")


def labels(path: str) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = tifffile.imread(path)
    return found


def as_expected(found: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float:
    return float((found == expected).mean()) if found.shape == expected.shape else 0.0


def test_info_lists_the_images_and_describes_the_one_that_is_asked_for(two: Path) -> None:
    found = invoke_json("info", two)["images"][0]
    assert found["size"] == {"width": 150, "height": 110}
    assert [(entry["number"], entry["name"], entry["read"]) for entry in found["series"]] == [
        (0, "overview", False),
        (1, "scan", True),
    ]
    assert "image 1 scan (150x110) is read; the other is 0 overview (90x60)" in invoke("info", two).stdout
    assert invoke_json("info", two, "--series", "overview")["images"][0]["size"] == {"width": 90, "height": 60}
    assert invoke_json("info", "overview.tif")["images"][0]["series"] == []
    wrong = invoke("info", two, "--series", "label")
    assert wrong.exit_code == 3
    assert "holds no such image; it holds 0 overview (90x60), 1 scan (150x110) (got --series label)" in wrong.stderr


def test_the_image_is_in_the_mask_the_report_and_the_hashes(two: Path, bundle: Path) -> None:
    words = ("segment", two, "--weights", bundle, "--html")
    report = invoke_json(*words)["images"][0]["report"]
    assert as_expected(labels("two.mask.tif"), expected_labels(LARGE)[:, ::-1]) > 0.95
    assert report["input"]["series"] == {"number": 1, "name": "scan"}
    assert report["hashes"]["series"] == "1"
    assert "already done" in invoke(*words, "--series", "scan").stderr
    assert "already done" in invoke(*words, "--series", "1").stderr
    other = invoke(*words, "--series", "0")
    assert other.exit_code == 5
    assert "other series" in other.stderr
    found = invoke_json(*words, "--series", "overview", "-o", "o.tif")["images"][0]["report"]
    assert as_expected(labels("o.tif"), expected_labels(SMALL)) > 0.95
    assert found["command"][found["command"].index("--series") + 1] == "overview"
    assert invoke("report", "o.tif").exit_code == 0
    alone = invoke_json("segment", "scan.tif", "--weights", bundle)["images"][0]["report"]
    assert alone["input"]["series"] is None
    assert "series" not in alone["hashes"]


def test_plan_is_of_the_image(two: Path, bundle: Path) -> None:
    found = invoke_json("plan", two, "--weights", bundle)["images"][0]
    assert (found["size"]["width"], found["series"]) == (150, 1)
    found = invoke_json("plan", two, "--weights", bundle, "--series", "0")["images"][0]
    assert (found["size"]["width"], found["series"]) == (90, 0)


@pytest.mark.parametrize("series", ["0", "overview"])
def test_refine_looks_at_the_image_and_refuses_the_mask_of_another(two: Path, bundle: Path, series: str) -> None:
    invoke("segment", two, "--weights", bundle, "--series", series, "-o", "m.tif")
    other = invoke("refine", two, "m.tif", "--method", "guided")
    assert other.exit_code == 3
    assert "a mask has the size of its image" in other.stderr
    refined = invoke_json("refine", two, "m.tif", "--method", "guided", "--series", series, "-o", "r.tif")
    report = refined["images"][0]["report"]
    assert (report["input"]["series"], report["hashes"]["series"]) == ({"number": 0, "name": "overview"}, "0")
    assert as_expected(labels("r.tif"), expected_labels(SMALL)) > 0.9


def test_a_mask_of_another_image_of_the_same_size_is_refused(here: Path, bundle: Path) -> None:
    with tifffile.TiffWriter(here / "same.ome.tif", ome=True) as writer:
        for seed in (0, 1):
            array = tifffile.imread(write_image(here / f"{seed}.tif", size=SMALL, seed=seed))
            writer.write(array, metadata={"axes": "YXS", "Name": f"scan {seed}"}, photometric="rgb", tile=(64, 64))
    invoke("segment", "same.ome.tif", "--weights", bundle, "--series", "1", "-o", "m.tif")
    other = invoke("refine", "same.ome.tif", "m.tif", "--method", "guided")
    assert other.exit_code == 3
    assert "number 1" in other.stderr
    assert "Give --series 1" in other.stderr


def test_evaluate_segments_the_image(two: Path, bundle: Path, here: Path) -> None:
    tifffile.imwrite(here / "t.tif", expected_labels(SMALL), photometric="minisblack")
    (here / "data.csv").write_text(f"image,label\n{two},t.tif\n", encoding="utf-8")
    words = ("evaluate", "--data", "data.csv", "--weights", bundle, "--methods", "patch")
    assert invoke(*words).exit_code == 3
    found: dict[str, Any] = invoke_json(*words, "--series", "overview")
    assert found["images"][0]["miou"] > 0.9


def test_the_environment_names_it_too(two: Path, bundle: Path) -> None:
    assert invoke("segment", two, env={"MAGNET_SERIES": "overview", "MAGNET_WEIGHTS": str(bundle)}).exit_code == 0
    assert labels("two.mask.tif").shape == SMALL
    assert json.loads(Path("two.mask.json").read_bytes())["input"]["series"]["name"] == "overview"

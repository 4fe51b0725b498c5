"""`magnet evaluate` prints the figures of the library as a table and as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from tests.cli.support import expected_labels, invoke, invoke_json, one_failure

if TYPE_CHECKING:
    from pathlib import Path

TRUTH = np.array([[0, 0, 1, 1], [0, 0, 1, 255]], np.uint8)
MASK = np.array([[0, 1, 1, 1], [0, 255, 1, 2]], np.uint8)


@pytest.fixture
def files(here: Path) -> tuple[Path, Path]:
    for name, values in (("mask.tif", MASK), ("truth.tif", TRUTH)):
        tifffile.imwrite(here / name, values, photometric="minisblack")
    return here / "mask.tif", here / "truth.tif"


def test_json(files: tuple[Path, Path]) -> None:
    found = invoke_json("evaluate", *files, "--classes", "land, water,road")
    (row,) = found["images"]
    assert (row["mask"], row["truth"]) == tuple(map(str, files))
    assert row["size"] == {"width": 4, "height": 2}
    assert (row["labelled"], row["not_computed"]) == (7, 1)
    assert [entry["name"] for entry in row["classes"]] == ["land", "water", "road"]
    assert [entry["iou"] for entry in row["classes"]] == [0.5, 0.75, None]
    assert row["miou"] == 0.625
    assert row["pixel_accuracy"] == pytest.approx(5 / 7)
    assert row["mba"] is None


def test_table(files: tuple[Path, Path]) -> None:
    text = invoke("evaluate", *files, "--exclude-class", "1", "--mba").stdout
    assert "not in the mean" in text
    assert "mean IoU             50.00" in text
    assert "boundary accuracy    71.43  (mean over radii 3, 5.6625, 8.325, 10.9875, 13.65)" in text
    assert "boundary accuracy    71.43  (mean over the paper radii 3, 3, 3, 3, 3)" in text
    assert "1 of them, counted as wrong" in text


def test_options(files: tuple[Path, Path]) -> None:
    row = invoke_json("evaluate", *files, "--truth-values", "255=2", "--mba", "--mba-radii", "published")["images"][0]
    assert row["labelled"] == 8
    assert row["boundary"]["published"]["radii"] == [1, 1, 1, 1, 1]
    assert row["mba_published"] is not None
    assert invoke_json("evaluate", *files, "--ignore", "0")["images"][0]["labelled"] == 3
    assert invoke_json("evaluate", *files, "--roi", files[0])["images"][0]["labelled"] == 5


def test_radii_ask_for_the_accuracy_that_they_are_of(files: tuple[Path, Path]) -> None:
    (row,) = invoke_json("evaluate", *files, "--mba-radii", "fixed")["images"]
    assert row["boundary"]["fixed"]["radii"][0] == 3
    for words in ((*files,), ("--data", "none.csv")):
        result = invoke("evaluate", *words, "--no-mba", "--mba-radii", "fixed")
        assert result.exit_code == 2
        assert "--no-mba leaves out" in result.stderr


def test_a_region_is_a_box_polygons_or_a_raster(files: tuple[Path, Path], here: Path) -> None:
    corners = [[2, 0], [4, 0], [4, 2], [2, 2], [2, 0]]
    (here / "right.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [corners]}))
    tifffile.imwrite(here / "right.tif", np.array([[0, 0, 9, 9]] * 2, np.uint8), photometric="minisblack")
    found = [
        invoke_json("evaluate", *files, "--roi", roi)["images"][0]
        for roi in ("2,0,2,2", "2, 0, 9, 9", here / "right.geojson", here / "right.tif")
    ]
    notes = [row.pop("notes") for row in found]
    assert notes == [[], ["--roi 2,0,9,9 reaches beyond the image: only 2,0,2,2 is used"], [], []]
    assert found == [{**found[0], "labelled": 3, "pixel_accuracy": 1.0}] * 4


def test_a_mask_of_this_program_names_its_classes(image: Path, bundle: Path, here: Path) -> None:
    invoke("segment", image, "--weights", bundle, "-o", "m.tif", "--no-progress")
    tifffile.imwrite(here / "truth.tif", expected_labels(), photometric="minisblack")
    for more in ([], ["--weights", str(bundle)]):
        row = invoke_json("evaluate", "m.tif", "truth.tif", *more)["images"][0]
        assert [entry["name"] for entry in row["classes"]] == ["r", "g", "b"]
        assert row["miou"] > 0.9
        result = invoke("evaluate", "m.tif", "truth.tif", *more, "--exclude-class", "3")
        assert result.exit_code == 2
        assert "Give 0 (r), 1 (g), 2 (b)" in one_failure(result)


def test_an_excluded_class_that_nobody_names_and_no_pixel_has_is_told(files: tuple[Path, Path]) -> None:
    row = invoke_json("evaluate", *files, "--exclude-class", "1", "--exclude-class", "7")["images"][0]
    assert row["notes"] == ["class 7 is left out of the mean, and no pixel that counts has it"]


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (["--classes", "a,b", "--weights", "x"], 2, ["--classes or by --weights"]),
        (["--classes", "a,,b"], 2, ["different names", "'a,,b'"]),
        (["--truth-values", "255:1"], 2, ["STORED=CLASS", "'255:1'", "255=1"]),
        (["--truth-values", "300=1"], 2, ["0 to 255", "300"]),
        (["--classes", "a,b,c", "--exclude-class", "3"], 2, ["no such class", "(got 3)", "Give 0 (a), 1 (b), 2 (c)"]),
        (["--classes", "a"], 3, ["must be below 1", "truth.tif"]),
        (["--roi", "no.tif"], 3, ["no.tif", "no such file"]),
        (["--roi", "0,0,4"], 2, ["x,y,width,height", "raster of the mask's size", "'0,0,4'"]),
        (["--roi", "0,0,4,0"], 2, ["at least one pixel", "0,0,4,0"]),
        (["--roi", "4,0,2,2"], 3, ["outside the image", "4x2", "mask.tif"]),
        (["--weights", "nowhere"], 4, ["nowhere"]),
        (["--data", "d.csv"], 2, ["MASK goes with MASK TRUTH, not with --data"]),
        (["--scales", "32"], 2, ["--scales goes with --data"]),
        (["--gpu", "0"], 2, ["--gpu goes with --data"]),
    ],
)
def test_wrong_use(files: tuple[Path, Path], words: list[str], code: int, parts: list[str]) -> None:
    result = invoke("evaluate", *files, *words)
    assert result.exit_code == code
    line = one_failure(result)
    for part in parts:
        assert part in line


def test_other_sizes_are_refused_with_both(files: tuple[Path, Path]) -> None:
    tifffile.imwrite(files[0], MASK.T.copy())
    found = invoke_json("evaluate", *files, code=3)
    assert found["images"] == []
    assert "4x2" in found["error"]
    assert "2x4" in found["error"]

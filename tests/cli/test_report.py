"""The report beside a mask has the facts of the run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.cli.support import expected_labels, invoke, invoke_json, write_image


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Path:
    """Segment a scan of 0.5 um a pixel whose lower part holds no data, once for all tests."""
    folder = tmp_path_factory.mktemp("run")
    values = tifffile.imread(write_image(folder / "plain.tif", size=(300, 150)))
    values[100:] = 0
    tifffile.imwrite(
        folder / "s.tif",
        values,
        photometric="rgb",
        tile=(64, 64),
        resolution=(20000, 20000),
        resolutionunit="CENTIMETER",
        extratags=[(42113, "s", 0, "0", True)],
    )
    words = ("--weights", bundle, "--scales", "32,64", "--points", "50%", "--memory", "30GiB", "-o", "m.tif")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "printed.json").write_text(json.dumps(invoke_json("segment", "s.tif", *words)))
    return folder


@pytest.fixture
def report(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the report that was printed, and enter the folder of the run."""
    monkeypatch.chdir(folder)
    found = json.loads(Path("printed.json").read_text())["images"][0]["report"]
    assert isinstance(found, dict)
    return found


def test_the_report_is_the_file(report: dict[str, Any]) -> None:
    assert json.loads(Path("m.json").read_text()) == report
    assert report["schema"] == 1
    assert report["mask"]["sha256"] == hashlib.sha256(Path("m.tif").read_bytes()).hexdigest()
    assert set(report["hashes"]) == {"input", "bundle", "options"}
    assert report["hashes"]["bundle"] == report["bundle"]["digest"]


def test_options_are_resolved(report: dict[str, Any]) -> None:
    options = report["options"]
    assert options["scales"] == [{"width": 64, "height": 64}, {"width": 32, "height": 32}]
    expected = {"method": "magnet", "merge": "mean", "points": "50%", "patches": "all", "median": 11}
    assert {key: options[key] for key in expected} == expected
    assert options["overlap"] == 24
    assert (options["device"], options["precision"], options["batch"]) == ("cpu", "float32", 4)
    assert {"python", "torch", "numpy", "tifffile"} <= set(report["versions"])
    assert report["program"]["name"] == "magnet"
    assert report["input"]["pixel"] == {"x": 0.5, "y": 0.5, "unit": "um"}


def test_windows_are_accounted_for(report: dict[str, Any]) -> None:
    stages = [stage for step in report["passes"] for stage in step["stages"]]
    assert [stage["scale"]["width"] for stage in stages] == [64, 32]
    for stage in stages:
        assert stage["windows_run"] + sum(stage["not_run"].values()) == stage["windows"]
        assert stage["not_run"]["nodata"] > 0
        assert stage["windows_run"] <= stage["windows_planned"]
    assert stages[1]["points"] <= 0.51 * stages[1]["windows"] * 8 * 8
    groups = -(-report["passes"][0]["blocks"] // report["options"]["group"][0])
    # The borders of each group's blocks are joined in a pass of their own.
    assert report["groups"] == {"computed": 2 * groups, "resumed": 0}


def test_classes_add_up(report: dict[str, Any]) -> None:
    classes = report["classes"]
    assert [entry["name"] for entry in classes] == ["r", "g", "b"]
    pixels = sum(entry["pixels"] for entry in classes)
    assert pixels + report["not_computed"]["pixels"] == 300 * 150
    labels = tifffile.imread("m.tif")
    assert [entry["pixels"] for entry in classes] == np.bincount(labels.ravel(), minlength=256)[:3].tolist()
    for entry in classes:
        assert entry["share"] == pytest.approx(entry["pixels"] / pixels, abs=1e-6)
        assert entry["area"] == entry["pixels"] / 4
        assert entry["unit"] == "um2"
    # A coarse pixel is half empty at the border between data and none, so that it may lie one pixel further.
    assert abs(report["not_computed"]["pixels"] - 200 * 150) <= 2 * 150
    far = np.ones(labels[:96].shape, dtype=bool)
    for border in (50, 100):
        far[:, border - 3 : border + 3] = False
    np.testing.assert_array_equal(labels[:96][far], expected_labels((96, 150))[far])


def test_time_and_memory_are_measured(report: dict[str, Any]) -> None:
    assert {"read", "forward", "refine", "select", "write", "idle", "wall"} == set(report["seconds"])
    assert all(value >= 0 for value in report["seconds"].values())
    memory = report["memory"]
    assert memory["host_budget"] == 30 << 30
    assert 0 < memory["host_planned"] <= memory["host_budget"]
    assert 0 < memory["host_peak"] <= memory["host_budget"]
    assert memory["device_peak"] == {}


def test_without_a_pixel_size_there_is_no_area(here: Path, image: Path, bundle: Path) -> None:
    assert invoke("segment", image, "--weights", bundle).exit_code == 0
    found = json.loads((here / "s.mask.json").read_text())
    assert {entry["area"] for entry in found["classes"]} == {None}
    assert any("1:1" in note for note in found["notes"])

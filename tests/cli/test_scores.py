"""`magnet evaluate --data` compares methods over several images in tables, JSON and a picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from magnet_cli.errors import OutputError
from tests.cli.support import expected_labels, invoke, invoke_json, one_failure, write_image

SIZES = ((60, 90), (50, 70))
METHODS = ("--methods", "downsample,patch,magnet")


@pytest.fixture
def data(here: Path) -> Path:
    """Write two images and their truth. Half of the second truth is wrong."""
    lines = ["name,image,label"]
    for number, size in enumerate(SIZES):
        write_image(here / f"{number}" / "i.tif", seed=number, size=size)
        truth = expected_labels(size)
        truth[: size[0] // 2 * number] = 0
        tifffile.imwrite(here / f"{number}" / "t.tif", truth, photometric="minisblack")
        lines.append(f"s{number},{number}/i.tif,{number}/t.tif")
    (here / "data.csv").write_text("\n".join(lines), encoding="utf-8")
    return Path("data.csv")


def test_json(data: Path, bundle: Path) -> None:
    words = ("evaluate", "--weights", bundle, "--data", data, *METHODS)
    found = invoke_json(*words, "-o", "out", "--scales", "32,64", "--iou-threshold", "0.9")
    assert set(found) == {"schema", "images", "methods", "gains", "notes"}
    assert [(row["name"], row["method"]) for row in found["images"]] == [
        (name, method) for name in ("s0", "s1") for method in ("downsample", "patch", "magnet")
    ]
    for row in found["images"]:
        assert row["status"] == "done"
        assert row["mask"] == f"out/{row['method']}/{row['name']}.tif"
        report = json.loads(Path(row["mask"]).with_suffix(".json").read_text())
        stages = [stage["windows_run"] for step in report["passes"] for stage in step["stages"]]
        assert len(stages) == (2 if row["method"] == "magnet" else 1)
        assert row["windows_run"] == sum(stages)
        assert row["seconds"] == report["seconds"]["wall"]
        assert row["host_peak"] == report["memory"]["host_peak"]
        pair = invoke_json("evaluate", row["mask"], Path(row["image"]).with_name("t.tif"), "--mba")["images"][0]
        assert all(row[key] == pair[key] for key in ("miou", "f1", "classes", "mba", "confusion"))
        assert list(row["boundary"]) == ["fixed"]
    patch = found["methods"][1]
    single = [row["miou"] for row in found["images"] if row["method"] == "patch"]
    assert (patch["method"], patch["images"], patch["failed"]) == ("patch", 2, 0)
    assert patch["miou_mean"] == pytest.approx(np.mean(single))
    assert patch["thresholded_iou"] == pytest.approx(np.mean([value * (value >= 0.9) for value in single]))
    assert patch["windows_run"] == sum(row["windows_run"] for row in found["images"] if row["method"] == "patch")
    assert {(gain["method"], gain["baseline"], gain["images"]) for gain in found["gains"]} == {
        ("patch", "downsample", 2),
        ("magnet", "downsample", 2),
        ("magnet", "patch", 2),
    }
    assert Path("out/distribution.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(Path("out/scores.json").read_bytes()) == found
    again = invoke_json(*words, "-o", "out", "--scales", "32,64", "--iou-threshold", "0.9", "--no-mba")
    assert {row["status"] for row in again["images"]} == {"already done"}
    assert again["methods"][1]["mba"] is None
    other = invoke_json(*words, "-o", "out", "--scales", "32,96", code=7)
    assert "made with other options" in other["images"][0]["error"]
    replaced = invoke_json(*words, "-o", "out", "--scales", "32,96", "--overwrite")
    assert [row["status"] for row in replaced["images"]] == 2 * ["done", "already done", "done"]


def test_tables(data: Path, bundle: Path) -> None:
    result = invoke("evaluate", "--weights", bundle, "--data", data, *METHODS, "--plot", "p.png")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    head, patch = lines[0].split(), lines[2].split()
    assert head[:4] == ["method", "images", "mIoU", "per"]
    assert patch[:2] == ["patch", "2/2"]
    better = [line.split(": ")[0] for line in lines if line.endswith("2 images, the better baseline")]
    assert len([line for line in better if line.startswith("magnet - ")]) == 1
    assert sum(line.startswith(("s0 ", "s1 ")) for line in lines) == 2
    assert Path("p.png").is_file()
    assert not Path("out").exists()


def test_one_baseline_is_no_better_one(data: Path, bundle: Path) -> None:
    result = invoke("evaluate", "--weights", bundle, "--data", data, "--methods", "downsample,magnet")
    assert "magnet - downsample: " in result.stdout
    assert "better baseline" not in result.stdout


def test_radii_that_grow_with_the_image_are_asked_for(data: Path, bundle: Path) -> None:
    words = ("evaluate", "--weights", bundle, "--data", data, "--methods", "downsample", "--mba-radii", "paper")
    assert "mba_paper" in invoke_json(*words)["methods"][0]


def test_a_plot_that_cannot_be_written_costs_no_score(
    data: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> bytes:
        raise OutputError("the output cannot be written", file="p.png")

    words = ("evaluate", "--weights", bundle, "--data", data, "--methods", "downsample", "--plot")
    assert "the plot's folder is missing (got gone)" in one_failure(invoke(*words, "gone/p.png"))
    assert invoke(*words, "out/p.png", "-o", "out").exit_code == 0
    assert Path("out/p.png").is_file()
    monkeypatch.setattr("magnet_cli.evaluation.plot.draw_distributions", full)
    result = invoke(*words, "p.png")
    assert result.exit_code == 5
    assert "p.png: the output cannot be written" in result.stderr
    assert "spread of the images' mean IoU" in result.stdout


@pytest.mark.parametrize("kept", [False, True])
def test_an_interruption_says_whether_masks_are_kept(
    data: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, *, kept: bool
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    Path("out").mkdir()
    Path("out/scores.json").write_text('{\n "schema": 1,\n "images": []}')
    Path("out/distribution.png").write_bytes(b"\x89PNG\r\n\x1a\ntEXtSoftware\0magnet")
    monkeypatch.setattr("magnet_cli.evaluation.method_scores.segment_target", interrupt)
    words = ("evaluate", "--weights", bundle, "--data", data, "--methods", "downsample")
    result = invoke(*words, *(["-o", "out"] if kept else []))
    assert result.exit_code == 130
    last = result.stderr.splitlines()[-1]
    assert ("what was finished is kept" in last) == kept
    assert ("no mask is kept" in last and "-o" in last) != kept
    assert Path("out/scores.json").exists() != kept
    assert Path("out/distribution.png").exists() != kept


def test_a_failure_that_all_share_gives_its_exit_code(data: Path, bundle: Path) -> None:
    Path("out").write_text("no folder")
    words = ("evaluate", "--weights", bundle, "--data", data, "-o", "out", "--methods")
    for methods in ("patch", "downsample,patch"):
        assert invoke(*words, methods).exit_code == 5


def test_one_bad_image_stops_no_other(data: Path, bundle: Path) -> None:
    Path("0/i.tif").write_text("no image")
    words = ("evaluate", "--weights", bundle, "--data", data, "--methods", "downsample,patch")
    found = invoke_json(*words, code=7)
    assert [(row["name"], row["method"]) for row in found["images"]] == [
        ("s0", None),
        ("s1", "downsample"),
        ("s1", "patch"),
    ]
    assert [row["status"] for row in found["images"]] == ["failed", "done", "done"]
    assert found["images"][0]["exit_code"] == 3
    assert (found["methods"][0]["images"], found["methods"][0]["failed"]) == (1, 1)
    result = invoke(*words)
    assert result.exit_code == 7
    assert result.stderr.count("  Why: this file is not an image") == 1
    assert "failed" in result.stdout
    Path("1/t.tif").unlink()
    tifffile.imwrite("1/t.tif", np.zeros((3, 3), np.uint8))
    found = invoke_json(*words, "-o", "out", code=3)
    assert "the size must be that of" in found["images"][1]["error"]
    assert not Path("out/distribution.png").exists()
    assert invoke(*words).exit_code == 3


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        ([], 2, ["MASK and TRUTH, or --data, are missing", "Write magnet evaluate MASK TRUTH"]),
        (["--weights", "w", "--data", "d.csv", "--classes", "a,b"], 2, ["--classes goes with MASK TRUTH"]),
        (["--data", "d.csv", "--roi", "r.tif"], 2, ["--roi goes with MASK TRUTH"]),
        (["--data", "d.csv", "--methods", "patch,points"], 2, ["--methods takes some of", "'patch,points'"]),
        (["--data", "d.csv", "--methods", "patch,patch"], 2, ["each once"]),
        (["--data", "d.csv", "--iou-threshold", "65"], 2, ["from 0 to 1"]),
        (["--data", "d.csv", "--memory", "4"], 2, ["--memory", "4GiB"]),
        (["--data", "d.csv"], 3, ["d.csv: Check the path", "the list cannot be read (got No such file"]),
    ],
)
def test_wrong_use(here: Path, words: list[str], code: int, parts: list[str]) -> None:
    del here
    result = invoke("evaluate", *words)
    assert result.exit_code == code
    line = one_failure(result)
    for part in parts:
        assert part in line


def test_a_class_that_the_bundle_lacks_is_refused_before_any_work(data: Path, bundle: Path) -> None:
    result = invoke("evaluate", "--weights", bundle, "--data", data, "-o", "out", "--exclude-class", "3")
    assert result.exit_code == 2
    assert "Give 0 (r), 1 (g), 2 (b)" in one_failure(result)
    assert not Path("out").exists()


def test_a_missing_file_is_named_with_its_line_before_any_work(data: Path, bundle: Path) -> None:
    Path("1/t.tif").unlink()
    found = invoke_json("evaluate", "--weights", bundle, "--data", data, "-o", "out", code=3)
    assert found["images"] == []
    assert "data.csv: the label of line 3 is missing (got 1/t.tif)" in found["error"]
    assert not Path("out").exists()


def test_the_environment_is_for_segmenting(data: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGNET_WEIGHTS", str(bundle))
    monkeypatch.setenv("MAGNET_SCALES", "32,64")
    found = invoke_json("evaluate", "--data", data, "--methods", "magnet", "-o", "out")
    report = json.loads(Path("out/magnet/s0.json").read_text())
    assert [stage["width"] for stage in report["options"]["scales"]] == [64, 32]
    assert found["images"][0]["status"] == "done"
    pair = invoke_json("evaluate", "out/magnet/s0.tif", "0/t.tif", "--classes", "x,y,z")["images"][0]
    assert [entry["name"] for entry in pair["classes"]] == ["x", "y", "z"]

"""`magnet refine` works from its options to its exit code."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from magnet_cli.models.bundle_writer import describe_cascade, write_cascade_bundle
from magnet_cli.models.registry import build_cascade
from tests.cli.support import invoke, invoke_json, one_failure
from tests.refinement.support import Bright, discs, labels_in, use, write_grey, write_image

if TYPE_CHECKING:
    from pathlib import Path

SHAPE = (150, 131)
TRUTH = discs(SHAPE, (70, 70, 40))


@pytest.fixture
def pair(here: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Write an image and a coarse mask, and let a network correct the mask."""
    use(monkeypatch, Bright())
    write_image(here / "i.tif", TRUTH)
    write_grey(here / "coarse.tif", np.roll(TRUTH, 3, axis=0).astype(np.uint8))
    return "i.tif", "coarse.tif"


def test_a_mask_is_sharpened_and_described(pair: tuple[str, str], here: Path) -> None:
    found = invoke_json("refine", *pair, "--overlay", "--html", "--stuff", "background")
    (row,) = found["images"]
    assert row["status"] == "done"
    assert row["mask"] == "coarse.refined.tif"
    before = np.count_nonzero(np.roll(TRUTH, 3, axis=0) != TRUTH)
    assert np.count_nonzero(labels_in(here / "coarse.refined.tif") != TRUTH) < before / 15
    assert (here / "coarse.refined.overlay.png").exists()
    assert "<html" in (here / "coarse.refined.html").read_text(encoding="utf-8")
    report = row["report"]
    assert report == json.loads((here / "coarse.refined.json").read_bytes())
    words = ["magnet", "refine", *pair, "-o", "coarse.refined.tif", "--weights", "stand-in", "--stuff", "background"]
    assert report["command"] == words
    assert report["objects"] == {"found": 1, "refined": 1, "left": 0, "large": []}
    assert sum(entry["pixels"] for entry in report["classes"]) == SHAPE[0] * SHAPE[1]
    again = invoke_json(*report["command"][1:])
    assert again["images"][0]["status"] == "already done"
    assert invoke("verify", "coarse.refined.tif").exit_code == 0


def test_a_disk_that_fills_keeps_what_was_finished(pair: tuple[str, str], here: Path, disk: list[int]) -> None:
    disk[:] = [1000]
    assert invoke("refine", *pair, "-o", "whole.tif").exit_code == 0
    disk[:] = [1000 - disk[0] - 1]  # all but the record that says that every group is finished
    result = invoke("refine", *pair, "-o", "m.tif")
    assert result.exit_code == 5
    assert "m.tif: what was finished is kept, and the same command goes on from there" in result.stderr
    disk.clear()
    found = invoke_json("refine", *pair, "-o", "m.tif")
    assert found["images"][0]["report"]["groups"]["resumed"] > 0
    assert (here / "m.tif").read_bytes() == (here / "whole.tif").read_bytes()


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(pair: tuple[str, str], here: Path) -> None:
    before = sorted(here.iterdir())
    said = invoke("refine", *pair, "--dry-run").stdout
    assert "1 objects: 1 one by one" in said
    plan = invoke_json("refine", *pair, "--dry-run", "--L", "96")
    assert (plan["read_as"], plan["L"]) == ("binary", 96)
    assert [step["what"] for step in plan["passes"]] == ["objects", "joining"]
    assert sorted(here.iterdir()) == before


def test_one_class_of_several_is_refined_and_the_result_is_a_mask_of_it(pair: tuple[str, str], here: Path) -> None:
    labels = np.full(SHAPE, 2, np.uint8)
    labels[np.roll(TRUTH, 3, axis=0)] = 4
    labels[:20] = 0
    write_grey(here / "several.tif", labels)
    found = invoke_json("refine", pair[0], "several.tif", "--object", "4")
    (row,) = found["images"]
    sharp = labels_in(here / "several.refined.tif")
    assert set(np.unique(sharp)) == {0, 1}
    assert np.count_nonzero(sharp != TRUTH) < np.count_nonzero((labels == 4) != TRUTH) / 15
    assert [entry["name"] for entry in row["report"]["classes"]] == ["background", "class 4"]
    assert row["report"]["command"][-2:] == ["--object", "4"]
    assert invoke("refine", pair[0], "several.tif", "--object", "2").exit_code == 5


def test_what_is_typed_beats_what_the_environment_says_of_classes(
    pair: tuple[str, str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.full(SHAPE, 2, np.uint8)
    labels[np.roll(TRUTH, 3, axis=0)] = 4
    write_grey(here / "several.tif", labels)

    def command(*words: str) -> list[str]:
        found: list[str] = invoke_json("refine", pair[0], *words, "--overwrite")["images"][0]["report"]["command"]
        return [word for word in found if word in ("--object", "--only")]

    monkeypatch.setenv("MAGNET_OBJECT", "4")
    assert command("several.tif", "--only", "2") == ["--only"]
    assert command("several.tif") == ["--object"]
    assert command("coarse.tif", "--mask-kind", "binary") == []
    monkeypatch.delenv("MAGNET_OBJECT")
    monkeypatch.setenv("MAGNET_ONLY", "4")
    assert command("several.tif", "--object", "2") == ["--object"]
    assert command("several.tif") == ["--only"]
    assert command("coarse.tif", "--mask-kind", "binary") == []


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["refine", "i.tif", "none.tif"], 3, "none.tif"),
        (["refine", "i.tif", "coarse.tif", "-o", "coarse.tif"], 2, "may not replace"),
        (["refine", "i.tif", "coarse.tif", "--threshold", "0.4"], 2, "--threshold"),
        (["refine", "i.tif", "coarse.tif", "--padding", "x"], 2, "--padding"),
        (["refine", "i.tif", "coarse.tif", "--L", "8"], 2, "--L"),
        (["refine", "i.tif", "coarse.tif", "--stuff", "sky"], 2, "--stuff"),
        (["refine", "i.tif", "coarse.tif", "--object", "sky"], 2, "--object"),
        (["refine", "i.tif", "coarse.tif", "--only", ""], 2, "--only"),
        (["refine", "i.tif", "coarse.tif", "--object", "1", "--mask-kind", "binary"], 2, "--object"),
    ],
)
@pytest.mark.usefixtures("pair")
def test_what_cannot_be_done_ends_with_its_code(words: list[str], code: int, told: str) -> None:
    result = invoke(*words)
    assert result.exit_code == code
    assert told in result.stderr


def test_the_guided_filter_needs_no_bundle(pair: tuple[str, str], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2.ximgproc")
    monkeypatch.setenv("MAGNET_WEIGHTS", "nowhere")  # of other commands
    monkeypatch.setenv("MAGNET_L", "300")
    for name, value in (("ENGINE", "openvino"), ("GPU", "7"), ("PRECISION", "bfloat16"), ("GPU_MEMORY", "4GiB")):
        monkeypatch.setenv(f"MAGNET_{name}", value)  # of networks
    said = invoke("refine", *pair, "--method", "guided", "--dry-run").stdout
    assert "the guided filter: 1 squares of 1024 pixels, each with a rim of 32" in said
    (row,) = invoke_json("refine", *pair, "--method", "guided", "--html")["images"]
    report = row["report"]
    assert report["command"] == ["magnet", "refine", *pair, "-o", "coarse.refined.tif", "--method", "guided"]
    assert (report["options"]["radius"], report["options"]["epsilon"], report["bundle"]) == (16, 0.01, None)
    assert "guided" in (here / "coarse.refined.html").read_text(encoding="utf-8")
    before = np.count_nonzero(np.roll(TRUTH, 3, axis=0) != TRUTH)
    assert np.count_nonzero(labels_in(here / "coarse.refined.tif") != TRUTH) < before
    assert invoke_json(*report["command"][1:])["images"][0]["status"] == "already done"
    for option, value, named in (
        ("--L", "300", "--L"),
        ("--engine", "openvino", "--engine"),
        ("--device", "cuda", "--device"),
        ("--gpu", "0", "--device"),
        ("--precision", "bfloat16", "--precision"),
        ("--gpu-memory", "4GiB", "--gpu-memory"),
    ):
        result = invoke("refine", *pair, "--method", "guided", option, value)
        assert (result.exit_code, named in one_failure(result)) == (2, True)
    alike = ("--device", "cpu", "--precision", "float32", "--engine", "torch")
    assert invoke("refine", *pair, "--method", "guided", "--dry-run", *alike).exit_code == 0


@pytest.mark.parametrize(("method", "library"), [("guided", "cv2.ximgproc"), ("crf", "pydensecrf.densecrf")])
@pytest.mark.usefixtures("pair")
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, method: str, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    result = invoke("refine", "i.tif", "coarse.tif", "--method", method)
    assert result.exit_code == 2
    assert f"pip install 'magnet-cli[{method}]'" in one_failure(result)


def test_a_bundle_is_loaded_and_named(here: Path) -> None:
    network = build_cascade("conv", options={})
    write_cascade_bundle(here / "bundle", describe_cascade(name="plumbing", side=96), network)
    write_image(here / "i.tif", TRUTH)
    write_grey(here / "m.tif", TRUTH.astype(np.uint8))
    words = ("refine", "i.tif", "m.tif", "-o", "out", "--weights", "bundle", "--memory", "8GiB", "--device", "cpu")
    report = invoke_json(*words)["images"][0]["report"]
    assert report["bundle"]["name"] == "plumbing"
    assert (report["options"]["L"], report["options"]["compat"]) == (96, "paper")
    assert labels_in(here / "out" / "m.tif").shape == SHAPE
    assert invoke_json(*words, "--compat", "published", "--overwrite")["images"][0]["status"] == "done"


def test_without_a_bundle_the_next_step_is_named(here: Path) -> None:
    write_image(here / "i.tif", TRUTH)
    write_grey(here / "m.tif", TRUTH.astype(np.uint8))
    result = invoke("refine", "i.tif", "m.tif", "--weights", "nowhere")
    assert result.exit_code == 4
    assert "nowhere" in one_failure(result)
    result = invoke("refine", "i.tif", "m.tif")
    assert result.exit_code == 4
    assert "has to be named" in one_failure(result)
    assert "Give a bundle with --weights: fundus-cascade" in one_failure(result)


@pytest.mark.parametrize("words", [("--cluster", "local:2"), ("--num-parts", "2"), ("--devices", "cpu:2")])
def test_what_shares_a_segmentation_is_refused_with_the_reason(pair: tuple[str, str], words: tuple[str, str]) -> None:
    result = invoke("refine", *pair, *words)
    assert result.exit_code == 2
    assert "a refinement is not shared" in one_failure(result)
    assert "--cluster" not in invoke("refine", "--help").stdout

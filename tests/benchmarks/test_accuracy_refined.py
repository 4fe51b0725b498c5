"""What scores and makes masks for the tables of sharpened masks."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
import torch

from benchmarks.accuracy import tiles
from benchmarks.accuracy.cascades import Cascade, by_cascade, locally
from benchmarks.accuracy.cells import Cell, mba
from benchmarks.accuracy.inputs import enlarged
from benchmarks.accuracy.judge import Judge
from benchmarks.accuracy.parts import middle, only
from benchmarks.accuracy.refined_page import method_table, tiles_table
from benchmarks.accuracy.scenes import write_labels
from benchmarks.accuracy.tiles import classically
from magnet_cli.arithmetic.classical import GuidedFilter
from magnet_cli.errors import UsageError
from magnet_cli.evaluation.mask_scores import EvaluationOptions, evaluate
from magnet_cli.geometry import Box, Size
from magnet_cli.models.architectures.cascade_base import BANDS
from magnet_cli.models.bundle_writer import describe_cascade, write_cascade_bundle
from magnet_cli.models.registry import build_cascade

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def blobs(seed: int, side: int) -> NDArray[np.uint8]:
    """Three labels in patches of 16 pixels."""
    coarse = np.random.default_rng(seed).integers(0, 3, (side // 16, side // 16)).astype(np.uint8)
    return coarse.repeat(16, axis=0).repeat(16, axis=1)


def test_the_judge_says_what_evaluate_says(tmp_path: Path) -> None:
    truth, mask = blobs(1, 160), np.roll(blobs(1, 160), 3, axis=0)
    truth[:20, :30] = 255
    write_labels(tmp_path / "truth.tif", truth)
    write_labels(tmp_path / "mask.tif", mask)
    expected = evaluate(tmp_path / "mask.tif", tmp_path / "truth.tif", EvaluationOptions(boundary="fixed"))
    scores = Judge(truth, classes=3).score(mask)
    assert scores["both"] == tuple(entry.both for entry in expected.classes)
    assert scores["truth"] == tuple(entry.truth for entry in expected.classes)
    assert scores["mask"] == tuple(entry.mask for entry in expected.classes)
    assert expected.boundary is not None
    assert expected.boundary.mba is not None
    assert 0 < expected.boundary.mba < 1
    assert mba([Cell(table="t", row="r", scene="s", **scores)]) == pytest.approx(100 * expected.boundary.mba)


def test_one_class_alone_keeps_what_is_unknown() -> None:
    assert only(np.array([[0, 2, 255]], np.uint8), 2).tolist() == [[0, 1, 255]]


def test_the_middle_is_the_middle() -> None:
    assert middle(Size(width=101, height=50), 20) == Box(x=40, y=15, width=20, height=20)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_enlarging_moves_no_border(mode: str) -> None:
    # A ramp of 0.1 a pixel of the grid crosses one half in the middle of the picture, whatever the kernel.
    ramp = np.broadcast_to(np.linspace(0.15, 0.85, 8, dtype=np.float32), (8, 8))
    found = enlarged(np.stack([1 - ramp, ramp]), pitch=4, side=32, mode=mode)  # type: ignore[arg-type]
    assert found.sum(axis=0) == pytest.approx(1)
    assert (found[1, :, :16] < 0.5).all()
    assert (found[1, :, 16:] > 0.5).all()


def test_tiles_of_the_guided_filter_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2.ximgproc")
    monkeypatch.setattr(tiles, "TILE", 48)
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (130, 110, 3)).astype(np.uint8)
    values = rng.random((3, 130, 110)).astype(np.float32)
    probs = values / values.sum(axis=0)
    whole = GuidedFilter().apply(probs, pixels).argmax(axis=0)
    assert np.mean(classically(GuidedFilter(), probs, pixels) == whole) > 0.9995, "sums of floats may differ at ties"


@pytest.fixture
def keeping(tmp_path: Path) -> Cascade:
    """A cascade that gives its mask back, whatever the image shows, with an image and a mask."""
    network = build_cascade("conv", options={})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
            if parameter.dim() > 1:
                parameter[0, BANDS] = 2
    write_cascade_bundle(tmp_path / "cascade", describe_cascade(side=128), network)
    mask = np.zeros((160, 160), np.uint8)
    mask[20:140, 31:150] = 1
    write_labels(tmp_path / "mask.tif", mask)
    tifffile.imwrite(tmp_path / "image.tif", np.full((160, 160, 3), 90, np.uint8), photometric="rgb")
    return Cascade(table="building", weights=str(tmp_path / "cascade"))


def test_a_cascade_that_keeps_keeps_with_both_steps_and_with_the_local_one(keeping: Cascade, tmp_path: Path) -> None:
    image, mask = tmp_path / "image.tif", tmp_path / "mask.tif"
    given = tifffile.imread(mask)
    assert keeping.side == 128
    assert np.array_equal(locally(keeping, image, mask, side=96), given)
    found = by_cascade(keeping, image, mask)
    assert np.array_equal(found.labels, given)
    assert found.windows > 0
    assert found.host_peak > 2**20


def test_one_class_is_refined_in_a_mask_with_names(keeping: Cascade, tmp_path: Path) -> None:
    labels = tifffile.imread(tmp_path / "mask.tif") + 1
    write_labels(tmp_path / "named.tif", labels, classes=("land", "road", "roof"))
    chosen = {"mask_kind": "labels", "only": ("roof",)}
    found = by_cascade(keeping, tmp_path / "image.tif", tmp_path / "named.tif", **chosen)
    assert np.array_equal(found.labels, labels)
    assert found.windows > 0
    with pytest.raises(UsageError, match="land, road, roof"):
        by_cascade(keeping, tmp_path / "image.tif", tmp_path / "named.tif", mask_kind="labels", only=("building",))


def test_tiles_and_seeds_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.accuracy.refined_page.REFINED", tmp_path)
    truth = (blobs(4, 96) == 1).astype(np.uint8)
    judge = Judge(truth, classes=2)
    rows = {"patch-input": np.roll(truth, 3, axis=1), "patch-cascade": truth, "patch-cascade-seed2": np.roll(truth, 1)}
    for row, mask in rows.items():
        Cell(table="building", row=row, scene="tile6", **judge.score(mask)).save(tmp_path)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tiles_table().splitlines()[2:]]
    assert [line[:2] for line in lines] == [["tile 6, patch", "1"], ["tile 6, patch", "2"]]
    assert lines[0][3] == lines[0][6] == "100.0"
    assert float(lines[0][4]) > float(lines[1][4]) > 0


def test_a_table_has_what_was_measured_and_how_it_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.accuracy.refined_page.REFINED", tmp_path)
    truth = (blobs(4, 96) == 1).astype(np.uint8)
    judge = Judge(truth, classes=2)
    for row, mask in (("patch-input", np.roll(truth, 2, axis=1)), ("patch-crf", truth)):
        Cell(table="vessel", row=row, scene="one", **judge.score(mask)).save(tmp_path)
    lines = method_table("vessel", ("one",))().splitlines()
    before, after = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:])
    assert before[0] == "**patch**"
    assert after[:3] == ["+ dense CRF", "100.0", "100.0"]
    assert Fraction(after[3]) == 100 - Fraction(before[1])
    assert Fraction(after[4]) == 100 - Fraction(before[2])

"""Masks and probabilities of another image of the same size are refused, not refined into nonsense."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from magnet_cli.errors import SourceError
from magnet_cli.masks.reportfile import write_report
from magnet_cli.refining.options import RefineOptions
from magnet_cli.refining.refine import plan_refine, refine_mask
from tests.refining.support import Echo, use, write_grey
from tests.refining.test_only import SHAPE, make_segmented

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def segmented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Path]:
    """An image, its mask by `segment`, and the probabilities that were kept."""
    use(monkeypatch, Echo())
    return make_segmented(tmp_path, shape=SHAPE, method="patch")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another image of the same size."""
    pixels = np.random.default_rng(9).integers(1, 250, (*SHAPE, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "other.tif", pixels, tile=(64, 64), photometric="rgb")
    return tmp_path / "other.tif"


def test_a_mask_of_another_image_is_refused(segmented: tuple[Path, Path, Path], other: Path, tmp_path: Path) -> None:
    image, mask, _ = segmented
    for call in (lambda: refine_mask(other, mask, tmp_path / "out.tif"), lambda: plan_refine(other, mask)):
        with pytest.raises(SourceError, match=f"m.tif: this mask was made of another image, {image}.*got {other}"):
            call()
    assert not list(tmp_path.glob("out*"))


def test_probabilities_of_another_image_are_refused(
    segmented: tuple[Path, Path, Path], other: Path, tmp_path: Path
) -> None:
    _, mask, kept = segmented
    own = shutil.copy(mask, tmp_path / "own.tif")  # as if it had been made of the other image, without a report
    options = RefineOptions(only=("g",), evidence=kept)
    with pytest.raises(SourceError, match=r"m\.probabilities\.zarr: these probabilities were made of another image"):
        refine_mask(other, own, tmp_path / "out.tif", options)
    assert not list(tmp_path.glob("out*"))


def test_what_nobody_says_anything_of_is_taken(segmented: tuple[Path, Path, Path], other: Path, tmp_path: Path) -> None:
    """Moved without their reports, of other programs, replaced since, copied images, and addresses."""
    image, mask, kept = segmented
    shutil.copytree(kept, tmp_path / "moved" / kept.name)
    own = shutil.copy(mask, tmp_path / "own.tif")
    options = RefineOptions(only=("g",), evidence=tmp_path / "moved" / kept.name)
    refine_mask(other, own, tmp_path / "moved.tif", options)
    for name, text in (("own", "[]"), ("own", '{"mask": 7}'), ("own", "no JSON")):
        (tmp_path / f"{name}.json").write_text(text)
        plan_refine(other, own, options)
    write_report(tmp_path / "own.json", {"mask": "m", "input": "i", "hashes": []})
    plan_refine(other, own, options)
    copied = shutil.copy(image, tmp_path / "copied.tif")
    plan_refine(copied, mask, RefineOptions(only=("g",), evidence=kept))
    report = json.loads((tmp_path / "m.json").read_text())
    write_report(tmp_path / "m.json", {**report, "input": {**report["input"], "path": "https://example.org/i.tif"}})
    plan_refine(other, mask)
    write_report(tmp_path / "m.json", report)
    write_grey(mask, np.ones(SHAPE, np.uint8))
    plan_refine(other, mask)


def test_evidence_that_is_not_there_is_named_and_a_folder_of_it_is_looked_into(
    segmented: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    image, mask, kept = segmented
    with pytest.raises(SourceError, match=r"none\.zarr: there are no such probabilities"):
        refine_mask(image, mask, tmp_path / "out.tif", RefineOptions(only=("g",), evidence=tmp_path / "none.zarr"))
    with pytest.raises(SourceError, match=f"a folder of outputs.*Give one of those in it: {kept}"):
        refine_mask(image, mask, tmp_path / "out.tif", RefineOptions(only=("g",), evidence=tmp_path))
    assert not list(tmp_path.glob("out*"))

"""Masks and probabilities of another image of the same size are refused, not refined into nonsense."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from magnet_cli.errors import SourceError
from magnet_cli.masks.report_file import write_report
from magnet_cli.options.refine import RefineOptions
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.refinement.api import plan_refine, refine
from magnet_cli.segmentation import api as segmentation
from tests.refinement.support import Echo, use
from tests.refinement.test_only import SHAPE, make_segmented


@pytest.fixture
def segmented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Path]:
    """Return an image, its mask by `segment`, and the probabilities that were kept."""
    use(monkeypatch, Echo())
    return make_segmented(tmp_path, shape=SHAPE, method="patch")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Write another image of the same size."""
    pixels = np.random.default_rng(9).integers(1, 250, (*SHAPE, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "other.tif", pixels, tile=(64, 64), photometric="rgb")
    return tmp_path / "other.tif"


def test_a_mask_of_another_image_is_refused(segmented: tuple[Path, Path, Path], other: Path, tmp_path: Path) -> None:
    image, mask, _ = segmented
    for call in (lambda: refine(other, mask, tmp_path / "out.tif"), lambda: plan_refine(other, mask)):
        with pytest.raises(SourceError, match=f"m.tif: this mask was made of another image, {image}.*got {other}"):
            call()
    assert not list(tmp_path.glob("out*"))


def test_probabilities_of_another_image_are_refused(
    segmented: tuple[Path, Path, Path], other: Path, tmp_path: Path
) -> None:
    image, mask, kept = segmented
    own = shutil.copy(mask, tmp_path / "own.tif")  # as if it had been made of the other image, without a report
    moved = shutil.copytree(kept, tmp_path / "moved" / "p.zarr")
    for evidence in (kept, moved):
        with pytest.raises(
            SourceError, match=rf"{evidence.name}: these probabilities were made of another image, {image}"
        ):
            refine(other, own, tmp_path / "out.tif", RefineOptions(only=("g",), evidence=evidence))
    assert not list(tmp_path.glob("out*"))


def test_a_later_mask_does_not_make_probabilities_its_own(
    segmented: tuple[Path, Path, Path], other: Path, tmp_path: Path
) -> None:
    """A mask of another image has replaced the mask, and of that one no probabilities were kept."""
    image, mask, kept = segmented
    again = SegmentOptions(weights=str(tmp_path / "bundle"), method="patch", overwrite=True)
    segmentation.segment([other], mask, again)
    options = RefineOptions(only=("g",), evidence=kept)
    with pytest.raises(SourceError, match=f"these probabilities were made of another image, {image}"):
        plan_refine(other, mask, options)
    own = shutil.copy(mask, tmp_path / "own.tif")
    plan_refine(image, own, options)


def test_what_nobody_says_anything_of_is_taken(segmented: tuple[Path, Path, Path], other: Path, tmp_path: Path) -> None:
    """Such masks were moved without a report, are of other programs, were replaced, or belong to addresses."""
    _, mask, kept = segmented
    own = Path(shutil.copy(mask, tmp_path / "own.tif"))
    size, report = own.stat().st_size, json.loads((tmp_path / "m.json").read_bytes())
    assert size == report["mask"]["bytes"]
    for text in ("[]", '{"mask": 7}', "no JSON"):
        own.with_suffix(".json").write_text(text)
        plan_refine(other, own)
    for wrong in (
        {"mask": "m"},
        {"mask": {"bytes": size}, "input": "i", "hashes": []},
        {"mask": {"bytes": size}, "input": {"path": "i"}, "hashes": {}},
        {**report, "input": {**report["input"], "path": "https://example.org/i.tif"}},
        {**report, "mask": {"bytes": size + 1}},
    ):
        write_report(own.with_suffix(".json"), wrong)
        plan_refine(other, own)
    write_report(own.with_suffix(".json"), {"mask": {"bytes": size}, "input": {"path": "i"}, "hashes": {"input": "x"}})
    with pytest.raises(SourceError, match="made of another image, i"):
        plan_refine(other, own)
    own.with_suffix(".json").unlink()
    array = zarr.open_array(kept, mode="r+")
    array.attrs.put({key: value for key, value in array.attrs.items() if key != "image"})
    plan_refine(other, own, RefineOptions(only=("g",), evidence=kept))


def test_the_same_image_under_another_name_is_the_same(
    segmented: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, mask, kept = segmented
    options = RefineOptions(only=("g",), evidence=kept)
    plan_refine(shutil.copy(image, tmp_path / "copied.tif"), mask, options)
    monkeypatch.chdir(kept)
    plan_refine(image, "../m.tif", RefineOptions(only=("g",), evidence=Path()))
    with image.open("ab") as file:
        file.write(b" ")
    with pytest.raises(SourceError, match=r"made of this image before it was changed.*Segment it again"):
        plan_refine(image, mask, options)


def test_evidence_that_is_not_there_is_named_and_a_folder_of_it_is_looked_into(
    segmented: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    image, mask, kept = segmented
    with pytest.raises(SourceError, match=r"none\.zarr: there are no such probabilities"):
        refine(image, mask, tmp_path / "out.tif", RefineOptions(only=("g",), evidence=tmp_path / "none.zarr"))
    with pytest.raises(SourceError, match=f"a folder of outputs.*Give one of the folders in it: {kept}"):
        refine(image, mask, tmp_path / "out.tif", RefineOptions(only=("g",), evidence=tmp_path))
    assert not list(tmp_path.glob("out*"))

"""`magnet export` writes other formats of a finished mask, as `magnet segment` does beside its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tifffile

from magnet_cli.options.export import EXPORT_FORMATS
from tests.cli.support import invoke, invoke_json, one_failure, write_image
from tests.files import tree

PATCH = ("--method", "patch")
EVERYTHING = ",".join(EXPORT_FORMATS)


@pytest.fixture
def mask(image: Path, bundle: Path) -> Path:
    assert invoke("segment", image, "--weights", bundle, *PATCH, "-o", "out").exit_code == 0
    return Path("out/s.tif")


def test_segment_and_export_make_the_same_files(here: Path, image: Path, bundle: Path, mask: Path) -> None:
    formats = ("--format", "tiff,cog,ome-tiff,ome-zarr", "--geojson", "--min-area", "3")
    found = invoke_json("segment", image, "--weights", bundle, *PATCH, "-o", "both", *formats)
    (row,) = found["images"]
    assert [(each["format"], each["path"], each["status"]) for each in row["exports"]] == [
        ("cog", "both/s.cog.tif", "done"),
        ("ome-tiff", "both/s.ome.tif", "done"),
        ("ome-zarr", "both/s.ome.zarr", "done"),
        ("geojson", "both/s.geojson", "done"),
    ]
    assert invoke("export", mask, "--format", EVERYTHING, "--min-area", "3").exit_code == 0
    one, other = tree(here / "out"), tree(here / "both")
    reports = one.pop("s.json"), other.pop("s.json")
    assert one == other
    assert "exports" not in json.loads(reports[0])


def test_a_finished_mask_gets_the_export_it_lacks(here: Path, image: Path, bundle: Path, mask: Path) -> None:
    before = (here / mask).stat().st_mtime_ns
    words = ("segment", image, "--weights", bundle, *PATCH, "-o", "out", "--format", "cog")
    (row,) = invoke_json(*words)["images"]
    assert (row["status"], row["exports"][0]["status"]) == ("already done", "done")
    assert (here / mask).stat().st_mtime_ns == before
    content = tree(here)
    (row,) = invoke_json(*words)["images"]
    assert row["exports"][0]["status"] == "already done"
    assert tree(here) == content


def test_a_second_run_over_a_folder_does_not_take_exports_for_images(here: Path, bundle: Path) -> None:
    write_image(here / "in" / "a.tif")
    write_image(here / "in" / "b.ome.tif")
    words = ("segment", "in", "--weights", bundle, *PATCH, "--format", EVERYTHING, "-o", "in/masks")
    for status in ("done", "already done"):
        assert [(row["image"], row["status"]) for row in invoke_json(*words)["images"]] == [
            ("in/a.tif", status),
            ("in/b.ome.tif", status),
        ]


def test_an_export_may_not_replace_an_image(here: Path, bundle: Path) -> None:
    write_image(here / "in" / "a.ome.tif")
    before = tree(here)
    result = invoke("segment", "in", "--weights", bundle, "-o", "in", "--format", "ome-tiff", "--overwrite")
    assert result.exit_code == 2
    assert "an export may not replace an input (got in/a.ome.tif)" in one_failure(result)
    assert tree(here) == before


def test_json_of_several_masks_one_of_which_is_none(here: Path, image: Path, mask: Path) -> None:
    found = invoke_json("export", mask, image, "--format", "cog", "-o", "elsewhere", code=2)
    assert "two masks would get the same export" in found["error"]
    (here / image).rename(here / "picture.tif")
    found = invoke_json("export", mask, "picture.tif", "--format", "cog,geojson", "-o", "elsewhere", code=7)
    good, bad = found["images"]
    assert [each["path"] for each in good["exports"]] == ["elsewhere/s.cog.tif", "elsewhere/s.geojson"]
    assert (bad["exports"], bad["exit_code"]) == ([], 3)
    assert "no mask" in bad["error"]


def test_one_file(here: Path, mask: Path) -> None:
    assert invoke("export", mask, "--format", "ome-tiff", "-o", "x/y.ome.tiff").exit_code == 0
    with tifffile.TiffFile(here / "x" / "y.ome.tiff") as tiff:
        assert tiff.is_ome


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (["out/s.tif"], 2, ["an export needs a format", "cog, ome-tiff, ome-zarr, geojson"]),
        (["out/s.tif", "--format", "png"], 2, ["--format is one or more of cog", "'png'", "--format cog,geojson"]),
        (["out/s.tif", "--format", "cog", "--simplify", "2"], 2, ["are for polygons"]),
        (["out/s.tif", "--format", "geojson", "--simplify", "much"], 2, ["--simplify is a positive", "'much'"]),
        (["out/s.tif", "--format", "cog", "-o", "x.png"], 2, [".tif or .tiff", "x.png"]),
        (["gone.tif", "--format", "cog"], 3, ["gone.tif: ", "there is no such mask"]),
        (["s.tif", "--format", "cog"], 3, ["s.tif: ", "this TIFF is no mask", "magnet segment"]),
        (
            ["out/s.tif", "--format", "cog", "-o", "taken.tif"],
            5,
            ["taken.tif: ", "this file is in the way", "--overwrite"],
        ),
        (["out/s.tif", "--format", "cog", "-o", "s.tif/deep"], 5, ["cannot be written"]),
    ],
)
def test_wrong_use(here: Path, mask: Path, words: list[str], code: int, parts: list[str]) -> None:
    assert mask.exists()
    (here / "taken.tif").write_text("precious")
    before = tree(here)
    result = invoke("export", *words)
    assert result.exit_code == code
    line = one_failure(result)
    assert [part for part in parts if part not in line] == []
    assert tree(here) == before


def test_wrong_words_of_segment_before_any_work(here: Path, image: Path, bundle: Path) -> None:
    for words in (["--format", "png"], ["--simplify", "2"], ["--format", "cog", "--min-area", "5"]):
        assert invoke("segment", image, "--weights", bundle, *words).exit_code == 2
    assert [path.name for path in here.iterdir()] == ["s.tif"]

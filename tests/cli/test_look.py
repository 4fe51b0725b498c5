"""`plan`, `info` and `verify` print text and JSON."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from magnet_cli.masks.output import OutputPaths
from tests.cli.support import invoke, invoke_json, one_failure, write_image
from tests.files import tree

if TYPE_CHECKING:
    from numpy.typing import NDArray


def test_plan_as_text(here: Path, image: Path, bundle: Path) -> None:
    result = invoke("plan", image, "--weights", bundle)
    assert result.exit_code == 0
    assert result.stderr == ""
    for part in ("s.tif: 150x110 pixels", "method magnet, merge mean, points all", "pass 1: 4 blocks in 2 groups"):
        assert part in result.stdout
    assert "stage 3: windows of 32x32 pixels, all 35" in result.stdout
    assert "then borders of blocks: 2 groups" in result.stdout
    assert "host memory: " in result.stdout
    assert "disk at most: " in result.stdout
    assert [path.name for path in here.iterdir()] == ["s.tif"]


def test_plan_says_what_segment_does(here: Path, bundle: Path) -> None:
    write_image(here / "a.tif", size=(97, 131))
    write_image(here / "b.tif", size=(33, 300))
    words = ("--weights", bundle, "--method", "magnet-fast", "--patches", "2,3", "--points", "30%")
    plans = invoke_json("plan", "a.tif", "b.tif", *words)["images"]
    reports = [entry["report"] for entry in invoke_json("segment", "a.tif", "b.tif", *words)["images"]]
    for planned, done in zip(plans, reports, strict=True):
        groups = sum(step["groups"] for step in planned["passes"]) + planned["border_groups"]
        assert done["groups"] == {"computed": groups, "resumed": 0}
        stages = [stage for step in planned["passes"] for stage in step["stages"]]
        ran = [stage for step in done["passes"] for stage in step["stages"]]
        assert [stage["windows"] for stage in stages] == [stage["windows_planned"] for stage in ran]
        assert [stage["windows"] for stage in stages] == [stage["windows_run"] for stage in ran]
        assert [stage["cells"] for stage in stages] == [stage["windows"] for stage in ran]
        assert planned["disk"]["mask_at_most"] >= planned["size"]["width"] * planned["size"]["height"]


def test_plan_of_a_folder_with_a_bad_image(here: Path, bundle: Path) -> None:
    write_image(here / "in" / "a.tif")
    (here / "in" / "b.tif").write_text("no image")
    found = invoke_json("plan", "in", "--weights", bundle, code=7)
    assert [entry.get("exit_code") for entry in found["images"]] == [None, 3]
    result = invoke("plan", "in", "--weights", bundle)
    assert "in/a.tif: 150x110 pixels" in result.stdout
    assert "magnet: in/b.tif: " in result.stderr


def test_plan_counts_what_is_kept(image: Path, bundle: Path) -> None:
    words = ("plan", image, "--weights", bundle)
    without = invoke_json(*words)["images"][0]["disk"]
    kept = invoke_json(*words, "--probabilities", "--uncertainty")["images"][0]["disk"]
    assert without["probabilities_at_most"] == 0
    assert kept["probabilities_at_most"] == 4 * 110 * 150


def test_what_sizes_and_levels_refer_to_is_shown(here: Path) -> None:
    text = "Aperio Image Library v11\r\n150x110 [0,0] (64x64) JPEG/RGB Q=70|AppMag = 40|MPP = 0.2500"
    write_levels(here / "s.svs", text)
    found = invoke_json("info", "s.svs")["images"][0]
    assert found["objective"] == 40
    assert [level["pixel"] for level in found["levels"]] == [
        {"x": 0.25, "y": 0.25, "unit": "um"},
        {"x": 0.5, "y": 0.5, "unit": "um"},
    ]
    shown = invoke("info", "s.svs").stdout
    assert "  objective: 40x\n" in shown
    assert "  level 1: 76x56, downsample 2, 0.5 um a pixel, 20x\n" in shown


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("--level", "1"), "--level 1"),
        (("--mag", "20"), "--mag 20"),
        (("--scales", "0.016mm", "--mag", "20"), "--mag 20"),
    ],
)
def test_an_image_is_read_at_a_stored_level(here: Path, bundle: Path, words: tuple[str, ...], asked: str) -> None:
    """The image consists of squares of two pixels, so the reduced level gives the labels of the full resolution."""
    labels = write_levels(here / "s.svs", "Aperio Image Library v11\r\nx|AppMag = 40|MPP = 0.2500")
    scales = words if "--scales" in words else ("--scales", "32", *words)
    run: tuple[str | Path, ...] = ("s.svs", "--weights", bundle, "--tissue", "none", *scales)
    planned = invoke_json("plan", *run)["images"][0]
    assert (planned["read_at"], planned["working_pixel"]) == (asked, {"width": 2.0, "height": 2.0})
    assert planned["working_size"] == {"width": 0.5, "height": 0.5, "unit": "um"}
    assert "windows of 32x32 pixels (16 x 16 um)" in invoke("plan", *run).stdout
    report = invoke_json("segment", *run, "-o", "m.tif")["images"][0]["report"]
    assert report["options"]["read_at"] == asked
    assert report["input"]["objective"] == 40
    assert asked in " ".join(report["command"])
    np.testing.assert_array_equal(tifffile.imread("m.tif"), labels)


def write_levels(path: Path, description: str) -> NDArray[np.uint8]:
    """Write a slide of two levels that consists of plain squares of two pixels; return its labels."""
    small = np.random.default_rng(0).integers(0, 3, (56, 76)).astype(np.uint8)
    coarse = (np.eye(3, dtype=np.uint8) * 200)[small]
    with tifffile.TiffWriter(path) as writer:
        for level in (np.kron(coarse, np.ones((2, 2, 1), np.uint8)), coarse):
            writer.write(level, photometric="rgb", tile=(64, 64), description=description, metadata=None)
            description = description.replace("150x110", "76x56")
    return np.kron(small, np.ones((2, 2), np.uint8))


def test_info(image: Path) -> None:
    found = invoke_json("info", image)["images"][0]
    assert found["image"] == "s.tif"
    assert found["size"] == {"width": 150, "height": 110}
    assert found["levels"] == [{"width": 150, "height": 110, "downsample": {"x": 1.0, "y": 1.0}, "pixel": None}]
    assert found["bands"] == ["red", "green", "blue"]
    assert found["pixel"] is None
    result = invoke("info", image)
    assert result.exit_code == 0
    assert "s.tif: 150x110 pixels, 3 bands (1 red, 2 green, 3 blue), uint8" in result.stdout
    assert "pixel size: unknown" in result.stdout


def test_info_of_a_map(here: Path) -> None:
    tifffile.imwrite(
        here / "map.tif",
        np.zeros((20, 30, 3), np.uint8),
        photometric="rgb",
        extratags=[
            (33550, "d", 3, (0.5, 0.5, 0.0), True),
            (33922, "d", 6, (0.0, 0.0, 0.0, 5e5, 5e6, 0.0), True),
            (34735, "H", 12, (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32633), True),
            (42113, "s", 0, "0", True),
        ],
    )
    found = invoke_json("info", "map.tif")["images"][0]
    assert found["crs"] == "EPSG:32633"
    assert found["pixel"] == {"x": 0.5, "y": 0.5, "unit": "m"}
    assert found["nodata"] == "0.0"
    text = invoke("info", "map.tif").stdout
    assert "CRS: EPSG:32633" in text
    assert "pixel size: 0.5 x 0.5 m" in text
    assert "nodata: 0" in text


def test_info_of_several(here: Path, image: Path) -> None:
    (here / "none.tif").write_text("no image")
    found = invoke_json("info", image, "none.tif", code=7)
    assert found["images"][1]["exit_code"] == 3
    result = invoke("info", "none.tif")
    assert result.exit_code == 3
    one_failure(result)


def test_a_name_that_is_no_unicode(here: Path, bundle: Path) -> None:
    name = b"caf\xe9.tif".decode("utf-8", "surrogateescape")
    write_image(here / "s.tif").rename(here / name)
    result = invoke("info", name)
    assert result.exit_code == 0
    assert b"caf\xe9.tif: 150x110 pixels" in result.stdout_bytes
    assert invoke_json("segment", name, "--weights", bundle, "-o", "out")["images"][0]["status"] == "done"


@pytest.fixture
def masks(here: Path, bundle: Path) -> list[Path]:
    """Make two finished masks."""
    for name in ("a.tif", "b.tif"):
        write_image(here / "in" / name, size=(300, 600))
    assert invoke("segment", "in", "--weights", bundle, "--method", "downsample", "-o", "out").exit_code == 0
    return [Path("out/a.tif"), Path("out/b.tif")]


def test_masks_as_they_were_written(here: Path, masks: list[Path]) -> None:
    before = tree(here)
    result = invoke("verify", *masks)
    assert result.exit_code == 0
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == ["out/a.tif", "out/b.tif"]
    assert all("all as written" in line for line in result.stdout.splitlines())
    found = invoke_json("verify", *masks)
    assert [(entry["ok"], entry["damaged"], entry["damage"]) for entry in found["images"]] == [(True, 0, [])] * 2
    with tifffile.TiffFile(masks[0]) as file:
        tiles = sum(len(level.keyframe.dataoffsets) for level in file.series[0].levels)
    assert found["images"][0]["tiles"] == tiles
    assert tree(here) == before


def test_a_flipped_byte_is_named(masks: list[Path]) -> None:
    with tifffile.TiffFile(masks[0]) as file:
        page = file.pages.first
        at, columns = page.dataoffsets[1] + page.databytecounts[1] // 2, -(-page.imagewidth // page.tilewidth)
    assert columns > 1
    data = bytearray(masks[0].read_bytes())
    data[at] ^= 1
    masks[0].write_bytes(data)
    result = invoke("verify", masks[0])
    assert result.exit_code == 5
    assert (
        one_failure(result) == "magnet: out/a.tif: Restore it from a copy, or compute it again with --overwrite\n"
        "  Why: not as it was written: tile, page 0, row 0, col 1"
    )
    found = invoke_json("verify", *masks, code=7)
    assert [entry["ok"] for entry in found["images"]] == [False, True]
    assert found["images"][0]["damage"] == [{"part": "tile", "page": 0, "row": 0, "col": 1}]


def test_folders_stand_for_the_masks_in_them(here: Path, image: Path, masks: list[Path]) -> None:
    shutil.copy(image, here / "out" / "no-mask.tif")
    found = invoke_json("verify", "out")
    assert [entry["mask"] for entry in found["images"]] == [str(mask) for mask in masks]
    assert invoke("report", "out").exit_code == 0
    assert all(mask.with_suffix(".html").is_file() for mask in masks)
    (here / "empty").mkdir()
    result = invoke("verify", "empty")
    assert result.exit_code == 2
    assert "Name the masks themselves\n  Why: the folder holds no mask with a report (got empty)" in one_failure(result)


def test_masks_that_cannot_be_checked(image: Path, masks: list[Path]) -> None:
    result = invoke("verify", "gone.tif")
    assert result.exit_code == 3
    assert one_failure(result) == "magnet: gone.tif: Check the path\n  Why: there is no such mask"
    result = invoke("verify", image)
    assert result.exit_code == 5
    assert "s.json: " in one_failure(result)
    assert "the report cannot be read" in one_failure(result)
    assert "name such a mask" in one_failure(result)
    report = OutputPaths.of(masks[0]).report
    report.write_text(report.read_text().replace("colours", "colors"))
    result = invoke("verify", masks[0])
    assert result.exit_code == 5
    assert f"magnet: {report}: " in one_failure(result)
    assert "the report is damaged" in one_failure(result)
    masks[1].write_bytes(masks[1].read_bytes()[:-20])
    assert invoke("verify", masks[1]).exit_code == 5
    found = invoke_json("verify", "gone.tif", *masks, code=3)
    assert [entry["ok"] for entry in found["images"]] == [False] * 3

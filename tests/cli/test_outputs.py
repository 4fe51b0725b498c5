"""Masks and files beside them get their places, and a second run treats them by rules."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from magnet_cli.masks.output import OutputPaths
from tests.cli.support import SIZE, expected_labels, invoke, invoke_json, one_failure, write_image
from tests.files import tree

PATCH = ("--method", "patch")
"""Options for one stage, so that the mask is exactly the brightest band."""


def test_a_mask_and_its_report_in_the_current_folder(here: Path, image: Path, bundle: Path) -> None:
    result = invoke("segment", image, "--weights", bundle, *PATCH)
    assert result.exit_code == 0
    assert result.stdout == ""
    assert sorted(tree(here)) == ["s.mask.json", "s.mask.tif", "s.tif"]
    assert OutputPaths.of(Path("s.mask.tif")).report == Path("s.mask.json")
    with tifffile.TiffFile("s.mask.tif") as file:
        page = file.pages.first
        assert page.photometric == tifffile.PHOTOMETRIC.PALETTE
        assert page.colormap is not None
        assert [tuple(page.colormap[:, index] >> 8) for index in range(3)] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
        labels = page.asarray()
        np.testing.assert_array_equal(labels, expected_labels())


def test_refined_stages_keep_the_classes(image: Path, bundle: Path) -> None:
    assert invoke("segment", image, "--weights", bundle, "-o", "m.tif").exit_code == 0
    labels = tifffile.imread("m.tif")
    expected = expected_labels()
    # The coarsest window has 4 level-0 pixels in one of its own: borders may move by as much, nothing else changes.
    far = np.ones(SIZE, dtype=bool)
    for border in (50, 100):
        far[:, border - 4 : border + 4] = False
    np.testing.assert_array_equal(labels[far], expected[far])


@pytest.mark.parametrize(
    ("name", "output", "mask"),
    [
        ("s.ome.tif", None, "s.mask.tif"),
        ("s.tif", "out", "out/s.tif"),
        ("s.ome.tif", "out/deep", "out/deep/s.tif"),
        ("s.tif", "out/m.tiff", "out/m.tiff"),
        ("s.tif", "out/M.TIF", "out/M.TIF"),
        ("two words.tif", "o u t", "o u t/two words.tif"),
        ("a.b.tif", "out", "out/a.b.tif"),
        ("[x].tif", "out", "out/[x].tif"),
    ],
)
def test_names(here: Path, bundle: Path, name: str, output: str | None, mask: str) -> None:
    write_image(here / name)
    words = [] if output is None else ["-o", output]
    assert invoke("segment", name, "--weights", bundle, *PATCH, *words).exit_code == 0
    paths = OutputPaths.of(Path(mask))
    assert sorted(tree(here)) == sorted([name, str(paths.mask), str(paths.report)])


def test_an_existing_folder_is_a_folder_whatever_its_name(here: Path, image: Path, bundle: Path) -> None:
    for folder in ("v1.2", "masks.tif"):
        (here / folder).mkdir()
        assert invoke("segment", image, "--weights", bundle, *PATCH, "-o", folder).exit_code == 0
        assert (here / folder / "s.tif").is_file()


def test_folders_keep_their_subfolders(here: Path, bundle: Path) -> None:
    for name in ("in/a.tif", "in/x/a.tif", "in/x/y/b.tif", "in/.hidden/c.tif"):
        write_image(here / name)
    found = invoke_json("segment", "in", "--weights", bundle, *PATCH, "-o", "out")
    masks = [entry["mask"] for entry in found["images"]]
    assert masks == ["out/a.tif", "out/x/a.tif", "out/x/y/b.tif"]
    assert all((here / mask).is_file() for mask in masks)


def test_a_pattern_and_two_files(here: Path, bundle: Path) -> None:
    for name in ("in/a.tif", "in/b.tif", "in/c.txt.tif"):
        write_image(here / name)
    found = invoke_json("segment", "in/?.tif", "--weights", bundle, *PATCH, "-o", "out")
    assert [entry["mask"] for entry in found["images"]] == ["out/a.tif", "out/b.tif"]
    found = invoke_json("segment", "in/a.tif", "in/c.txt.tif", "in/a.tif", "--weights", bundle, *PATCH)
    assert [entry["mask"] for entry in found["images"]] == ["a.mask.tif", "c.txt.mask.tif"]


def test_a_finished_output_is_left_alone(here: Path, image: Path, bundle: Path) -> None:
    words = ("segment", image, "--weights", bundle, "-o", "out")
    assert invoke_json(*words)["images"][0]["status"] == "done"
    before = {path: path.stat().st_mtime_ns for path in (here / "out").iterdir()}
    content = tree(here)
    found = invoke_json(*words)["images"][0]
    assert found["status"] == "already done"
    assert found["report"] == json.loads(content["out/s.json"])
    assert "out/s.tif: already done" in invoke(*words).stderr
    assert tree(here) == content
    assert {path: path.stat().st_mtime_ns for path in (here / "out").iterdir()} == before


def test_a_second_run_over_a_folder_of_images_and_masks(here: Path, bundle: Path) -> None:
    write_image(here / "in" / "a.ome.tif")
    for output in ("in", "in/masks"):
        words = ("segment", "in", "--weights", bundle, *PATCH, "--probabilities", "-o", output)
        assert [entry["status"] for entry in invoke_json(*words)["images"]] == ["done"]
        assert [entry["status"] for entry in invoke_json(*words)["images"]] == ["already done"]
    result = invoke("segment", "in/masks", "--weights", bundle)
    assert result.exit_code == 2
    assert "only masks that this program has written (got in/masks)" in one_failure(result)


def test_other_options_weights_or_pixels_are_refused_and_overwrite_replaces(
    here: Path, image: Path, bundle: Path
) -> None:
    words = ("segment", image, "--weights", bundle, "-o", "out")
    assert invoke(*words).exit_code == 0
    before = tree(here)
    result = invoke(*words, "--overlap", "10")
    assert result.exit_code == 5
    assert "out/s.tif: Choose another output, or pass --overwrite\n  Why: the output exists already" in one_failure(
        result
    )
    assert "--overwrite" in result.stderr
    assert tree(here) == before

    write_image(here / "s.tif", seed=1)
    changed = tree(here)
    assert invoke(*words).exit_code == 5
    assert tree(here) == changed

    (here / "out" / "other.txt").write_text("not ours")
    assert invoke(*words, "--overwrite").exit_code == 0
    assert sorted(tree(here)) == ["out/other.txt", "out/s.json", "out/s.tif", "s.tif"]
    assert invoke("verify", "out/s.tif").exit_code == 0
    assert invoke(*words).exit_code == 0


def test_files_of_an_earlier_mask_are_named(here: Path, image: Path, bundle: Path) -> None:
    words = ("segment", image, "--weights", bundle, *PATCH, "-o", "m.tif")
    assert invoke(*words, "--format", "geojson,cog", "--overlay", "--uncertainty").exit_code == 0
    (here / "m.html").write_text("of somebody else")
    before = tree(here)
    again = invoke(*words, "--format", "geojson,cog", "--overlay", "--uncertainty")
    assert "earlier mask" not in again.stderr
    result = invoke(*words, "--roi", "10,10,40,30", "--format", "cog", "--overwrite")
    said = (
        "m.tif: files beside it were made of an earlier mask: m.uncertainty.zarr, m.overlay.png, m.geojson. Make them"
    )
    assert said in result.stderr
    assert tree(here)["m.geojson"] == before["m.geojson"]


def test_a_file_of_someone_else_is_not_replaced(here: Path, image: Path, bundle: Path) -> None:
    for name in ("m.tif", "n.json"):
        (here / name).write_text("precious")
    before = tree(here)
    for output in ("m.tif", "n.tif"):
        assert invoke("segment", image, "--weights", bundle, "-o", output).exit_code == 5
        assert tree(here) == before


def test_a_disk_that_holds_nothing_keeps_nothing_and_claims_nothing(
    here: Path, image: Path, bundle: Path, disk: list[int]
) -> None:
    before = tree(here)
    for writes in (0, 1, 3):
        disk[:] = [writes]
        result = invoke("segment", image, "--weights", bundle, *PATCH)
        assert result.exit_code == 5
        assert "Free space there" in result.stderr
        assert "No space left on device)" in result.stderr
        assert "kept" not in result.stderr
        assert tree(here) == before


def test_a_disk_that_fills_later_keeps_what_was_finished(
    here: Path, image: Path, bundle: Path, disk: list[int]
) -> None:
    disk[:] = [1000]
    assert invoke("segment", image, "--weights", bundle, *PATCH, "-o", "whole.tif").exit_code == 0
    disk[:] = [1000 - disk[0] - 1]  # all but the record that says that every group is finished
    result = invoke("segment", image, "--weights", bundle, *PATCH, "-o", "m.tif")
    assert result.exit_code == 5
    assert "m.tif: what was finished is kept, and the same command goes on from there" in result.stderr
    disk[:] = [20]
    anew = invoke("segment", image, "--weights", bundle, *PATCH, "-o", "n.tif", "--no-resume")
    assert anew.exit_code == 5
    assert "goes on" not in anew.stderr, "it would begin anew"
    disk.clear()
    found = invoke_json("segment", image, "--weights", bundle, *PATCH, "-o", "m.tif")
    assert found["images"][0]["report"]["groups"]["computed"] == 0
    assert (here / "m.tif").read_bytes() == (here / "whole.tif").read_bytes()


def test_one_pixel(here: Path, bundle: Path) -> None:
    write_image(here / "p.tif", size=(1, 1))
    assert invoke("segment", "p.tif", "--weights", bundle).exit_code == 0
    assert tifffile.imread("p.mask.tif").shape == (1, 1)


def test_the_given_size_of_a_pixel_is_in_mask_and_report(here: Path, image: Path, bundle: Path) -> None:
    assert invoke("segment", image, "--weights", bundle, "--slide-mpp", "0.5").exit_code == 0
    classes = json.loads((here / "s.mask.json").read_text())["classes"]
    assert all(entry["area"] == entry["pixels"] / 4 and entry["unit"] == "um2" for entry in classes)
    with tifffile.TiffFile(here / "s.mask.tif") as mask:
        assert mask.pages.first.tags["XResolution"].value == (20000, 1)
    assert invoke("segment", image, "--weights", bundle, "--slide-mpp", "0.25").exit_code == 5


def test_probabilities_and_uncertainty(here: Path, image: Path, bundle: Path) -> None:
    assert invoke("segment", image, "--weights", bundle, "--probabilities", "--uncertainty").exit_code == 0
    assert sorted(path.name for path in here.iterdir()) == [
        "s.mask.json",
        "s.mask.probabilities.zarr",
        "s.mask.tif",
        "s.mask.uncertainty.zarr",
        "s.tif",
    ]

"""Every file of a folder that looks like an image and is not taken is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from magnet_cli.train.curves import draw_curves
from tests.cli.support import invoke, invoke_json, write_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write an image, slides in formats that are not read, and a file with the name of a mask."""
    slides = tmp_path / "slides"
    write_image(slides / "a.tif")
    write_image(slides / "case.mask.tif")
    for name in ("b.czi", "deep/c.VSI", "d.isyntax", "notes.txt"):
        (slides / name).parent.mkdir(exist_ok=True)
        (slides / name).write_bytes(b"x")
    return slides


def test_a_run_names_what_it_passes_over(folder: Path, bundle: Path) -> None:
    words = ("segment", folder, "-o", folder / "masks", "--weights", bundle, "--format", "ome-tiff,cog")
    found = invoke(*words)
    assert found.exit_code == 0, found.stderr
    lines = [line for line in found.stderr.splitlines() if "skipped" in line]
    assert len(lines) == 2
    assert "3 files in a format that is not read" in lines[0]
    assert all(name in lines[0] for name in ("b.czi", "c.VSI", "d.isyntax", "OME-TIFF"))
    assert "1 file with a name like that of a mask" in lines[1]
    assert "case.mask.tif" in lines[1]
    again = invoke(*words)
    assert again.exit_code == 0
    assert "3 files that this program wrote" in again.stderr
    assert "notes.txt" not in again.stderr


def test_info_and_plan_list_images_alone(folder: Path, bundle: Path) -> None:
    assert invoke("segment", folder, "-o", folder / "masks", "--weights", bundle, "--format", "cog").exit_code == 0
    for words in (("info", folder), ("plan", folder, "--weights", bundle)):
        found = invoke_json(*words)["images"]
        assert len(found) == 1
        text = invoke(*words)
        assert "3 files in a format that is not read" in text.stderr
        assert "2 files that this program wrote" in text.stderr
    own = invoke_json("info", folder / "masks" / "a.tif")["images"]
    assert len(own) == 1


def test_a_named_file_is_read_whatever_its_name(folder: Path, bundle: Path, tmp_path: Path) -> None:
    words = ("-o", tmp_path / "m.tif", "--weights", bundle)
    assert invoke("segment", folder / "case.mask.tif", *words).exit_code == 0
    refused = invoke("segment", folder / "b.czi", *words)
    assert refused.exit_code == 3
    assert "OME-TIFF" in refused.stderr


def test_a_folder_of_unreadable_slides_says_so(folder: Path, tmp_path: Path, bundle: Path) -> None:
    (folder / "a.tif").unlink()
    for what in (folder, f"{folder}/*"):
        found = invoke("segment", what, "-o", tmp_path / "masks", "--weights", bundle)
        assert found.exit_code == 2
        assert "b.czi" in found.stderr
        assert "case.mask.tif" in found.stderr


def test_images_in_the_folder_of_their_masks_stay_images(tmp_path: Path, bundle: Path) -> None:
    write_image(tmp_path / "a.tif").rename(tmp_path / "a.svs")
    write_image(tmp_path / "c.tiff")
    group = zarr.open_group(tmp_path / "b.zarr", mode="w", zarr_format=2)
    group.create_array("0", data=np.zeros((3, 40, 48), np.uint8), chunks=(3, 32, 32))
    scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    axes = [{"name": name} for name in "cyx"]
    multiscales: Any = [
        {"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    ]
    group.attrs["multiscales"] = multiscales
    words = ("segment", tmp_path, "-o", tmp_path, "--weights", bundle, "--tissue", "none", "--probabilities")
    first = invoke(*words)
    assert first.exit_code == 0, first.stderr
    listed = invoke_json("info", tmp_path)["images"]
    assert sorted(Path(image["image"]).name for image in listed) == ["a.svs", "b.zarr", "c.tiff"]
    again = invoke(*words)
    assert again.exit_code == 0, again.stderr
    assert "skipped 6 files that this program wrote" in again.stderr


def test_a_mask_that_was_renamed_or_lacks_its_report_is_no_image(folder: Path, bundle: Path) -> None:
    assert invoke("segment", folder / "a.tif", "-o", folder / "masks", "--weights", bundle).exit_code == 0
    (folder / "masks" / "a.json").unlink()
    (folder / "masks" / "a.tif").rename(folder / "final.tif")
    found = invoke("info", folder)
    assert "skipped 1 file that this program wrote" in found.stderr
    assert "final.tif" not in found.stdout
    assert len(invoke_json("info", folder / "final.tif")["images"]) == 1


def test_a_folder_run_knows_the_plots_and_pictures_of_every_command(here: Path, bundle: Path) -> None:
    """They carry no report beside them, and may have been renamed or moved."""
    write_image(here / "a.tif")
    tifffile.imwrite("truth.tif", np.zeros((110, 150), np.uint8))
    Path("data.csv").write_text("image,label\na.tif,truth.tif\n")
    words = ("evaluate", "--data", "data.csv", "--weights", bundle, "--methods", "patch", "--no-mba", "-o", "scores")
    assert invoke(*words).exit_code == 0
    Path("truth.tif").unlink()
    common = ("--weights", bundle, "--method", "patch", "--tissue", "none", "-o", "masks")
    assert invoke("segment", "a.tif", *common, "--overlay", "--html", "--format", "cog,geojson").exit_code == 0
    Path("masks/a.overlay.png").rename("for the talk.png")
    Path("model").mkdir()
    Path("model/log.jsonl").write_text('{"iteration": 10, "loss": 1.0, "rate": 0.1}\n')
    draw_curves(Path("model/log.jsonl"), Path("model/curves.png"))
    assert [Path(image["image"]).name for image in invoke_json("info", ".")["images"]] == ["a.tif"]
    found = invoke("segment", ".", *common)
    assert found.exit_code == 0, found.stderr
    skipped = [line for line in found.stderr.splitlines() if "that this program wrote" in line]
    assert len(skipped) == 1
    for name in ("scores/distribution.png", "for the talk.png", "model/curves.png"):
        assert name in skipped[0]
    # A named file is read.
    assert len(invoke_json("info", "for the talk.png")["images"]) == 1


def test_the_true_classes_of_a_scene_are_no_image_of_a_folder(here: Path, bundle: Path) -> None:
    folder = here / "scenes"
    folder.mkdir()
    made = invoke("scene", folder / "town.tif", "--size", "96x96", "--labels", folder / "truth.tif")
    assert made.exit_code == 0, made.stderr
    found = invoke("segment", folder, "-o", here / "masks", "--weights", bundle)
    assert found.exit_code == 0, found.stderr
    assert "skipped 1 file that this program wrote" in found.stderr
    assert "truth.tif" in found.stderr
    assert len(invoke_json("info", folder)["images"]) == 1
    named = invoke_json("info", folder / "truth.tif")["images"]
    assert len(named) == 1

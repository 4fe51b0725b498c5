"""Real images become masks that tifffile, OpenSlide and rasterio read as they should."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import rasterio
import tifffile
from rasterio.errors import NotGeoreferencedWarning

from tests.cli.support import invoke, invoke_json, write_colours_bundle


@dataclass(frozen=True, kw_only=True)
class Case:
    """A file, and options with which it is segmented quickly."""

    name: str
    scales: str = "256,512"
    method: str = "magnet"


CASES = [
    Case(name="formats/wsi_svs/CMU-1-Small-Region.svs", scales="512,1024"),
    Case(name="formats/wsi_svs/openslide-python_small.svs"),
    Case(name="formats/ome_tiff/cells.ome.tif"),
    Case(name="formats/plain/test_RGBA_8.png"),
    Case(name="dubai/tile1/images/image_part_001.jpg"),
    Case(name="formats/geotiff/rasterio_RGB.byte.tif"),
    Case(name="formats/geotiff/rasterio_world.rgb.tif"),
    Case(name="formats/geotiff/riocogeo_image_rgb_mask.tif"),
    Case(name="formats/geotiff/rgba_geotiff.tiff"),
    Case(name="formats/geotiff/usda_naip_256_webp_z3.tif"),
]
MAPS = [case for case in CASES if "geotiff" in case.name]


@pytest.fixture(scope="session")
def large_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a bundle like `bundle` whose network has an input of 256 pixels."""
    return write_colours_bundle(tmp_path_factory.mktemp("large") / "colours", side=256)


def segmented(case: Case, *, data: Path, bundle: Path) -> tuple[Path, dict[str, Any]]:
    """Segment a file, and return its path and its entry in the JSON."""
    path = data / case.name
    if not path.is_file():
        pytest.skip(f"no {case.name}")
    words = ("--weights", bundle, "--scales", case.scales, "--method", case.method, "-o", "out/m.tif")
    return path, invoke_json("segment", path, *words)["images"][0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: Path(case.name).name)
def test_a_mask_opens_everywhere(here: Path, shared_data: Path, large_bundle: Path, case: Case) -> None:
    _, entry = segmented(case, data=shared_data, bundle=large_bundle)
    report, mask = entry["report"], here / entry["mask"]
    size = (report["input"]["size"]["width"], report["input"]["size"]["height"])
    assert invoke("verify", mask).exit_code == 0

    with tifffile.TiffFile(mask) as file:
        labels = file.pages.first.asarray()
        colours = file.pages.first.colormap
        levels = [level.shape[::-1] for level in file.series[0].levels]
    assert labels.shape == size[::-1]
    assert set(np.unique(labels)) <= {0, 1, 2, 255}
    assert colours is not None
    np.testing.assert_array_equal(colours[:, :3] >> 8, 255 * np.eye(3))
    for finer, coarser in pairwise(levels):
        assert coarser == tuple(-(-side // 2) for side in finer)
    counts = np.bincount(labels.ravel(), minlength=256)
    assert [entry["pixels"] for entry in report["classes"]] == counts[:3].tolist()
    assert report["not_computed"]["pixels"] == counts[255]

    with openslide.OpenSlide(mask) as slide:
        assert slide.dimensions == size
        assert list(slide.level_dimensions) == levels
        pixel = report["input"]["pixel"]
        if pixel is not None and pixel["unit"] == "um":
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(pixel["x"], rel=1e-6)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(mask) as seen:
            assert (seen.width, seen.height, seen.count, seen.nodata) == (*size, 1, 255)
            assert seen.colormap(1)[1] == (0, 255, 0, 255)
            np.testing.assert_array_equal(seen.read(1), labels)


@pytest.mark.parametrize("case", MAPS, ids=lambda case: Path(case.name).name)
def test_a_map_stays_where_it_was(shared_data: Path, large_bundle: Path, here: Path, case: Case) -> None:
    path, entry = segmented(case, data=shared_data, bundle=large_bundle)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as source, rasterio.open(here / entry["mask"]) as mask:
            assert mask.crs == source.crs
            assert mask.transform.almost_equals(source.transform, 1e-12)
            assert len(mask.gcps[0]) == len(source.gcps[0])
            assert mask.tags().get("AREA_OR_POINT") == source.tags().get("AREA_OR_POINT")
            np.testing.assert_array_equal(mask.read(1) == 255, source.dataset_mask() == 0)


def test_a_large_flat_picture(here: Path, shared_data: Path, large_bundle: Path) -> None:
    case = Case(name="formats/png_jpeg_large/yb10kx5k.png", scales="1024", method="downsample")
    _, entry = segmented(case, data=shared_data, bundle=large_bundle)
    labels = tifffile.imread(here / entry["mask"])
    with openslide.OpenSlide(here / entry["mask"]) as slide:
        assert slide.dimensions == (10000, 5000)
    # Blue rows, yellow rows (red and green tie, and the lower class wins), blue rows.
    assert set(np.unique(labels[:1990])) == set(np.unique(labels[3010:])) == {2}
    assert set(np.unique(labels[2010:2990])) == {0}


def test_damaged_files_are_named_and_stop_nothing(here: Path, shared_data: Path, large_bundle: Path) -> None:
    folder = shared_data / "formats" / "corrupt"
    bad = [folder / "unreadable.svs", folder / "truncated.jpg", folder / "histolab_broken.svs"]
    good = shared_data / "dubai" / "tile1" / "images" / "image_part_001.jpg"
    if not all(path.is_file() for path in (*bad, good)):
        pytest.skip("no formats/corrupt")
    result = invoke("segment", *bad, good, "--weights", large_bundle, "-o", "out")
    assert result.exit_code == 7
    for path in bad:
        assert sum(line.startswith(f"magnet: {path}: ") for line in result.stderr.splitlines()) == 1
    names = ["image_part_001.json", "image_part_001.tif", "run.json"]
    assert sorted(path.name for path in (here / "out").iterdir()) == names


def test_a_folder_of_damaged_files_is_gone_through_to_its_end(
    here: Path, shared_data: Path, large_bundle: Path, tmp_path: Path
) -> None:
    folder = shared_data / "formats" / "corrupt"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        pytest.skip("no formats/corrupt")
    (tmp_path / "in").mkdir()
    for index, path in enumerate(files):
        suffix = path.suffix if path.suffix in (".svs", ".jpg", ".jp2", ".j2k") else ".tif"
        (tmp_path / "in" / f"{index:03}{suffix}").symlink_to(path)
    shutil.copy(shared_data / "dubai" / "tile1" / "images" / "image_part_001.jpg", tmp_path / "in" / "whole.jpg")
    result = invoke("segment", tmp_path / "in", "--weights", large_bundle, "--scales", "256", "-o", "out")
    assert result.exit_code == 7
    failed = [line for line in result.stderr.splitlines() if line.startswith(f"magnet: {tmp_path / 'in'}/")]
    masks = sorted(path.stem for path in (here / "out").glob("*.tif"))
    named = {Path(line.removeprefix("magnet: ").split(": ")[0]).stem for line in failed}
    assert len(failed) == len(named) == len(files) + 1 - len(masks)
    assert masks[-1] == "whole"
    assert not named & set(masks)
    names = sorted(path.name for path in (here / "out").iterdir())
    assert names == sorted(["run.json", *(f"{mask}{suffix}" for mask in masks for suffix in (".json", ".tif"))])

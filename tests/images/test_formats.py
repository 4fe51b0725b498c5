"""Files of many origins either open as an independent reader sees them, or are refused by an error with their name."""

from __future__ import annotations

import json
import logging
import re
import resource
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
import tifffile

from magnet_cli.errors import SourceError
from magnet_cli.geometry import LEVEL0, Box
from magnet_cli.images import CacheBudget, Region, Request, open_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
FORMATS = ROOT.parent / "shared" / "data" / "formats"
FOLDERS = ("bigtiff", "geotiff", "tiff_variants", "wsi_svs", "wsi_other", "ome_tiff", "plain")

MEASURED = """
import atexit, pathlib, runpy, sys
atexit.register(lambda: print(pathlib.Path("/proc/self/status").read_text(), file=sys.stderr))
runpy.run_module("benchmarks.formats", run_name="__main__", alter_sys=True)
"""
"""The script prints its peak memory itself: the usage of a child, as its parent reads it, includes the parent's own."""

JPEG_TOLERANCE = 4
"""Mean difference allowed between two JPEG decoders, which enlarge the chroma differently."""


def samples(folder: str, *suffixes: str) -> list[Any]:
    files = sorted(path for path in (FORMATS / folder).rglob("*") if path.is_file())
    wanted = [path for path in files if not suffixes or path.suffix.lower() in suffixes]
    return [pytest.param(path, id=path.relative_to(FORMATS).as_posix()) for path in wanted]


def corner(path: Path, side: int = 256) -> tuple[Region, Box]:
    with open_image(path, cache=CacheBudget(folder=Path("/nonexistent"), max_bytes=0)) as image:
        box = Box.whole(image.info.size).intersection(Box(x=0, y=0, width=side, height=side))
        return image.read([Request(pitch=LEVEL0, box=box)])[0], box


def opens_or_is_named(path: Path) -> bool:
    try:
        region, box = corner(path)
    except SourceError as error:
        return path.name in str(error)
    return region.pixels.shape[:2] == (box.height, box.width)


@pytest.fixture(autouse=True)
def quiet_tifffile() -> Any:
    """Silence the log of tifffile: a file's faults count here only by what the package makes of them."""
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("tifffile").setLevel(logging.NOTSET)


@pytest.mark.skipif(not FORMATS.is_dir(), reason="no ../shared/data beside the checkout")
@pytest.mark.parametrize("path", samples("corrupt"))
def test_a_damaged_file_opens_truly_or_is_refused(path: Path) -> None:
    assert opens_or_is_named(path)


@pytest.mark.skipif(not FORMATS.is_dir(), reason="no ../shared/data beside the checkout")
def test_all_damaged_files_together_take_twenty_seconds_of_a_core_and_a_gigabyte_at_most() -> None:
    command = [sys.executable, "-c", MEASURED, str(FORMATS / "corrupt"), "--json"]
    limit = partial(resource.setrlimit, resource.RLIMIT_CPU, (20, 20))
    done = subprocess.run(command, cwd=ROOT, preexec_fn=limit, capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", done.stderr, re.MULTILINE)
    assert int(peak) < 1 << 20
    assert len(rows) == len(samples("corrupt"))
    for row in rows:
        assert bool(row["refusal"]) != bool(row["reader"])
        assert "\n" not in row["refusal"]


def independent(path: Path) -> NDArray[Any] | None:
    """Return the pixels that GDAL reads, `(height, width, bands)`, or None where it cannot read the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with rasterio.open(path) as file:
                pixels: NDArray[Any] = np.moveaxis(file.read(), 0, 2)
                return pixels
        except rasterio.errors.RasterioError:
            return None


def plain(path: Path) -> bool:
    """Return whether GDAL has the same samples as this program: no palette, inversion, rotation or other colours."""
    with tifffile.TiffFile(path) as file:
        page = file.pages[0].aspage()
        turned = int(page.tags.valueof(274, 1)) in range(2, 9)
        known = page.photometric in (1, 2, 6) and page.bitspersample in (8, 16, 32, 64)
        return known and not turned and not file.is_ome and not file.is_imagej and page.compression not in (6, 33003)


@pytest.mark.skipif(not FORMATS.is_dir(), reason="no ../shared/data beside the checkout")
@pytest.mark.parametrize("path", [sample for name in FOLDERS for sample in samples(name, ".tif", ".tiff", ".svs")])
def test_tiff_agrees_with_gdal(path: Path) -> None:
    try:
        region, box = corner(path)
    except SourceError:
        assert path.name in REFUSED
        return
    if not plain(path):
        return
    expected = independent(path)
    if expected is None:
        return
    expected = expected[box.slices][:, :, : region.pixels.shape[2]]
    valid = np.ones(expected.shape[:2], np.bool_) if region.valid is None else region.valid
    difference = np.abs(region.pixels.astype(np.float64) - expected.astype(np.float64))[valid]
    assert difference.size == 0 or difference.mean() <= (JPEG_TOLERANCE if region.pixels.dtype == np.uint8 else 0)


REFUSED = {
    "ojpeg-strip.tif",
    "ojpeg-tile.tif",
    "tiff_overflow_rows_per_strip.tif",
    "zero_gi.tif",
}
"""Files that no installed reader decodes without guessing."""


@pytest.mark.skipif(not FORMATS.is_dir(), reason="no ../shared/data beside the checkout")
@pytest.mark.parametrize("name", ["wsi_svs/CMU-1-Small-Region.svs", "wsi_svs/tcga-cr-7395-01a-01-ts1.svs"])
def test_aperio_agrees_with_openslide(name: str) -> None:
    import openslide  # noqa: PLC0415 (this test alone needs it)

    box = Box(x=700, y=900, width=300, height=200)
    with open_image(FORMATS / name) as image, openslide.OpenSlide(str(FORMATS / name)) as slide:
        region = image.read([Request(pitch=LEVEL0, box=box)])[0]
        expected = np.asarray(slide.read_region((box.x, box.y), 0, (box.width, box.height)))[:, :, :3]
        assert image.info.size.width == slide.dimensions[0]
        assert len(image.info.levels) == slide.level_count
    assert abs(region.pixels.astype(int) - expected.astype(int)).mean() < 1


@pytest.mark.skipif(not FORMATS.is_dir(), reason="no ../shared/data beside the checkout")
@pytest.mark.parametrize(
    "path", samples("synthetic_vendor") + samples("wsi_dicom") + samples("ome_zarr") + samples("jp2")
)
def test_other_kinds_open_or_are_refused(path: Path) -> None:
    assert opens_or_is_named(path)

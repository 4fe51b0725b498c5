"""Pixels without data are not computed and have label 255, however a file marks them; unread bands do not count."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image as PillowImage

from magnet_cli.errors import SourceError
from magnet_cli.geometry import Box, Size
from magnet_cli.images import backends as opening
from magnet_cli.images import openslide
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.options.values import ValueRange
from tests.laws.support import NODATA_TAG, coded, labels_in, number, part, random_labels, segment, template_bundle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

SIZE = Size(width=201, height=143)
HOLE = (slice(32, 128), slice(0, 64))
"""Slices that cover whole windows of the finest stage, whole tiles, and whole cells of the coarse stage."""
BYTES = ValueRange(kind="values", high=Fraction(255))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a bundle that uses the second of three bands."""
    return template_bundle(tmp_path_factory.mktemp("bundle") / "template", scales=(32, 64))


def tiff(path: Path, pixels: NDArray[Any], *, nodata: str | None = None, **more: Any) -> Path:
    tags = [] if nodata is None else [(NODATA_TAG, 2, 0, nodata, True)]
    kind: dict[str, Any] = {"photometric": "rgb", "tile": (64, 32), "extratags": tags, "metadata": None}
    tifffile.imwrite(path, pixels, **kind | more)
    return path


def zero(path: Path, pixels: NDArray[np.uint8]) -> Path:
    pixels = pixels + np.uint8(1)
    pixels[HOLE] = 0
    return tiff(path.with_suffix(".tif"), pixels, nodata="0")


def floats(value: float, nodata: str | None) -> Callable[[Path, NDArray[np.uint8]], Path]:
    def write(path: Path, pixels: NDArray[np.uint8]) -> Path:
        changed = pixels.astype(np.float32)
        changed[HOLE] = value
        return tiff(path.with_suffix(".tif"), changed, nodata=nodata)

    return write


def one_band_missing(path: Path, pixels: NDArray[np.uint8]) -> Path:
    changed = pixels.astype(np.float32)
    changed[(*HOLE, 2)] = np.nan
    return tiff(path.with_suffix(".tif"), changed)


def alpha(path: Path, pixels: NDArray[np.uint8]) -> Path:
    opaque = np.full((*pixels.shape[:2], 1), 9, np.uint8)
    opaque[HOLE] = 0
    return tiff(path.with_suffix(".tif"), np.concatenate([pixels, opaque], axis=2), extrasamples=["unassalpha"])


def alpha_of_a_png(path: Path, pixels: NDArray[np.uint8]) -> Path:
    opaque = np.full((*pixels.shape[:2], 1), 200, np.uint8)
    opaque[HOLE] = 0
    PillowImage.fromarray(np.concatenate([pixels, opaque], axis=2)).save(path.with_suffix(".png"))
    return path.with_suffix(".png")


def mask_page(path: Path, pixels: NDArray[np.uint8]) -> Path:
    path = path.with_suffix(".tif")
    seen = np.full(pixels.shape[:2], 255, np.uint8)
    seen[HOLE] = 0
    profile: dict[str, Any] = {"driver": "GTiff", "width": SIZE.width, "height": SIZE.height, "count": 3}
    profile |= {"dtype": "uint8", "tiled": True, "blockxsize": 32, "blockysize": 64, "photometric": "rgb"}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **profile) as file:
        file.write(np.moveaxis(pixels, 2, 0))
        file.write_mask(seen)
    return path


def missing_tiles(path: Path, pixels: NDArray[np.uint8]) -> Path:
    path = path.with_suffix(".tif")
    profile: dict[str, Any] = {"driver": "GTiff", "width": SIZE.width, "height": SIZE.height, "count": 3}
    profile |= {"dtype": "uint8", "tiled": True, "blockxsize": 64, "blockysize": 32, "photometric": "rgb"}
    with rasterio.open(path, "w", SPARSE_OK=True, interleave="pixel", **profile) as file:
        for window in [
            rasterio.windows.Window(64, 0, 137, 143),
            *(rasterio.windows.Window(0, y, 64, h) for y, h in ((0, 32), (128, 15))),
        ]:
            rows, columns = window.toslices()
            file.write(np.moveaxis(pixels[rows, columns], 2, 0), window=window)
    return path


KINDS: dict[str, Callable[[Path, NDArray[np.uint8]], Path]] = {
    "nodata": zero,
    "nodata of floats": floats(-9999, "-9999"),
    "nan": floats(np.nan, None),
    "nan as nodata": floats(np.nan, "nan"),
    "infinite": floats(np.inf, None),
    "one band of three is nan": one_band_missing,
    "alpha": alpha,
    "alpha of a png": alpha_of_a_png,
    "mask page": mask_page,
    "missing tiles": missing_tiles,
}


def check(image: Path, mask: Path, bundle: Path, labels: NDArray[np.uint8], **more: Any) -> dict[str, object]:
    """Segment, and find 255 in the hole and the labels elsewhere."""
    report = segment(image, mask, SegmentOptions(weights=str(bundle), num_workers=0, **more))
    expected = labels.copy()
    expected[HOLE] = 255
    np.testing.assert_array_equal(labels_in(mask), expected)
    assert number(report, "not_computed", "pixels") == 96 * 64
    passes = part(report, "passes")
    assert isinstance(passes, list)
    stages = [stage for step in passes for stage in step["stages"]]
    assert all(stage["not_run"]["nodata"] > 0 for stage in stages)
    assert all(stage["windows_run"] + stage["not_run"]["nodata"] == stage["windows"] for stage in stages)
    with rasterio.open(mask) as file:
        assert file.nodata == 255
    return report


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_without_data_are_not_computed(kind: str, bundle: Path, tmp_path: Path) -> None:
    labels = random_labels(SIZE)
    image = KINDS[kind](tmp_path / "s", coded(labels))
    check(
        image,
        tmp_path / "m.tif",
        bundle,
        labels,
        value_range=BYTES,
        overlap=0,
        method="patch",
        scales=(Size(width=32, height=32),),
    )


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_pixels_outside_a_slides_bounds_are_not_computed(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = random_labels(SIZE)
    image = tiff(tmp_path / "s.tif", coded(labels))
    bounds = Box(x=64, y=0, width=137, height=143)
    monkeypatch.setattr(opening, "DIRECT_VENDORS", ())
    monkeypatch.setattr(openslide, "_bounds", lambda *_: bounds)
    report = segment(image, tmp_path / "m.tif", SegmentOptions(weights=str(bundle), num_workers=0, tissue="none"))
    assert part(report, "input", "backend") == "openslide"
    found = labels_in(tmp_path / "m.tif")
    assert (found[:, :64] == 255).all()
    np.testing.assert_array_equal(found[:, 64:], labels[:, 64:])
    with rasterio.open(tmp_path / "m.tif") as file:
        assert file.nodata == 255


def bands_with_a_hole(
    path: Path, labels: NDArray[np.uint8], *, hole: tuple[int, ...], value: float, dtype: str
) -> Path:
    """Write five bands. The labels are in the third, the others are noise, and `hole` is in some of them."""
    noise = np.random.default_rng(1).integers(1, 200, (SIZE.height, SIZE.width, 5))
    noise[:, :, 2] = labels.astype(int) * 40 + 1
    pixels = noise.astype(dtype)
    for band in hole:
        pixels[(*HOLE, band)] = value
    nodata = None if np.isnan(value) else str(int(value))
    return tiff(path, pixels, nodata=nodata, photometric="minisblack", planarconfig="contig")


SEES: dict[str, Any] = {
    "bands": ("5", "3", "1"),
    "value_range": BYTES,
    "method": "patch",
    "scales": (Size(width=32, height=32),),
    "overlap": 0,
}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(("value", "dtype"), [(0, "uint8"), (-9999, "int16"), (np.nan, "float32")])
def test_the_bands_that_the_network_sees_decide(value: float, dtype: str, bundle: Path, tmp_path: Path) -> None:
    """A pixel that lacks data in all of these bands has no label. Data that other bands lack does not matter."""
    labels = random_labels(SIZE)
    holes = bands_with_a_hole(tmp_path / "s.tif", labels, hole=(0, 2, 4), value=value, dtype=dtype)
    check(holes, tmp_path / "m.tif", bundle, labels, **SEES)
    whole = bands_with_a_hole(tmp_path / "w.tif", labels, hole=(1, 3), value=value, dtype=dtype)
    segment(whole, tmp_path / "mw.tif", SegmentOptions(weights=str(bundle), num_workers=0, **SEES))
    np.testing.assert_array_equal(labels_in(tmp_path / "mw.tif"), labels)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    ("more", "is_hole"),
    [({}, True), ({"alpha": "mask"}, True), ({"alpha": "band"}, False), ({"bands": ("4", "2", "1")}, False)],
)
def test_a_band_that_is_flagged_as_alpha_can_be_named(
    bundle: Path, tmp_path: Path, more: dict[str, Any], *, is_hole: bool
) -> None:
    """GDAL flags the last of four byte bands as alpha. It may be near-infrared, which is 0 over water."""
    labels = random_labels(SIZE)
    infrared = np.full((*labels.shape, 1), 9, np.uint8)
    infrared[HOLE] = 0
    image = tmp_path / "s.tif"
    profile: dict[str, Any] = {"driver": "GTiff", "width": SIZE.width, "height": SIZE.height, "count": 4}
    with rasterio.open(image, "w", dtype="uint8", **profile) as file:
        file.write(np.moveaxis(np.concatenate([coded(labels), infrared], axis=2), 2, 0))
    report = segment(image, tmp_path / "m.tif", SegmentOptions(weights=str(bundle), num_workers=0, **more))
    expected = labels.copy()
    if is_hole:
        expected[HOLE] = 255
    np.testing.assert_array_equal(labels_in(tmp_path / "m.tif"), expected)
    assert part(report, "input", "alpha") == ("mask" if is_hole else "band")
    notes = report["notes"]
    assert isinstance(notes, list)
    assert any("band 4 is flagged as alpha" in note for note in notes)
    again = segment(image, tmp_path / "m.tif", SegmentOptions(weights=str(bundle), num_workers=0, **more))
    assert part(again, "input", "alpha") == ("mask" if is_hole else "band")


def test_percentiles_leave_pixels_without_data_out(bundle: Path, tmp_path: Path) -> None:
    labels = random_labels(SIZE)
    image = floats(-9999, "-9999")(tmp_path / "s", coded(labels))
    given = ValueRange(kind="percentiles", high=Fraction(100))
    report = segment(image, tmp_path / "m.tif", SegmentOptions(weights=str(bundle), value_range=given))
    bands = part(report, "options", "bands")
    assert isinstance(bands, list)
    assert [(entry["low"], entry["high"]) for entry in bands] == [(0, 160)] * 3
    nothing = tiff(tmp_path / "n.tif", np.full((50, 60, 3), np.nan, np.float32))
    with pytest.raises(SourceError, match=r"no pixel of the sample holds data.*--value-range LOW,HIGH"):
        segment(nothing, tmp_path / "mn.tif", SegmentOptions(weights=str(bundle), value_range=given))

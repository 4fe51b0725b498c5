"""Codecs' masks and tiles that were never written decide which pixels of a TIFF hold data, as GDAL defines it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image as PillowImage

from magnet_cli.errors import SourceError
from magnet_cli.geometry import LEVEL0, Box
from magnet_cli.images import Request, open_image
from magnet_cli.images.labels import open_labels
from tests.images.test_contract import Array, whole

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

GDAL: dict[str, Any] = {"driver": "GTiff", "tiled": True, "blockxsize": 64, "blockysize": 64}


def write_gdal(path: Path, planes: Array, **options: Any) -> Path:
    """Let GDAL write samples `(bands, height, width)`."""
    count, height, width = planes.shape
    profile = GDAL | {"count": count, "height": height, "width": width, "dtype": planes.dtype.name} | options
    with rasterio.open(path, "w", **profile) as file:
        file.write(planes)
    return path


@pytest.mark.parametrize("compress", ["LERC", "LERC_DEFLATE", "LERC_ZSTD"])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("layout", [{}, {"tiled": False, "blockysize": 7}, {"tiled": False, "blockysize": 130}])
@pytest.mark.parametrize("alike", [True, False])
def test_lerc_keeps_what_is_no_number(
    tmp_path: Path, compress: str, interleave: str, layout: dict[str, Any], *, alike: bool
) -> None:
    planes = np.random.default_rng(3).random((3, 130, 150)).astype(np.float32)
    planes[:, 10:30, 20:80] = np.nan
    if not alike:
        # Masks that differ make GDAL store the bands of a pixel apart.
        planes[1, 90:110, 100:] = np.nan
        planes[0, 64:70, 64:70] = np.nan
    path = write_gdal(tmp_path / "a.tif", planes, compress=compress, interleave=interleave, **layout)
    with open_image(path) as image:
        (region,) = image.read([whole(image)])
        (second,) = image.read([Request(pitch=LEVEL0, box=Box(x=0, y=0, width=150, height=130), bands=(1,))])
    valid = np.isfinite(planes).all(axis=0)
    np.testing.assert_array_equal(region.valid, valid)
    np.testing.assert_array_equal(region.pixels[valid], np.moveaxis(planes, 0, 2)[valid])
    np.testing.assert_array_equal(second.valid, np.isfinite(planes[1]))


@pytest.mark.parametrize(("bands", "nodata"), [(1, None), (3, None), (1, 7), (3, 7)])
def test_lerc_keeps_its_mask_of_whole_numbers(tmp_path: Path, bands: int, nodata: int | None) -> None:
    values = np.random.default_rng(4).integers(1, 7, (64, 64, bands)).astype(np.uint16)
    mask = np.ones((64, 64), np.bool_)
    mask[5:20, :30] = False
    tags = [] if nodata is None else [(42113, 2, 0, str(nodata), True)]
    path, planar = tmp_path / "a.tif", "contig" if bands > 1 else None
    stream = bytes(imagecodecs.lerc_encode(values if bands > 1 else values[:, :, 0], masks=mask))
    shape: Any = {"shape": values.shape, "dtype": values.dtype, "tile": (64, 64), "photometric": "minisblack"}
    tifffile.imwrite(path, iter([stream]), compression="lerc", planarconfig=planar, extratags=tags, **shape)
    with open_image(path) as image:
        assert image.info.has_mask
        (region,) = image.read([whole(image)])
    np.testing.assert_array_equal(region.valid, mask)
    np.testing.assert_array_equal(region.pixels[mask], values[mask])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
def test_lerc_in_a_big_endian_file_agrees_with_gdal(tmp_path: Path, dtype: str) -> None:
    """libtiff exchanges the bytes of the samples before it compresses them."""
    planes = np.random.default_rng(9).integers(0, 120, (3, 70, 90)).astype(dtype)
    path = write_gdal(tmp_path / "a.tif", planes, compress="LERC", ENDIANNESS="BIG")
    with open_image(path) as image:
        np.testing.assert_array_equal(image.read([whole(image)])[0].pixels, np.moveaxis(planes, 0, 2))


@pytest.mark.parametrize("compress", [None, "CCITTFAX3", "CCITTFAX4", "CCITTRLE", "LZW"])
def test_bits_are_black_and_white_whatever_compresses_them(tmp_path: Path, compress: str | None) -> None:
    planes = (np.random.default_rng(10).random((1, 70, 90)) < 0.1).astype(np.uint8)
    path = write_gdal(tmp_path / "a.tif", planes, NBITS=1, compress=compress)
    with rasterio.open(path) as file:
        stored = file.read(1)
    with open_image(path) as image:
        np.testing.assert_array_equal(image.read([whole(image)])[0].pixels[:, :, 0], planes[0] * 255)
    with open_labels(path) as labels:
        np.testing.assert_array_equal(labels.read(Box.whole(labels.size)), stored)


def test_a_bit_is_no_nodata_value_of_3(tmp_path: Path) -> None:
    planes = np.ones((1, 64, 128), np.uint8)
    path = tmp_path / "a.tif"
    profile = GDAL | {"count": 1, "height": 64, "width": 128, "dtype": "uint8", "NBITS": 1, "SPARSE_OK": True}
    with rasterio.open(path, "w", nodata=3, **profile) as file:
        file.write(planes[:, :, :64], window=rasterio.windows.Window(0, 0, 64, 64))
    expected = np.broadcast_to(np.arange(128) < 64, (64, 128))
    with open_image(path) as image:
        (region,) = image.read([whole(image)])
    np.testing.assert_array_equal(region.valid, expected)
    assert (region.pixels[expected] == 255).all()
    with open_labels(path) as labels:
        np.testing.assert_array_equal(labels.read(Box.whole(labels.size)), np.where(expected, 1, 255))


@pytest.mark.parametrize("bands", [2, 4])
@pytest.mark.parametrize("opacity", [(0, 255), (255,), (0, 9, 255)])
def test_lerc_with_alpha_agrees_with_gdal(tmp_path: Path, bands: int, opacity: tuple[int, ...]) -> None:
    random = np.random.default_rng(5)
    planes = random.integers(0, 256, (bands, 130, 150)).astype(np.uint8)
    planes[-1] = random.choice(np.array(opacity), (130, 150))
    photometric = {2: "MINISBLACK", 4: "RGB"}[bands]
    path = write_gdal(tmp_path / "a.tif", planes, compress="LERC", alpha="YES", photometric=photometric)
    with open_image(path) as image:
        (region,) = image.read([whole(image)])
    opaque = planes[-1] > 0
    assert region.pixels.shape[2] == bands - 1
    np.testing.assert_array_equal(opaque if region.valid is None else region.valid, opaque)
    assert opaque.all() or region.valid is not None
    np.testing.assert_array_equal(region.pixels[opaque], np.moveaxis(planes[:-1], 0, 2)[opaque])


def test_jpeg_tiles_of_single_bands_agree_with_gdal(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(130), np.arange(150))
    planes = np.stack([smooth % 256, (2 * smooth) % 200, 255 - smooth % 256]).astype(np.uint8)
    path = write_gdal(tmp_path / "a.tif", planes, compress="JPEG", interleave="band", photometric="RGB")
    with rasterio.open(path) as file:
        expected = np.moveaxis(file.read(), 0, 2)
    with open_image(path) as image:
        (region,) = image.read([whole(image)])
    np.testing.assert_array_equal(region.pixels, expected)


@pytest.mark.parametrize("nodata", [None, 9])
def test_a_tile_that_is_missing_in_some_bands_leaves_the_others(tmp_path: Path, nodata: int | None) -> None:
    planes = np.random.default_rng(6).integers(10, 256, (4, 130, 150)).astype(np.uint16)
    missing = 0 if nodata is None else nodata
    planes[1, :64, :64] = planes[:, 64:128, 64:128] = planes[2:, :64, 64:128] = missing
    path = write_gdal(tmp_path / "a.tif", planes, interleave="band", SPARSE_OK=True, nodata=nodata)
    with tifffile.TiffFile(path) as file:
        assert sum(count == 0 for count in file.pages.first.databytecounts) == 1 + 4 + 2
    box = Box(x=0, y=0, width=150, height=130)
    with open_image(path) as image:
        asked = [None, (1,), (2, 3), (0, 1), (1, 2)]
        regions = image.read([Request(pitch=LEVEL0, box=box, bands=bands) for bands in asked])
        alone = [image.read([Request(pitch=LEVEL0, box=box, bands=bands)])[0] for bands in asked]
    stored = np.moveaxis(planes, 0, 2)
    for bands, region, same in zip(asked, regions, alone, strict=True):
        some = stored if bands is None else stored[:, :, list(bands)]
        np.testing.assert_array_equal(region.valid, (some != missing).any(axis=2))
        np.testing.assert_array_equal(region.pixels, some * (some != missing).any(axis=2, keepdims=True))
        np.testing.assert_array_equal(region.valid, same.valid)
        np.testing.assert_array_equal(region.pixels, same.pixels)


def rgb_and_infrared(kind: str, path: Path) -> Array:
    """Write and return four byte bands `(height, width, bands)`.

    GDAL and PNG mark the last band as alpha. It is 0 in a corner.
    """
    planes = np.random.default_rng(7).integers(1, 256, (4, 90, 110)).astype(np.uint8)
    planes[3, 20:60, 30:70] = 0
    array: Array = np.moveaxis(planes, 0, 2)
    if kind == "png":
        PillowImage.fromarray(array).save(path)
    elif kind == "tif":
        write_gdal(path, planes)
    elif kind == "planes.tif":
        write_gdal(path, planes, interleave="band")
    else:
        write_gdal(
            path, planes, driver="JP2OpenJPEG", tiled=None, REVERSIBLE="YES", QUALITY="100", YCC="NO", ALPHA="YES"
        )
    return array


@pytest.mark.parametrize("kind", ["tif", "planes.tif", "png", "jp2"])
def test_a_band_that_is_flagged_as_alpha_is_a_mask_or_a_band(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    array = rgb_and_infrared(kind, path)
    with open_image(path) as image:
        assert (image.info.alpha, image.info.bands) == ("mask", ("red", "green", "blue"))
        assert kind == "png" or "band 4 is flagged as alpha" in " ".join(image.info.notes)
        (region,) = image.read([whole(image)])
    np.testing.assert_array_equal(region.valid, array[:, :, 3] > 0)
    with open_image(path, alpha="band") as image:
        assert (image.info.alpha, image.info.bands) == ("band", ("red", "green", "blue", "band4"))
        (region,) = image.read([whole(image)])
        (some,) = image.read([Request(pitch=LEVEL0, box=Box(x=25, y=10, width=60, height=70), bands=(3, 0))])
    assert region.valid is None
    np.testing.assert_array_equal(region.pixels, array)
    np.testing.assert_array_equal(some.pixels, array[10:80, 25:85, [3, 0]])


def test_other_bands_than_the_last_are_no_alpha(tmp_path: Path) -> None:
    planes = np.random.default_rng(8).integers(0, 2, (4, 64, 64)).astype(np.uint8)
    for name, options in (
        ("undefined", {"photometric": "RGB", "alpha": "NO"}),
        ("grey", {"photometric": "MINISBLACK"}),
    ):
        path = write_gdal(tmp_path / f"{name}.tif", planes, **options)
        with rasterio.open(path) as file:
            assert rasterio.enums.ColorInterp.alpha not in file.colorinterp
        with open_image(path, alpha="band") as image:
            assert image.info.alpha is None
            assert image.read([whole(image)])[0].valid is None


@pytest.mark.parametrize("dtype", ["complex64", "complex_int16"])
def test_complex_values_are_refused_as_what_they_are(tmp_path: Path, dtype: str) -> None:
    values = np.ones((1, 64, 64), np.complex64)
    path = write_gdal(tmp_path / "a.tif", values, dtype=dtype)
    with pytest.raises(SourceError, match="complex") as refused:
        open_image(path)
    assert "damaged" not in str(refused.value)

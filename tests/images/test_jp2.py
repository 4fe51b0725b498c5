"""JPEG 2000 files: their regions, resolutions, colours and georeference, and files that are damaged."""

from __future__ import annotations

import struct
import warnings
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
import tifffile

from magnet_cli.errors import SourceError
from magnet_cli.geometry import LEVEL0, Box, Pitch, Size
from magnet_cli.images import Region, Request, Resolution, inspect, open_image
from tests.images.support import info_without
from tests.images.test_contract import ImageContract, picture

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

rasterio = pytest.importorskip("rasterio")

LOSSLESS = {"REVERSIBLE": "YES", "QUALITY": "100", "YCC": "NO"}


def write_jp2(path: Path, array: NDArray[Any], **options: Any) -> Path:
    height, width, bands = array.shape
    shape = {"width": width, "height": height, "count": bands, "dtype": array.dtype.name}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="JP2OpenJPEG", **shape, **LOSSLESS, **options) as file:
            file.write(np.moveaxis(array, 2, 0))
    return path


def read(path: Path, box: Box | None = None, pitch: int = 1) -> Region:
    with open_image(path) as image:
        grid = Pitch.square(pitch)
        return image.read([Request(pitch=grid, box=box or Box.whole(grid.cover(image.info.size)))])[0]


class TestJp2(ImageContract):
    backend = "rasterio"

    def write(self, folder: Path, array: NDArray[Any]) -> Path:
        return write_jp2(folder / "image.jp2", array)


class TestTiledJp2(TestJp2):
    dtype = "uint16"
    bands = 5

    def write(self, folder: Path, array: NDArray[Any]) -> Path:
        return write_jp2(folder / "image.jp2", array, BLOCKXSIZE=64, BLOCKYSIZE=32)


class TestCodestream(TestJp2):
    """The file is a bare codestream that another encoder wrote."""

    def write(self, folder: Path, array: NDArray[Any]) -> Path:
        path = folder / "image.j2k"
        path.write_bytes(imagecodecs.jpeg2k_encode(array, level=0, codecformat="J2K", mct=False))
        return path

    def test_facts(self, tmp_path: Path) -> None:
        image, _ = self.image(tmp_path)
        with image:
            assert (image.info.backend, image.info.size) == (self.backend, Size(width=97, height=131))


def test_its_resolutions_are_levels(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:700, :900]
    smooth = np.stack([20 * columns, 30 * rows, 12 * (rows + columns)], 2).astype(np.uint16)
    path = write_jp2(tmp_path / "a.jp2", smooth, RESOLUTIONS=4)
    info = inspect(path)
    # GDAL shows those of at least 128 pixels.
    assert [level.downsample for level in info.levels] == [LEVEL0, Pitch.square(2), Pitch.square(4)]
    for pitch in (2, 4):
        height, width = 700 // pitch, 900 // pitch
        expected = smooth.reshape(height, pitch, width, pitch, 3).mean(axis=(1, 3))
        # At the edges a wavelet bends a ramp.
        difference = read(path, pitch=pitch).pixels[4:-4, 4:-4] - expected[4:-4, 4:-4]
        # A drift by a tenth of a level-0 pixel would be 2 to 3.
        assert np.abs(difference).max() < 1


def test_alpha_is_a_mask(tmp_path: Path) -> None:
    array = picture(90, 70, bands=4)
    array[:, :40, 3], array[:, 40:, 3] = 0, 255
    path = write_jp2(tmp_path / "a.jp2", array, ALPHA="YES")
    region = read(path)
    assert inspect(path).bands == ("red", "green", "blue")
    assert region.valid is not None
    np.testing.assert_array_equal(region.valid, array[:, :, 3] > 0)
    np.testing.assert_array_equal(region.pixels[:, 40:], array[:, 40:, :3])


def test_ycc_is_converted(tmp_path: Path) -> None:
    from PIL import Image  # noqa: PLC0415 (an independent conversion)

    rgb = np.asarray(Image.fromarray(picture(9, 7)).resize((90, 70)))
    path = write_jp2(tmp_path / "a.jp2", np.asarray(Image.fromarray(rgb).convert("YCbCr")))
    data = path.read_bytes()
    place = data.index(b"colr")
    path.write_bytes(data[: place + 7] + struct.pack(">I", 18) + data[place + 11 :])
    assert np.abs(read(path).pixels.astype(int) - rgb).max() <= 3


def test_it_is_where_gdal_says(tmp_path: Path) -> None:
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    path = write_jp2(tmp_path / "a.jp2", picture(70, 90, bands=4, dtype="uint16"), **place)
    info = inspect(path)
    assert info.crs == "EPSG:32633"
    assert info.resolution is not None
    assert info.resolution == Resolution(x=Fraction(10), y=Fraction(10), unit="m")
    tags = {code: value for code, _, _, value in info.geo_tags}
    assert tags[33550] == (10, 10, 0)
    assert tags[33922] == (0, 0, 0, 5e5, 5e6, 0)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.97])
@pytest.mark.parametrize("name", ["a.jp2", "a.j2k"])
def test_a_truncated_file_is_an_error(tmp_path: Path, name: str, share: float) -> None:
    path = write_jp2(tmp_path / name, picture(300, 300))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(SourceError, match=name):
        read(path)


def test_a_box_that_is_longer_than_its_holder_is_an_error(tmp_path: Path) -> None:
    path = write_jp2(tmp_path / "a.jp2", picture(90, 70))
    data = path.read_bytes()
    place = data.index(b"colr")
    path.write_bytes(data[: place - 4] + struct.pack(">I", 1 << 22) + data[place:])
    with pytest.raises(SourceError, match="box at byte"):
        read(path)


def test_a_damaged_middle_is_an_error(tmp_path: Path) -> None:
    array = picture(512, 512)
    path = write_jp2(tmp_path / "a.jp2", array, BLOCKXSIZE=128, BLOCKYSIZE=128)
    data = bytearray(path.read_bytes())
    start = data.index(b"\xff\x90", len(data) // 2)
    data[start : start + 12] = bytes(12)
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"a\.jp2"):
        read(path)


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    path = write_jp2(tmp_path / "a.jp2", picture(9, 9))
    error = info_without("rasterio", path)
    assert "pip install 'magnet-cli[gdal]'" in error
    assert len(error.splitlines()) == 2


@pytest.mark.parametrize("factors", [[3, 9], [2, 6]])
def test_overviews_beside_the_file_lie_in_the_middle_of_what_they_stand_for(tmp_path: Path, factors: list[int]) -> None:
    """GDAL reads them in place of the file's own resolutions, which lie elsewhere."""
    across = np.broadcast_to(np.arange(108, dtype=np.uint8)[None, :, None] * 2, (54, 108, 1))
    path = write_jp2(tmp_path / "a.jp2", np.ascontiguousarray(across))
    with tifffile.TiffWriter(tmp_path / "a.jp2.ovr") as writer:
        for factor in factors:
            means = across[:, :, 0].reshape(54 // factor, factor, 108 // factor, factor).mean((1, 3))
            writer.write(np.rint(means).astype(np.uint8), tile=(16, 16), subfiletype=1, metadata=None)
    with open_image(path) as image:
        assert [level.downsample.x for level in image.info.levels[1:]] == factors
    for factor in factors:
        found = read(path, pitch=factor).pixels[3, :, 0]
        middles = 2 * ((np.arange(108 // factor) + 0.5) * factor - 0.5)
        np.testing.assert_allclose(found[: 108 // factor], middles, atol=0.51)


@pytest.mark.parametrize("overviews", [False, True])
def test_resolutions_and_overviews_lie_in_the_middle_whatever_a_file_aux_holds(
    tmp_path: Path,
    overviews: bool,  # noqa: FBT001 (pytest)
) -> None:
    """ERDAS and ArcGIS keep statistics, overviews or both in it."""
    across = np.broadcast_to(np.arange(512, dtype=np.uint16)[None, :, None] * 4, (256, 512, 1))
    path = write_jp2(tmp_path / "a.jp2", np.ascontiguousarray(across), RESOLUTIONS=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        if overviews:
            # GDAL takes the file of a TIFF that is gone for that of the JPEG 2000 file with its name.
            shape = {"width": 512, "height": 256, "count": 1, "dtype": "uint16"}
            with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", **shape) as file:
                file.write(across[:, :, 0], 1)
            with rasterio.Env(USE_RRD=True), rasterio.open(tmp_path / "a.tif", "r+") as file:
                file.build_overviews([2, 4], rasterio.enums.Resampling.average)
            (tmp_path / "a.tif").unlink()
        else:
            options = {"width": 512, "height": 256, "count": 1, "dtype": "uint16", "DEPENDENT_FILE": "a.jp2"}
            rasterio.open(tmp_path / "a.aux", "w", driver="HFA", AUX="YES", STATISTICS="YES", **options).close()
        with rasterio.open(path) as file:
            assert str(tmp_path / "a.aux") in file.files
    middles = 4 * ((np.arange(128) + 0.5) * 4 - 0.5)
    np.testing.assert_allclose(read(path, pitch=4).pixels[5, 8:-8, 0], middles[8:-8], atol=1)

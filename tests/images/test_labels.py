"""The stored index comes back from a label raster, whatever the file, its palette and its bit depth."""

from __future__ import annotations

import json
import re
import sqlite3
from functools import partial
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import tifffile
import zarr
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning

from magnet_cli.errors import SourceError
from magnet_cli.geometry import Box
from magnet_cli.images import labels as found_labels
from magnet_cli.images.blob import FileBlob
from magnet_cli.images.jpeg import is_exact
from magnet_cli.images.labels import open_labels, open_region
from tests.images.server import Server, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack
    from pathlib import Path

    from numpy.typing import NDArray

SHAPE = (53, 71)
COLOURS = np.random.default_rng(1).integers(0, 65536, (3, 256)).astype(np.uint16)


def labels(most: int = 5, shape: tuple[int, int] = SHAPE) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, most, shape).astype(np.uint8)


def whole(path: Path, **options: Any) -> NDArray[np.uint8]:
    with open_labels(path, **options) as found:
        return found.read(Box.whole(found.size))


def palette_picture(values: NDArray[np.uint8]) -> Image.Image:
    picture = Image.fromarray(values)
    palette = picture.convert("P")
    palette.putdata(values.ravel().tolist())
    palette.putpalette((COLOURS.T[:, :] >> 8).astype(np.uint8).tobytes())
    return palette


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_png_of_every_depth(tmp_path: Path, bits: int) -> None:
    values = labels(2**bits)
    palette_picture(values).save(tmp_path / "a.png", bits=bits, transparency=0)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), values)
    np.testing.assert_array_equal(whole(tmp_path / "a.png"), values)


def test_palette_png_larger_than_memory_allows(tmp_path: Path) -> None:
    values = np.tile(labels(7, (100, 100)), (85, 85))
    palette_picture(values).save(tmp_path / "a.png", bits=8, compress_level=1)
    with open_labels(tmp_path / "a.png") as found:
        box = Box(x=8111, y=8003, width=300, height=400)
        np.testing.assert_array_equal(found.read(box), values[box.slices])


def test_grey_png_of_one_bit(tmp_path: Path) -> None:
    values = labels(2)
    Image.fromarray(values.astype(bool)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(whole(tmp_path / "a.png"), values)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_grey_pictures(tmp_path: Path, name: str) -> None:
    Image.fromarray(labels(256)).save(tmp_path / name)
    np.testing.assert_array_equal(whole(tmp_path / name), labels(256))


@pytest.mark.parametrize("tile", [None, (16, 32)])
@pytest.mark.parametrize("photometric", ["palette", "minisblack", "miniswhite"])
def test_tiff_samples_are_read_as_stored(tmp_path: Path, photometric: str, tile: tuple[int, int] | None) -> None:
    colours: dict[str, Any] = {"colormap": COLOURS} if photometric == "palette" else {}
    tifffile.imwrite(tmp_path / "a.tif", labels(), photometric=photometric, tile=tile, compression="zlib", **colours)
    np.testing.assert_array_equal(whole(tmp_path / "a.tif"), labels())
    with open_labels(tmp_path / "a.tif") as found:
        box = Box(x=13, y=7, width=41, height=30)
        np.testing.assert_array_equal(found.read(box), labels()[box.slices])


def test_bilevel_tiff_holds_0_and_1(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", labels(2).astype(bool), photometric="minisblack")
    np.testing.assert_array_equal(whole(tmp_path / "a.tif"), labels(2))


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32"])
def test_wider_integers_and_their_nodata(tmp_path: Path, dtype: str) -> None:
    values = labels().astype(dtype)
    values[:5] = 999
    profile: dict[str, Any] = {"driver": "GTiff", "width": SHAPE[1], "height": SHAPE[0], "count": 1, "dtype": dtype}
    with (
        pytest.warns(NotGeoreferencedWarning),
        rasterio.open(tmp_path / "a.tif", "w", nodata=999, **profile) as file,
    ):
        file.write(values, 1)
    expected = labels()
    expected[:5] = 255
    np.testing.assert_array_equal(whole(tmp_path / "a.tif"), expected)
    with open_labels(tmp_path / "a.tif") as found:
        assert "nodata value 999" in found.notes[0]


def test_zarr(tmp_path: Path) -> None:
    array = zarr.create_array(store=tmp_path / "a.zarr", shape=SHAPE, chunks=(20, 30), dtype=np.uint8)
    array[:] = labels()
    np.testing.assert_array_equal(whole(tmp_path / "a.zarr"), labels())


def test_values_are_replaced_where_asked(tmp_path: Path) -> None:
    Image.fromarray(labels(2) * np.uint8(255)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(whole(tmp_path / "a.png", values={255: 1}), labels(2))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("nodata", [None, 0, 3, 255, -9999, 999])
@pytest.mark.parametrize(
    "layout", [{"tiled": True, "blockxsize": 32, "blockysize": 16}, {"tiled": False, "blockysize": 5}]
)
def test_a_tile_that_was_never_written_is_the_nodata_value_or_0(
    tmp_path: Path, nodata: int | None, layout: dict[str, Any]
) -> None:
    """As in GDAL, a tile that is missing is background where the file has no nodata value."""
    dtype = "uint8" if nodata is None or nodata in range(256) else "int16"
    values = np.full(SHAPE, nodata or 0, dtype)
    values[20:30, 40:50] = 2
    profile: dict[str, Any] = {"driver": "GTiff", "width": SHAPE[1], "height": SHAPE[0], "count": 1, "dtype": dtype}
    with rasterio.open(tmp_path / "a.tif", "w", nodata=nodata, SPARSE_OK=True, **layout, **profile) as file:
        file.write(values, 1)
    with rasterio.open(tmp_path / "a.tif") as file:
        expected = np.where(file.read_masks(1) > 0, file.read(1), 255).astype(np.uint8)
    assert set(np.unique(expected)) == ({0, 2} if nodata is None else {2, 255})
    np.testing.assert_array_equal(whole(tmp_path / "a.tif"), expected)
    with open_region(tmp_path / "a.tif") as found:
        np.testing.assert_array_equal(found.read_nonzero(Box.whole(found.size)), values == 2)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("nodata", [0, 7])
def test_a_nodata_value_that_is_named_as_a_label_is_one(tmp_path: Path, nodata: int, *, sparse: bool) -> None:
    values = np.full(SHAPE, nodata, np.uint8)
    values[20:30, 40:50] = 2
    profile: dict[str, Any] = {"driver": "GTiff", "width": SHAPE[1], "height": SHAPE[0], "count": 1, "dtype": "uint8"}
    with rasterio.open(tmp_path / "a.tif", "w", nodata=nodata, SPARSE_OK=sparse, blockysize=5, **profile) as file:
        file.write(values, 1)
    assert set(np.unique(whole(tmp_path / "a.tif"))) == {2, 255}
    np.testing.assert_array_equal(whole(tmp_path / "a.tif", values={nodata: 0}), np.where(values == 2, 2, 0))


def test_inside_is_what_the_first_band_says(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([labels(2) * 255, labels(3), labels(4)])).save(tmp_path / "a.png")
    with open_region(tmp_path / "a.png") as found:
        np.testing.assert_array_equal(found.read_nonzero(Box.whole(found.size)), labels(2) == 1)


def half() -> NDArray[np.uint8]:
    """Return a raster whose right part is 2, which JPEG compression blurs at the border."""
    values = np.zeros(SHAPE, np.uint8)
    values[:, 21:] = 2
    return values


def jpeg(path: Path) -> None:
    Image.fromarray(half()).save(path, format="jpeg")


def jpeg_tiff(path: Path) -> None:
    tifffile.imwrite(path, half(), compression="jpeg", tile=(16, 16))


def jpeg_colours(path: Path) -> None:
    tifffile.imwrite(path, np.dstack([half()] * 3) * 127, photometric="rgb", compression="jpeg", tile=(16, 16))


@pytest.mark.parametrize("write", [jpeg, jpeg_tiff, jpeg_colours])
def test_values_that_jpeg_has_changed_mark_no_area(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "x.tif")
    with pytest.raises(SourceError, match="JPEG compression leaves values other than 0"):
        open_region(tmp_path / "x.tif")


def lossy_jpeg2000(path: Path) -> None:
    path.write_bytes(imagecodecs.jpeg2k_encode(half(), level=20))


def lossy_jpeg2000_tiff(path: Path) -> None:
    tifffile.imwrite(path, half(), compression=34712, compressionargs={"level": 20}, tile=(16, 16))


def lossy_jpegxl_tiff(path: Path) -> None:
    tifffile.imwrite(path, half(), compression=50002, compressionargs={"distance": 3.0}, tile=(16, 16))


def other_jpeg_tiff(path: Path) -> None:
    tifffile.imwrite(path, half(), compression=34892, compressionargs={"level": 50}, tile=(16, 16))


def mosaic_of_jpeg(path: Path) -> None:
    jpeg_tiff(path.with_suffix(".jpeg.tif"))
    size = f'rasterXSize="{SHAPE[1]}" rasterYSize="{SHAPE[0]}"'
    source = f'<SourceFilename relativeToVRT="1">{path.stem}.jpeg.tif</SourceFilename><SourceBand>1</SourceBand>'
    band = f'<VRTRasterBand dataType="Byte" band="1"><SimpleSource>{source}</SimpleSource></VRTRasterBand>'
    path.write_text(f"<VRTDataset {size}>{band}</VRTDataset>")


def mosaic_that_names_ycbcr(path: Path) -> None:
    mosaic_of_jpeg(path)
    stated = '<Metadata domain="IMAGE_STRUCTURE"><MDI key="COMPRESSION">YCbCr JPEG</MDI></Metadata></VRTDataset>'
    path.write_text(path.read_text().replace("</VRTDataset>", stated))
    tifffile.imwrite(path.with_suffix(".jpeg.tif"), half())


def lossy_webp(path: Path) -> None:
    Image.fromarray(np.dstack([half()] * 3) * np.uint8(100)).save(path, format="webp", quality=30)


def written_by_gdal(path: Path, driver: str, values: Any, **options: Any) -> None:
    shape = {"height": values.shape[0], "width": values.shape[1], "count": 1, "dtype": values.dtype.name}
    place = {"crs": "EPSG:3857", "transform": rasterio.Affine(0.6, 0, 3e5, 0, -0.6, 28e5)}
    with rasterio.open(path, "w", driver=driver, **shape, **place, **options) as file:
        file.write(values, 1)


def lossy_lerc_tiff(path: Path, second: str = "") -> None:
    written_by_gdal(path, "GTiff", labels(200), compress=f"LERC{second}", max_z_error=1, tiled=True)


LOSSY = (
    lossy_lerc_tiff,
    partial(lossy_lerc_tiff, second="_DEFLATE"),
    partial(lossy_lerc_tiff, second="_ZSTD"),
    lossy_jpeg2000,
    lossy_jpeg2000_tiff,
    lossy_jpegxl_tiff,
    other_jpeg_tiff,
    mosaic_of_jpeg,
    mosaic_that_names_ycbcr,
)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("write", LOSSY)
def test_values_that_a_lossy_codec_has_changed_are_no_labels(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "x.tif")
    with pytest.raises(SourceError, match="compression changes values near the borders"):
        open_labels(tmp_path / "x.tif")


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("write", [*LOSSY, lossy_webp])
def test_values_that_a_lossy_codec_has_changed_mark_no_area(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "x.tif")
    with pytest.raises(SourceError, match="compression leaves values other than 0"):
        open_region(tmp_path / "x.tif")


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("code", ["file", 34712, 50002, 34887])
def test_lossless_forms_of_these_codecs_hold_labels(tmp_path: Path, code: Any) -> None:
    if code == "file":
        (tmp_path / "x.tif").write_bytes(imagecodecs.jpeg2k_encode(labels(200), reversible=True, level=0))
    else:
        how = {} if code == 34887 else {"lossless": True} if code == 50002 else {"reversible": True, "level": 0}
        tifffile.imwrite(tmp_path / "x.tif", labels(200), compression=code, compressionargs=how, tile=(16, 16))
    np.testing.assert_array_equal(whole(tmp_path / "x.tif"), labels(200))


def lossless_jpeg(values: NDArray[np.uint8], *, point_transform: int = 0) -> bytes:
    """Return a JPEG file of the lossless process (SOF3), whose scan states a point transform."""
    data = bytearray(imagecodecs.jpeg_encode(values, lossless=True))
    scan = data.index(b"\xff\xda")
    data[scan + 9] |= point_transform
    return bytes(data)


@pytest.mark.parametrize("kind", ["file", "tiled", "strips"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lossless_jpeg_holds_labels(tmp_path: Path, kind: str, dtype: Any) -> None:
    values = labels(200).astype(dtype)
    if kind == "file":
        values = values.astype(np.uint8)
        (tmp_path / "x.tif").write_bytes(lossless_jpeg(values))
    else:
        how: dict[str, Any] = {"tile": (16, 16)} if kind == "tiled" else {"rowsperstrip": 8}
        tifffile.imwrite(tmp_path / "x.tif", values, compression=7, compressionargs={"lossless": True}, **how)
    np.testing.assert_array_equal(whole(tmp_path / "x.tif"), values)
    with open_region(tmp_path / "x.tif") as found:
        np.testing.assert_array_equal(found.read_nonzero(Box.whole(found.size)), values > 0)


def test_lossless_jpeg_without_its_lowest_bits_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(lossless_jpeg(labels(100), point_transform=1))
    # The judge shows that such a file holds other values than those that were stored.
    assert (imagecodecs.jpeg_decode((tmp_path / "x.jpg").read_bytes()) % 2 == 0).all()
    with pytest.raises(SourceError, match="JPEG compression changes values"):
        open_labels(tmp_path / "x.jpg")


def test_colours_in_lossless_jpeg_are_refused_as_an_area(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(imagecodecs.jpeg_encode(np.dstack([labels(200)] * 3), lossless=True))
    with pytest.raises(SourceError, match="JPEG compression leaves values"):
        open_region(tmp_path / "x.jpg")


@pytest.mark.parametrize("length", range(2, 60, 3))
def test_the_cut_header_of_a_lossless_jpeg_says_nothing(length: int) -> None:
    data = lossless_jpeg(labels(200))
    assert is_exact(data)
    assert not is_exact(data[:length])


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_overviews_of_a_mosaic_do_not_say_how_its_labels_are_compressed(tmp_path: Path) -> None:
    mosaic_of_jpeg(tmp_path / "x.vrt")
    tifffile.imwrite(tmp_path / "x.jpeg.tif", labels())
    jpeg_tiff(tmp_path / "x.vrt.ovr")
    with rasterio.open(tmp_path / "x.vrt") as file:
        assert str(tmp_path / "x.vrt.ovr") in file.files
    np.testing.assert_array_equal(whole(tmp_path / "x.vrt"), labels())


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("tiles", ["JPEG", "PNG"])
def test_tiles_of_a_web_map_mark_an_area_unless_they_are_jpeg(tmp_path: Path, tiles: str) -> None:
    shape = {"driver": "GTiff", "height": SHAPE[0], "width": SHAPE[1], "count": 1, "dtype": "uint8"}
    place = {"crs": "EPSG:3857", "transform": rasterio.Affine(0.6, 0, 3e5, 0, -0.6, 28e5)}
    with rasterio.open(tmp_path / "a.tif", "w", **shape, **place) as file:
        file.write(half(), 1)
    rasterio.shutil.copy(tmp_path / "a.tif", tmp_path / "a.mbtiles", driver="MBTiles", TILE_FORMAT=tiles)
    if tiles == "PNG":
        open_region(tmp_path / "a.mbtiles").close()
        return
    with pytest.raises(SourceError, match="JPEG compression leaves values other than 0"):
        open_region(tmp_path / "a.mbtiles")


@pytest.mark.parametrize("limit", [0, 0.5, 0.9])
def test_lerc_within_an_error_below_one_holds_labels(tmp_path: Path, limit: float) -> None:
    written_by_gdal(tmp_path / "x.tif", "GTiff", labels(200), compress="LERC_ZSTD", max_z_error=limit, tiled=True)
    np.testing.assert_array_equal(whole(tmp_path / "x.tif"), labels(200))
    rasterio.shutil.copy(tmp_path / "x.tif", tmp_path / "x.vrt", driver="VRT")
    np.testing.assert_array_equal(whole(tmp_path / "x.vrt"), labels(200))


@pytest.mark.parametrize("limit", [0, 0.1])
@pytest.mark.parametrize("name", ["x.tif", "x.vrt"])
def test_lerc_of_floats_is_exact_without_an_error_alone(tmp_path: Path, limit: float, name: str) -> None:
    values = half().astype(np.float32)
    written_by_gdal(tmp_path / "x.tif", "GTiff", values, compress="LERC", max_z_error=limit, tiled=True)
    rasterio.shutil.copy(tmp_path / "x.tif", tmp_path / "x.vrt", driver="VRT")
    if limit:
        with pytest.raises(SourceError, match="lossy LERC compression leaves values other than 0"):
            open_region(tmp_path / name)
        return
    with open_region(tmp_path / name) as found:
        np.testing.assert_array_equal(found.read_nonzero(Box.whole(found.size)), half() > 0)


@pytest.mark.parametrize("precision", ["2", ""])
def test_lerc_in_a_raster_of_gdals_holds_labels_where_it_is_exact(tmp_path: Path, precision: str) -> None:
    options = {"options": f"LERC_PREC={precision}"} if precision else {}
    written_by_gdal(tmp_path / "x.mrf", "MRF", labels(200), compress="LERC", **options)
    if not precision:
        np.testing.assert_array_equal(whole(tmp_path / "x.mrf"), labels(200))
        return
    with pytest.raises(SourceError, match="lossy LERC compression changes values"):
        open_labels(tmp_path / "x.mrf")


@pytest.mark.parametrize("lossy", ["", "large", "small"])
def test_of_several_rasters_of_a_geopackage_the_largest_is_asked(tmp_path: Path, lossy: str) -> None:
    for name, values in (("small", half()[:20, :30]), ("large", half())):
        written_by_gdal(tmp_path / f"{name}.tif", "GTiff", values)
        rasterio.shutil.copy(
            tmp_path / f"{name}.tif",
            tmp_path / "a.gpkg",
            driver="GPKG",
            RASTER_TABLE=name,
            APPEND_SUBDATASET="YES" if name == "large" else "NO",
            TILE_FORMAT="JPEG" if name == lossy else "PNG",
        )
    with sqlite3.connect(tmp_path / "a.gpkg") as base:
        # SQLite's columns take values of any type, and GDAL's triggers refuse other zooms alone.
        for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            base.execute(f'DROP TRIGGER "{name}"')
        base.execute("INSERT INTO large (zoom_level, tile_column, tile_row, tile_data) VALUES (99, 0, 0, 'a text')")
    base.close()
    if lossy != "large":
        open_region(tmp_path / "a.gpkg").close()
        return
    with pytest.raises(SourceError, match="JPEG compression leaves values"):
        open_region(tmp_path / "a.gpkg")


@pytest.mark.parametrize(
    ("tiles", "name"),
    [("JPEG", "JPEG"), ("WEBP", "lossy WebP"), ("WEBP_LOSSLESS", ""), ("PNG", ""), ("PNG8", ""), ("PNG_JPEG", "")],
)
def test_tiles_of_a_geopackage_mark_an_area_unless_one_is_lossy(tmp_path: Path, tiles: str, name: str) -> None:
    written_by_gdal(tmp_path / "a.gpkg", "GPKG", half(), tile_format=tiles)
    with sqlite3.connect(tmp_path / "a.gpkg") as base:
        heads = [data[:3] for (data,) in base.execute("SELECT tile_data FROM a")]
    base.close()
    name = "JPEG" if b"\xff\xd8\xff" in heads else name
    if not name:
        open_region(tmp_path / "a.gpkg").close()
        return
    with pytest.raises(SourceError, match=f"{name} compression leaves values other than 0"):
        open_region(tmp_path / "a.gpkg")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(tmp_path) as running:
        yield running


@pytest.mark.parametrize(
    "write", [jpeg, jpeg_tiff, lossy_lerc_tiff, lossy_jpeg2000_tiff, lossy_jpegxl_tiff, other_jpeg_tiff]
)
def test_lossy_labels_behind_a_url_are_refused(server: Server, tmp_path: Path, write: Any) -> None:
    write(tmp_path / "x.tif")
    with pytest.raises(SourceError, match="compression changes values near the borders"):
        open_labels(server.url("x.tif"))
    with pytest.raises(SourceError, match="compression leaves values other than 0"):
        open_region(server.url("x.tif"))


def test_a_lossy_area_behind_a_url_is_refused(server: Server, tmp_path: Path) -> None:
    lossy_webp(tmp_path / "x.webp")
    jpeg_colours(tmp_path / "y.tif")
    for name in ("x.webp", "y.tif"):
        with pytest.raises(SourceError, match="compression leaves values other than 0"):
            open_region(server.url(name))


@pytest.mark.parametrize("kind", ["palette.png", "grey.png", "palette.tif", "mask.zarr"])
def test_labels_behind_a_url_are_those_of_the_file(server: Server, tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "palette.png":
        palette_picture(labels(200)).save(path, bits=8)
    elif kind == "grey.png":
        path.write_bytes(imagecodecs.png_encode(labels(200)))
    elif kind == "palette.tif":
        tifffile.imwrite(path, labels(200), photometric="palette", colormap=COLOURS, tile=(16, 16))
    else:
        zarr.create_array(path, data=labels(200), chunks=(20, 30))
    with open_labels(server.url(kind)) as found:
        assert found.path == server.url(kind)
        np.testing.assert_array_equal(found.read(Box.whole(found.size)), labels(200))


def test_a_damaged_png_behind_a_url_is_named_by_the_url(server: Server, tmp_path: Path) -> None:
    palette_picture(labels(200)).save(tmp_path / "palette.png", bits=8)
    sound = (tmp_path / "palette.png").read_bytes()
    header = sound[:16] + b"\xff" + sound[17:]
    for damaged in (sound[: len(sound) // 3], header, sound[:20]):
        (tmp_path / "palette.png").write_bytes(damaged)
        with pytest.raises(SourceError) as caught, open_labels(server.url("palette.png")) as found:
            found.read(Box.whole(found.size))
        assert caught.value.file == server.url("palette.png")
        assert str(tmp_path) not in str(caught.value)


def test_a_grey_png_behind_a_url_is_not_copied(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "grey.png").write_bytes(imagecodecs.png_encode(labels(200)))
    palette_picture(labels(200)).save(tmp_path / "palette.png", bits=8)
    fetched: list[str] = []
    fetch = found_labels._fetched

    def counted(url: str, stack: ExitStack) -> str:
        fetched.append(url)
        return fetch(url, stack)

    monkeypatch.setattr(found_labels, "_fetched", counted)
    for name in ("grey.png", "palette.png"):
        open_labels(server.url(name)).close()
    assert fetched == [server.url("palette.png")]


def test_lossless_webp_marks_an_area(tmp_path: Path) -> None:
    picture = np.dstack([half()] * 3) * np.uint8(100)
    Image.fromarray(picture).save(tmp_path / "x.webp", lossless=True)
    with open_region(tmp_path / "x.webp") as found:
        np.testing.assert_array_equal(found.read_nonzero(Box.whole(found.size)), half() > 0)


def test_a_zarr_array_of_booleans_holds_0_and_1(tmp_path: Path) -> None:
    array = zarr.create_array(store=tmp_path / "a.zarr", shape=SHAPE, chunks=(20, 30), dtype=bool)
    array[:] = labels(2) > 0
    np.testing.assert_array_equal(whole(tmp_path / "a.zarr"), labels(2))


@pytest.fixture
def _huge_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every strip count as one that cannot be decoded by region."""
    for module in ("labels_tiff", "tiff"):
        monkeypatch.setattr(f"magnet_cli.images.{module}.CHUNK_BYTES", 1)


@pytest.mark.usefixtures("_huge_strips")
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16"])
def test_samples_of_a_huge_strip_are_read_as_stored(tmp_path: Path, photometric: Any, dtype: str) -> None:
    values = labels(2 if dtype == "bool" else 200)
    tifffile.imwrite(tmp_path / "a.tif", values.astype(dtype), photometric=photometric, compression="zlib")
    np.testing.assert_array_equal(whole(tmp_path / "a.tif"), values)
    with open_region(tmp_path / "a.tif") as found:
        np.testing.assert_array_equal(found.read_nonzero(Box.whole(found.size)), values > 0)


@pytest.mark.usefixtures("_huge_strips")
def test_indices_in_a_huge_strip_with_a_palette_are_refused(tmp_path: Path) -> None:
    grey = np.repeat(np.arange(255, -1, -1)[None] * 257, 3, 0).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", labels(), photometric="palette", colormap=grey, compression="zlib")
    with pytest.raises(SourceError, match="labels in a palette"):
        open_labels(tmp_path / "a.tif")


def test_pages_with_palettes_that_are_bands_mark_an_area_and_are_no_labels(tmp_path: Path) -> None:
    said = "ImageJ=1.54f\nimages=2\nchannels=2\nmode=composite\nloop=false\n"
    pages = np.stack([labels(), labels(2)])
    how: dict[str, Any] = {"photometric": "palette", "colormap": COLOURS, "description": said, "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", pages, **how)
    with pytest.raises(SourceError, match=r"one band of whole numbers.*2 bands of uint8"):
        open_labels(tmp_path / "a.tif")
    with open_region(tmp_path / "a.tif") as found:
        np.testing.assert_array_equal(found.read_nonzero(Box.whole(found.size)), labels() > 0)


def test_tiles_of_exact_codecs_are_not_read_to_find_their_compression(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", labels(), compression="zlib", tile=(16, 16))
    places = []
    read = FileBlob.read

    def noting(blob: FileBlob, offset: int, count: int, *, place: str) -> bytes:
        places.append(place)
        return read(blob, offset, count, place=place)

    monkeypatch.setattr(FileBlob, "read", noting)
    with open_labels(tmp_path / "a.tif") as found:
        assert "the first tile" not in places
        before = len(places)
        found.read(Box.whole(found.size))
    assert len(places) > before


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_transparent_pixels_of_labels_of_gdal_have_one_note(tmp_path: Path) -> None:
    source = '<SimpleSource><SourceFilename relativeToVRT="1">s.tif</SourceFilename><SourceBand>{}</SourceBand>'
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{n}"><ColorInterp>{colour}</ColorInterp>{source.format(n)}'
        "</SimpleSource></VRTRasterBand>"
        for n, colour in enumerate(("Gray", "Alpha"), start=1)
    )
    pixels = np.dstack([labels(), labels(2) * np.uint8(255)])
    tifffile.imwrite(tmp_path / "s.tif", pixels, photometric="minisblack", planarconfig="contig")
    size = f'rasterXSize="{SHAPE[1]}" rasterYSize="{SHAPE[0]}"'
    (tmp_path / "a.vrt").write_text(f"<VRTDataset {size}>{bands}</VRTDataset>")
    with open_labels(tmp_path / "a.vrt") as found:
        (note,) = found.notes
    assert "transparent count as 255" in note


@pytest.mark.parametrize("axes", ["pages", "ZYX"])
def test_pages_of_labels_that_are_not_read_are_named(tmp_path: Path, axes: str) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif", ome=axes == "ZYX") as file:
        if axes == "ZYX":
            file.write(np.stack([labels()] * 3), metadata={"axes": axes}, photometric="minisblack")
        else:
            for _ in range(3):
                file.write(labels(), contiguous=False, metadata=None)
    with open_labels(tmp_path / "a.tif") as found:
        assert re.search(r"3 pages of one size|only the first plane is read \(Z=3\)", " ".join(found.notes))


def test_transparent_pixels_of_labels_are_named(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([labels(), labels(2) * np.uint8(255)]), "LA").save(tmp_path / "a.png")
    np.testing.assert_array_equal(whole(tmp_path / "a.png"), np.where(labels(2) > 0, labels(), 255))
    with open_labels(tmp_path / "a.png") as found:
        assert "transparent" in found.notes[0]


def rgb(path: Path) -> None:
    Image.fromarray(np.dstack([labels()] * 3)).save(path)


def floats(path: Path) -> None:
    tifffile.imwrite(path, labels().astype(np.float32))


def large(path: Path) -> None:
    tifffile.imwrite(path, labels().astype(np.uint16) + 300)


def truncated(path: Path) -> None:
    palette_picture(labels()).save(path, format="png")
    path.write_bytes(path.read_bytes()[:-60])


def header(path: Path) -> None:
    palette_picture(labels()).save(path, format="png")
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (rgb, "one band of whole numbers.*3 bands of uint8"),
        (floats, "one band of whole numbers.*float32"),
        (large, r"from 0 to 255 \(got 304\)"),
        (jpeg, "JPEG file holds no exact labels"),
        (jpeg_tiff, "JPEG file holds no exact labels"),
        (truncated, "cannot be decoded"),
        (header, "PNG header is damaged"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "PNG header is damaged"),
        (lambda path: path.write_text("no"), "not an image"),
        (lambda _: None, "no such file"),
    ],
)
def test_refuses_and_names_the_users_file(tmp_path: Path, write: Any, message: str) -> None:
    path = tmp_path / "x.tif"
    write(path)
    with pytest.raises(SourceError, match=message) as caught:
        whole(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    "classes",
    [[{"name": "a", "color": "None"}], [{"name": 1, "color": "#000000"}], [{"color": "#00000"}], [], [1], "a"],
)
def test_classes_that_are_damaged_are_no_names(tmp_path: Path, classes: object) -> None:
    described = json.dumps({"classes": classes})
    tifffile.imwrite(tmp_path / "m.tif", labels(), description=described, metadata=None)
    with open_labels(tmp_path / "m.tif") as found:
        assert found.classes is None

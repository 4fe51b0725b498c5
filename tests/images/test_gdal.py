"""Rasters that GDAL reads keep the contract; mosaics open few files, validity is by band, and refusals have reasons."""

from __future__ import annotations

import hashlib
import re
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from magnet_cli.errors import SourceError
from magnet_cli.geometry import LEVEL0, Box, Pitch, Size
from magnet_cli.images import Region, Request, find_images, fingerprint, inspect, open_image
from magnet_cli.images.labels import open_labels
from tests.images.support import info_without
from tests.images.test_contract import ImageContract, picture, whole

rasterio = pytest.importorskip("rasterio")
rasterio_shutil = pytest.importorskip("rasterio.shutil")

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

Array = NDArray[Any]
PLACE: dict[str, Any] = {"crs": "EPSG:32640", "transform": rasterio.Affine(0.5, 0, 3e5, 0, -0.5, 28e5)}


def write_raster(path: Path, array: Array, driver: str = "GTiff", **options: Any) -> Path:
    height, width, bands = array.shape
    profile = {"driver": driver, "height": height, "width": width, "count": bands, "dtype": array.dtype.name}
    with rasterio.open(path, "w", **profile, **options) as file:
        file.write(np.moveaxis(array, 2, 0))
    return path


def copied(path: Path, array: Array, driver: str, **options: Any) -> Path:
    """Write a raster in a format that GDAL can only copy to."""
    # A GeoPackage wants a place, if only in coordinates without a name.
    first = write_raster(path.with_name("first.tif"), array, transform=PLACE["transform"])
    rasterio_shutil.copy(first, path, driver=driver, **options)
    return path


def tile_tag(tile: tuple[Path, int, int, int, int], band: int, nodata: float | None) -> str:
    path, x, y, width, height = tile
    size = f'xSize="{width}" ySize="{height}"'
    kind, extra = ("ComplexSource", f"<NODATA>{nodata}</NODATA>") if nodata is not None else ("SimpleSource", "")
    return (
        f'<{kind}><SourceFilename relativeToVRT="1">{path.name}</SourceFilename><SourceBand>{band}</SourceBand>'
        f'<SourceProperties RasterXSize="{width}" RasterYSize="{height}" DataType="Byte" BlockXSize="256" '
        f'BlockYSize="256"/><SrcRect xOff="0" yOff="0" {size}/><DstRect xOff="{x}" yOff="{y}" {size}/>{extra}</{kind}>'
    )


def mosaic(
    path: Path, tiles: list[tuple[Path, int, int, int, int]], size: Size, *, bands: int = 3, nodata: float | None = None
) -> Path:
    """Write a mosaic as `gdalbuildvrt` does; `tiles` are files with their x, y, width and height."""
    missing = "" if nodata is None else f"<NoDataValue>{nodata}</NoDataValue>"
    text = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}">{missing}'
        + "".join(tile_tag(tile, band, nodata) for tile in tiles)
        + "</VRTRasterBand>"
        for band in range(1, bands + 1)
    )
    path.write_text(f'<VRTDataset rasterXSize="{size.width}" rasterYSize="{size.height}">{text}</VRTDataset>')
    return path


def read(path: Path, box: Box | None = None, **how: Any) -> Region:
    with open_image(path) as image:
        request = whole(image) if box is None else Request(pitch=LEVEL0, box=box, **how)
        return image.read([request])[0]


class GdalContract(ImageContract):
    backend = "rasterio"


class TestMosaic(GdalContract):
    def write(self, folder: Path, array: Array) -> Path:
        height, width = array.shape[:2]
        tiles = []
        for y in range(0, height, 50):
            for x in range(0, width, 40):
                part = array[y : y + 50, x : x + 40]
                tile = write_raster(folder / f"tile-{x}-{y}.tif", part)
                tiles.append((tile, x, y, part.shape[1], part.shape[0]))
        return mosaic(folder / "image.vrt", tiles, Size(width=width, height=height), bands=array.shape[2])


class TestErdas(GdalContract):
    dtype = "uint16"
    bands = 5

    def write(self, folder: Path, array: Array) -> Path:
        return write_raster(folder / "image.img", array, "HFA", COMPRESSED="YES")


class TestEnvi(GdalContract):
    bands = 4
    interleave = "BSQ"

    def write(self, folder: Path, array: Array) -> Path:
        return write_raster(folder / "image.dat", array, "ENVI", INTERLEAVE=self.interleave)


class TestEnviByLine(TestEnvi):
    dtype = "uint16"
    interleave = "BIL"


class TestGeopackage(GdalContract):
    def write(self, folder: Path, array: Array) -> Path:
        return write_raster(folder / "image.gpkg", array, "GPKG", TILE_FORMAT="PNG", transform=PLACE["transform"])

    # GDAL 3.10 does not write a last tile of one column.
    @pytest.mark.parametrize(("width", "height"), [(97, 131), (1, 1), (1, 40), (300, 2), (600, 257)])
    def test_level_0_is_exact(self, tmp_path: Path, width: int, height: int) -> None:
        super().test_level_0_is_exact(tmp_path, width, height)


class TestNitf(GdalContract):
    dtype = "uint16"
    bands = 4

    def write(self, folder: Path, array: Array) -> Path:
        return write_raster(folder / "image.ntf", array, "NITF")


class TestNetcdf(GdalContract):
    """The file has a variable for each band."""

    dtype = "int16"

    def write(self, folder: Path, array: Array) -> Path:
        return copied(folder / "image.nc", array, "netCDF")


class TestPci(GdalContract):
    def write(self, folder: Path, array: Array) -> Path:
        return write_raster(folder / "image.pix", array, "PCIDSK")


def files_open(folder: Path) -> list[str]:
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sorted(file.name for file in (link.readlink() for link in links) if file.parent == folder)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files as Linux lists them")
@pytest.mark.parametrize("nodata", [None, 0])
def test_a_window_of_a_mosaic_opens_the_files_that_it_touches(tmp_path: Path, nodata: float | None) -> None:
    array = picture(64, 64)
    tiles = []
    for index in range(400):
        tile = tmp_path / f"{index}.tif"
        tiles.append((tile, index % 20 * 64, index // 20 * 64, 64, 64))
        if index in (21, 22, 41, 42, 399):
            write_raster(tile, array)
    path = mosaic(tmp_path / "a.vrt", tiles, Size(width=1280, height=1280), nodata=nodata)
    with open_image(path) as image:
        assert files_open(tmp_path) in ([], ["a.vrt"])
        (region,) = image.read([Request(pitch=LEVEL0, box=Box(x=70, y=70, width=100, height=100))])
        assert set(files_open(tmp_path)) - {"a.vrt"} == {"21.tif", "22.tif", "41.tif", "42.tif"}
        np.testing.assert_array_equal(region.pixels, np.tile(array, (3, 3, 1))[6:106, 6:106])
        with pytest.raises(SourceError, match=r"a\.vrt.*0\.tif"):
            image.read([Request(pitch=LEVEL0, box=Box(x=0, y=0, width=10, height=10))])


def test_of_many_files_few_stay_open(tmp_path: Path) -> None:
    array = picture(16, 16, 1)
    tiles = [(write_raster(tmp_path / f"{i}.tif", array), i % 20 * 16, i // 20 * 16, 16, 16) for i in range(200)]
    path = mosaic(tmp_path / "a.vrt", tiles, Size(width=320, height=160), bands=1)
    with open_image(path) as image:
        image.read([whole(image)])
        assert len(files_open(tmp_path)) <= 70


def test_where_no_file_of_a_mosaic_lies_its_nodata_value_says_so(tmp_path: Path) -> None:
    array = np.clip(picture(40, 30), 8, 255).astype(np.uint8)
    tile = write_raster(tmp_path / "t.tif", array)
    path = mosaic(tmp_path / "a.vrt", [(tile, 10, 20, 40, 30)], Size(width=90, height=80), nodata=7)
    region = read(path)
    expected = np.zeros((80, 90), np.bool_)
    expected[20:50, 10:50] = True
    np.testing.assert_array_equal(region.valid, expected)
    np.testing.assert_array_equal(region.pixels[20:50, 10:50], array)
    assert inspect(path).nodata == 7


def test_each_band_has_its_own_nodata_value(tmp_path: Path) -> None:
    array = np.random.default_rng(1).integers(0, 3, (50, 60, 3)).astype(np.uint8)
    tile = write_raster(tmp_path / "t.tif", array)
    path = mosaic(tmp_path / "a.vrt", [(tile, 0, 0, 60, 50)], Size(width=60, height=50))
    text = path.read_text()
    for band, value in ((1, 0), (2, 1)):
        text = text.replace(f'band="{band}">', f'band="{band}"><NoDataValue>{value}</NoDataValue>')
    path.write_text(text)
    holds = array != np.array([0, 1, -1])
    box = Box(x=0, y=0, width=60, height=50)
    for bands in ((0,), (1,), (0, 1), (1, 0), (2, 1)):
        region = read(path, box, bands=bands)
        valid = holds[:, :, list(bands)].any(axis=2)
        np.testing.assert_array_equal(np.ones_like(valid) if region.valid is None else region.valid, valid)
        np.testing.assert_array_equal(region.pixels, array[:, :, list(bands)] * valid[:, :, None])


@pytest.mark.parametrize("suffix", [".img", ".vrt"])
def test_it_is_where_gdal_says_and_has_its_overviews(tmp_path: Path, suffix: str) -> None:
    array = np.repeat(np.repeat(picture(250, 160), 4, axis=0), 4, axis=1)
    path = write_raster(
        tmp_path / f"a{'.img' if suffix == '.img' else '.tif'}", array, "HFA" if suffix == ".img" else "GTiff", **PLACE
    )
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4], rasterio.enums.Resampling.average)
    if suffix == ".vrt":
        rasterio_shutil.copy(path, tmp_path / "a.vrt", driver="VRT")
        path = tmp_path / "a.vrt"
    info = inspect(path)
    assert info.crs == "EPSG:32640"
    assert info.resolution is not None
    assert (float(info.resolution.x), info.resolution.unit) == (0.5, "m")
    tags = {code: value for code, _, _, value in info.geo_tags}
    assert tags[33922] == (0, 0, 0, 3e5, 28e5, 0)
    assert [level.downsample for level in info.levels] == [LEVEL0, Pitch.square(2), Pitch.square(4)]
    with open_image(path) as image:
        for pitch in (2, 4):
            (region,) = image.read([whole(image, Pitch.square(pitch))])
            np.testing.assert_array_equal(region.pixels, array[::pitch, ::pitch])


def test_tiles_of_a_web_map_have_alpha(tmp_path: Path) -> None:
    place = {"crs": "EPSG:3857", "transform": rasterio.Affine(2, 0, 6.1e6, 0, -2, 2.9e6)}
    seen = np.concatenate([picture(200, 150), np.full((150, 200, 1), 255, np.uint8)], axis=2)
    seen[40:90, 30:120] = 0
    first = write_raster(tmp_path / "a.tif", seen, photometric="RGB", alpha="YES", **place)
    rasterio_shutil.copy(first, tmp_path / "a.mbtiles", driver="MBTiles", TILE_FORMAT="PNG")
    with rasterio.open(tmp_path / "a.mbtiles") as file:
        samples = file.read()
    region = read(tmp_path / "a.mbtiles")
    assert inspect(tmp_path / "a.mbtiles").bands == ("red", "green", "blue")
    valid = samples[3] > 0
    assert not valid.all()
    np.testing.assert_array_equal(region.valid, valid)
    np.testing.assert_array_equal(region.pixels[valid], np.moveaxis(samples[:3], 0, 2)[valid])


def test_floats_without_numbers_and_named_bands(tmp_path: Path) -> None:
    array = np.random.default_rng(2).random((40, 50, 2)).astype(np.float32)
    array[3:9, 4:8, 0] = np.nan
    path = write_raster(tmp_path / "a.img", array, "HFA")
    with rasterio.open(path, "r+") as file:
        file.set_band_description(1, "NIR")
        file.set_band_description(2, "Red edge")
    region = read(path)
    assert inspect(path).bands == ("nir", "red edge")
    np.testing.assert_array_equal(region.valid, np.isfinite(array).all(axis=2))


@pytest.mark.parametrize("suffix", ["tif", "vrt"])
def test_a_scale_that_is_not_applied_is_told(tmp_path: Path, suffix: str) -> None:
    values = np.arange(6, dtype=np.int16).reshape(2, 3, 1)
    plain = write_raster(tmp_path / "plain.tif", values)
    with rasterio.open(plain, "r+") as file:
        file.scales, file.offsets = (1,), (0,)
    assert inspect(plain).notes == ()
    path = write_raster(tmp_path / "a.tif", values)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (0.0001,), (-0.1,)
    if suffix == "vrt":
        rasterio_shutil.copy(path, tmp_path / "a.vrt", driver="VRT")
    (note,) = inspect(tmp_path / f"a.{suffix}").notes
    assert "a scale of 0.0001 and an offset of -0.1, which is not applied" in note
    assert np.array_equal(read(tmp_path / f"a.{suffix}").pixels, values)


@pytest.mark.parametrize("driver", ["HFA", "VRT"])
def test_labels_are_the_stored_indices(tmp_path: Path, driver: str) -> None:
    labels = np.random.default_rng(3).integers(0, 4, (40, 50, 1)).astype(np.uint8)
    path = write_raster(tmp_path / "a.tif", labels, nodata=3, **PLACE)
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {index: (index * 9, 200, 7, 255) for index in range(4)})
    target = tmp_path / {"HFA": "a.img", "VRT": "a.vrt"}[driver]
    rasterio_shutil.copy(path, target, driver=driver)
    with open_labels(target) as found:
        assert found.indexed
        np.testing.assert_array_equal(found.read(Box.whole(found.size)), np.where(labels == 3, 255, labels)[:, :, 0])
    with open_labels(target, values={3: 3}) as found:
        np.testing.assert_array_equal(found.read(Box.whole(found.size)), labels[:, :, 0])
    assert inspect(target).bands == ("red", "green", "blue")


FORMATS = [
    ("a.img", "HFA", {}),
    ("a.bil", "ENVI", {"INTERLEAVE": "BIL"}),
    ("a.bsq", "EHdr", {}),
    ("a.rst", "RST", {}),
    ("a.ers", "ERS", {}),
    ("a.gpkg", "GPKG", {}),
    ("a.vrt", "a mosaic of an IMG", {}),
]


@pytest.mark.filterwarnings("ignore::rasterio.errors.RasterioDeprecationWarning")  # its successor stores nothing
@pytest.mark.parametrize(("name", "driver", "options"), FORMATS, ids=str)
def test_statistics_make_no_other_image(tmp_path: Path, name: str, driver: str, options: dict[str, str]) -> None:
    array = picture(40, 50)[..., :1]
    array[:9] = 7
    path = measured = tmp_path / name
    if name == "a.vrt":
        measured = write_raster(tmp_path / "a.img", array, "HFA", **PLACE)
        rasterio_shutil.copy(measured, path, driver="VRT")
    else:
        write_raster(path, array, driver, **PLACE, **options)
    for beside in tmp_path.glob("*.aux.xml"):
        beside.unlink()
    info, before = inspect(path), fingerprint(path)
    with rasterio.open(measured) as dataset:
        dataset.statistics(1)
    kept = [*tmp_path.glob("*.aux.xml"), *tmp_path.glob("*.stx")]
    assert kept
    assert fingerprint(path) == before
    (aux,) = (file for file in tmp_path.glob("*.aux.xml"))
    for more in ("", "<NoDataValue>7</NoDataValue>", "<Description>nir</Description>"):
        # A GeoPackage has four bands, whatever was written into it.
        bands = "".join(f'<PAMRasterBand band="{number}">{more}</PAMRasterBand>' for number in range(1, 5))
        aux.write_text(f"<PAMDataset>{bands if more else '<SRS>EPSG:32633</SRS>'}</PAMDataset>")
        # Some formats have a place or names of their own, and GDAL takes them rather than those beside the file.
        found = inspect(path)
        differs = (found.crs, found.nodata, found.bands) != (info.crs, info.nodata, info.bands)
        # The masks of a GeoPackage are those of its alpha band, until it has a nodata value.
        differs |= driver == "GPKG" and "NoData" in more
        assert (fingerprint(path) != before) == differs
    aux.unlink()
    assert fingerprint(path) == before


@pytest.mark.parametrize(("name", "driver", "options"), FORMATS, ids=str)
def test_a_fingerprint_without_facts_beside_is_of_the_bytes_alone(
    tmp_path: Path, name: str, driver: str, options: dict[str, str]
) -> None:
    """Machines of a cluster may have versions of GDAL that spell the same place differently."""
    path = tmp_path / name
    if name == "a.vrt":
        rasterio_shutil.copy(
            write_raster(tmp_path / "a.img", picture(40, 50)[..., :1], "HFA", **PLACE), path, driver="VRT"
        )
    else:
        write_raster(path, picture(40, 50)[..., :1], driver, **PLACE, **options)
    for beside in tmp_path.glob("*.aux.xml"):
        beside.unlink()
    digest = hashlib.sha256()
    others = sorted(file for file in tmp_path.iterdir() if file != path)
    for file, label in ((path, ""), *((file, f"{file.name}\0") for file in others)):
        content, size = file.read_bytes(), file.stat().st_size
        pieces = (content[start : start + 4096] for start in (0, size // 2, max(0, size - 4096)))
        digest.update(f"{label}{size}\0".encode() + (b"".join(pieces) if label else content))
    assert fingerprint(path) == digest.hexdigest()


def test_a_band_that_is_called_a_palette_without_one_has_a_fingerprint(tmp_path: Path) -> None:
    path = with_palette(tmp_path / "a.vrt", 1, bands=2)
    path.write_text(re.sub("<ColorTable>.*</ColorTable>", "", path.read_text()))
    for beside in ("", "<SRS>EPSG:32633</SRS>"):
        if beside:
            (tmp_path / "a.vrt.aux.xml").write_text(f"<PAMDataset>{beside}</PAMDataset>")
        assert fingerprint(path)


def test_a_changed_file_of_a_mosaic_changes_its_fingerprint(tmp_path: Path) -> None:
    tiles = [(write_raster(tmp_path / f"{i}.tif", picture(64, 64)), 64 * i, 0, 64, 64) for i in range(3)]
    path = mosaic(tmp_path / "a.vrt", tiles, Size(width=192, height=64))
    before = fingerprint(path)
    assert fingerprint(path) == before
    write_raster(tmp_path / "1.tif", 255 - picture(64, 64))
    assert fingerprint(path) != before


def test_several_rasters_that_are_no_bands_of_one_are_series(tmp_path: Path) -> None:
    first = write_raster(tmp_path / "a.tif", picture(64, 64, 1), **PLACE)
    second = write_raster(tmp_path / "b.tif", picture(32, 64, 1), **PLACE)
    rasterio_shutil.copy(first, tmp_path / "a.gpkg", driver="GPKG", RASTER_TABLE="north", TILE_FORMAT="PNG")
    rasterio_shutil.copy(
        second, tmp_path / "a.gpkg", driver="GPKG", RASTER_TABLE="south", APPEND_SUBDATASET="YES", TILE_FORMAT="PNG"
    )
    path = tmp_path / "a.gpkg"
    with rasterio.open(path) as file:
        names = [name.rsplit(":", 1)[1] for name in file.subdatasets]
    info = inspect(path)
    assert [content.name for content in info.contents] == names
    assert (info.size, info.series) == (Size(width=64, height=64), 0)
    assert "1 " + names[1] + " (32x64)" in " ".join(info.notes)
    for series in (1, names[1].lower()):
        with open_image(path, series=series) as image:
            assert image.info.series == 1
            np.testing.assert_array_equal(image.read([whole(image)])[0].pixels, picture(32, 64, 1))
    with pytest.raises(SourceError, match=r"holds no such image.*--series 7"):
        open_image(path, series=7)
    with pytest.raises(SourceError, match=r"holds no such image.*--series 1"):
        open_image(first, series=1)


def test_a_mosaic_runs_no_code_and_fetches_nothing(tmp_path: Path) -> None:
    tile = write_raster(tmp_path / "t.tif", picture(64, 64))
    path = mosaic(tmp_path / "a.vrt", [(tile, 0, 0, 64, 64)], Size(width=64, height=64))
    for address in ("/vsicurl/http://127.0.0.1:9/t.tif", "http://127.0.0.1:9/t.tif", "/vsis3/bucket/t.tif"):
        for name in ("away.vrt", "away.img"):
            away = tmp_path / name
            away.write_text("\n " + path.read_text().replace("t.tif", address))
            with pytest.raises(SourceError, match="from a disk only"):
                open_image(away)
    code = (
        '<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1" '
        'subClass="VRTDerivedRasterBand"><PixelFunctionType>f</PixelFunctionType>'
        "<PixelFunctionLanguage>Python</PixelFunctionLanguage><PixelFunctionCode><![CDATA[\n"
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
        "def f(*a, **k): pass\n]]></PixelFunctionCode></VRTRasterBand></VRTDataset>"
    )
    (tmp_path / "code.vrt").write_text(code)
    with pytest.raises(SourceError, match=r"code\.vrt"):
        read(tmp_path / "code.vrt")
    assert not (tmp_path / "ran").exists()


def test_a_mosaic_of_mosaics_fetches_nothing_either(tmp_path: Path) -> None:
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815 (its name)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    tile = write_raster(tmp_path / "t.tif", picture(64, 64))
    inner = mosaic(tmp_path / "inner.vrt", [(tile, 0, 0, 64, 64)], Size(width=64, height=64))
    inner.write_text(inner.read_text().replace("t.tif", f"/vsicurl/http://127.0.0.1:{server.server_port}/t.tif"))
    outer = mosaic(tmp_path / "outer.vrt", [(inner, 0, 0, 64, 64)], Size(width=64, height=64))
    try:
        with pytest.raises(SourceError, match=r"outer\.vrt"):
            read(outer)
        inner.write_text(inner.read_text().replace("/vsicurl/http:", "gone"))
        with open_image(outer) as image:
            for _ in range(3):  # the second time GDAL would give zeros
                with pytest.raises(SourceError, match=r"outer\.vrt.*gone"):
                    image.read([whole(image)])
    finally:
        server.shutdown()
        server.server_close()
    assert requests == []


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.img", picture(300, 300), "HFA")
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(SourceError, match=r"a\.img"):
        read(path)
    (tmp_path / "b.vrt").write_text("<VRTDataset rasterXSize='9'")
    with pytest.raises(SourceError, match=r"b\.vrt"):
        open_image(tmp_path / "b.vrt")


def test_folders_are_searched_for_them(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.img", picture(9, 9), "HFA")
    write_raster(tmp_path / "b.bil", picture(9, 9), "ENVI", INTERLEAVE="BIL")
    (tmp_path / "b.bil.aux.xml").write_text("<PAMDataset/>")
    assert [Path(image.source).name for image in find_images([str(tmp_path)])] == ["a.img", "b.bil"]


@pytest.mark.parametrize("name", ["a.img", "a.vrt", "a.dat"])
def test_without_the_extra_it_says_what_to_install(tmp_path: Path, name: str) -> None:
    first = write_raster(tmp_path / "a.tif", picture(9, 9))
    rasterio_shutil.copy(first, tmp_path / name, driver={"a.img": "HFA", "a.vrt": "VRT", "a.dat": "ENVI"}[name])
    error = info_without("rasterio", tmp_path / name)
    assert ("magnet-cli[gdal]" in error) or name == "a.dat"
    assert len(error.splitlines()) == 2


def described(path: Path, source: str, *, bands: int = 3) -> Path:
    """Write a mosaic that consists of one file."""
    body = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><ComplexSource><SourceFilename relativeToVRT="1">{source}'
        f"</SourceFilename><SourceBand>{band}</SourceBand></ComplexSource></VRTRasterBand>"
        for band in range(1, bands + 1)
    )
    path.write_text(f'<VRTDataset rasterXSize="64" rasterYSize="64">{body}</VRTDataset>')
    return path


@pytest.mark.parametrize("content", [None, b"no raster at all"])
def test_a_mosaic_of_files_that_cannot_be_read_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    """In a mosaic of a mosaic, GDAL returns arbitrary memory for a file that is missing, and reports nothing."""
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    tifffile.imwrite(tmp_path / "here & there.tif", pixels, photometric="rgb")
    described(tmp_path / "inner.vrt", "here &amp; there.tif")
    box = Box(x=0, y=0, width=64, height=64)
    with open_image(described(tmp_path / "outer.vrt", "inner.vrt")) as image:
        assert image.info.notes == ()
        np.testing.assert_array_equal(image.read([Request(pitch=LEVEL0, box=box)])[0].pixels, pixels)
    if content is not None:
        (tmp_path / "gone.tif").write_bytes(content)
    for path in (described(tmp_path / "a.vrt", "gone.tif"), described(tmp_path / "b.vrt", "a.vrt")):
        with open_image(path) as image:
            assert any("gone.tif" in note for note in image.info.notes) == (content is None)
            for _ in range(2):
                with pytest.raises(SourceError, match="cannot be decoded"):
                    image.read([Request(pitch=LEVEL0, box=box)])


@pytest.mark.parametrize(
    "colours",
    [("Hue", "Saturation", "Lightness"), ("Cyan", "Magenta", "Yellow"), ("YCbCr_Y", "YCbCr_Cb", "YCbCr_Cr")],
)
def test_bands_of_other_colours_are_refused(tmp_path: Path, colours: tuple[str, ...]) -> None:
    """Their number is that of red, green and blue, so a network would take them for these."""
    tifffile.imwrite(tmp_path / "s.tif", np.zeros((20, 30, 3), np.uint8), photometric="minisblack")
    source = '<SimpleSource><SourceFilename relativeToVRT="1">s.tif</SourceFilename></SimpleSource>'
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{n}"><ColorInterp>{colour}</ColorInterp>{source}</VRTRasterBand>'
        for n, colour in enumerate(colours, start=1)
    )
    (tmp_path / "a.vrt").write_text(f'<VRTDataset rasterXSize="30" rasterYSize="20">{bands}</VRTDataset>')
    with pytest.raises(SourceError, match=r"bands of these colours are not read.*gdal_translate would copy"):
        inspect(tmp_path / "a.vrt")


def test_the_bands_of_a_jpeg_nitf_are_red_green_and_blue(tmp_path: Path) -> None:
    """GDAL decodes them, and goes on to call them Y, Cb and Cr."""
    rows, columns = np.mgrid[:64, :64].astype(np.uint8)
    colours = np.dstack([rows * 3, columns * 3, 200 - rows])
    path = copied(tmp_path / "a.ntf", colours, "NITF", IC="C3")
    with rasterio.open(path) as file:
        assert [meaning.name for meaning in file.colorinterp] == ["Y", "Cb", "Cr"]
    assert inspect(path).bands == ("red", "green", "blue")
    assert np.abs(read(path).pixels.astype(int) - colours).max() < 20


def with_palette(path: Path, number: int, *, bands: int) -> Path:
    """Write a mosaic of one file, of whose bands that of this number has a palette."""
    pixels = np.arange(20 * 30 * bands, dtype=np.uint8).reshape(20, 30, bands)
    tifffile.imwrite(path.with_name("s.tif"), pixels, photometric="minisblack", planarconfig=1)
    table = '<ColorInterp>Palette</ColorInterp><ColorTable><Entry c1="1" c2="2" c3="3" c4="255"/></ColorTable>'
    source = '<SourceFilename relativeToVRT="1">s.tif</SourceFilename>'
    text = "".join(
        f'<VRTRasterBand dataType="Byte" band="{n}">{table if n == number else f"<Description>B{n}</Description>"}'
        f"<SimpleSource>{source}<SourceBand>{n}</SourceBand></SimpleSource></VRTRasterBand>"
        for n in range(1, bands + 1)
    )
    path.write_text(f'<VRTDataset rasterXSize="30" rasterYSize="20">{text}</VRTDataset>')
    return path


def test_a_palette_beside_other_bands_is_refused(tmp_path: Path) -> None:
    """The other bands were left out in silence."""
    with pytest.raises(SourceError, match="the bands beside it would be lost"):
        inspect(with_palette(tmp_path / "a.vrt", 1, bands=2))


def test_a_palette_of_a_later_band_leaves_all_bands_what_they_are(tmp_path: Path) -> None:
    path = with_palette(tmp_path / "a.vrt", 4, bands=4)
    assert inspect(path).bands == ("b1", "b2", "b3", "band4")
    np.testing.assert_array_equal(read(path).pixels, tifffile.imread(tmp_path / "s.tif"))

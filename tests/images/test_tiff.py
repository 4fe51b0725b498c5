"""TIFF files of many kinds: their levels, masks, georeference, orientation and colours, and files that are damaged."""

from __future__ import annotations

import os
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image as PillowImage
from rasterio.enums import ColorInterp

from magnet_cli.errors import SourceError
from magnet_cli.geometry import LEVEL0, Box, Pitch, Size
from magnet_cli.images import CacheBudget, Region, Request, inspect, open_image
from magnet_cli.images.fingerprint import fingerprint

Array = NDArray[Any]


def noise(height: int, width: int, bands: int = 3, dtype: str = "uint8") -> Array:
    return np.random.default_rng(height).integers(1, 250, (height, width, bands)).astype(dtype)


def read(path: Path, pitch: Fraction | int = 1, box: Box | None = None) -> Region:
    grid = Pitch.square(pitch)
    with open_image(path) as image:
        return image.read([Request(pitch=grid, box=box or Box.whole(grid.cover(image.info.size)))])[0]


def pyramid(path: Path, levels: list[Array], **options: Any) -> Path:
    with tifffile.TiffWriter(path) as writer:
        for index, level in enumerate(levels):
            writer.write(level, tile=(64, 64), photometric="rgb", subfiletype=min(index, 1), metadata=None, **options)
    return path


def sub_ifd_pyramid(path: Path, levels: list[Array]) -> Path:
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(levels[0], tile=(64, 64), photometric="rgb", subifds=len(levels) - 1)
        for level in levels[1:]:
            writer.write(level, tile=(64, 64), photometric="rgb", subfiletype=1)
    return path


PLANES = 20


def apart(path: Path, values: Array, **options: Any) -> None:
    tifffile.imwrite(path, values.transpose(2, 0, 1), planarconfig="separate", photometric="minisblack", **options)


def apart_with_alpha(path: Path, values: Array) -> None:
    apart(path, values, tile=(64, 64), compression="deflate", extrasamples=[0] * (PLANES - 2) + ["unassalpha"])


def channels(path: Path, values: Array) -> None:
    names = [f"c{index}" for index in range(PLANES)]
    options: Any = {"metadata": {"axes": "CYX", "Channel": {"Name": names}}, "photometric": "minisblack"}
    tifffile.imwrite(path, values.transpose(2, 0, 1), ome=True, tile=(64, 64), compression="deflate", **options)


def zarr_channels(path: Path, values: Array) -> None:
    root = zarr.create_group(path)
    array = root.create_array("0", shape=(2, PLANES, 1, *values.shape[:2]), chunks=(1, 1, 1, 256, 256), dtype="uint8")
    array[0, :, 0] = values.transpose(2, 0, 1)
    axes = [
        {"name": name, "type": "time" if name == "t" else "channel" if name == "c" else "space"} for name in "tczyx"
    ]
    scale = {"type": "scale", "scale": [1.0] * 5}
    datasets = [{"path": "0", "coordinateTransformations": [scale]}]
    ome: Any = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    root.attrs["ome"] = ome


@pytest.mark.parametrize(
    ("name", "write", "hidden"),
    [
        ("tiles.tif", partial(apart, tile=(64, 64), compression="deflate"), 0),
        ("strips.tif", partial(apart, rowsperstrip=16, compression="deflate"), 0),
        ("run.tif", apart, 0),
        ("alpha.tif", apart_with_alpha, 1),
        ("channels.ome.tif", channels, 0),
        ("channels.zarr", zarr_channels, 0),
    ],
)
def test_of_bands_that_are_stored_apart_only_those_wanted_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, write: Any, hidden: int
) -> None:
    values = noise(1100, 1000, PLANES)
    write(tmp_path / name, values)
    read_bytes: list[int] = []

    def pread(descriptor: int, count: int, offset: int, pread: Any = os.pread) -> bytes:
        read_bytes.append(count)
        return bytes(pread(descriptor, count, offset))

    def chunk(path: Path, read: Any = Path.read_bytes) -> bytes:
        read_bytes.append(path.stat().st_size)
        return bytes(read(path))

    def counted(bands: tuple[int, ...]) -> tuple[int, Region]:
        read_bytes.clear()
        (region,) = image.read([Request(pitch=LEVEL0, box=Box(x=5, y=70, width=300, height=400), bands=bands)])
        return sum(read_bytes), region

    with open_image(tmp_path / name) as image:
        monkeypatch.setattr(os, "pread", pread)
        monkeypatch.setattr(Path, "read_bytes", chunk)
        count = len(image.info.bands)
        assert count == PLANES - hidden
        some, region = counted((7, 2, 7))
        every, whole = counted(tuple(range(count)))
    np.testing.assert_array_equal(region.pixels, values[70:470, 5:305, [7, 2, 7]])
    np.testing.assert_array_equal(whole.pixels, values[70:470, 5:305, :count])
    assert some < every * (2.2 + hidden) / PLANES


def test_requests_for_other_bands_share_a_decode(tmp_path: Path) -> None:
    values = noise(300, 300, PLANES)
    for planes in ("separate", "contig"):
        array = values.transpose(2, 0, 1) if planes == "separate" else values
        tifffile.imwrite(tmp_path / "a.tif", array, planarconfig=planes, photometric="minisblack", tile=(64, 64))
        box = Box(x=5, y=70, width=200, height=100)
        wanted: list[tuple[int, ...] | None] = [(3, 1), (1, 9, 4), None, (2,)]
        with open_image(tmp_path / "a.tif") as image:
            regions = image.read([Request(pitch=LEVEL0, box=box, bands=bands) for bands in wanted])
            regions += [image.read([Request(pitch=LEVEL0, box=box, bands=bands)])[0] for bands in wanted]
        for bands, region in zip(wanted * 2, regions, strict=True):
            expected = values[box.slices] if bands is None else values[box.slices][:, :, list(bands)]
            np.testing.assert_array_equal(region.pixels, expected)


def test_a_damaged_band_does_not_stop_a_run_that_does_not_want_it(tmp_path: Path) -> None:
    apart(tmp_path / "a.tif", noise(100, 100, 4), tile=(64, 64), compression="deflate")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        start, count = file.pages.first.dataoffsets[4], file.pages.first.databytecounts[4]
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[start : start + count] = bytes(count)
    (tmp_path / "a.tif").write_bytes(data)
    with open_image(tmp_path / "a.tif") as image:
        box = Box.whole(image.info.size)
        image.read([Request(pitch=LEVEL0, box=box, bands=(0, 2, 3))])
        with pytest.raises(SourceError, match="cannot be decoded"):
            image.read([Request(pitch=LEVEL0, box=box, bands=(0, 1))])


@pytest.mark.parametrize("write", [pyramid, sub_ifd_pyramid])
def test_levels_are_found_and_read_unchanged(tmp_path: Path, write: Any) -> None:
    levels = [noise(301, 403), noise(150, 201), noise(76, 101)]
    path = write(tmp_path / "image.tif", levels)
    info = inspect(path)
    assert [level.size.width for level in info.levels] == [403, 201, 101]
    assert [level.downsample for level in info.levels] == [LEVEL0, Pitch.square(2), Pitch.square(4)]
    for pitch, level in zip((1, 2, 4), levels, strict=True):
        box = Box(x=3, y=5, width=level.shape[1] - 4, height=level.shape[0] - 6)
        np.testing.assert_array_equal(read(path, pitch, box).pixels, level[box.slices])


def test_a_pitch_between_levels_averages_the_finer_one(tmp_path: Path) -> None:
    levels = [noise(512, 512), np.full((256, 256, 3), 7, np.uint8), np.full((128, 128, 3), 9, np.uint8)]
    path = pyramid(tmp_path / "image.tif", levels)
    assert (read(path, 3).pixels == 7).all()
    assert (read(path, 50).pixels == 9).all()
    assert read(path, Fraction(3, 2)).pixels.std() > 5


def test_a_thumbnail_is_no_level(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(noise(512, 512), tile=(64, 64), photometric="rgb", metadata=None)
        writer.write(noise(100, 100), photometric="rgb", metadata=None)
        writer.write(noise(90, 40), photometric="rgb", subfiletype=1, metadata=None)
    info = inspect(path)
    assert len(info.levels) == 1
    assert any(
        "holds 3 images and image 0 (512x512) is read; the others are 1 (100x100), 2 (40x90)" in note
        for note in info.notes
    )


GEO = {
    "driver": "GTiff",
    "width": 70,
    "height": 50,
    "crs": "EPSG:32633",
    "transform": rasterio.Affine(0.5, 0, 300000, 0, -0.5, 5000000),
    "tiled": True,
    "blockxsize": 32,
    "blockysize": 32,
}


def geotiff(path: Path, array: Array, **options: Any) -> Path:
    with rasterio.open(path, "w", count=array.shape[2], dtype=array.dtype, **{**GEO, **options}) as file:
        file.write(np.moveaxis(array, 2, 0))
    return path


def test_the_georeference_is_kept(tmp_path: Path) -> None:
    path = geotiff(tmp_path / "geo.tif", noise(50, 70, 4, "uint16"), nodata=0)
    info = inspect(path)
    assert info.crs == "EPSG:32633"
    assert info.resolution is not None
    assert (info.resolution.x, info.resolution.y, info.resolution.unit) == (Fraction(1, 2), Fraction(1, 2), "m")
    assert info.nodata == 0
    assert info.bands == ("band1", "band2", "band3", "band4")
    copy = tmp_path / "copy.tif"
    tifffile.imwrite(copy, np.zeros((50, 70), np.uint8), extratags=[(*tag, True) for tag in info.geo_tags])
    with rasterio.open(path) as one, rasterio.open(copy) as other:
        assert one.crs == other.crs
        assert one.transform == other.transform
        assert other.nodata is None, "the nodata value belongs to the samples, not to the place"


@pytest.mark.parametrize("crs", ["EPSG:4326", None])
def test_a_reference_far_off_its_planet_gives_no_size(tmp_path: Path, crs: str | None) -> None:
    info = inspect(geotiff(tmp_path / "geo.tif", noise(50, 70), crs=crs))
    assert info.crs == crs
    assert info.resolution is None


def test_nodata_is_not_valid(tmp_path: Path) -> None:
    array = noise(50, 70)
    array[:20, :30] = 0
    array[30, 30, 0] = 0
    region = read(geotiff(tmp_path / "geo.tif", array, nodata=0))
    assert region.valid is not None
    np.testing.assert_array_equal(region.valid, (array != 0).any(axis=2))


@pytest.mark.parametrize("nodata", ["inf", "-inf", "1e999", "nan", "-1", "256", "0.5", "none"])
def test_a_nodata_value_that_no_pixel_can_have(nodata: str, tmp_path: Path) -> None:
    array = noise(50, 70)
    tag = (42113, 2, 0, nodata, True)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", extratags=[tag], metadata=None)
    region = read(tmp_path / "a.tif")
    assert region.valid is None
    np.testing.assert_array_equal(region.pixels, array)


def test_nan_is_not_valid_and_weighs_nothing(tmp_path: Path) -> None:
    array = noise(50, 70, 1, "float32")
    array[:10] = np.nan
    array[14] = np.inf
    path = geotiff(tmp_path / "geo.tif", array, nodata=float("nan"))
    region = read(path)
    assert region.valid is not None
    np.testing.assert_array_equal(region.valid, np.isfinite(array[:, :, 0]))
    coarse = read(path, 4)
    assert np.isfinite(coarse.pixels).all()
    np.testing.assert_allclose(coarse.pixels[2, 0, 0], array[10:12, :4].mean(), rtol=1e-6)


def test_a_mask_page_is_used(tmp_path: Path) -> None:
    path = tmp_path / "geo.tif"
    mask = np.zeros((50, 70), np.uint8)
    mask[5:40, 10:60] = 255
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", count=3, dtype="uint8", **GEO) as file:
        file.write(np.moveaxis(noise(50, 70), 2, 0))
        file.write_mask(mask)
    region = read(path)
    assert region.valid is not None
    np.testing.assert_array_equal(region.valid, mask > 0)
    assert not region.pixels[mask == 0].any()


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_alpha_is_a_mask_and_no_band(tmp_path: Path, planar: str) -> None:
    array = noise(50, 70, 4)
    array[:, :20, 3] = 0
    path = tmp_path / "alpha.tif"
    stored = array if planar == "contig" else np.moveaxis(array, 2, 0)
    tifffile.imwrite(path, stored, tile=(32, 32), photometric="rgb", extrasamples=["unassalpha"], planarconfig=planar)
    region = read(path)
    assert inspect(path).bands == ("red", "green", "blue")
    assert region.valid is not None
    np.testing.assert_array_equal(region.valid, array[:, :, 3] > 0)
    np.testing.assert_array_equal(region.pixels[:, 20:], array[:, 20:, :3])


def test_a_missing_tile_is_not_valid(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tif"
    with rasterio.open(path, "w", count=1, dtype="uint8", SPARSE_OK=True, **GEO) as file:
        file.write(np.full((1, 32, 32), 9, np.uint8), window=rasterio.windows.Window(32, 0, 32, 32))
    region = read(path)
    assert region.valid is not None
    expected = np.zeros((50, 70), np.bool_)
    expected[:32, 32:64] = True
    np.testing.assert_array_equal(region.valid, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_corrected_as_pillow_does(tmp_path: Path, orientation: int) -> None:
    from PIL import ImageOps  # noqa: PLC0415 (this test alone needs it)

    path = tmp_path / "turned.tif"
    tifffile.imwrite(path, noise(50, 70), tile=(32, 32), photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
    with PillowImage.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(read(path).pixels, expected)
    box = Box(x=7, y=11, width=20, height=15)
    np.testing.assert_array_equal(read(path, box=box).pixels, expected[box.slices])


def test_a_palette_gives_colours(tmp_path: Path) -> None:
    indices = np.random.default_rng(0).integers(0, 5, (40, 60)).astype(np.uint8)
    table = np.zeros((3, 256), np.uint16)
    table[:, :5] = np.arange(15).reshape(3, 5) * 4000
    path = tmp_path / "palette.tif"
    tifffile.imwrite(path, indices, photometric="palette", colormap=table, tile=(32, 32))
    np.testing.assert_array_equal(read(path).pixels, (table >> 8).T[indices])


def test_nodata_means_the_stored_value(tmp_path: Path) -> None:
    """The nodata value is compared with the stored value, not with a colour from a palette or an inversion."""
    stored = np.random.default_rng(0).integers(0, 5, (40, 60)).astype(np.uint8)
    table = np.zeros((3, 256), np.uint16)
    table[:, 1] = 3 << 8
    nodata = (42113, 2, 0, "3", True)
    kinds: dict[str, dict[str, Any]] = {"palette": {"colormap": table}, "miniswhite": {}}
    for name, options in kinds.items():
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, stored, photometric=name, tile=(32, 32), extratags=[nodata], **options)
        region = read(path)
        assert region.valid is not None
        np.testing.assert_array_equal(region.valid, stored != 3)
        with open_image(path) as image:
            (part,) = image.read([Request(pitch=LEVEL0, box=Box.whole(image.info.size), bands=(0,))])
        assert part.valid is not None
        np.testing.assert_array_equal(part.valid, stored != 3)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_bilevel_is_black_and_white(tmp_path: Path, photometric: str) -> None:
    bits = np.random.default_rng(0).integers(0, 2, (40, 60)).astype(np.bool_)
    path = tmp_path / "bits.tif"
    tifffile.imwrite(path, bits, photometric=photometric, bitspersample=1)
    shown = bits if photometric == "minisblack" else ~bits
    np.testing.assert_array_equal(read(path).pixels[:, :, 0], shown * 255)


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000", "webp", "zstd", "lzma", "packbits", "lerc", "jpegxl"])
def test_codecs_agree_with_tifffile(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, noise(100, 120), tile=(64, 64), photometric="rgb", compression=compression)
    np.testing.assert_array_equal(read(path).pixels, tifffile.imread(path))


def test_aperio_ycbcr_becomes_rgb(tmp_path: Path) -> None:
    y, x = np.mgrid[:64, :64]
    rgb = np.stack([x * 4, y * 4, 255 - x * 2], axis=2).astype(np.uint8)
    with PillowImage.fromarray(rgb) as image:
        luma = np.asarray(image.convert("YCbCr"))
    path = tmp_path / "aperio.tif"
    tifffile.imwrite(path, luma, tile=(64, 64), photometric="rgb", compression=33003)
    assert abs(read(path).pixels.astype(int) - rgb).mean() < 2


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_bands_have_the_names_that_gdal_gives_them(tmp_path: Path, interleave: str) -> None:
    path = tmp_path / "named.tif"
    array = noise(50, 70, 5, "uint16")
    with rasterio.open(path, "w", count=5, dtype="uint16", interleave=interleave, **GEO) as file:
        file.write(np.moveaxis(array, 2, 0))
        for number, name in ((1, "B2"), (2, "B&3 <nm>"), (4, "B8A"), (5, "B8A")):
            file.set_band_description(number, name)
    assert inspect(path).bands == ("b2", "b&3 <nm>", "band3", "b8a 1", "b8a 2")
    with rasterio.open(path, "r+") as file:
        file.set_band_description(5, "")
    assert inspect(path).bands == ("b2", "b&3 <nm>", "band3", "b8a", "band5")
    np.testing.assert_array_equal(read(path).pixels, array)


@pytest.mark.parametrize("photometric", ["minisblack", "rgb"])
def test_colours_in_another_order_are_known(tmp_path: Path, photometric: str) -> None:
    """Bands have the names that GDAL writes and reads. Matched by number, red and blue would be exchanged."""
    path = tmp_path / "bgr.tif"
    with rasterio.open(path, "w", count=4, dtype="uint8", photometric=photometric, **GEO) as file:
        file.write(np.moveaxis(noise(50, 70, 4), 2, 0))
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined]
        file.set_band_description(1, "B2")
        file.set_band_description(4, "B8")
    with rasterio.open(path) as file:
        assert [kind.name for kind in file.colorinterp[:3]] == ["blue", "green", "red"]
    assert inspect(path).bands == ("blue", "green", "red", "b8")


def test_the_channels_of_an_ome_file_are_bands(tmp_path: Path) -> None:
    planes = np.random.default_rng(0).integers(0, 60000, (4, 3, 90, 70)).astype(np.uint16)
    path = tmp_path / "image.ome.tif"
    metadata = {"axes": "ZCYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
    tifffile.imwrite(path, planes, tile=(32, 32), ome=True, metadata=metadata)
    info = inspect(path)
    assert info.bands == ("band1", "band2", "band3")
    assert info.resolution is not None
    assert (info.resolution.x, info.resolution.unit) == (Fraction(1, 4), "um")
    assert any("Z=4" in note for note in info.notes)
    np.testing.assert_array_equal(read(path).pixels, np.moveaxis(planes[0], 0, 2))


def test_a_pyramid_of_channel_pages(tmp_path: Path) -> None:
    levels = [np.random.default_rng(i).integers(0, 60000, (3, 200 >> i, 300 >> i)).astype(np.uint16) for i in range(2)]
    path = tmp_path / "image.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(levels[0], tile=(64, 64), subifds=1, photometric="minisblack", metadata={"axes": "CYX"})
        writer.write(levels[1], tile=(64, 64), subfiletype=1, photometric="minisblack")
    np.testing.assert_array_equal(read(path).pixels, np.moveaxis(levels[0], 0, 2))
    np.testing.assert_array_equal(read(path, 2).pixels, np.moveaxis(levels[1], 0, 2))


@pytest.mark.parametrize(
    ("density", "unit", "expected"),
    [
        ((25400, 1), "inch", Fraction(1)),
        ((20000, 1), "centimeter", Fraction(1, 2)),
        ((72, 1), "inch", None),
        ((300, 1), "inch", None),
        ((10, 1), "centimeter", None),
        ((635, 1), "inch", None),
        ((250, 1), "centimeter", None),
        ((1000, 1), "inch", None),
        ((40000, 1), "none", None),
    ],
)
def test_only_a_microscopes_density_counts(
    tmp_path: Path, density: tuple[int, int], unit: str, expected: Fraction | None
) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, noise(20, 20), photometric="rgb", resolution=(density, density), resolutionunit=unit)
    info = inspect(path)
    assert (None if info.resolution is None else info.resolution.x) == expected
    assert bool(info.notes) == (expected is None and unit != "none")


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_the_density_of_a_map_is_none_of_a_microscope(tmp_path: Path) -> None:
    """A georeferenced image is not rotated, also where its coordinates have no name or come from a camera's model."""
    profile: dict[str, Any] = {"driver": "GTiff", "width": 20, "height": 20, "count": 3, "dtype": "uint8"}
    places = {"placed": {"transform": rasterio.Affine(0.2, 0, 5e5, 0, -0.2, 5e6)}, "plain": {}}
    for name, place in places.items():
        with rasterio.open(tmp_path / f"{name}.tif", "w", **profile, **place) as file:
            file.write(np.moveaxis(noise(20, 20), 2, 0))
            file.update_tags(TIFFTAG_XRESOLUTION=5080, TIFFTAG_YRESOLUTION=5080, TIFFTAG_RESOLUTIONUNIT=2)
    assert inspect(tmp_path / "placed.tif").resolution is None
    found = inspect(tmp_path / "plain.tif").resolution
    assert found is not None
    assert found.x == 5


def test_an_aperio_description_gives_the_size(tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    text = "Aperio Image Library v11\r\n300x200 [0,0] (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = 0.4990|Left = 2"
    tifffile.imwrite(
        path, noise(200, 300), tile=(64, 64), photometric="rgb", compression="jpeg", description=text, metadata=None
    )
    info = inspect(path)
    assert info.backend == "tiff"
    assert info.resolution is not None
    assert info.resolution.x == Fraction("0.499")


def test_a_giant_strip_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magnet_cli.images.tiff.CHUNK_BYTES", 1000)
    monkeypatch.setattr("magnet_cli.images.cache.MEMORY_BYTES", 0)
    array = noise(301, 403)
    path = tmp_path / "strip.tif"
    tifffile.imwrite(path, array, photometric="rgb", compression="deflate", rowsperstrip=301)
    assert inspect(path).cache_bytes >= array.nbytes
    with pytest.raises(SourceError, match="cannot be read by region"):
        open_image(path)
    with open_image(path, cache=CacheBudget(folder=tmp_path / "work", max_bytes=1 << 30)) as image:
        box = Box(x=100, y=200, width=303, height=101)
        np.testing.assert_array_equal(image.read([Request(pitch=LEVEL0, box=box)])[0].pixels, array[box.slices])


@pytest.mark.parametrize("alpha", ["mask", "band"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
@pytest.mark.parametrize(
    ("photometric", "extra"),
    [
        ("rgb", ()),
        *((kind, extra) for kind in ("rgb", "minisblack", "miniswhite") for extra in ((0,), (1,), (2,))),
        ("rgb", (2, 0)),
        ("rgb", (0, 0, 1)),
        ("minisblack", (0, 0, 2)),
    ],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_giant_strip_has_the_samples_that_its_tags_describe(  # noqa: PLR0917
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photometric: str, extra: tuple[int, ...], dtype: str, alpha: Any
) -> None:
    colours = 3 if photometric == "rgb" else 1
    array = noise(40, 30, colours + len(extra), dtype)
    array[:9] = 0
    path = tmp_path / "strip.tif"
    how: dict[str, Any] = {"extrasamples": extra, "planarconfig": "contig"} if extra else {}
    tifffile.imwrite(path, array, photometric=photometric, compression="deflate", **how)

    def found() -> tuple[Any, Region]:
        with open_image(path, cache=CacheBudget(folder=tmp_path, max_bytes=1 << 30), alpha=alpha) as image:
            info = image.info
            return info, image.read([Request(pitch=LEVEL0, box=Box.whole(info.size))])[0]

    info, region = found()
    monkeypatch.setattr("magnet_cli.images.tiff.CHUNK_BYTES", 1)
    once, decoded = found()
    assert (info.backend, once.backend) == ("tiff", "vips")
    assert (once.bands, once.dtype, once.alpha, once.notes) == (info.bands, info.dtype, info.alpha, info.notes)
    np.testing.assert_array_equal(decoded.pixels, region.pixels)
    np.testing.assert_array_equal(decoded.valid, region.valid)
    # In GDAL, whose values are those that are stored, white is 0 where the tag says so.
    with rasterio.open(path) as dataset:
        stored = np.moveaxis(dataset.read(), 0, 2)
    is_white = photometric == "miniswhite" and dtype == "uint8"
    stored[..., 0] = 255 - stored[..., 0] if is_white else stored[..., 0]
    flags = [colours + index for index, kind in enumerate(extra) if kind in {1, 2} and alpha == "mask"]
    flagged = flags[0] if flags else None
    present = np.ones(array.shape[:2], np.bool_) if flagged is None else stored[..., flagged] > 0
    wanted = stored if flagged is None else np.delete(stored, flagged, axis=2)
    np.testing.assert_array_equal(region.pixels[present], wanted[present])
    np.testing.assert_array_equal(present if region.valid is None else region.valid, present)


def test_alpha_of_inks_is_a_band_where_it_is_asked_for(tmp_path: Path) -> None:
    inks = noise(20, 30, 5)
    tifffile.imwrite(tmp_path / "inks.tif", inks, photometric="separated", extrasamples=[2], planarconfig="contig")
    info = inspect(tmp_path / "inks.tif", alpha="band")
    assert (info.bands, info.alpha) == (("red", "green", "blue", "band4"), "band")
    assert info.notes == ("band 4 is flagged as alpha and read as a band",)
    with open_image(tmp_path / "inks.tif", alpha="band") as image:
        found = image.read([Request(pitch=LEVEL0, box=Box.whole(info.size))])[0]
    np.testing.assert_array_equal(found.pixels[..., 3], inks[..., 4])
    assert found.valid is None


def test_a_strip_beyond_libtiffs_own_limit_is_decoded_or_refused_with_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.zeros((4000, 6000, 3), np.uint8)
    array[1234, 5678] = (1, 2, 3)
    path = tmp_path / "strip.tif"
    tifffile.imwrite(path, array, photometric="rgb", compression="lzw", rowsperstrip=4000)
    assert inspect(path).resident_bytes >= array.nbytes
    with open_image(path, cache=CacheBudget(folder=tmp_path / "work", max_bytes=1 << 30)) as image:
        box = Box(x=5600, y=1200, width=100, height=50)
        np.testing.assert_array_equal(image.read([Request(pitch=LEVEL0, box=box)])[0].pixels, array[box.slices])
    monkeypatch.setattr("magnet_cli.images.tiff.LARGEST_STRIP", array.nbytes - 1)
    with pytest.raises(SourceError, match=f"one strip holds {array.nbytes:,} bytes"):
        inspect(path)


def test_cmyk_is_converted(tmp_path: Path) -> None:
    path = tmp_path / "print.tif"
    with PillowImage.new("CMYK", (60, 40), (0, 0, 0, 0)) as image:
        image.save(path)
    info = inspect(path)
    assert info.bands == ("red", "green", "blue")
    assert read(path).pixels.min() > 240


def damaged(path: Path, *, at: float, fill: bytes) -> Path:
    data = bytearray(path.read_bytes())
    start = int(len(data) * at)
    data[start : start + len(fill)] = fill
    path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize("compression", ["deflate", "jpeg", "jpeg2000", "zstd", "lzw", "webp"])
def test_a_truncated_file_is_an_error_with_its_numbers(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, noise(256, 256), tile=(128, 128), photometric="rgb", compression=compression)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(SourceError, match=r"\d of 4 tiles or strips of a picture of 256x256 pixels") as caught:
        read(path)
    assert caught.value.file == str(path)
    assert caught.value.advice


@pytest.mark.parametrize("compression", ["deflate", "jpeg", "jpeg2000", "zstd", "lzw", "webp"])
def test_a_file_whose_end_was_never_copied_is_an_error(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, noise(256, 256), tile=(128, 128), photometric="rgb", compression=compression)
    damaged(path, at=0.6, fill=bytes(path.stat().st_size * 4 // 10))
    with pytest.raises(SourceError, match="tile at"):
        read(path)


@pytest.mark.parametrize("kind", ["flat", "half", "hole"])
@pytest.mark.parametrize("quality", [75, 95])
def test_sound_webp_tiles_may_end_in_zeros(tmp_path: Path, kind: str, quality: int) -> None:
    array = np.full((1024, 1024, 3), 240, np.uint8)
    if kind == "half":
        array[:, 512:] = (80, 50, 130)
    if kind == "hole":
        array = np.dstack([array, np.full((1024, 1024), 255, np.uint8)])
        array[256:512, 256:512, 3] = 0
    path = tmp_path / "image.tif"
    options: Any = {"compressionargs": {"level": quality, "lossless": False}, "photometric": "rgb"}
    options |= {"extrasamples": ["unassalpha"]} if kind == "hole" else {}
    tifffile.imwrite(path, array, tile=(1024, 1024), compression="webp", **options)
    with tifffile.TiffFile(path) as file:
        start, count = file.pages.first.dataoffsets[0], file.pages.first.databytecounts[0]
    assert path.read_bytes()[start : start + count].endswith(bytes(17))
    region = read(path)
    np.testing.assert_array_equal(region.pixels[600:], tifffile.imread(path)[600:, :, :3])


@pytest.mark.parametrize("lossless", [True, False])
def test_a_webp_tile_that_lacks_its_end_is_an_error(tmp_path: Path, lossless: bool) -> None:  # noqa: FBT001 (pytest)
    path = tmp_path / "image.tif"
    options: Any = {"compression": "webp", "compressionargs": {"level": 75, "lossless": lossless}}
    tifffile.imwrite(path, noise(256, 256), tile=(256, 256), photometric="rgb", **options)
    with tifffile.TiffFile(path, mode="r+") as file:
        page = file.pages.first
        page.tags["TileByteCounts"].overwrite(page.databytecounts[0] * 2 // 3)
    with pytest.raises(SourceError, match="its header states"):
        read(path)


def test_a_jpeg_tile_that_declares_a_huge_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, noise(64, 64), tile=(64, 64), photometric="ycbcr", compression="jpeg")
    data = bytearray(path.read_bytes())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xdc\xff\xdc"
    path.write_bytes(bytes(data))
    with pytest.raises(SourceError, match=r"65500 x 65500"):
        read(path)


@pytest.mark.parametrize("tag", ["ImageWidth", "ImageLength"])
def test_an_absurd_header_is_refused(tmp_path: Path, tag: str) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, noise(64, 64), tile=(64, 64), photometric="rgb")
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags[tag].overwrite(4_000_000_000, dtype=4)  # type: ignore[union-attr]
    with pytest.raises(SourceError, match=r"lacks tiles|absurd"):
        read(path)


@pytest.mark.parametrize(
    "content", [b"", b"not an image", b"II*\x00", b"II*\x00\x08\x00\x00\x00\x00\x00", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.tif"
    path.write_bytes(content)
    with pytest.raises(SourceError) as caught:
        inspect(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.tif", tmp_path):
        with pytest.raises(SourceError, match=str(path)):
            inspect(path)


def test_size_and_levels_follow_the_orientation(tmp_path: Path) -> None:
    path = pyramid(tmp_path / "image.tif", [noise(300, 400), noise(150, 200)], extratags=[(274, 3, 1, 6, True)])
    info = inspect(path)
    assert info.size == Size(width=300, height=400)
    assert info.levels[1].size == Size(width=150, height=200)


QPTIFF = (
    '<?xml version="1.0" encoding="utf-8"?>\r\n<PerkinElmer-QPI-ImageDescription>\r\n<Name>{name}</Name>\r\n'
    "</PerkinElmer-QPI-ImageDescription>\r\n"
)


def test_a_fluorescence_qptiff_is_read_by_channel_and_level(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    levels = [rng.integers(0, 60000, (4, 512 >> i, 768 >> i)).astype(np.uint16) for i in range(3)]
    names = ("DAPI", "CD3", "CD8", "PanCK")
    path = tmp_path / "image.qptiff"
    options: Any = {"software": "PerkinElmer-QPI", "metadata": None, "photometric": "minisblack"}
    density: Any = {"resolution": (20000, 20000), "resolutionunit": "centimeter"}
    with tifffile.TiffWriter(path) as writer:
        for index, level in enumerate(levels):
            for name, plane in zip(names, level, strict=True):
                description = QPTIFF.format(name=name)
                writer.write(plane, tile=(128, 128), description=description, **options, **density)
            if index == 0:
                writer.write(noise(100, 150), photometric="rgb", metadata=None)
    info = inspect(path)
    assert info.bands == ("dapi", "cd3", "cd8", "panck")
    assert [level.downsample for level in info.levels] == [LEVEL0, Pitch.square(2), Pitch.square(4)]
    assert info.resolution is not None
    assert info.resolution.x == Fraction(1, 2)
    for pitch, expected in zip((1, 2, 4), levels, strict=True):
        np.testing.assert_array_equal(read(path, pitch).pixels, np.moveaxis(expected, 0, 2))


def test_a_16_bit_ome_pyramid_has_named_channels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    levels = [rng.integers(0, 60000, (2, 260 >> i, 390 >> i)).astype(np.uint16) for i in range(3)]
    path = tmp_path / "image.ome.tif"
    metadata = {
        "axes": "CYX",
        "Channel": {"Name": ["DAPI", "CD3 & CD8"]},
        "PhysicalSizeX": 0.325,
        "PhysicalSizeY": 0.65,
    }
    options: Any = {"tile": (64, 64), "photometric": "minisblack", "compression": "zlib"}
    with tifffile.TiffWriter(path, ome=True, bigtiff=True) as writer:
        writer.write(levels[0], subifds=2, metadata=metadata, **options)
        for level in levels[1:]:
            writer.write(level, subfiletype=1, **options)
    info = inspect(path)
    assert info.bands == ("dapi", "cd3 & cd8")
    assert info.dtype == "uint16"
    assert info.resolution is not None
    assert (info.resolution.x, info.resolution.y) == (Fraction(13, 40), Fraction(13, 20))
    with tifffile.TiffFile(path) as file:
        for index, seen in enumerate(file.series[0].levels):
            box = Box(x=3, y=5, width=seen.shape[2] - 4, height=seen.shape[1] - 6)
            expected = np.moveaxis(seen.asarray(), 0, 2)[box.slices]
            np.testing.assert_array_equal(read(path, 2**index, box).pixels, expected)


def aperio(path: Path, levels: list[Array], *, compression: int) -> Path:
    """Write an Aperio slide of lossless JPEG 2000 tiles: compression 33003 holds YCbCr, 33005 RGB."""
    description = "Aperio Image Library v12.0.15\n{}x{} (240x240) J2K/YUV16 Q=70|AppMag = 20|MPP = 0.4990"
    options: Any = {"tile": (240, 240), "photometric": "rgb", "compression": compression, "metadata": None}
    with tifffile.TiffWriter(path) as writer:
        for level in levels:
            stored = np.asarray(PillowImage.fromarray(level).convert("YCbCr")) if compression == 33003 else level
            text = description.format(*reversed(level.shape[:2]))
            writer.write(stored, description=text, compressionargs={"level": 0, "mct": False}, **options)
    return path


def smooth(height: int, width: int) -> Array:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, 255 - (x + y) * 255 // (width + height)], 2).astype(np.uint8)


@pytest.mark.parametrize(("compression", "tolerance"), [(33003, 1), (33005, 0)])
def test_an_aperio_slide_in_jpeg_2000_agrees_with_openslide(tmp_path: Path, compression: int, tolerance: int) -> None:
    import openslide  # noqa: PLC0415 (this test alone needs it)

    full = smooth(500, 720)
    path = aperio(tmp_path / "slide.svs", [full, smooth(250, 360)], compression=compression)
    info = inspect(path)
    assert info.resolution is not None
    assert info.resolution.x == Fraction("0.499")
    assert np.abs(read(path).pixels.astype(int) - full).max() <= 3 * tolerance
    with openslide.OpenSlide(str(path)) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert [level.size.width for level in info.levels] == [size[0] for size in slide.level_dimensions]
        for index, level in enumerate(info.levels):
            seen = np.asarray(slide.read_region((0, 0), index, (level.size.width, level.size.height)))[:, :, :3]
            pixels = read(path, 2**index, Box.whole(level.size)).pixels
            assert np.abs(pixels.astype(int) - seen).max() <= tolerance


def test_a_cog_of_four_16_bit_bands_agrees_with_gdal(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(1, 4000, (4, 1100, 1300)).astype(np.uint16)
    array[:, 200:400, 300:700] = 0
    profile: Any = {"driver": "COG", "width": 1300, "height": 1100, "count": 4, "dtype": "uint16", "nodata": 0}
    place: Any = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    path = tmp_path / "cog.tif"
    with rasterio.open(path, "w", **profile, **place, compress="deflate", predictor="yes", blocksize=256) as file:
        file.write(array)
    info = inspect(path)
    assert (info.backend, info.dtype, len(info.bands), info.nodata, info.crs) == ("tiff", "uint16", 4, 0, "EPSG:32633")
    with rasterio.open(path) as file:
        assert [level.downsample for level in info.levels[1:]] == [Pitch.square(step) for step in file.overviews(1)]
    for index, level in enumerate(info.levels):
        with rasterio.open(path, **({"overview_level": index - 1} if index else {})) as file:
            region = read(path, 2**index, Box.whole(level.size))
            np.testing.assert_array_equal(region.pixels, np.moveaxis(file.read(), 0, 2))
            assert region.valid is not None
            np.testing.assert_array_equal(region.valid, file.dataset_mask() > 0)


CODECS = [name for name in tifffile.COMPRESSION.__members__ if "NIKON" not in name]
SAMPLES = {
    "rgb8": (noise(100, 120), "rgb"),
    "grey16": (noise(100, 120, 1, "uint16")[:, :, 0] * 200, "minisblack"),
    "float": (noise(100, 120, 1, "float32")[:, :, 0] / 7, "minisblack"),
    "bits": (noise(100, 120, 1)[:, :, 0] > 100, "minisblack"),
}


def test_every_codec_that_can_be_written_is_read(tmp_path: Path) -> None:
    read_codecs: set[str] = set()
    for name in CODECS:
        for kind, (array, photometric) in SAMPLES.items():
            path = tmp_path / f"{name}-{kind}.tif"
            try:
                tifffile.imwrite(path, array, tile=(64, 64), photometric=photometric, compression=name)
            except (ValueError, KeyError, TypeError, RuntimeError, ImportError):
                continue  # the codec has no encoder, or none for these samples
            if name == "APERIO_JP2000_YCBC":
                continue  # holds other colours than were written: has a test of its own
            expected = np.atleast_3d(tifffile.imread(path))
            expected = expected.astype(np.uint8) * 255 if expected.dtype == np.bool_ else expected
            np.testing.assert_array_equal(read(path).pixels, expected, err_msg=path.name)
            read_codecs.add(name)
    assert len(read_codecs) >= 20, read_codecs


def stored_ycbcr(path: Path, picture: Array, **options: Any) -> None:
    """Write YCbCr that no JPEG decoder turns into colours."""
    stored = np.asarray(PillowImage.fromarray(picture).convert("YCbCr"))
    tifffile.imwrite(path, stored, photometric="ycbcr", **{"subsampling": (1, 1)} | options)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib", "tile": (32, 32)}, {"compression": "lzw"}])
def test_ycbcr_without_jpeg_is_turned_into_colours(tmp_path: Path, options: dict[str, Any]) -> None:
    stored_ycbcr(tmp_path / "a.tif", noise(50, 70), **options)
    found = read(tmp_path / "a.tif").pixels
    assert inspect(tmp_path / "a.tif").bands == ("red", "green", "blue")
    np.testing.assert_allclose(found.astype(int), noise(50, 70), atol=3)


def changed_tag(path: Path, code: int, value: int) -> None:
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags[code].overwrite(value)


def narrow_range(path: Path) -> None:
    references = (16, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1)
    stored_ycbcr(path, noise(50, 70), extratags=[(532, 5, 6, references, True)])


def other_coefficients(path: Path) -> None:
    stored_ycbcr(path, noise(50, 70), extratags=[(529, 11, 3, (0.2126, 0.7152, 0.0722), True)])


def too_few_coefficients(path: Path) -> None:
    stored_ycbcr(path, noise(50, 70), extratags=[(529, 5, 2, (299, 1000, 587, 1000), True)])


def sixteen_bits(path: Path) -> None:
    tifffile.imwrite(path, noise(50, 70, 3, "uint16"), photometric="ycbcr", subsampling=(1, 1))


def four_samples(path: Path) -> None:
    tifffile.imwrite(path, noise(50, 70, 4), photometric="ycbcr", subsampling=(1, 1), extrasamples=["unassalpha"])


def palette_beside(
    path: Path, extra: str, *, dtype: str = "uint8", samples: int = 2, planarconfig: str = "contig"
) -> Array:
    """Write indices of a palette of many colours with further samples beside them, and return the colours."""
    entries = 1 << 8 * np.dtype(dtype).itemsize
    table = np.random.default_rng(0).integers(0, 256, (3, entries))
    stored = noise(50, 70, samples, dtype)
    stored[:20, :, 1] = 0
    tags = [(320, 3, table.size, tuple(int(value) * 257 for value in table.ravel()), True)]
    options: dict[str, Any] = {"photometric": "minisblack", "planarconfig": planarconfig}
    written = stored if planarconfig == "contig" else np.ascontiguousarray(np.moveaxis(stored, 2, 0))
    tifffile.imwrite(path, written, extrasamples=[extra] * (samples - 1), extratags=tags, **options)
    changed_tag(path, 262, 3)
    return table.T[stored[:, :, 0]].astype(np.uint8)


def palette_and_numbers(path: Path) -> None:
    palette_beside(path, "unspecified")


def palette_of_16_bits(path: Path) -> None:
    palette_beside(path, "unassalpha", dtype="uint16")


def palette_and_associated_alpha(path: Path) -> None:
    palette_beside(path, "assocalpha")


def palette_apart_from_alpha(path: Path) -> None:
    palette_beside(path, "unassalpha", planarconfig="separate")


def palette_and_two_samples(path: Path) -> None:
    palette_beside(path, "unassalpha", samples=3)


def other_colours(path: Path, photometric: int) -> None:
    tifffile.imwrite(path, noise(50, 70), photometric="rgb")
    changed_tag(path, 262, photometric)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (narrow_range, "YCbCr without JPEG.*black and white 16, 235, 128, 240, 128, 240"),
        (other_coefficients, "YCbCr without JPEG.*coefficients 0.2126, 0.7152, 0.0722"),
        (too_few_coefficients, "YCbCr without JPEG.*coefficients 0.299, 0.587"),
        (sixteen_bits, "YCbCr without JPEG.*samples in uint16"),
        (four_samples, "YCbCr without JPEG.*4 samples a pixel"),
        (palette_and_numbers, "palette.*2 samples of 8 bits, further ones: unspecified"),
        (palette_and_associated_alpha, "palette.*2 samples of 8 bits, further ones: associated alpha"),
        (palette_apart_from_alpha, "palette.*2 samples of 8 bits, stored apart"),
        (palette_of_16_bits, "palette.*2 samples of 16 bits"),
        (palette_and_two_samples, "palette.*3 samples of 8 bits"),
        (partial(other_colours, photometric=9), r"kind of colours.*ICC L\*a\*b\*"),
        (partial(other_colours, photometric=10), r"kind of colours.*ITU L\*a\*b\*"),
        (partial(other_colours, photometric=32803), "kind of colours.*colour filter array"),
    ],
)
def test_colours_that_no_reader_converts_are_refused(tmp_path: Path, write: Any, said: str) -> None:
    """They would be read as if they were red, green and blue, or grey; the message names what is at fault."""
    write(tmp_path / "a.tif")
    with pytest.raises(SourceError, match=f"(?i){said}"):
        inspect(tmp_path / "a.tif")


def test_a_palette_with_alpha_gives_colours_and_a_mask(tmp_path: Path) -> None:
    colours = palette_beside(tmp_path / "a.tif", "unassalpha")
    found = read(tmp_path / "a.tif")
    assert inspect(tmp_path / "a.tif").bands == ("red", "green", "blue")
    assert found.valid is not None
    assert not found.valid[:20].any()
    assert found.valid[20:].all()
    np.testing.assert_array_equal(found.pixels[20:], colours[20:])


REFERENCES = (0, 255, 128, 255, 128, 255)


@pytest.mark.parametrize(
    "tag",
    [
        (532, 4, 6, REFERENCES, True),
        (529, 11, 3, (0.299, 0.587, 0.114), True),
        (529, 12, 3, (0.299, 0.587, 0.114), True),
    ],
)
def test_facts_about_ycbcr_may_be_stored_in_any_type_of_number(tmp_path: Path, tag: tuple[Any, ...]) -> None:
    """Such files were refused, also with JPEG, of which the facts do not matter."""
    stored_ycbcr(tmp_path / "a.tif", noise(50, 70), extratags=[tag])
    np.testing.assert_allclose(read(tmp_path / "a.tif").pixels.astype(int), noise(50, 70), atol=3)
    options: dict[str, Any] = {"photometric": "rgb", "compression": "jpeg", "subsampling": (1, 1), "tile": (64, 64)}
    tifffile.imwrite(tmp_path / "jpeg.tif", smooth(64, 64), compressionargs={"level": 95}, **options, extratags=[tag])
    np.testing.assert_allclose(read(tmp_path / "jpeg.tif").pixels.astype(int), smooth(64, 64), atol=12)


def test_names_and_scales_of_bands_in_the_file_aux_xml_count(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(20, 30), photometric="minisblack", planarconfig="contig")
    said = ["<ColorInterp>Blue</ColorInterp>", "<ColorInterp>Green</ColorInterp><Description>B3</Description>"]
    said.append("<Description>B8</Description><Scale>0.5</Scale>")
    bands = "".join(f'<PAMRasterBand band="{n}">{text}</PAMRasterBand>' for n, text in enumerate(said, start=1))
    (tmp_path / "a.tif.aux.xml").write_text(f"<PAMDataset>{bands}</PAMDataset>")
    info = inspect(tmp_path / "a.tif")
    assert info.bands == ("blue", "green", "b8")
    assert "a scale of 0.5" in " ".join(info.notes)


def named_beside(path: Path, *bands: str) -> None:
    """Write the file .aux.xml that gives contents to bands in their order."""
    text = "".join(f'<PAMRasterBand band="{n}">{content}</PAMRasterBand>' for n, content in enumerate(bands, start=1))
    Path(f"{path}.aux.xml").write_text(f"<PAMDataset>{text}</PAMDataset>")


def coloured(path: Path, photometric: str, *colours: str) -> None:
    """Write a TIFF whose metadata by GDAL name the colours of its bands."""
    items = "".join(
        f'<Item name="COLORINTERP" sample="{n}" role="colorinterp">{colour}</Item>' for n, colour in enumerate(colours)
    )
    text = f"<GDALMetadata>{items}</GDALMetadata>"
    options: dict[str, Any] = {"photometric": photometric, "planarconfig": "contig"}
    tifffile.imwrite(path, noise(20, 30), extratags=[(42112, 2, len(text) + 1, text, True)], **options)


def test_statistics_that_gdal_stores_beside_a_file_change_neither_its_bands_nor_its_hash(tmp_path: Path) -> None:
    """GDAL repeats the descriptions of bands there, and not their colours: blue was read as red."""
    path = tmp_path / "bgr.tif"
    with rasterio.open(path, "w", count=3, dtype="uint8", photometric="minisblack", **GEO) as file:
        file.write(np.moveaxis(noise(50, 70), 2, 0))
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp.blue, ColorInterp.green, ColorInterp.red]
        file.descriptions = ("B2", "B3", "B4")
    before = fingerprint(path)
    assert inspect(path).bands == ("blue", "green", "red")
    with rasterio.open(path) as file:
        file.stats()
    assert "<Description>B2</Description>" in (tmp_path / "bgr.tif.aux.xml").read_text()
    assert inspect(path).bands == ("blue", "green", "red")
    assert fingerprint(path) == before


def test_a_hash_depends_on_names_beside_a_file_that_change_its_bands(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(20, 30), photometric="minisblack", planarconfig="contig")
    plain = fingerprint(path)
    named_beside(path, "<Description>B2</Description>")
    assert fingerprint(path) != plain
    named_beside(path, "<ColorInterp>Blue</ColorInterp>", "<ColorInterp>Green</ColorInterp>")
    assert fingerprint(path) != plain
    named_beside(path, "<Description>Band_1</Description>", "<ColorInterp>Undefined</ColorInterp>")
    assert fingerprint(path) == plain


@pytest.mark.parametrize("name", ["Band_1", "Band 1", "band1", "Layer_1", "LAYER 12"])
def test_numbers_of_other_programs_beside_a_file_name_no_band(tmp_path: Path, name: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(20, 30), photometric="minisblack", planarconfig="contig")
    named_beside(tmp_path / "a.tif", f"<Description>{name}</Description>", "<Description>B8</Description>")
    assert inspect(tmp_path / "a.tif").bands == ("band1", "b8", "band3")


def test_a_colour_beside_a_file_that_another_band_has_does_not_count(tmp_path: Path) -> None:
    """The bands were called `blue 1`, `green` and `blue 2`."""
    tifffile.imwrite(tmp_path / "a.tif", noise(20, 30), photometric="rgb")
    named_beside(tmp_path / "a.tif", "<ColorInterp>Blue</ColorInterp>")
    assert inspect(tmp_path / "a.tif").bands == ("red", "green", "blue")
    named_beside(tmp_path / "a.tif", "<ColorInterp>Blue</ColorInterp>", "", "<ColorInterp>Red</ColorInterp>")
    assert inspect(tmp_path / "a.tif").bands == ("blue", "green", "red")


@pytest.mark.parametrize("photometric", ["rgb", "minisblack"])
@pytest.mark.parametrize("colours", [("YCbCr_Y", "YCbCr_Cb", "YCbCr_Cr"), ("Hue", "Saturation", "Lightness")])
def test_bands_that_gdal_calls_other_colours_are_refused(
    tmp_path: Path, photometric: str, colours: tuple[str, ...]
) -> None:
    """They were taken for red, green and blue."""
    coloured(tmp_path / "a.tif", photometric, *colours)
    with pytest.raises(SourceError, match=f"(?i)colours are not read.*band 1 is {colours[0]}.*gdal_edit"):
        inspect(tmp_path / "a.tif")
    coloured(tmp_path / "a.tif", photometric)
    named_beside(tmp_path / "a.tif", *(f"<ColorInterp>{colour}</ColorInterp>" for colour in colours))
    with pytest.raises(SourceError, match=f"(?i)colours are not read.*band 1 is {colours[0]}"):
        inspect(tmp_path / "a.tif")


def test_channels_of_colours_are_refused(tmp_path: Path) -> None:
    """They ended as a bug of the reader, after the file was opened."""
    picture = np.stack([noise(40, 50), noise(40, 50)])
    tifffile.imwrite(tmp_path / "a.ome.tif", picture, photometric="rgb", ome=True, metadata={"axes": "CYXS"})
    with pytest.raises(SourceError, match=r"several samples a pixel .*2 channels of 3 samples"):
        inspect(tmp_path / "a.ome.tif")

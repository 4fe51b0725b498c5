"""Masks and overviews in files beside an image are read, and the same pixels hold data as for GDAL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
import tifffile
from rasterio.enums import Resampling

from magnet_cli.errors import SourceError
from magnet_cli.geometry import Box, Pitch
from magnet_cli.images import Request, fingerprint, inspect, open_image
from magnet_cli.images.labels import open_labels

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.images import Region

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")

HEIGHT, WIDTH = 300, 500
VALUES = np.random.default_rng(5).integers(1, 255, (4, HEIGHT, WIDTH)).astype(np.uint8)
SMOOTH = np.add.outer(np.arange(HEIGHT) / 4, np.arange(WIDTH) / 4).astype(np.uint8)
HIDDEN = np.zeros((HEIGHT, WIDTH), bool)
HIDDEN[:100, :120] = True
HIDDEN[250:, 400:433] = True


def image(path: Path, *, bands: int = 3, inside: bool = False, values: NDArray[Any] = VALUES, **options: Any) -> Path:
    """Let GDAL write an image with its mask, inside the file or beside it."""
    facts = {"height": HEIGHT, "width": WIDTH, "count": bands, "dtype": values.dtype, "tiled": True, **options}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside):
        with rasterio.open(path, "w", driver="GTiff", **facts) as file:
            file.write(values[:bands])
        with rasterio.open(path, "r+") as file:
            file.write_mask(~HIDDEN)
    return path


def mask_file(image_path: Path, values: NDArray[Any], flags: dict[int, int], **options: Any) -> None:
    items = "".join(f'<Item name="INTERNAL_MASK_FLAGS_{band}">{flag}</Item>' for band, flag in flags.items())
    text = f"<GDALMetadata>{items}</GDALMetadata>".encode() + b"\0"
    tags = [(42112, 2, len(text), text, True)] if flags else []
    tifffile.imwrite(image_path.with_name(f"{image_path.name}.msk"), values, extratags=tags, metadata=None, **options)


def read(path: Path, *, factor: int = 1, bands: tuple[int, ...] | None = None) -> Region:
    with open_image(path) as opened:
        pitch = Pitch.square(factor)
        box = Box.whole(pitch.cover(opened.info.size))
        return opened.read([Request(pitch=pitch, box=box, bands=bands)])[0]


def valid(found: Region) -> NDArray[np.bool_]:
    return np.ones(found.pixels.shape[:2], bool) if found.valid is None else found.valid


def as_gdal(path: Path) -> None:
    """Check that the same pixels are valid as for GDAL, and that these have the same values."""
    found = read(path)
    with rasterio.open(path) as file:
        wanted, values = file.dataset_mask() > 0, file.read()
    assert np.array_equal(valid(found), wanted)
    assert np.array_equal(found.pixels[wanted], np.moveaxis(values[: found.pixels.shape[2]], 0, 2)[wanted])


@pytest.mark.parametrize("options", [{}, {"nodata": 7}, {"bands": 1, "nodata": 7}, {"compress": "deflate"}])
@pytest.mark.parametrize("inside", [False, True], ids=["beside", "inside"])
def test_a_mask_says_which_pixels_hold_data(options: dict[str, Any], inside: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """A mask has priority over a nodata value, because a valid pixel may have that value."""
    path = image(tmp_path / "s.tif", inside=inside, **options)
    as_gdal(path)
    assert inspect(path).has_mask


def test_a_mask_beside_an_image_goes_before_its_alpha(tmp_path: Path) -> None:
    path = image(tmp_path / "s.tif", bands=4, photometric="RGB", alpha="YES")
    found = read(path)
    assert np.array_equal(valid(found), ~HIDDEN)


LEVELS = (~HIDDEN).astype(np.uint8)
ALL = {1: 2, 2: 2, 3: 2}


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (LEVELS * 255, {}),
        (LEVELS, {"compression": "deflate", "tile": (64, 64)}),
        (LEVELS * 255, {"compression": "lzw", "predictor": True}),
        (LEVELS.astype(bool), {}),
        (LEVELS.astype(bool), {"photometric": "miniswhite"}),
        (LEVELS.astype(bool), {"compression": "packbits"}),
        (LEVELS * 255, {"photometric": "miniswhite"}),
        (LEVELS.astype(np.uint16) * 65535, {"compression": "zstd"}),
        (LEVELS * 3, {"bigtiff": True, "byteorder": ">"}),
    ],
)
def test_masks_of_any_form(values: NDArray[Any], options: dict[str, Any], tmp_path: Path) -> None:
    path = image(tmp_path / "s.tif")
    mask_file(path, values, ALL, **options)
    as_gdal(path)
    found = read(path, factor=3)
    assert found.valid is not None
    assert not found.valid[:33, :40].any()


@pytest.mark.parametrize(
    "flags", [ALL, {1: 0, 2: 0, 3: 0}, {2: 0}, {1: 3, 2: 3, 3: 3}], ids=["all", "each", "second", "odd"]
)
def test_masks_of_single_bands(flags: dict[int, int], tmp_path: Path) -> None:
    path = image(tmp_path / "s.tif")
    apart = np.stack([LEVELS * 255, np.roll(LEVELS, 50, axis=1) * 255, np.roll(LEVELS, 40, axis=0) * 255], axis=2)
    mask_file(path, apart, flags, photometric="rgb")
    found = [valid(read(path, bands=(band,))) for band in range(3)]
    with rasterio.open(path) as file:
        for band in range(3):
            assert np.array_equal(found[band], file.read_masks(band + 1) > 0)
        assert np.array_equal(valid(read(path)), file.dataset_mask() > 0)


def test_a_mask_of_the_whole_image_may_be_named_once(tmp_path: Path) -> None:
    path = image(tmp_path / "s.tif")
    mask_file(path, LEVELS, {1: 2})
    as_gdal(path)


def test_a_mask_that_is_for_no_band_is_ignored_and_said(tmp_path: Path) -> None:
    path = image(tmp_path / "s.tif")
    mask_file(path, LEVELS, {})
    as_gdal(path)
    assert "s.tif.msk beside the image is ignored" in inspect(path).notes[0]


@pytest.mark.parametrize("values", [LEVELS[:200], None], ids=["size", "damaged"])
@pytest.mark.parametrize("opener", [open_image, open_labels])
def test_a_mask_that_cannot_be_the_images_is_refused(
    opener: Callable[[Path], object], values: NDArray[Any] | None, tmp_path: Path
) -> None:
    path = image(tmp_path / "s.tif", bands=1)
    if values is None:
        path.with_name("s.tif.msk").write_bytes(b"no picture at all")
    else:
        mask_file(path, values, ALL)
    with pytest.raises(SourceError, match=r"s\.tif\.msk"):
        opener(path)


def test_a_mask_of_a_palette_serves_its_colours(tmp_path: Path) -> None:
    path = tmp_path / "s.tif"
    colours = np.random.default_rng(1).integers(0, 65536, (3, 256)).astype(np.uint16)
    tifffile.imwrite(path, VALUES[0], photometric="palette", colormap=colours, metadata=None)
    mask_file(path, LEVELS, {1: 2})
    assert np.array_equal(valid(read(path)), ~HIDDEN)


def test_labels_have_masks_too(tmp_path: Path) -> None:
    path = image(tmp_path / "s.tif", bands=1, nodata=7)
    with open_labels(path) as opened:
        found = opened.read(Box.whole(opened.size))
    assert np.array_equal(found, np.where(HIDDEN, 255, VALUES[0]))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_pictures_have_masks_too(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"s{suffix}"
    driver = "JPEG" if suffix == ".jpg" else "PNG"
    with rasterio.open(path, "w", driver=driver, height=HEIGHT, width=WIDTH, count=3, dtype="uint8") as file:
        file.write(VALUES[:3])
    mask_file(path, LEVELS, ALL)
    with rasterio.open(path) as file:
        wanted = file.dataset_mask() > 0
    assert np.array_equal(valid(read(path)), wanted)
    assert not wanted.all()


def test_a_mask_turns_with_its_image(tmp_path: Path) -> None:
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, VALUES[0], extratags=[(274, 3, 1, 6, True)], metadata=None)
    mask_file(path, LEVELS, {1: 2})
    found = read(path)
    assert np.array_equal(valid(found), np.rot90(~HIDDEN, -1))


def overviews(path: Path, factors: list[int], **options: str) -> None:
    with rasterio.Env(TIFF_USE_OVR=True, **options), rasterio.open(path, "r+") as file:
        file.build_overviews(factors, Resampling.nearest)


def test_overviews_of_an_image_whose_0_is_white_are_turned_over_too(tmp_path: Path) -> None:
    """GDAL copies the samples as they are stored into an overview in which 0 is black."""
    values = np.repeat(np.repeat(np.random.default_rng(5).integers(0, 256, (1, 40, 50)), 4, axis=1), 4, axis=2)
    path = tmp_path / "s.tif"
    facts: dict[str, Any] = {"height": 160, "width": 200, "count": 1, "dtype": "uint8", "photometric": "MINISWHITE"}
    with rasterio.open(path, "w", driver="GTiff", **facts) as file:
        file.write(values.astype(np.uint8))
    overviews(path, [2, 4])
    for factor in (1, 2, 4):
        found = read(path, factor=factor).pixels[:, :, 0]
        np.testing.assert_array_equal(found, 255 - values[0, ::factor, ::factor])


@pytest.mark.parametrize("factors", [[2, 4], [3, 5, 7], [2, 3, 4, 8, 16]])
@pytest.mark.parametrize("compress", ["DEFLATE", "JPEG"])
def test_overviews_beside_an_image_are_its_levels(factors: list[int], compress: str, tmp_path: Path) -> None:
    smooth = np.stack([SMOOTH, SMOOTH[::-1], 255 - SMOOTH])  # JPEG decoders differ at edges of colours
    options = {"crs": "EPSG:32633", "transform": rasterio.Affine(2, 0, 9, 0, -2, 8)}
    path = image(tmp_path / "s.tif", values=smooth, **options)
    path.with_name("s.tif.msk").unlink()
    colours = {"PHOTOMETRIC_OVERVIEW": "YCBCR"} if compress == "JPEG" else {}
    overviews(path, factors, COMPRESS_OVERVIEW=compress, INTERLEAVE_OVERVIEW="PIXEL", **colours)
    info = inspect(path)
    with rasterio.open(path) as file:
        sizes = [(-(-WIDTH // factor), -(-HEIGHT // factor)) for factor in file.overviews(1)]
    assert [(level.size.width, level.size.height) for level in info.levels] == [(WIDTH, HEIGHT), *sizes]
    for index, factor in enumerate(factors):
        with rasterio.open(path, overview_level=index) as file:
            stored = np.moveaxis(file.read(), 0, 2).astype(int)
        with open_image(path) as opened:
            level = opened.info.levels[index + 1]
            box = Box.whole(level.downsample.cover(opened.info.size))
            found = opened.read([Request(pitch=level.downsample, box=box, resample="bilinear")])[0].pixels.astype(int)
        assert found.shape == stored.shape, factor
        assert np.abs(found - stored)[:-1, :-1].max() <= (0 if compress == "DEFLATE" else 6)


def test_a_mask_beside_keeps_the_levels_that_it_has_itself(tmp_path: Path) -> None:
    path = image(tmp_path / "s.tif")
    overviews(path, [2, 4])
    assert (tmp_path / "s.tif.msk.ovr").exists()
    assert len(inspect(path).levels) == 3
    quarter = read(path, factor=4)
    assert not valid(quarter)[:25, :30].any()
    assert valid(quarter)[26:62].all()
    (tmp_path / "s.tif.msk.ovr").unlink()
    assert len(inspect(path).levels) == 1
    assert not valid(read(path, factor=4))[:25, :30].any()


def test_what_stands_beside_an_image_belongs_to_its_hash(tmp_path: Path) -> None:
    path = image(tmp_path / "s.tif")
    first = fingerprint(path)
    mask_file(path, np.ones_like(LEVELS), ALL)
    second = fingerprint(path)
    path.with_suffix(".tfw").write_text("1\n0\n0\n-1\n5\n6\n")
    third = fingerprint(path)
    (tmp_path / "s.tif.aux.xml").write_text(
        "<PAMDataset><PAMRasterBand band='1'><Histograms/></PAMRasterBand></PAMDataset>"
    )
    assert third == fingerprint(path)
    assert len({first, second, third}) == 3


def test_nodata_beside_an_image(tmp_path: Path) -> None:
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, VALUES[0], extratags=[(42113, 2, 2, "7", True)], metadata=None)
    (tmp_path / "s.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><NoDataValue>9</NoDataValue></PAMRasterBand></PAMDataset>'
    )
    as_gdal(path)
    assert inspect(path).nodata == 9


ORDERS = ("mask first", "overviews first")
RASTERS = [(*kind, order) for kind in (("HFA", "img"), ("ENVI", "bin")) for order in ORDERS]


# A JPEG 2000 gets no overviews, because its levels are its own.
@pytest.mark.parametrize(("driver", "suffix", "order"), [*RASTERS, ("JP2OpenJPEG", "jp2", "mask first")])
def test_masks_beside_what_gdal_reads_hold_at_every_size(driver: str, suffix: str, order: str, tmp_path: Path) -> None:
    """An overview without a mask states that all of its pixels hold data, so it is not read."""
    path = tmp_path / f"s.{suffix}"
    hidden = np.zeros((512, 512), bool)
    hidden[:256, :128] = True
    facts: dict[str, Any] = {"height": 512, "width": 512, "count": 3, "dtype": "uint8", "crs": "EPSG:32633"}
    facts["transform"] = rasterio.Affine(2, 0, 9, 0, -2, 8)
    if suffix == "jp2":
        facts |= {"REVERSIBLE": "YES", "QUALITY": "100", "RESOLUTIONS": 4}
    with rasterio.open(path, "w", driver=driver, **facts) as file:
        file.write(np.random.default_rng(2).integers(1, 255, (3, 512, 512)).astype(np.uint8))
    for step in ("mask", "overviews") if order == "mask first" else ("overviews", "mask"):
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as file:
            if step == "mask":
                file.write_mask(~hidden)
            elif suffix != "jp2":
                file.build_overviews([2, 4], Resampling.nearest)
    for factor in (1, 2, 4):
        assert np.array_equal(valid(read(path, factor=factor)), ~hidden[::factor, ::factor])

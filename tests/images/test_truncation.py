"""A file that was copied in part is refused before a pixel is read, whichever reader opens it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import pyvips
import tifffile
import zarr

from magnet_cli.errors import SourceError
from magnet_cli.images import inspect, open_image
from magnet_cli.images.labels import open_labels
from tests.images.server import serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Writer = Any
TILES: Any = {"tile": (64, 64), "photometric": "rgb", "compression": "deflate"}


def noise(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).integers(0, 255, shape, np.uint8)


def pages(path: Path, **how: Any) -> None:
    """Write a chain of pages: a picture and two others that are no levels of it."""
    with tifffile.TiffWriter(path, **how) as writer:
        for side in (150, 75, 38):
            writer.write(noise(side, side, 3), metadata=None, **TILES)


def sub_directories(path: Path, *, images: int = 1, **how: Any) -> None:
    """Write pictures with two levels each in SubIFDs."""
    with tifffile.TiffWriter(path, **how) as writer:
        for index in range(images):
            writer.write(noise(150 - index, 150, 3), subifds=2, **TILES)
            for side in (75, 38):
                writer.write(noise(side, side, 3), subfiletype=1, **TILES)


def stack(path: Path, **how: Any) -> None:
    tifffile.imwrite(path, noise(3, 2, 90, 101), metadata={"axes": "ZCYX"}, photometric="minisblack", **how)


def pyramid(path: Path, **how: Any) -> None:
    image = pyvips.Image.new_from_array(noise(300, 350, 3)).copy(interpretation="srgb")
    image.tiffsave(str(path), tile=True, pyramid=True, tile_width=64, tile_height=64, compression="jpeg", **how)


def zipped(path: Path) -> None:
    zarr.create_array(path.with_name("z.zarr"), data=noise(90, 90), chunks=(32, 32))
    shutil.make_archive(str(path.with_suffix("")), "zip", path.with_name("z.zarr"))


def raster(path: Path, driver: str, **how: Any) -> None:
    rasterio = pytest.importorskip("rasterio")
    place = rasterio.Affine(1, 0, 5e5, 0, -1, 5e6)
    shape = {"height": 150, "width": 140, "count": 3, "dtype": "uint8", "crs": "EPSG:32633", "transform": place}
    with rasterio.open(path, "w", driver=driver, **shape, **how) as file:
        file.write(noise(3, 150, 140))


KINDS: dict[str, Callable[[Path], None]] = {
    "pages.tif": pages,
    "big-endian.tif": lambda path: pages(path, byteorder=">"),
    "bigtiff.tif": lambda path: pages(path, bigtiff=True),
    "sub.tif": sub_directories,
    "one.ome.tif": lambda path: sub_directories(path, ome=True),
    "two.ome.tif": lambda path: sub_directories(path, ome=True, images=2, bigtiff=True),
    "planes.ome.tif": lambda path: stack(path, ome=True),
    "tiled-planes.ome.tif": lambda path: stack(path, ome=True, tile=(64, 64), compression="deflate"),
    "imagej.tif": lambda path: stack(path, imagej=True),
    "vips.tif": pyramid,
    "vips-sub.tif": lambda path: pyramid(path, subifd=True),
    "strips.tif": lambda path: raster(path, "GTiff"),
    "planes.tif": lambda path: raster(path, "GTiff", interleave="band", tiled=True, blockxsize=64, blockysize=64),
    "z.zarr.zip": zipped,
    "raw.dat": lambda path: raster(path, "ENVI"),
    "erdas.img": lambda path: raster(path, "HFA"),
    "erdas-compressed.img": lambda path: raster(path, "HFA", COMPRESS="YES"),
    "pcidsk.pix": lambda path: raster(path, "PCIDSK"),
    "picture.jp2": lambda path: raster(path, "JP2OpenJPEG"),
}
SPARE = {"imagej.tif": 16}
"""Bytes at the end of a file to which nothing in it refers."""


@pytest.mark.parametrize("name", KINDS)
def test_a_file_that_ends_too_early_is_refused_when_it_is_opened(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    KINDS[name](path)
    whole = path.read_bytes()
    assert inspect(path).notes is not None
    last = len(whole) - SPARE.get(name, 0)
    for length in sorted({*(int(share * last) for share in (0.1, 0.3, 0.5, 0.8, 0.9, 0.97)), last - 50, last - 1}):
        path.write_bytes(whole[:length])
        with pytest.raises(SourceError) as caught:
            open_image(path)
        assert caught.value.exit_code == 3
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [True, False])
def test_a_chain_of_directories_that_leads_beyond_the_end_is_named_by_its_numbers(
    tmp_path: Path,
    byteorder: Any,
    bigtiff: bool,  # noqa: FBT001 (pytest)
) -> None:
    path = tmp_path / "a.tif"
    pages(path, byteorder=byteorder, bigtiff=bigtiff)
    with tifffile.TiffFile(path) as file:
        starts = [page.offset for page in file.pages]
    whole = path.read_bytes()
    for length in starts[1:]:
        path.write_bytes(whole[:length])
        with pytest.raises(SourceError, match=f"{length:,} bytes, and the next directory would be at byte {length:,}"):
            inspect(path)
    path.write_bytes(whole[:-1])
    with pytest.raises(SourceError, match=r"1 of 1 tiles or strips of a picture of 38x38 .* needs at least"):
        inspect(path)
    path.write_bytes(whole[: starts[1] + 30])
    with pytest.raises(SourceError, match="end inside a directory"):
        inspect(path)


@pytest.mark.parametrize("bigtiff", [True, False])
def test_a_first_directory_beyond_the_end_is_named_by_its_numbers(
    tmp_path: Path,
    bigtiff: bool,  # noqa: FBT001 (pytest)
) -> None:
    path = tmp_path / "a.tif"
    # libvips writes the directory of a picture after its pixels.
    pyvips.Image.new_from_array(noise(90, 101, 3)).tiffsave(str(path), bigtiff=bigtiff)
    with tifffile.TiffFile(path) as file:
        start = file.pages.first.offset
    whole = path.read_bytes()
    for length in (start, start // 2, 16):
        path.write_bytes(whole[:length])
        with pytest.raises(SourceError, match=f"truncated .* {length:,} bytes, and the directory .* byte {start:,}"):
            inspect(path)
        with pytest.raises(SourceError, match="truncated"):
            open_labels(path)


def test_a_chain_that_leads_nowhere_inside_the_file_is_read_with_a_note(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(100, 100, 3), photometric="rgb", metadata=None)
    with tifffile.TiffFile(path) as file:
        place, target = file.pages.next_page_offset, int(file.pages[0].aspage().dataoffsets[0])
    data = bytearray(path.read_bytes())
    assert place is not None
    data[place : place + 4] = target.to_bytes(4, "little")
    data[target : target + 2] = b"\xff\xff"
    path.write_bytes(data)
    assert any(f"leads to byte {target:,}, where there is no directory" in note for note in inspect(path).notes)


@pytest.mark.parametrize("ending", [".msk", ".ovr"])
def test_truncated_files_beside_an_image_are_refused(tmp_path: Path, ending: str) -> None:
    image, beside = tmp_path / "a.tif", tmp_path / f"a.tif{ending}"
    tifffile.imwrite(image, noise(100, 100, 3), photometric="rgb", tile=(32, 32))
    side, samples = (100, 1) if ending == ".msk" else (50, 3)
    flags = '<GDALMetadata><Item name="INTERNAL_MASK_FLAGS_1">2</Item></GDALMetadata>'
    tifffile.imwrite(
        beside,
        noise(side, side, samples).squeeze(),
        subfiletype=0 if ending == ".msk" else 1,
        tile=(32, 32),
        photometric="minisblack" if samples == 1 else "rgb",
        metadata=None,
        extratags=[(42112, 2, 0, flags, True)],
    )
    inspect(image)
    beside.write_bytes(beside.read_bytes()[:-40])
    with pytest.raises(SourceError, match="truncated"):
        inspect(image)


def test_a_truncated_truth_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "truth.tif"
    tifffile.imwrite(path, noise(100, 100), tile=(32, 32), metadata=None)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(SourceError, match="truncated"):
        open_labels(path)


@pytest.mark.parametrize("name", ["pages.tif", "two.ome.tif", "planes.ome.tif"])
def test_truncated_files_behind_an_address_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    KINDS[name](tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    with serving(tmp_path) as server:
        inspect(server.url(name))
        for length in (len(whole) // 2, len(whole) * 9 // 10, len(whole) - 1):
            (tmp_path / name).write_bytes(whole[:length])
            with pytest.raises(SourceError, match="truncated"):
                inspect(server.url(name))

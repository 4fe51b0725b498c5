"""A change of an input is noticed, whichever kind of file it is read from."""

from __future__ import annotations

import math
import os
import sys
import time
from fractions import Fraction
from itertools import product
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import pytest
import tifffile
import zarr

from magnet_cli.errors import SourceError
from magnet_cli.geometry import LEVEL0, Box, Pitch, Size
from magnet_cli.images import InputStates, Request, open_image
from magnet_cli.images.protocol import ImageInfo, Level, Region
from magnet_cli.images.read_samples import KEPT, SPOT_SIDE, ReadSamples
from magnet_cli.images.tiff_store import TiffStore
from tests.images.server import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

PIXELS = np.random.default_rng(0).integers(0, 255, (64, 70, 3), np.uint8)


def plain(folder: Path) -> Path:
    tifffile.imwrite(folder / "a.tif", PIXELS, photometric="rgb", tile=(32, 32))
    return folder / "a.tif"


def set_of_files(folder: Path) -> Path:
    """Write an OME-TIFF of two channels in two files."""
    names = ["one.ome.tif", "two.ome.tif"]
    entries = "".join(
        f'<TiffData FirstC="{channel}" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{channel}</UUID></TiffData>'
        for channel, name in enumerate(names)
    )
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="70" SizeY="64" SizeC="2" SizeZ="1" SizeT="1">'
        f'<Channel ID="Channel:0:0"/><Channel ID="Channel:0:1"/>{entries}</Pixels></Image></OME>'
    )
    for index, name in enumerate(names):
        tifffile.imwrite(folder / name, PIXELS[:, :, index], description=xml, metadata=None)
    return folder / names[0]


def mosaic(folder: Path) -> Path:
    pytest.importorskip("rasterio")
    source = plain(folder)
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource><SourceFilename relativeToVRT="1">{source.name}'
        f"</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
        for band in (1, 2, 3)
    )
    path = folder / "a.vrt"
    path.write_text(f'<VRTDataset rasterXSize="70" rasterYSize="64">{bands}</VRTDataset>')
    return path


def chunks(folder: Path) -> Path:
    zarr.create_array(folder / "a.zarr", data=PIXELS[:, :, 0], chunks=(32, 32))
    return folder / "a.zarr"


def beside(name: str, text: str) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        (folder / name).write_text(text)
        return plain(folder)

    return made


def masked(folder: Path) -> Path:
    tifffile.imwrite(folder / "a.tif.msk", PIXELS[:, :, 0], tile=(32, 32))
    return plain(folder)


CASES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "the image": (plain, "a.tif"),
    "a sibling": (set_of_files, "two.ome.tif"),
    "a file of a mosaic": (mosaic, "a.tif"),
    "a chunk": (chunks, "a.zarr/c/1/1"),
    "a world file": (beside("a.tfw", "1\n0\n0\n-1\n10\n20\n"), "a.tfw"),
    "GDAL's metadata": (beside("a.tif.aux.xml", "<PAMDataset><SRS>EPSG:32633</SRS></PAMDataset>"), "a.tif.aux.xml"),
    "a mask": (masked, "a.tif.msk"),
}


@pytest.mark.parametrize("name", CASES)
def test_each_file_of_an_input_is_watched(tmp_path: Path, name: str) -> None:
    make, file = CASES[name]
    source, changing = make(tmp_path), tmp_path / file
    states = InputStates.of([source])
    states.refuse_change()
    data = changing.read_bytes()
    changing.write_bytes(data + b"\n")
    error = states.change(quick=True)
    assert error is not None
    assert f"{changing.name} had {len(data):,} bytes and has {len(data) + 1:,}" in str(error)
    changing.unlink()
    with pytest.raises(SourceError, match=f"{changing.name} was removed"):
        states.refuse_change()


def test_other_bytes_of_the_same_length_and_time_are_noticed(tmp_path: Path) -> None:
    source = plain(tmp_path)
    states, before = InputStates.of([source]), source.stat()
    data = bytearray(source.read_bytes())
    data[-1] ^= 1
    source.write_bytes(bytes(data))
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert states.change(quick=True) is None
    with pytest.raises(SourceError, match="its content is another"):
        states.refuse_change()


def unread(source: str | Path) -> str:
    """Take the place of `fingerprint` where the bytes of an input need not be read again."""
    raise AssertionError(source)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no time of the last change that nobody can set")
def test_a_file_is_untouched_as_long_as_nothing_writes_to_it_or_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = 20_000_000
    monkeypatch.setattr("magnet_cli.images.input_states.SETTLING", ticks)

    def noted() -> InputStates:
        time.sleep(2 * ticks / 1e9)
        return InputStates.of([source])

    source = plain(tmp_path)
    data, before = source.read_bytes(), source.stat()
    other = tmp_path / "other.tif"
    other.write_bytes(data)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    states = noted()
    source.read_bytes()
    assert states.is_untouched(source)
    with monkeypatch.context() as patched:
        patched.setattr("magnet_cli.images.input_states.fingerprint", unread)
        assert states.change() is None
        (tmp_path / "a.tfw").write_text("1\n0\n0\n-1\n0\n0\n")
        with pytest.raises(AssertionError):
            states.change()
    assert states.change() is not None
    (tmp_path / "a.tfw").unlink()
    assert not states.is_untouched(other)
    assert not InputStates.of([source], content=False).is_untouched(source)
    source.write_bytes(data)
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert states.change() is None
    assert not states.is_untouched(source), "its bytes were others for a moment, perhaps"
    states = noted()
    other.replace(source)
    assert states.change() is None
    assert not states.is_untouched(source)
    states = noted()
    (tmp_path / "a.tif.msk").write_bytes(data)
    (tmp_path / "a.tif.msk").unlink()
    assert states.is_untouched(source)
    with monkeypatch.context() as patched:
        patched.setattr("magnet_cli.images.input_states.SETTLING", 1 << 62)
        assert not noted().is_untouched(source), "the clock of the file system may not have ticked since"
    for name in ("SMALL_BYTES", "HEAD_BYTES", "SAMPLE_BYTES"):
        monkeypatch.setattr(sys.modules["magnet_cli.images.fingerprint"], name, 16)
    assert not InputStates.of([source]).is_untouched(source), "of a large file, samples are hashed"


def test_a_large_file_that_was_written_to_is_refused_though_its_samples_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The package has a function of the module's name.
    for name in ("SMALL_BYTES", "HEAD_BYTES", "SAMPLE_BYTES"):
        monkeypatch.setattr(sys.modules["magnet_cli.images.fingerprint"], name, 16)
    source = plain(tmp_path)
    states = InputStates.of([source])
    os.utime(source, (1, 1))
    with pytest.raises(SourceError, match=r"a\.tif was written to"):
        states.refuse_change()


@pytest.mark.parametrize(("make", "file"), [(mosaic, "a.tif"), (masked, "a.tif.msk")])
def test_other_files_of_an_input_that_are_hashed_in_part_may_not_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Path], file: str
) -> None:
    source, changing = make(tmp_path), tmp_path / file
    module = sys.modules["magnet_cli.images.fingerprint"]
    size = source.stat().st_size
    if make is masked:
        # The image is hashed whole, and the mask beside it in samples.
        with changing.open("ab") as stream:
            stream.write(bytes(3 * size))
        for name in ("HEAD_BYTES", "SAMPLE_BYTES"):
            monkeypatch.setattr(module, name, 16)
    monkeypatch.setattr(module, "SMALL_BYTES", size)
    states = InputStates.of([source])
    data = bytearray(changing.read_bytes())
    data[3 * len(data) // 4] ^= 1
    changing.write_bytes(data)
    os.utime(changing, (1, 1))
    with pytest.raises(SourceError, match=f"{file} was written to"):
        states.refuse_change()


def test_a_file_behind_an_address_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    source = plain(tmp_path)
    with serving(tmp_path) as server:
        states = InputStates.of([server.url("a.tif")])
        states.refuse_change()
        tifffile.imwrite(source, PIXELS[::-1], photometric="rgb", tile=(32, 32))
        with pytest.raises(SourceError, match="its content is another"):
            states.refuse_change()


class Counting:
    """An image with one value in all pixels: its own number in the order in which the images were made."""

    info = ImageInfo(
        path="a.tif",
        backend="tiff",
        size=Size(width=4096, height=4096),
        levels=(Level(size=Size(width=4096, height=4096), downsample=LEVEL0),),
        bands=("grey",),
        dtype="uint8",
    )

    def __init__(self, value: int = 0) -> None:
        self.value = value
        self.boxes: list[Box] = []

    def read(self, requests: Sequence[Request]) -> list[Region]:
        self.boxes += [request.pitch.level0(request.box) for request in requests]
        return [Region(pixels=np.full((1, 1, 1), self.value, np.uint8), valid=None) for _ in requests]

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("reads", [1, 6, 1000])
@pytest.mark.parametrize("pitch", [1, Fraction(8, 3), 64])
def test_few_small_spots_are_read_twice_however_many_and_large_the_reads_are(reads: int, pitch: Fraction) -> None:
    image: Any = Counting()
    samples = ReadSamples(image)
    box = Box.whole(Pitch.square(pitch).cover(image.info.size))
    for _ in range(reads):
        samples.read([Request(pitch=Pitch.square(pitch), box=box)])
    again: Any = Counting()
    samples.refuse_difference(again)
    assert min(reads, KEPT // 2) <= len(again.boxes) <= min(reads, KEPT)
    # A spot is one pixel of the request where that covers more than the spot's side.
    assert max(found.area for found in again.boxes) <= (SPOT_SIDE + math.ceil(pitch)) ** 2
    assert len(set(again.boxes)) == len(again.boxes), "the spots lie at different places"
    extra = len(image.boxes) - reads
    assert extra <= KEPT // 2 * math.ceil(math.log2(2 + reads / KEPT) + 2), (
        "each doubling of the reads adds a few spots"
    )
    other: Any = Counting(1)
    with pytest.raises(SourceError, match="the pixels in box"):
        samples.refuse_difference(other)


def test_repeated_reads_decode_few_tiles_of_an_image_of_few_blocks(tmp_path: Path) -> None:
    path, side = tmp_path / "a.tif", 512
    tifffile.imwrite(path, np.zeros((2 * side, 3 * side), np.uint8), tile=(128, 128))
    decoding = patch.object(TiffStore, "_bands", autospec=True, side_effect=TiffStore._bands)
    with decoding as decoded, open_image(path) as image, open_image(path) as again:
        samples = ReadSamples(image)
        for x, y in product(range(0, 3 * side, side), range(0, 2 * side, side)):
            samples.read([Request(pitch=LEVEL0, box=Box(x=x, y=y, width=side, height=side))])
        tiles = 6 * (side // 128) ** 2
        assert decoded.call_count == tiles, "the tiles of a spot are kept for the read that follows"
        samples.refuse_difference(again)
        assert decoded.call_count - tiles <= tiles / 4


def test_a_change_between_the_spot_and_its_read_is_noticed() -> None:
    image: Any = Counting()
    samples = ReadSamples(image)
    samples.read([Request(pitch=LEVEL0, box=Box(x=0, y=0, width=512, height=512))])
    assert image.boxes[0].area < image.boxes[1].area, "the spot comes first"


def test_reads_of_a_real_image_agree_with_themselves(tmp_path: Path) -> None:
    path = plain(tmp_path)
    box = Box(x=0, y=0, width=70, height=64)
    with open_image(path) as image, open_image(path) as again:
        samples = ReadSamples(image)
        (region,) = samples.read([Request(pitch=LEVEL0, box=box)])
        np.testing.assert_array_equal(region.pixels, PIXELS)
        samples.refuse_difference(again)

"""Law 8: a hostile file costs an error message, and neither the machine's memory nor its time."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import socket
import sys
import time
import zipfile
import zlib
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import imagecodecs
import numcodecs
import numpy as np
import pytest
import tifffile
import torch
import zarr
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype

from magnet_cli import images
from magnet_cli.errors import SourceError, WeightsError
from magnet_cli.geometry import LEVEL0, Box, Size
from magnet_cli.images.jpeg import check_jpeg, check_jpeg2000, check_webp
from magnet_cli.images.ome import OmeError, parse_ome
from magnet_cli.images.zarr_stores import checked, unpacked_size
from magnet_cli.models import weights_file
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.bundle_check import verify_bundle
from magnet_cli.models.networks import load_networks
from magnet_cli.run.engine import missing
from magnet_cli.system import regular_files
from tests.cli.support import invoke, write_colours_bundle, write_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from magnet_cli.run.job import RunPass

posix = pytest.mark.skipif(sys.platform == "win32", reason="wants pipes and devices in the file system")
SECONDS = 20
"""Longest time for a refusal. A reader of a pipe would wait for ever, and an alarm ends the test."""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_colours_bundle(tmp_path / "bundle")


@contextmanager
def quick() -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < SECONDS


def fifo(path: Path) -> None:
    os.mkfifo(path)


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def bound_socket(path: Path) -> None:
    own = socket.socket(socket.AF_UNIX)
    # A path to a socket may have about a hundred bytes only.
    before = os.getcwd()  # noqa: PTH109 - to go back by its very name
    os.chdir(path.parent)
    try:
        own.bind(path.name)
    finally:
        os.chdir(before)
        own.close()


SPECIAL = pytest.mark.parametrize("make", [fifo, zeros, bound_socket])


@posix
@SPECIAL
def test_only_regular_files_are_read(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "x")
    for read in (regular_files.content, regular_files.sha256_of, regular_files.check_regular):
        with quick(), pytest.raises(OSError, match="no regular file"):
            read(tmp_path / "x")
    assert not regular_files.is_file(tmp_path / "x")


@posix
@SPECIAL
def test_inputs_of_all_kinds_have_to_be_regular_files(
    make: Callable[[Path], None], bundle: Path, tmp_path: Path
) -> None:
    image = write_image(tmp_path / "s.tif")
    for name in ("x.tif", "x.geojson", "x.csv", "x.toml"):
        make(tmp_path / name)
    weights = ("--weights", bundle)
    out = ("-o", tmp_path / "out")
    for code, words in (
        (3, ("info", tmp_path / "x.tif")),
        (3, ("segment", tmp_path / "x.tif", *weights, *out)),
        (3, ("segment", image, *weights, *out, "--roi", tmp_path / "x.geojson")),
        (3, ("segment", image, *weights, *out, "--mask", tmp_path / "x.tif")),
        (3, ("evaluate", tmp_path / "x.tif", image)),
        (3, ("evaluate", "--data", tmp_path / "x.csv", *weights)),
        (3, ("refine", image, tmp_path / "x.tif", "--method=guided", *out)),
        (2, ("train", "backbone", image, "--config", tmp_path / "x.toml", *out)),
    ):
        with quick():
            ended = invoke(*words)
        assert ended.exit_code == code, (words, ended.stderr)
        assert "regular file" in ended.stderr or "a pipe" in ended.stderr, (words, ended.stderr)
    assert invoke("verify", tmp_path / "x.tif").exit_code != 0
    (bundle / "backbone.safetensors").unlink()
    make(bundle / "backbone.safetensors")
    with quick():
        ended = invoke("segment", image, *weights, *out)
    assert ended.exit_code == 4
    assert "no regular file" in ended.stderr
    (bundle / "bundle.json").unlink()
    make(bundle / "bundle.json")
    with quick():
        assert invoke("weights", "show", bundle).exit_code == 4


@posix
@SPECIAL
def test_chunks_of_zarr_images_have_to_be_regular_files(make: Callable[[Path], None], tmp_path: Path) -> None:
    array = zarr.create_array(str(tmp_path / "s.zarr"), shape=(64, 64), chunks=(64, 64), dtype="u1", zarr_format=3)
    array[:] = np.ones((64, 64), np.uint8)
    (chunk,) = (tmp_path / "s.zarr" / "c").rglob("0/0")
    chunk.unlink()
    make(chunk)
    with quick(), images.open_image(tmp_path / "s.zarr") as image:
        request = images.Request(pitch=LEVEL0, box=Box.whole(image.info.size))
        with pytest.raises(SourceError, match="no regular file"):
            image.read([request])


@pytest.mark.parametrize("width", [10_000_000, 1 << 40])
@pytest.mark.parametrize("sha256", ["given", ""])
def test_a_small_bundle_that_asks_for_a_huge_network_is_refused_from_the_numbers(
    width: int, sha256: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = bundle / "bundle.json"
    described: dict[str, Any] = json.loads(file.read_text())
    entry = described["networks"]["backbone"]
    entry |= {"architecture": "fpn-small", "options": {"width": width}}
    if not sha256:
        del entry["sha256"]
    file.write_text(json.dumps(described))
    allocated: list[str] = []
    normal = torch.nn.Parameter.__new__

    def counted(cls: type, data: Any = None, requires_grad: bool = True) -> Any:  # noqa: FBT001, FBT002 - as torch's own
        allocated.append(data.device.type)
        return normal(cls, data, requires_grad)

    monkeypatch.setattr(torch.nn.Parameter, "__new__", counted)
    with quick(), pytest.raises(WeightsError):
        load_networks(load_bundle(bundle), device="cpu", precision="float32")
    (check,) = verify_bundle(load_bundle(bundle))
    assert check.error is not None
    assert set(allocated) <= {"meta"}
    assert invoke("plan", write_image(bundle.parent / "s.tif"), "--weights", bundle).exit_code in (4, 6)


def test_a_header_of_weights_that_lies_about_its_sizes_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [10**7, 10**7], "data_offsets": [0, 4 * 10**14]}}).encode()
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    with pytest.raises(WeightsError, match="not a safetensors file"):
        weights_file.stated_shapes(tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + header)
    with pytest.raises(WeightsError, match="not a safetensors file"):
        weights_file.stated_shapes(tmp_path / "w.safetensors")


@pytest.mark.parametrize("packed", ["zstd", "blosc", "gzip"])
def test_a_chunk_that_unpacks_to_more_than_any_chunk_is_refused_from_its_header(packed: str, tmp_path: Path) -> None:
    codec: Any = {"zstd": ZstdCodec(), "blosc": BloscCodec(), "gzip": GzipCodec()}[packed]
    array = zarr.create_array(str(tmp_path / "s.zarr"), shape=(64, 64), chunks=(64, 64), dtype="u1", compressors=codec)
    array[:] = np.ones((64, 64), np.uint8)
    (chunk,) = (path for path in (tmp_path / "s.zarr" / "c").rglob("*") if path.is_file())
    data = chunk.read_bytes()
    assert unpacked_size(data[:32], data[-4:], len(data)) == 64 * 64
    huge = (1 << 30).to_bytes(4, "little")
    if packed == "zstd":
        chunk.write_bytes(data[:4] + bytes([data[4] & 0x3F | 0x80 | 0x20]) + huge + data[7:])
    else:
        chunk.write_bytes(data[:4] + huge + data[8:] if packed == "blosc" else data[:-4] + huge)
    with images.open_image(tmp_path / "s.zarr") as image:
        request = images.Request(pitch=LEVEL0, box=Box.whole(image.info.size))
        with pytest.raises(SourceError, match="unpacks to 1,073,741,824 bytes"):
            image.read([request])


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
@pytest.mark.parametrize(
    ("version", "consolidated", "shards"),
    [(2, False, None), (2, True, None), (3, False, None), (3, True, None), (3, False, (64, 64))],
)
def test_a_blosc_chunk_that_states_another_length_is_refused(
    version: Any, tmp_path: Path, *, consolidated: bool, shards: tuple[int, int] | None
) -> None:
    """The decoder would read the memory beyond it, and end the process."""
    group = zarr.create_group(tmp_path / "s.zarr", zarr_format=version)
    packed: Any = numcodecs.Blosc() if version == 2 else BloscCodec()
    values = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64) // 3
    side = 64 if shards is None else 32
    group.create_array("0", data=values, chunks=(side, side), shards=shards, compressors=packed)
    axes = [{"name": name, "type": "space"} for name in "yx"]
    one = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1]}]}
    scales: Any = [{"axes": axes, "datasets": [one], "version": "0.4"}]
    group.attrs.update({"multiscales": scales} if version == 2 else {"ome": {"multiscales": scales}})
    if consolidated:
        zarr.consolidate_metadata(tmp_path / "s.zarr", zarr_format=version)
    (chunk,) = (
        path
        for path in (tmp_path / "s.zarr" / "0").rglob("*")
        if path.is_file() and path.name[0] != "." and path.suffix != ".json"
    )
    data = chunk.read_bytes()
    right = int.from_bytes(data[12:16], "little")
    assert right == len(data) or shards is not None
    for stated in (right, 1 << 30):
        chunk.write_bytes(data[:12] + stated.to_bytes(4, "little") + data[16:])
        with images.open_image(tmp_path / "s.zarr") as image:
            request = images.Request(pitch=LEVEL0, box=Box.whole(image.info.size))
            if stated == right:
                np.testing.assert_array_equal(image.read([request])[0].pixels[..., 0], values)
            else:
                with pytest.raises(SourceError, match="states that it has 1,073,741,824"):
                    image.read([request])


def repeated_blocks(count: int) -> bytes:
    """Return a Zstandard frame without a stated size, of blocks that repeat one byte 128 KiB times each."""
    block, last = ((128 << 10) << 3 | 1 << 1 | end for end in (0, 1))
    body = (block.to_bytes(3, "little") + b"\1") * (count - 1) + last.to_bytes(3, "little") + b"\1"
    return b"\x28\xb5\x2f\xfd\x00\x58" + body


@pytest.mark.parametrize("packed", ["zstd", "gzip", "gzip in members", "zlib", "bzip2", "xz"])
def test_a_chunk_that_does_not_state_its_size_is_refused_once_it_is_too_large(
    packed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magnet_cli.images.zarr_stores.MOST_BYTES", 8 << 20)
    pack: dict[str, Callable[[int], bytes]] = {
        "zstd": lambda size: repeated_blocks(size >> 17),
        # The size at the end is that modulo 2 to the 32nd.
        "gzip": lambda size: gzip.compress(bytes(size))[:-4] + bytes(4),
        "gzip in members": lambda size: gzip.compress(bytes(size // 2)) * 2,
        "zlib": lambda size: zlib.compress(bytes(size)),
        "bzip2": lambda size: bz2.compress(bytes(size)),
        "xz": lambda size: lzma.compress(bytes(size)),
    }
    buffer = default_buffer_prototype().buffer
    assert checked(buffer.from_bytes(pack[packed](4 << 20)), "c") is not None
    with pytest.raises(OSError, match="unpacks to"):
        checked(buffer.from_bytes(pack[packed](12 << 20)), "c")
    assert numcodecs.Zstd().decode(repeated_blocks(32)) == b"\1" * (4 << 20)


def test_members_of_zip_files_and_metadata_have_a_largest_size(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("zarr.json", "w", force_zip64=True) as member,
    ):
        for _ in range(9):
            member.write(bytes(64 << 20))
    with quick(), pytest.raises(SourceError, match="unpacks to 603,979,776 bytes"):
        images.inspect(tmp_path / "bomb.zip")
    (tmp_path / "s.zarr").mkdir()
    with (tmp_path / "s.zarr" / "zarr.json").open("wb") as file:
        file.truncate(1 << 40)
    with quick(), pytest.raises(SourceError, match="at most 536,870,912"):
        images.inspect(tmp_path / "s.zarr")


def test_entities_of_ome_xml_are_refused(tmp_path: Path) -> None:
    lol = "".join(f'<!ENTITY l{index + 1} "{f"&l{index};" * 9}">' for index in range(9))
    text = (
        f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY l0 "lol">{lol}]><OME xmlns="http://www.openmicroscopy.org/Schemas/'
    )
    tifffile.imwrite(
        tmp_path / "s.ome.tif",
        np.zeros((32, 32), np.uint8),
        description=text + 'OME/2016-06"><Image Name="&l9;"/></OME>',
        metadata=None,
    )
    with quick():
        assert invoke("info", tmp_path / "s.ome.tif").exit_code in (0, 3)
    with pytest.raises(OmeError, match="document type"):
        parse_ome(text)


def test_json_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    deep = "[" * 100_000
    image = write_image(tmp_path / "s.tif")
    (tmp_path / "s.geojson").write_text(deep)
    (tmp_path / "s.zarr").mkdir()
    (tmp_path / "s.zarr" / "zarr.json").write_text('{"zarr_format":3,"node_type":"group","attributes":' + deep)
    with quick():
        assert invoke("info", tmp_path / "s.zarr").exit_code == 3
        ended = invoke("segment", image, "--roi", tmp_path / "s.geojson", "-o", tmp_path / "out")
    assert ended.exit_code == 3


def test_groups_that_are_missing_are_not_listed_before_they_are_read() -> None:
    """An image of a few kilobytes may declare any number of pixels, and so of groups."""
    step = cast("RunPass", SimpleNamespace(groups=1 << 60))
    assert next(iter(missing(step, {0, 1}))) == 2


@pytest.mark.parametrize("kind", ["jpeg", "jpeg2000", "webp lossy", "webp lossless"])
def test_a_tile_that_declares_a_huge_picture_is_refused_from_its_header(kind: str) -> None:
    """The decoders allocate whatever the header says: 4 GiB for a tile of 64 x 64."""
    pixels, chunk = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8), Size(width=64, height=64)
    if kind == "jpeg":
        data = bytes(imagecodecs.jpeg_encode(pixels))
        at = data.index(b"\xff\xc0") + 5
        check, huge = check_jpeg, data[:at] + b"\xff\xf0\xff\xf0" + data[at + 4 :]
    elif kind == "jpeg2000":
        data = bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k"))
        check, huge = check_jpeg2000, data[:8] + b"\x00\x01\x00\x00\x00\x01\x00\x00" + data[16:]
    elif kind == "webp lossy":
        data = bytes(imagecodecs.webp_encode(pixels, level=50, lossless=False))
        check, huge = check_webp, data[:26] + b"\xff\x3f\xff\x3f" + data[30:]
    else:
        data = bytes(imagecodecs.webp_encode(pixels, lossless=True))
        check, huge = check_webp, data[:21] + b"\xff\xff\xff\x0f" + data[25:]
    check(data, chunk)
    with pytest.raises(ValueError, match=r"declares \d+ x \d+ pixels in a tile of 64x64"):
        check(huge, chunk)

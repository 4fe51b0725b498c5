"""Images behind a URL give the same pixels as on a disk for few bytes, and errors of the network are plain."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import pyvips
import tifffile
import zarr

from magnet_cli.errors import SourceError, UsageError
from magnet_cli.geometry import LEVEL0, Box, Pitch
from magnet_cli.images import Request, find_images, fingerprint, inspect, open_image, stem
from magnet_cli.images.blob_source import open_blob
from magnet_cli.images.bounded_response import whole_limit
from magnet_cli.images.remote import filesystem
from magnet_cli.images.urls import is_url, url_name
from tests.buckets import forget_services
from tests.images.server import Server, serving
from tests.images.support import info_without
from tests.images.test_contract import ImageContract, TestOmeZarr3, TestPng, TestTiledTiff, picture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from magnet_cli.images import Image

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("magnet_cli.images.remote.PAUSE_SECONDS", 0.01)
    with serving(tmp_path) as server:
        yield server


class Served(ImageContract):
    """The contract of every reader, over HTTP."""

    @pytest.fixture(autouse=True)
    def serve(self, server: Server) -> None:
        self.server = server

    def open(self, path: Path) -> Image:
        return open_image(self.server.url(path.relative_to(self.server.folder).as_posix()))


class TestServedTiff(Served, TestTiledTiff):
    pass


class TestServedPng(Served, TestPng):
    pass


class TestServedZarr(Served, TestOmeZarr3):
    pass


def noise(path: Path, side: int = 2048) -> Path:
    """Write a pyramid whose tiles do not compress: 12 MiB at level 0, and a quarter of that at level 1."""
    values = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    with tifffile.TiffWriter(path) as writer:
        options: Any = {"tile": (256, 256), "photometric": "rgb", "compression": "deflate"}
        writer.write(values, **options)
        writer.write(values[::2, ::2], subfiletype=1, **options)
    return path


def corner(source: str | Path, pitch: int = 1) -> Any:
    with open_image(source) as image:
        grid = Pitch.square(pitch)
        return image.read([Request(pitch=grid, box=Box(x=10, y=20, width=200, height=100))])[0].pixels


@pytest.mark.parametrize("pitch", [1, 2])
def test_only_what_is_looked_at_is_fetched(server: Server, tmp_path: Path, pitch: int) -> None:
    path = noise(tmp_path / "noise.tif")
    np.testing.assert_array_equal(corner(server.url("noise.tif"), pitch), corner(path, pitch))
    assert server.sent < 1 << 20
    assert server.requests - len([name for name in server.asked if name != "noise.tif"]) < 12


def test_blocks_are_kept_and_bounded(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magnet_cli.images.remote.BLOCKS", 2)
    data = np.random.default_rng(0).bytes(1 << 20)
    (tmp_path / "data.bin").write_bytes(data)
    blob = open_blob(server.url("data.bin"))
    asked = server.requests
    for offset in (0, 1000, 2000, 150_000, 100):
        assert blob.read(offset, 500, place="a piece") == data[offset : offset + 500]
    assert server.requests == asked + 2
    assert blob.read(500_000, 10, place="a piece") == data[500_000:500_010]
    assert blob.read(150_000, 10, place="a piece") == data[150_000:150_010]
    assert server.requests == asked + 4
    assert blob.read(0, 700_000, place="a piece") == data[:700_000]
    assert server.requests == asked + 5
    blob.close()


def test_threads_share_a_blob(server: Server, tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(3 << 20)
    (tmp_path / "data.bin").write_bytes(data)
    blob = open_blob(server.url("data.bin"))
    offsets = [(index * 104_729) % (len(data) - 5000) for index in range(64)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda offset: blob.read(offset, 5000, place="a piece"), offsets))
    assert found == [data[offset : offset + 5000] for offset in offsets]


def test_a_picture_without_tiles_says_that_all_of_it_is_fetched(server: Server, tmp_path: Path) -> None:
    pyvips.Image.new_from_array(picture(300, 200)).copy(interpretation="srgb").pngsave(str(tmp_path / "a.png"))
    url = server.url("a.png")
    np.testing.assert_array_equal(corner(url), corner(tmp_path / "a.png"))
    size = (tmp_path / "a.png").stat().st_size
    assert any(f"all of its {size:,} bytes" in note for note in inspect(url).notes)


def refusal(url: str) -> str:
    with pytest.raises(SourceError) as caught:
        corner(url)
    assert caught.value.file == url
    assert caught.value.exit_code == 3
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["gone.tif", "gone.png", "gone.zarr", "gone"])
def test_what_is_not_there(server: Server, name: str) -> None:
    assert "there is no such" in refusal(server.url(name))


def test_a_server_without_ranges_is_told_before_the_file_is_fetched(server: Server, tmp_path: Path) -> None:
    noise(tmp_path / "noise.tif")
    server.ranges = False
    message = refusal(server.url("noise.tif"))
    assert "range requests" in message
    assert "Download" in message


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("a.tif", "a.zarr", "a"):
        assert "cannot be reached" in refusal(f"http://127.0.0.1:{port}/{name}")


@pytest.mark.parametrize("name", ["a.tif", "a.zarr"])
def test_no_answer(server: Server, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("magnet_cli.images.bounded_response.READ_SECONDS", 0.2)
    server.hangs.set()
    assert "did not answer in time" in refusal(server.url(name))


@pytest.mark.parametrize("name", ["a.tif", "a.zarr"])
def test_an_answer_that_is_announced_and_never_comes(
    server: Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("magnet_cli.images.bounded_response.PATIENCE_SECONDS", 0.3)
    server.failures = [100] * 9
    assert "did not answer in time" in refusal(server.url(name))


@pytest.mark.parametrize(("status", "words"), [(403, "does not let you read"), (503, "the server failed")])
def test_refusals_of_the_server(server: Server, tmp_path: Path, status: int, words: str) -> None:
    noise(tmp_path / "noise.tif")
    server.failures = [status] * 3
    assert words in refusal(server.url("noise.tif"))


def test_a_moments_failure_is_overcome(server: Server, tmp_path: Path) -> None:
    path = noise(tmp_path / "noise.tif")
    server.failures = [503, 500]
    np.testing.assert_array_equal(corner(server.url("noise.tif")), corner(path))


def test_a_failure_half_way_names_the_place(server: Server, tmp_path: Path) -> None:
    noise(tmp_path / "noise.tif")
    pyvips.Image.new_from_array(picture(900, 900)).copy(interpretation="srgb").pngsave(str(tmp_path / "a.png"))
    for name in ("noise.tif", "a.png"):
        with open_image(server.url(name)) as image:
            server.failures = [403] * 99
            with pytest.raises(SourceError, match="does not let you read"):
                image.read([Request(pitch=LEVEL0, box=Box(x=800, y=800, width=50, height=50))])
            server.failures = []


def test_a_chunk_that_fails_is_no_missing_chunk(server: Server, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "z.zarr", data=picture(64, 64)[:, :, 0], chunks=(32, 32))
    with open_image(server.url("z.zarr")) as image:
        server.failures = [403]
        with pytest.raises(SourceError, match="does not let you read"):
            image.read([Request(pitch=LEVEL0, box=Box(x=0, y=0, width=8, height=8))])


def test_a_truncated_file(server: Server, tmp_path: Path) -> None:
    path = noise(tmp_path / "noise.tif", 512)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    assert "truncated" in refusal(server.url("noise.tif"))
    tifffile.imwrite(path, picture(512, 512), tile=(32, 32), photometric="rgb")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "truncated" in refusal(server.url("noise.tif"))
    (tmp_path / "empty.tif").touch()
    assert "empty" in refusal(server.url("empty.tif"))


def test_what_openslide_and_zip_need_is_a_disk(server: Server, tmp_path: Path) -> None:
    for name in ("a.mrxs", "a.dcm", "a.zarr.zip"):
        (tmp_path / name).write_bytes(b"PK\x03\x04" + bytes(200))
        assert "disk only" in refusal(server.url(name))
    description = '<?xml version="1.0" ?>\n<DataObject ObjectType="DPUfsImport"></DataObject>'
    options: Any = {"software": "Philips DP v1.0", "metadata": None, "description": description}
    tifffile.imwrite(tmp_path / "p.tif", picture(64, 64), tile=(32, 32), photometric="rgb", **options)
    assert "OpenSlide" in refusal(server.url("p.tif"))


def test_a_fingerprint_follows_the_content(server: Server, tmp_path: Path) -> None:
    url, path = server.url("image.tif"), tmp_path / "image.tif"
    tifffile.imwrite(path, picture(97, 131), tile=(32, 32))
    first = fingerprint(url)
    assert fingerprint(url) == first
    tifffile.imwrite(path, picture(97, 131)[::-1], tile=(32, 32))
    assert fingerprint(url) != first


def test_a_zarr_fingerprint_follows_the_content(server: Server, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "z.zarr", data=picture(64, 64)[:, :, 0], chunks=(32, 32))
    first = fingerprint(server.url("z.zarr"))
    assert fingerprint(server.url("z.zarr")) == first
    array = zarr.open_array(tmp_path / "z.zarr")
    array[:] = 255 - np.asarray(array[:])
    assert fingerprint(server.url("z.zarr")) != first


def test_names_of_urls() -> None:
    urls = ["https://h.org/a/slide%201.ome.tif?sig=a/b.tif#x", "s3://bucket/deep/city?.tif", "http://h.org/x.zarr/"]
    found = find_images([*urls, urls[0]])
    assert [image.source for image in found] == urls
    assert [image.place.as_posix() for image in found] == ["slide 1.ome.tif", "city?.tif", "x.zarr"]
    assert [stem(image.place) for image in found] == ["slide 1", "city?", "x"]
    assert url_name("http://h.org") == "h.org"
    assert url_name("http://h.org/..%2F..%2Fetc%2Fpasswd") == "passwd"
    assert not is_url("C:\\a.tif")
    assert not is_url("a/b.tif")


def test_other_schemes_are_refused() -> None:
    with pytest.raises(SourceError, match="begin with http"):
        find_images(["gs://bucket/a.tif"])


def test_without_the_extra_it_says_what_to_install(server: Server) -> None:
    error = info_without("fsspec", server.url("a.tif"), server.url("a.zarr"))
    assert error.count("pip install 'magnet-cli[remote]'") == 2


def test_s3_gives_what_the_disk_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 (not installed everywhere)

    service = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    service.start()
    try:
        host, port = service.get_host_and_port()
        for name, value in (
            ("ENDPOINT_URL", f"http://{host}:{port}"),
            ("ACCESS_KEY_ID", "x"),
            ("DEFAULT_REGION", "us-east-1"),
        ):
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        forget_services()
        _check_s3(tmp_path)
    finally:
        forget_services()
        service.stop()


def _check_s3(folder: Path) -> None:
    import s3fs  # noqa: PLC0415 (not installed everywhere)

    path = noise(folder / "noise.tif", 512)
    zarr.create_array(folder / "z.zarr", data=picture(220, 130)[:, :, 0], chunks=(64, 64))
    fs = s3fs.S3FileSystem(skip_instance_cache=True)
    fs.mkdir("bucket")
    fs.put(str(path), "bucket/a/noise 1.tif")
    fs.put(str(folder / "z.zarr"), "bucket/z.zarr", recursive=True)
    for name, file in (("a/noise 1.tif", path), ("z.zarr", folder / "z.zarr")):
        np.testing.assert_array_equal(corner(f"s3://bucket/{name}"), corner(file))
        assert fingerprint(f"s3://bucket/{name}") == fingerprint(f"s3://bucket/{name}")
    for key in ("a/notes.txt", "a/.hidden/b.tif", "a/sub/c.mask.tif", "a/sub/d.tif"):
        fs.pipe(f"bucket/{key}", b"x")
    images = {image.place.as_posix(): image.source for image in find_images(["s3://bucket/"])}
    assert images == {name: f"s3://bucket/{name}" for name in ("a/noise 1.tif", "a/sub/d.tif", "z.zarr")}
    assert [image.place.as_posix() for image in find_images(["s3://bucket/a/sub/"])] == ["d.tif"]
    assert [image.source for image in find_images(["s3://bucket/z.zarr/"])] == ["s3://bucket/z.zarr/"]
    with pytest.raises(UsageError, match="holds no image"):
        find_images(["s3://bucket/none/"])
    assert not inspect("s3://bucket/a/noise 1.tif").geo_tags
    world = folder / "noise.tfw"
    world.write_text("2\n0\n0\n-2\n500001\n4999999\n")
    fs.put(str(world), "bucket/a/noise 1.tfw")
    assert inspect("s3://bucket/a/noise 1.tif").geo_tags == inspect(path).geo_tags != ()
    for name in ("bucket/gone.tif", "none/gone.tif", "bucket/gone.zarr"):
        assert "there is no such" in refusal(f"s3://{name}")
    assert "folder" in refusal("s3://bucket/a/") or "folder" in refusal("s3://bucket/a")


TOO_MUCH = "sends more than was asked for"
RULES = {
    **{("drip", whole): "sends too slowly" for whole in (False, True)},
    **{(how, False): TOO_MUCH for how in ("endless", "longer")},
    ("endless", True): "without a stated length .* MAGNET_DOWNLOAD_LIMIT",
    ("longer", True): "too large to be read whole .* MAGNET_DOWNLOAD_LIMIT",
}
"""Pattern of the error, by the misbehaviour of the server and by whether a whole file was requested."""


@pytest.mark.parametrize("how", ["endless", "longer", "drip"])
@pytest.mark.parametrize("kind", ["tiff", "zarr"])
def test_a_server_that_sends_without_end_costs_a_message(
    how: str, kind: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither memory nor time grows: the bytes that are read and the slowness of the server have limits."""
    monkeypatch.setattr("magnet_cli.images.bounded_response.PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr("magnet_cli.images.bounded_response.LEAST_SPEED", 1 << 20)
    monkeypatch.setattr("magnet_cli.images.bounded_response.MOST_BYTES", 1 << 20)
    monkeypatch.setattr("magnet_cli.images.bounded_response.UNDECLARED_BYTES", 1 << 19)
    values = np.random.default_rng(0).integers(0, 255, (300, 300), dtype=np.uint8)
    if kind == "tiff":
        tifffile.imwrite(server.folder / "s.tif", values, tile=(64, 64))
        name = "s.tif"
    else:
        zarr.create_array(str(server.folder / "s.zarr"), data=values, chunks=(300, 300))
        name = "s.zarr"
    server.misbehaves = how
    with pytest.raises(SourceError, match=RULES[how, kind == "zarr"]):
        inspect(server.url(name))
    assert server.sent < 20 << 20


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("how", ["endless", "longer", "drip"])
def test_an_s3_server_that_sends_without_end_costs_a_message(
    how: str,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    *,
    whole: bool,
) -> None:
    pytest.importorskip("s3fs")
    monkeypatch.setattr("magnet_cli.images.bounded_response.PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr("magnet_cli.images.bounded_response.LEAST_SPEED", 1 << 20)
    monkeypatch.setattr("magnet_cli.images.bounded_response.MOST_BYTES", 1 << 20)
    monkeypatch.setattr("magnet_cli.images.bounded_response.UNDECLARED_BYTES", 1 << 19)
    (server.folder / "bucket").mkdir()
    (server.folder / "bucket" / "a.bin").write_bytes(bytes(5000))
    fs = filesystem("s3://bucket/a.bin", endpoint_url=server.url(""), anon=True, skip_instance_cache=True)
    server.misbehaves = how
    with pytest.raises(SourceError, match=RULES[how, whole]):
        fs.cat_file("bucket/a.bin", **({} if whole else {"start": 0, "end": 1000}))
    assert server.sent < 20 << 20


def test_the_largest_download_is_an_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert whole_limit(declared=True) > whole_limit(declared=False)
    monkeypatch.setenv("MAGNET_DOWNLOAD_LIMIT", "2GiB")
    assert whole_limit(declared=True) == whole_limit(declared=False) == 2 << 30
    monkeypatch.setenv("MAGNET_DOWNLOAD_LIMIT", "lots")
    with pytest.raises(UsageError, match="MAGNET_DOWNLOAD_LIMIT takes a size"):
        filesystem("http://localhost/a.tif")

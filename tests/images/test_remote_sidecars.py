"""Files beside an image behind a URL are found with few requests, and read as on a disk."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile

from magnet_cli.errors import SourceError
from magnet_cli.geometry import Box, Pitch
from magnet_cli.images import ImageInfo, Request, fingerprint, inspect, open_image
from magnet_cli.images.urls import sibling_url
from tests.images.server import Server, serving
from tests.images.test_georeference import COEFFICIENTS, RPB

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")
rasterio = pytest.importorskip("rasterio")

SIDE = 256
PIXELS = np.random.default_rng(0).integers(1, 255, (SIDE, SIDE, 3), np.uint8)
PAM = (
    "<PAMDataset><SRS>EPSG:32633</SRS><GeoTransform>500000, 2, 0, 5000000, 0, -2</GeoTransform>"
    "<PAMRasterBand band='1'><NoDataValue>7</NoDataValue></PAMRasterBand></PAMDataset>"
)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(tmp_path) as server:
        yield server


def plain(folder: Path, name: str = "a.tif") -> Path:
    tifffile.imwrite(folder / name, PIXELS, photometric="rgb", tile=(64, 64), metadata=None)
    return folder / name


def placed(folder: Path) -> Path:
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(2, 0, 5e5, 0, -2, 5e6)}
    shape = {"width": SIDE, "height": SIDE, "count": 3, "dtype": "uint8", "tiled": True}
    with rasterio.open(folder / "a.tif", "w", driver="GTiff", **shape, **place, blockxsize=64, blockysize=64) as file:
        file.write(np.moveaxis(PIXELS, 2, 0))
    return folder / "a.tif"


def masked(folder: Path, *, rows: int = 100) -> Path:
    path = placed(folder)
    valid = np.full((SIDE, SIDE), 255, np.uint8)
    valid[:rows, :50] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as file:
        file.write_mask(valid)
    assert (folder / "a.tif.msk").is_file()
    return path


def reduced(folder: Path) -> Path:
    path = masked(folder)
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(path, "r+") as file:
        file.build_overviews([2], rasterio.enums.Resampling.average)
    assert (folder / "a.tif.ovr").is_file()
    assert (folder / "a.tif.msk.ovr").is_file()
    return path


def facts(info: ImageInfo) -> dict[str, Any]:
    names = ("size", "levels", "bands", "resolution", "nodata", "has_mask", "crs", "geo_tags", "notes")
    return {name: getattr(info, name) for name in names}


def check_same(server: Server, path: Path) -> ImageInfo:
    """Check that the image behind the URL has the same facts, pixels and validity as on the disk."""
    url = server.url(path.name)
    with open_image(url) as image, open_image(path) as expected:
        assert facts(image.info) == facts(expected.info)
        for pitch in (1, 2, 3):
            box = Box.whole(Pitch.square(pitch).cover(image.info.size))
            request = Request(pitch=Pitch.square(pitch), box=box)
            (found,), (known,) = image.read([request]), expected.read([request])
            np.testing.assert_array_equal(found.pixels, known.pixels)
            assert (found.valid is None) == (known.valid is None)
            if found.valid is not None and known.valid is not None:
                np.testing.assert_array_equal(found.valid, known.valid)
        return image.info


def test_masks_are_read(server: Server, tmp_path: Path) -> None:
    path = masked(tmp_path)
    assert check_same(server, path).has_mask
    before = fingerprint(server.url("a.tif"))
    image = path.read_bytes()
    masked(tmp_path, rows=50)
    path.write_bytes(image)
    assert fingerprint(server.url("a.tif")) != before


def test_overviews_are_read(server: Server, tmp_path: Path) -> None:
    assert len(check_same(server, reduced(tmp_path)).levels) == 2


@pytest.mark.parametrize("ending", ["tfw", "tifw", "wld"])
def test_world_files_are_read(server: Server, tmp_path: Path, ending: str) -> None:
    path = plain(tmp_path)
    before = fingerprint(server.url("a.tif"))
    path.with_suffix(f".{ending}").write_text("2\n0\n0\n-2\n500001\n4999999\n")
    assert check_same(server, path).geo_tags
    assert fingerprint(server.url("a.tif")) != before


def test_what_gdal_writes_beside_is_read(server: Server, tmp_path: Path) -> None:
    path = plain(tmp_path)
    (tmp_path / "a.tif.aux.xml").write_text(PAM)
    info = check_same(server, path)
    assert (info.crs, info.nodata) == ("EPSG:32633", 7)


@pytest.mark.parametrize("name", ["a_RPC.TXT", "a.RPB"])
def test_rational_polynomials_are_read(server: Server, tmp_path: Path, name: str) -> None:
    path = plain(tmp_path)
    terms = {key: value.split() for key, value in COEFFICIENTS.items()}
    if name.endswith(".TXT"):
        lines = [
            f"{key}{f'_{number}' if len(values) > 1 else ''}: {value}"
            for key, values in terms.items()
            for number, value in enumerate(values, 1)
        ]
    else:
        lines = [f"{word} = ({', '.join(values)});" for word, values in zip(RPB, terms.values(), strict=True)]
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    assert any(tag[0] == 50844 for tag in check_same(server, path).geo_tags)


@pytest.mark.parametrize(("make", "expected"), [(placed, 3), (plain, 8)])
def test_few_requests_ask_for_files_beside_an_image(server: Server, tmp_path: Path, make: Any, expected: int) -> None:
    make(tmp_path)
    inspect(server.url("a.tif"))
    beside = [name for name in server.asked if name != "a.tif"]
    assert len(beside) == len(set(beside)) == expected
    assert {"a.tif.aux.xml", "a.tif.msk", "a.tif.ovr"} <= set(beside)


def test_names_with_escapes_and_queries(server: Server, tmp_path: Path) -> None:
    path = plain(tmp_path, "a b.tif")
    path.with_suffix(".tfw").write_text("2\n0\n0\n-2\n500001\n4999999\n")
    assert inspect(server.url("a%20b.tif?token=x/y")).geo_tags == inspect(path).geo_tags
    assert sibling_url("https://h.org/f/a%20b.tif?token=x/y#z", "c.msk") == "https://h.org/f/c.msk?token=x/y"
    assert sibling_url("s3://bucket/f/what?.tif", "c.msk") == "s3://bucket/f/c.msk"


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_store_that_does_not_list_its_files_holds_none_beside(server: Server, tmp_path: Path, status: int) -> None:
    path = placed(tmp_path)
    server.answers = {f"a.tif.{ending}": status for ending in ("aux.xml", "msk", "ovr")}
    assert inspect(server.url("a.tif")).notes == inspect(path).notes


def test_a_server_of_pages_holds_none_beside(server: Server, tmp_path: Path) -> None:
    path = placed(tmp_path)
    server.page = b"<html>There is no such page.</html>"
    check_same(server, path)


def test_a_failing_server_is_named_once(server: Server, tmp_path: Path) -> None:
    placed(tmp_path)
    server.answers = dict.fromkeys(("a.tif.msk", "a.tif.ovr"), 500)
    (note,) = inspect(server.url("a.tif")).notes
    assert "whether a.tif.msk, a.tif.ovr lie beside the image could not be found out (HTTP 500" in note
    assert "they are not read" in note


def test_a_server_that_does_not_answer_costs_bounded_time(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magnet_cli.images.remote.SIBLING_SECONDS", 0.2)
    placed(tmp_path)
    server.answers = dict.fromkeys(("a.tif.msk", "a.tif.ovr", "a.tif.aux.xml"), 0)
    before = monotonic()
    (note,) = inspect(server.url("a.tif")).notes
    # The server answers after 30 s.
    assert monotonic() - before < 20
    assert "no answer within 0.2 s" in note


def test_a_damaged_mask_beside_a_url_is_refused(server: Server, tmp_path: Path) -> None:
    masked(tmp_path)
    (tmp_path / "a.tif.msk").write_bytes(b"no TIFF at all")
    with pytest.raises(SourceError, match="the mask beside the image"):
        inspect(server.url("a.tif"))

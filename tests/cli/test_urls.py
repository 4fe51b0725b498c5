"""The command line takes images behind URLs: their masks get names, runs resume, and failures are named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from tests.cli.support import invoke, invoke_json
from tests.images.server import Server, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


@pytest.fixture
def server(tmp_path: Path, odd_pyramid: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    shutil.copy(odd_pyramid, folder / "city.tif")
    with serving(folder) as server:
        yield server


def test_a_mask_is_that_of_the_file_and_named_after_the_address(server: Server, bundle: Path, here: Path) -> None:
    url = f"{server.url('city.tif')}?sig=a/b.png"
    words = ("--weights", bundle)
    entry = invoke_json("segment", url, *words, "-o", "out")["images"][0]
    assert entry["mask"] == "out/city.tif"
    assert json.loads((here / "out" / "city.json").read_text())["input"]["path"] == f"{server.url('city.tif')}?***"
    assert invoke("segment", server.folder / "city.tif", *words, "-o", "disk").exit_code == 0
    assert (here / "out" / "city.tif").read_bytes() == (here / "disk" / "city.tif").read_bytes()
    again = invoke("segment", url, *words, "-o", "out")
    assert again.exit_code == 0
    assert "already done" in again.stderr
    assert invoke("segment", url, *words).exit_code == 0
    assert (here / "city.mask.tif").is_file()


def test_a_signature_is_neither_shown_nor_kept(server: Server, bundle: Path, here: Path) -> None:
    def address(name: str) -> str:
        return f"{server.url(name)}?X-Amz-Signature=SECRET&token=SECRET"

    shown = []
    for name in ("city.tif", "gone.tif"):
        words = ("--weights", bundle, "-o", here / "out", "--html", "--overlay")
        shown += [invoke("segment", address(name), *words), invoke("segment", address(name), *words, "--json")]
        shown += [invoke("info", address(name)), invoke("plan", address(name), "--weights", bundle, "--json")]
    shown.append(invoke("report", here / "out" / "city.tif", "--image", address("city.tif"), "--html", "--json"))
    assert [result.exit_code for result in shown] == [0, 0, 0, 0, 3, 3, 3, 3, 0]
    assert all("city.tif?***" in result.stdout + result.stderr for result in shown[2:4])
    assert [result.stderr.count("magnet: ") for result in shown[4:6]] == [1, 1]
    assert all("gone.tif?***: Check the address" in result.stderr for result in shown[4:6])
    assert [result.stderr.count("  Why: there is no such file") for result in shown[4:6]] == [1, 1]
    assert [result for result in shown if "SECRET" in result.stdout + result.stderr] == []
    kept = sorted(path.name for path in (here / "out").iterdir())
    assert kept == ["city.html", "city.json", "city.overlay.png", "city.tif"]
    assert [name for name in kept if b"SECRET" in (here / "out" / name).read_bytes()] == []
    assert "city.tif?***" in (here / "out" / "city.html").read_text()


def test_info_and_plan_take_addresses(server: Server, bundle: Path) -> None:
    url = server.url("city.tif")
    assert invoke_json("info", url)["images"][0]["size"] == {"width": 397, "height": 331}
    assert invoke_json("plan", url, "--weights", bundle)["images"][0]["image"] == url


@pytest.mark.parametrize("word", ["info", "segment"])
def test_each_failure_is_printed_once_and_stops_no_other(server: Server, bundle: Path, here: Path, word: str) -> None:
    words = ("--weights", bundle, "-o", here / "out") if word == "segment" else ()
    gone = server.url("gone.tif")
    result = invoke(word, gone, *words)
    assert result.exit_code == 3
    assert [line for line in result.stderr.splitlines() if gone in line] == [f"magnet: {gone}: Check the address"]
    assert invoke(word, gone, server.url("city.tif"), *words).exit_code == 7
    server.ranges = False
    result = invoke(word, server.url("city.tif"), *words, *(("--overwrite",) if words else ()))
    assert result.exit_code == 3
    assert "range requests" in result.stderr


@pytest.fixture
def rasters(server: Server, here: Path) -> Path:
    """Serve a mask of the image with two classes and a GeoJSON file, and write the same mask into this folder."""
    labels = np.zeros((331, 397), np.uint8)
    labels[:, 100:] = 1
    for path in (server.folder / "m.tif", here / "m.tif"):
        tifffile.imwrite(path, labels, tile=(64, 64))
    (server.folder / "m.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    return here / "m.tif"


def test_the_area_of_a_mask_behind_an_address_is_that_of_the_file(server: Server, rasters: Path, bundle: Path) -> None:
    image, url = server.folder / "city.tif", f"{server.url('m.tif')}?sig=SECRET"
    words = ("segment", image, "--weights", bundle)
    assert invoke(*words, "--mask", rasters, "-o", "disk").exit_code == 0
    found = invoke(*words, "--mask", url, "-o", "remote")
    assert found.exit_code == 0, found.stderr
    assert "SECRET" not in found.stderr
    assert Path("remote/city.tif").read_bytes() == Path("disk/city.tif").read_bytes()
    report = Path("remote/city.json").read_text()
    assert json.loads(report)["areas"][0]["source"] == f"{server.url('m.tif')}?***"
    assert "SECRET" not in report
    assert "already done" in invoke(*words, "--mask", url, "-o", "remote").stderr
    plan = invoke_json("plan", image, "--weights", bundle, "--mask", url)["images"][0]
    assert plan["areas"][0]["source"] == f"{server.url('m.tif')}?***"


def test_a_list_names_a_mask_by_its_address(server: Server, rasters: Path, bundle: Path) -> None:
    image = server.folder / "city.tif"
    for name, mask in (("disk", rasters), ("remote", server.url("m.tif"))):
        Path(f"{name}.csv").write_text(f"path,mask,name\n{image},{mask},city\n")
        found = invoke("segment", f"{name}.csv", "--weights", bundle, "-o", name)
        assert found.exit_code == 0, found.stderr
    assert Path("remote/city.tif").read_bytes() == Path("disk/city.tif").read_bytes()


def test_labels_behind_addresses_are_compared(server: Server, rasters: Path) -> None:
    half = np.zeros((331, 397), np.uint8)
    half[100:] = 1
    tifffile.imwrite(server.folder / "half.tif", half, tile=(64, 64))
    mask, half_url = server.url("m.tif"), server.url("half.tif")
    (row,) = invoke_json("evaluate", mask, half_url, "--roi", half_url)["images"]
    assert (row["mask"], row["truth"]) == (mask, half_url)
    (near,) = invoke_json("evaluate", rasters, server.folder / "half.tif", "--roi", server.folder / "half.tif")[
        "images"
    ]
    assert {**row, "mask": "", "truth": ""} == {**near, "mask": "", "truth": ""}


@pytest.mark.parametrize(
    "words",
    [
        ("segment", "city.tif", "--mask", "GONE"),
        ("plan", "city.tif", "--mask", "GONE"),
        ("evaluate", "GONE", "m.tif"),
        ("evaluate", "m.tif", "GONE"),
        ("evaluate", "m.tif", "m.tif", "--roi", "GONE"),
    ],
)
def test_a_mask_that_is_not_behind_its_address_is_named_by_it(
    server: Server, rasters: Path, bundle: Path, words: tuple[str, ...]
) -> None:
    shutil.copy(server.folder / "city.tif", rasters.parent / "city.tif")
    gone = server.url("gone.tif")
    given = [gone if word == "GONE" else word for word in words]
    found = invoke(*given, *(("--weights", bundle) if words[0] != "evaluate" else ()))
    assert found.exit_code == 3
    assert f"{gone}: Check the address" in found.stderr
    given = ["ftp://host/m.tif" if word == "GONE" else word for word in words]
    found = invoke(*given, *(("--weights", bundle) if words[0] != "evaluate" else ()))
    assert found.exit_code == 3
    assert "addresses begin with http://, https://, s3://" in found.stderr


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (("segment", "city.tif", "--roi", "m.geojson"), "polygons are read from a file that lies on a disk"),
        (("evaluate", "M", "M", "--roi", "m.geojson"), "polygons are read from a file that lies on a disk"),
        (("evaluate", "M", "m.geojson"), "polygons are read from a file that lies on a disk"),
        (("view", "city.tif", "--regions", "m.geojson"), "polygons are read from a file that lies on a disk"),
        (("refine", "city.tif", "M", "--evidence", "m.tif"), "--evidence takes a file that lies on a disk"),
        (("view", "city.tif", "m.tif"), "masks that are viewed lie on a disk"),
        (("export", "m.tif", "--format", "geojson"), "this command takes masks that lie on a disk"),
        (("report", "m.tif"), "this command takes masks that lie on a disk"),
        (("assemble", "m.tif"), "this command takes masks that lie on a disk"),
    ],
)
def test_files_that_are_not_read_over_the_network_are_refused_with_their_address(
    server: Server, rasters: Path, words: tuple[str, ...], rule: str
) -> None:
    address = {name: f"{server.url(name)}?sig=SECRET" for name in ("city.tif", "m.tif", "m.geojson")}
    found = invoke(*(str(rasters) if word == "M" else address.get(word, word) for word in words))
    assert found.exit_code == 2
    named = address["m.geojson" if "m.geojson" in words else "m.tif"].replace("sig=SECRET", "***")
    assert f"{named}: Download it, and give the path of the copy" in found.stderr
    assert rule in found.stderr
    assert "SECRET" not in found.stderr


def test_a_list_of_labelled_images_refuses_addresses(server: Server, rasters: Path, bundle: Path) -> None:
    Path("d.csv").write_text(f"image,label\n{server.url('city.tif')},{rasters}\n")
    found = invoke("evaluate", "--data", "d.csv", "--weights", bundle)
    assert found.exit_code == 3
    assert "Download the file" in found.stderr
    assert "the image of line 2 is an address, and a list of labelled images names files" in found.stderr
    assert f"(got {server.url('city.tif')})" in found.stderr

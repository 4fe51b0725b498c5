"""The command line takes images behind URLs: their masks get names, runs resume, and failures are named."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.cli.support import invoke, invoke_json
from tests.images.server import Server, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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

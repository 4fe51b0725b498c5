"""Images behind URLs on the command line: names, resumption, and what goes wrong."""

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
    assert json.loads((here / "out" / "city.json").read_text())["input"]["path"] == url
    assert invoke("segment", server.folder / "city.tif", *words, "-o", "disk").exit_code == 0
    assert (here / "out" / "city.tif").read_bytes() == (here / "disk" / "city.tif").read_bytes()
    again = invoke("segment", url, *words, "-o", "out")
    assert again.exit_code == 0
    assert "already done" in again.stderr
    assert invoke("segment", url, *words).exit_code == 0
    assert (here / "city.mask.tif").is_file()


def test_info_and_plan_take_addresses(server: Server, bundle: Path) -> None:
    url = server.url("city.tif")
    assert invoke_json("info", url)["images"][0]["size"] == {"width": 397, "height": 331}
    assert invoke_json("plan", url, "--weights", bundle)["images"][0]["image"] == url


@pytest.mark.parametrize("word", ["info", "segment"])
def test_each_failure_is_one_line_and_stops_no_other(server: Server, bundle: Path, here: Path, word: str) -> None:
    words = ("--weights", bundle, "-o", here / "out") if word == "segment" else ()
    gone = server.url("gone.tif")
    result = invoke(word, gone, *words)
    assert result.exit_code == 3
    assert [line for line in result.stderr.splitlines() if gone in line] == [
        f"magnet: {gone}: there is no such file. Check the address"
    ]
    assert invoke(word, gone, server.url("city.tif"), *words).exit_code == 7
    server.ranges = False
    result = invoke(word, server.url("city.tif"), *words, *(("--overwrite",) if words else ()))
    assert result.exit_code == 3
    assert "range requests" in result.stderr

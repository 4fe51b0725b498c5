"""The command `magnet view` works as a program of its own."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import threading
import webbrowser
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

import numpy as np
import pytest

from magnet_cli.cli import view
from magnet_cli.images import fingerprint
from magnet_cli.report.viewer import server
from tests.cli.support import SIZE, environment, invoke, one_failure, write_image
from tests.exports.support import write_mask
from tests.report.viewer.growth import GrowingMask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = Path(__file__).parents[2] / "docs" / "view.md"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write an image, a mask and a truth into the current folder."""
    monkeypatch.chdir(tmp_path)
    image = write_image(tmp_path / "city.tif")
    for path in (tmp_path / "masks" / "city.tif", tmp_path / "city-truth.tif"):
        write_mask(path, np.zeros(SIZE, np.uint8), resolution=None, made_of=fingerprint(str(image)))
    with GrowingMask.begin(tmp_path / "masks" / "night.tif", image, np.zeros(SIZE, np.uint8), block=32) as run:
        run.compute(1)
    return tmp_path


@contextmanager
def started(words: list[str], folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the command without a screen, and yield it with the line that it prints."""
    command = [sys.executable, "-m", "magnet_cli.cli.program", *words]
    process = subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.full
def test_every_command_of_the_page_serves_it(here: Path) -> None:
    lines = [
        line
        for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
        for line in block.splitlines()
    ]
    assert len(lines) >= 2
    for line in lines:
        words = shlex.split(line)[1:]
        with started(words, here) as (process, address):
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/\n", address)
            with urlopen(f"{address.strip()}state.json") as answer:  # noqa: S310 - the address is http
                assert json.load(answer)["name"] == "city.tif"
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0


def test_wrong_words_end_with_one_failure(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = invoke("view", here / "none.tif")
    assert done.exit_code == 3
    assert "none.tif: " in one_failure(done)
    done = invoke("view", here / "city.tif", here / "no-mask.tif")
    assert done.exit_code == 3
    assert "no-mask.tif: Check the path\n  Why: there is no such mask" in one_failure(done)
    with server._bound(0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        done = invoke("view", "city.tif", "--port", str(port), "--no-browser")
    assert done.exit_code == 5
    assert f"--port {port}" in done.stderr
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = invoke("view", "city.tif")
    assert done.exit_code == 2
    assert "pip install 'magnet-cli[view]'" in one_failure(done)


class Browser:
    """Stands in for a browser that ends, fails, or is waited for until the test ends."""

    def __init__(self, name: str | None, *, result: bool | None) -> None:
        self.name = name
        self.opened: list[str] = []
        self.release = threading.Event()
        self._result = result

    def open(self, address: str) -> bool:
        self.opened.append(address)
        if self._result is None:
            self.release.wait()
        return bool(self._result)


@pytest.mark.parametrize(
    ("name", "result", "expected"),
    [
        ("firefox", True, True),
        ("firefox", False, False),
        (None, True, True),
        # What is waited for runs beside the server, and counts as opened.
        ("chromium", None, True),
        ("w3m", True, None),
        ("/usr/bin/lynx", True, None),
    ],
)
def test_no_browser_holds_the_server_up_or_takes_the_terminal(
    monkeypatch: pytest.MonkeyPatch, *, name: str | None, result: bool | None, expected: bool | None
) -> None:
    browser = Browser(name, result=result)
    monkeypatch.delenv(view.TUNNEL, raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(view, "BROWSER_SECONDS", 0.1)
    monkeypatch.setattr(webbrowser, "get", lambda: browser)
    assert view._open("http://127.0.0.1:1/") is bool(expected)
    assert browser.opened == ([] if expected is None else ["http://127.0.0.1:1/"])
    browser.release.set()


def test_a_machine_without_a_browser_prints_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(view.TUNNEL, raising=False)
    monkeypatch.setenv("DISPLAY", ":0")

    def none() -> webbrowser.BaseBrowser:
        raise webbrowser.Error

    monkeypatch.setattr(webbrowser, "get", none)
    assert view._open("http://127.0.0.1:1/") is False


def test_quiet_prints_the_address_alone(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(exhibit: object, *, port: int, ready: Callable[[str], None]) -> None:
        assert exhibit
        assert port == 0
        ready("http://127.0.0.1:1/secret/")
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "serve", serve)
    done = invoke("view", here / "city.tif", "--no-browser", "-q")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "http://127.0.0.1:1/secret/\n", "")
    done = invoke("view", here / "city.tif", "--no-browser")
    assert "Press Ctrl-C here to close the page" in done.stderr
    assert "the page is closed" in done.stderr

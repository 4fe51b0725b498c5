"""A server that answers wrongly: other lengths, other parts, other statuses, nothing, too slowly, or without end."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from magnet_cli import images
from magnet_cli.errors import MagnetError
from magnet_cli.geometry import LEVEL0, Box
from magnet_cli.images import bounded_response, remote
from tests.campaign.finding import Finding
from tests.images.server import QuietHandler, requested_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

READ_SECONDS: Final = 2.0
"""Replaces the program's own patience with a silent or a slow server, which is longer than a case may take."""
PLAN: Final = "answers.json"
"""File beside the image that says how often, and how, the server is wrong."""
WRONG: Final = (
    *("status", "short", "long", "elsewhere", "whole", "drip", "endless", "garbage", "silent", "closed", "redirect"),
    *("total", "headers", "phrase", "version", "encoded", "negative"),
)
"""What a wrong answer is."""
STATUSES: Final = (100, 204, 301, 304, 400, 401, 403, 404, 416, 429, 500, 503, 999)
NOT_FOUND: Final = 404
FOREVER: Final = 60.0
"""Seconds after which a server of this kind stops by itself."""


def plan_answers(folder: Path, random: np.random.Generator) -> None:
    """Choose which answers are wrong, and how."""
    chosen = [WRONG[int(random.integers(0, len(WRONG)))] for _ in range(int(random.integers(1, 4)))]
    plan = {
        "wrong": chosen,
        "share": float(random.choice([0.1, 0.3, 1.0])),
        "after": int(random.integers(0, 6)),
        "status": int(random.choice(STATUSES)),
        "seed": int(random.integers(0, 1 << 31)),
    }
    (folder / PLAN).write_text(json.dumps(plan), encoding="utf-8")


class Liar(ThreadingHTTPServer):
    """Serves a folder, wrongly now and then."""

    daemon_threads = True
    # A campaign leaves connections open on purpose; nothing waits for them.
    block_on_close = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan: dict[str, Any] = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        self.random = np.random.default_rng(self.plan["seed"])
        self.requests = 0
        self.stopped = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client may go at any time."""

    def wrong(self) -> str:
        """Return what is wrong with the next answer; empty for nothing."""
        self.requests += 1
        if self.requests <= self.plan["after"] or self.random.random() >= self.plan["share"]:
            return ""
        chosen: str = self.plan["wrong"][int(self.random.integers(0, len(self.plan["wrong"])))]
        return chosen


class Handler(QuietHandler):
    """Sends a file or a part of one, and errs where the server's plan says so."""

    server: Liar

    def _answer(self, *, body: bool) -> None:
        wrong = self.server.wrong()
        path = self.server.folder / self.path.partition("?")[0].lstrip("/")
        if wrong in ("closed", "garbage", "silent", "redirect", "status", "phrase"):
            self._instead(wrong)
            return
        if not path.is_file():
            self._plain(404)
            return
        data = path.read_bytes()
        asked = None if wrong == "whole" else requested_bytes(self.headers.get("Range", ""), len(data))
        start, end = asked or (0, len(data))
        if start >= len(data) and asked:
            self._plain(416)
            return
        part = data[start:end]
        self.send_response(206 if asked else 200)
        said = {"elsewhere": (start + 7, end + 6), "negative": (-5, -1)}.get(wrong, (start, end - 1))
        total = {"total": str(len(data) * 3), "negative": "-1"}.get(wrong, str(len(data)))
        if asked:
            self.send_header("Content-Range", f"bytes {said[0]}-{said[1]}/{total}")
        if wrong == "elsewhere":
            part = data[: len(part)]
        version = f"{len(data)}" if wrong != "version" else f"{self.server.requests}"
        self.send_header("ETag", f'"{version}"')
        if wrong == "headers":
            for number in range(200):
                self.send_header(f"X-{number}", "x" * 1000)
        if wrong == "encoded":
            self.send_header("Content-Encoding", "gzip")
        self._send(part if body else b"", len(part), wrong if body else "")

    def _send(self, part: bytes, length: int, wrong: str) -> None:
        """Send headers and a body that is what it should be, shorter, longer, slow, or endless."""
        if wrong == "endless":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            start = time.monotonic()
            while not self.server.stopped.is_set() and time.monotonic() - start < FOREVER:
                self.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            return
        self.send_header("Content-Length", str(length + {"short": 100, "long": -(length // 2)}.get(wrong, 0)))
        self.end_headers()
        if wrong == "drip":
            start = time.monotonic()
            for number in range(len(part)):
                if self.server.stopped.wait(0.2) or time.monotonic() - start > FOREVER:
                    return
                self.wfile.write(part[number : number + 1])
            return
        self.wfile.write(part)
        if wrong in ("short", "long"):
            self.close_connection = True

    def _instead(self, wrong: str) -> None:
        """Answer with no file at all."""
        if wrong == "closed":
            self.close_connection = True
        elif wrong == "garbage":
            self.wfile.write(self.server.random.bytes(300))
            self.close_connection = True
        elif wrong == "silent":
            self.server.stopped.wait(FOREVER)
            self.close_connection = True
        elif wrong == "redirect":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif wrong == "phrase":
            self.send_response(503, "down \x1b[31m for \x07 now " + "x" * 5000)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._plain(self.server.plan["status"])

    def _plain(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def lying(folder: Path) -> Iterator[str]:
    """Yield the address of a running server over a folder."""
    server = Liar(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.stopped.set()
        server.shutdown()
        server.server_close()


def fetched(folder: Path, name: str) -> Finding:
    """Read an image from a server that errs, which has to give its true pixels or exit code 3."""
    bounded_response.READ_SECONDS = bounded_response.PATIENCE_SECONDS = READ_SECONDS
    remote.PAUSE_SECONDS = 0.01

    def pixels(source: str | Path) -> np.ndarray[Any, np.dtype[Any]]:
        cache = images.CacheBudget(folder=folder / "cache", max_bytes=1 << 28)
        with images.open_image(source, cache=cache) as image:
            found: np.ndarray[Any, np.dtype[Any]] = image.read(
                [images.Request(pitch=LEVEL0, box=Box.whole(image.info.size))]
            )[0].pixels
            return found

    expected = pixels(folder / name)
    with lying(folder) as address:
        try:
            found = pixels(f"{address}/{name}")
        except MagnetError as error:
            faults = () if error.exit_code == 3 else (f"{type(error).__name__}: {error}",)
            return Finding(outcome=f"exit {error.exit_code}", faults=faults)
    if found.shape == expected.shape and not np.array_equal(found, expected) and _takes_a_chunk_away(folder, name):
        return Finding(outcome="read, a chunk that the server denies is taken for missing")
    if not np.array_equal(found, expected):
        return Finding(outcome="read, other pixels", faults=("other pixels than the file's",))
    return Finding(outcome="read, equal to the file")


def _takes_a_chunk_away(folder: Path, name: str) -> bool:
    """Return whether a server says that parts of a Zarr image are missing: they have the fill value by definition."""
    plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    return name.endswith(".zarr") and "status" in plan["wrong"] and plan["status"] == NOT_FOUND

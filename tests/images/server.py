"""A small HTTP server over a folder that sends parts of files, counts what it sends, and fails on demand."""

from __future__ import annotations

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def requested_bytes(words: str, length: int) -> tuple[int, int] | None:
    """Return the first byte and the byte after the last one that a `Range` header asks for; None for a whole file.

    Args:
        words: The header's value; empty where there is no such header.
        length: Bytes of the file. The first byte may lie beyond them, the end does not.
    """
    found = re.match(r"bytes=(\d+)-(\d*)", words)
    return None if found is None else (int(found[1]), min(int(found[2] or length) + 1, length))


class QuietHandler(BaseHTTPRequestHandler):
    """Answer GET and HEAD alike, and log nothing, because tests print nothing."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: object) -> None:
        """Write nothing."""

    def _answer(self, *, body: bool) -> None:
        raise NotImplementedError


class Server(ThreadingHTTPServer):
    """A server of a folder on 127.0.0.1."""

    daemon_threads = True
    # A program asks for all files beside an image at once. A connection beyond the five that wait by default is tried
    # again after a second.
    request_queue_size = 64

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ranges = True
        self.sent = 0
        """Bytes of files that were sent so far."""
        self.requests = 0
        self.failures: list[int] = []
        """Statuses that the next requests get instead of a file."""
        self.asked: list[str] = []
        """Paths that were asked for, without their queries, in the order of the requests."""
        self.answers: dict[str, int] = {}
        """Status that a path gets instead of its file. With 0 the request gets no answer."""
        self.page = b""
        """Body that paths without a file get with status 200, as some servers do. Empty means status 404."""
        self.misbehaves = ""
        """How bodies of more than a few bytes are sent: `endless`, `longer` than requested, or as a `drip`."""
        self.hangs = threading.Event()
        """An event. While it is set, requests get no answer."""
        self.release = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore errors: a client may leave at any time, and the test that sent the request sees other failures."""

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(QuietHandler):
    """A handler that sends a file, a part of a file, or what the server puts in its place."""

    server: Server

    def _answer(self, *, body: bool) -> None:
        server = self.server
        server.requests += 1
        name = self.path.partition("?")[0].lstrip("/")
        server.asked.append(name)
        if name in server.answers:
            if not server.answers[name]:
                server.release.wait(30)
            self._status(server.answers[name] or 503)
            return
        if server.hangs.is_set():
            server.release.wait(30)
        if server.failures:
            self._status(server.failures.pop(0))
            return
        path = server.folder / unquote(name)
        if not path.is_file():
            if server.page:
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self._body(server.page if body else b"", len(server.page))
            else:
                self._status(404)
            return
        data = path.read_bytes()
        found = requested_bytes(self.headers.get("Range", ""), len(data)) if server.ranges else None
        start, end = found or (0, len(data))
        if start >= len(data) and found:
            self._status(416)
            return
        self.send_response(206 if found else 200)
        if found:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.send_header("ETag", f'"{hash(data):x}"')
        self._body(data[start:end] if body else b"", end - start)

    def _status(self, status: int) -> None:
        self.send_response(status)
        self._body(b"", 0)

    def _misbehave(self, data: bytes, how: str) -> None:
        """Send a body that has no end, is longer than its request, or comes byte by byte."""
        self.close_connection = True
        if how == "longer":
            self.send_header("Content-Length", str(len(data) + (1 << 20)))
        elif how == "drip":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        try:
            while not self.server.release.is_set():
                part = data[:1] if how == "drip" else bytes(1 << 16)
                self.wfile.write(part)
                self.server.sent += len(part)
                if how == "drip":
                    self.server.release.wait(0.02)
        except (BrokenPipeError, ConnectionResetError):
            return

    def _body(self, data: bytes, length: int) -> None:
        if self.server.misbehaves and len(data) > 1:
            self._misbehave(data, self.server.misbehaves)
            return
        self.send_header("Content-Length", str(length))
        self.end_headers()
        try:
            self.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):
            return
        self.server.sent += len(data)


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Start a server, and stop it when the test ends."""
    with Server(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.release.set()
            server.shutdown()
            thread.join()

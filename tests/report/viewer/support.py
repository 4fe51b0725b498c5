"""Tests serve the page in their own process."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import uvicorn
from starlette.testclient import TestClient

from magnet_cli.report.viewer.application import make_application
from magnet_cli.report.viewer.exhibit import open_exhibit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.geometry import Size
    from magnet_cli.report.viewer.exhibit import Exhibit

SECRET = "secret-of-the-tests"  # noqa: S105 - it protects nothing


def place_values(size: Size) -> NDArray[np.uint8]:
    """Return `(height, width, 3)` pixels that differ from their neighbours and change slowly at the same time."""
    rows, columns = np.indices((size.height, size.width))
    return np.stack([columns % 251, rows % 241, (columns // 64 + rows // 64) % 2 * 200], axis=2).astype(np.uint8)


@contextmanager
def served(exhibit: Exhibit) -> Iterator[str]:
    """Serve an exhibit on a free port of loopback, and yield the address of its page."""
    config = uvicorn.Config(
        make_application(exhibit, SECRET), host="127.0.0.1", port=0, log_config=None, lifespan="off", ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/{SECRET}/"
    finally:
        server.should_exit = True
        thread.join()


def draw(image: Path, mask: Path, corrections: Sequence[dict[str, Any]]) -> None:
    """Save the first corrections of a mask as its page does."""
    here = "http://127.0.0.1:8000"
    with open_exhibit(str(image), [mask]) as exhibit:
        answer = TestClient(make_application(exhibit, SECRET), base_url=here).post(
            f"/{SECRET}/corrections/0",
            content=json.dumps({"revision": "", "corrections": corrections}),
            headers={"origin": here, "content-type": "application/json"},
        )
        assert answer.status_code == 200, answer.text


def tile(client: TestClient, place: str) -> NDArray[np.uint8]:
    """Return the pixels of a tile of the first mask."""
    answer = client.get(f"/{SECRET}/mask/0/{place}")
    assert answer.status_code == 200, answer.text
    pixels: NDArray[np.uint8] = imagecodecs.png_decode(answer.content)
    return pixels


def get(client: TestClient, path: str) -> dict[str, Any]:
    """Return the JSON that an address of the page answers with."""
    answer = client.get(f"/{SECRET}/{path}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found

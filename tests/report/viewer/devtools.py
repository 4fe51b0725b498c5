"""Tests drive a page in headless Chromium through the DevTools protocol over a pair of pipes."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import imagecodecs
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

SECONDS = 30
AT_THREE_AND_FOUR = """
import fcntl, os, sys
high = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for wanted, number in zip((3, 4), high):
    os.dup2(number, wanted)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""A script that moves two descriptors to the numbers that Chromium reads and writes, and then becomes Chromium."""
TWO_FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))"
SETTLED = """
(() => {
  const layers = Array.from({length: viewer.world.getItemCount()}, (_, index) => viewer.world.getItemAt(index));
  const wanted = 1 + loaded.size + (items.has("layer") ? 1 : 0);
  const full = layers.every((layer) => layer.getOpacity() === 0 || layer.getFullyLoaded());
  return full && changing === 0 && layers.length === wanted && !viewer.isAnimating();
})()
"""
KEYS = {"ArrowLeft": 37, "ArrowRight": 39}


class Tab:
    """One page of the browser. Messages to and from Chromium are JSON that ends with a zero byte."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = to, back
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            found = self._receive()
            if found.get("id") == self._number:
                assert "error" not in found, found["error"]
                result: dict[str, Any] = found["result"]
                return result
            self.events.append(found)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._back, 1 << 20)
            assert part, "Chromium has ended"
            self._rest += part
        whole, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(whole)
        return found

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression, which is awaited."""
        done = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + SECONDS
        while not self.run(condition):
            assert time.monotonic() < end, (condition, self.complaints())
            time.sleep(0.03)

    def open(self, address: str) -> None:
        """Open an address and wait until the page is ready and its tiles are drawn."""
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=address)
        self.until("document.body?.dataset.ready === 'yes'")
        self.settle()

    def settle(self) -> None:
        """Wait until every layer has all of its tiles and the view has stopped."""
        # An animation that a key has asked for begins with the next frame.
        self.run(TWO_FRAMES)
        self.until(SETTLED)
        self.run(TWO_FRAMES)

    def key(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key, with Shift or without."""
        text = {"text": key} if len(key) == 1 else {}
        codes = {"windowsVirtualKeyCode": KEYS[key]} if key in KEYS else {}
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                modifiers=8 * shift,
                **codes,
                **(text if kind == "keyDown" else {}),
            )

    def move(self, x: float, y: float) -> None:
        """Move the pointer to a place of the page."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        """Press and release the left button at a place of the page."""
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self) -> NDArray[np.uint8]:
        """Return a screenshot, `(height, width, 3)`."""
        data = self.send("Page.captureScreenshot", format="png")["data"]
        pixels: NDArray[np.uint8] = imagecodecs.png_decode(base64.b64decode(data))
        return pixels[..., :3]

    def complaints(self) -> list[str]:
        """Return errors that the page has raised or logged."""
        found = []
        for event in self.events:
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(str(event["params"]["exceptionDetails"]))
            if event.get("method") == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                found.append(str(event["params"]["entry"]["text"]))
            if event.get("method") == "Runtime.consoleAPICalled" and event["params"]["type"] == "error":
                found.append(str(event["params"]["args"]))
        return found

    def requested(self) -> list[str]:
        """Return the addresses that the page has asked for."""
        return [
            str(event["params"]["request"]["url"])
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]


@contextmanager
def chromium(profile: Path, *, width: int = 1200, height: int = 800) -> Iterator[Tab]:
    """Start Chromium. Where it is not installed, the test is skipped."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no chromium")
    # Chromium reads messages from descriptor 3 and writes to 4.
    read_commands, to = os.pipe()
    back, write_answers = os.pipe()
    command = [
        program,
        "--headless",
        "--no-sandbox",  # it refuses to run as root otherwise, as in a container
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--force-device-scale-factor=1",
        "--blink-settings=preferredColorScheme=1",
        "--remote-debugging-pipe",
        f"--user-data-dir={profile}",
        f"--window-size={width},{height}",
    ]
    words = [sys.executable, "-c", AT_THREE_AND_FOUR, str(read_commands), str(write_answers), *command]
    process = subprocess.Popen(
        words, pass_fds=(read_commands, write_answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for number in (read_commands, write_answers):
        os.close(number)
    try:
        tab = Tab(to, back)
        tab.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        yield tab
    finally:
        process.terminate()
        process.wait(timeout=SECONDS)
        os.close(to)
        os.close(back)

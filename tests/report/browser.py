"""Headless Chromium shows a page to tests: its DOM after the scripts have run, and a picture of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import imagecodecs
import pytest

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

VOID = {"meta", "input", "br", "link", "img", "hr"}


@dataclass(kw_only=True)
class Element:
    """An element of a page."""

    tag: str
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)
    own: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Return the text of the element and of all elements in it, with each run of white space as one space."""
        return " ".join("".join(self._pieces()).split())

    def _pieces(self) -> list[str]:
        return [*self.own, *(piece for child in self.children for piece in child._pieces())]

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """Return the elements inside this one, in the order of the page."""
        found = []
        for child in self.children:
            if tag in (child.tag, "*") and attributes.items() <= child.attributes.items():
                found.append(child)
            found += child.all(tag, **attributes)
        return found

    def one(self, tag: str, **attributes: str) -> Element:
        """Return the only element of this kind inside this one."""
        found = self.all(tag, **attributes)
        assert len(found) == 1, (tag, attributes, len(found))
        return found[0]


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Element(tag="", attributes={})
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag=tag, attributes={name: value or "" for name, value in attrs})
        self._open[-1].children.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        while len(self._open) > 1 and self._open.pop().tag != tag:
            pass

    def handle_data(self, data: str) -> None:
        text = Element(tag="#text", attributes={}, own=[data])
        self._open[-1].children.append(text)


def parse(text: str) -> Element:
    """Return the tree of a serialised page."""
    builder = _Builder()
    builder.feed(text)
    return builder.root


@dataclass(frozen=True, kw_only=True)
class Browser:
    """Headless Chromium and its profile."""

    program: str
    profile: Path

    def dom(self, page: Path, *, width: int = 1280, script: str = "") -> Element:
        """Return the page as it is after its scripts, and then `script`, have run."""
        if script:
            # Only the page's own script may run in it, so the rule goes from the copy that is looked at.
            text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
            page = page.with_name("probe.html")
            page.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
        return parse(self._run(page, width, "--dump-dom"))

    def screenshot(self, page: Path, *, width: int = 1280, height: int = 2400) -> NDArray[np.uint8]:
        """Return the picture of the page, `(height, width, 3)`."""
        target = self.profile / "shot.png"
        self._run(page, width, f"--screenshot={target}", height=height)
        pixels: NDArray[np.uint8] = imagecodecs.png_decode(target.read_bytes())
        return pixels[..., :3]

    def _run(self, page: Path, width: int, *words: str, height: int = 1600) -> str:
        command = [
            self.program,
            "--headless",
            "--no-sandbox",  # it refuses to run as root otherwise, as in a container
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--blink-settings=preferredColorScheme=1",
            f"--user-data-dir={self.profile}",
            f"--window-size={width},{height}",
            *words,
            page.resolve().as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
        return done.stdout


def find_browser(profile: Path) -> Browser:
    """Return Chromium. Where it is not installed, the test is skipped."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no chromium")
    return Browser(program=program, profile=profile)

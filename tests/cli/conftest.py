"""A folder to work in, an image and a bundle."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.support import write_colours_bundle, write_image


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bundle whose class is the brightest band."""
    return write_colours_bundle(tmp_path_factory.mktemp("bundle") / "colours")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def image(here: Path) -> Path:
    """`s.tif` in the current folder, by its relative name."""
    write_image(here / "s.tif")
    return Path("s.tif")


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks this small only wait for each other's threads, the longer the busier the machine is."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)

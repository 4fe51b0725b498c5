"""A folder to work in, an image and a bundle."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from magnet_cli.system import durable
from tests.cli.support import write_colours_bundle, write_image


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a bundle whose class is the brightest band."""
    return write_colours_bundle(tmp_path_factory.mktemp("bundle") / "colours")


@pytest.fixture
def image(here: Path) -> Path:
    """`s.tif` in the current folder, by its relative name."""
    write_image(here / "s.tif")
    return Path("s.tif")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many writes to journals the disk takes yet; anything may be written where the list is empty."""
    room: list[int] = []
    write_at = durable.write_at

    def write(descriptor: int, data: bytes, offset: int) -> None:
        if room:
            room[0] -= 1
            if room[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_at(descriptor, data, offset)

    monkeypatch.setattr(durable, "write_at", write)
    return room


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks this small only wait for each other's threads, the longer the busier the machine is."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)

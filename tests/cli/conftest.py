"""Tests of the command line have a folder of their own, an image and a bundle."""

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
    """Write `s.tif` into the current folder, and return its relative name."""
    write_image(here / "s.tif")
    return Path("s.tif")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let writes to journals fail as on a full disk.

    Returns:
        A list whose only number is how many writes succeed before that. All succeed while it is empty.
    """
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
    """Compute in one thread, because threads of networks this small mostly wait for each other."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)

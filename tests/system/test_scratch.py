"""Folders of temporary files are their owner's alone, and those of killed processes are removed by the next one."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import pytest

from magnet_cli.images.labels import open_labels
from magnet_cli.system.scratch import scratch_folder

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no locks of folders")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the system's folder of temporary files during a test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def killed_in(place: Path) -> Path:
    """Return the folder that a process leaves which is killed while it uses one."""
    child = os.fork()
    if child == 0:
        with scratch_folder("labels") as folder:
            (folder / "slide.png").write_text("pixels")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (left,) = place.iterdir()
    return left


def test_what_a_killed_process_left_is_removed_and_what_is_in_use_stays(place: Path) -> None:
    left = killed_in(place)
    with scratch_folder("bench") as first, scratch_folder("bench") as second:
        assert set(place.iterdir()) == {first, second}
        assert left not in {first, second}
        assert first.stat().st_mode & 0o777 == 0o700
    assert not list(place.iterdir())


def test_folders_and_links_of_others_stay(place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    precious = tmp_path_factory.mktemp("precious") / "file"
    precious.write_text("mine")
    (place / "magnet-labels-scratch-link").symlink_to(precious.parent)
    (place / "magnet-notes").mkdir()
    with scratch_folder("labels"):
        pass
    assert sorted(path.name for path in place.iterdir()) == ["magnet-labels-scratch-link", "magnet-notes"]
    assert precious.read_text() == "mine"


def test_labels_that_are_open_take_no_folder_unless_they_are_copied(place: Path) -> None:
    labels, grey = place / "labels.png", np.eye(9, dtype=np.uint8)
    labels.write_bytes(imagecodecs.png_encode(grey))
    with open_labels(labels) as opened:
        found = [path.name for path in place.iterdir() if path.is_dir()]
        assert all(name.startswith("magnet-labels-scratch-") for name in found)
        assert len(found) <= 1
        assert opened.size.width == 9
    assert list(place.iterdir()) == [labels]

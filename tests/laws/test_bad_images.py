"""Law 7: one bad image ends only itself, also where its reader has a bug, and the bug is reported as one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
from contextlib import closing
from threading import Lock, Thread
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
import zarr

from magnet_cli import images
from magnet_cli.errors import BugError, ReaderBugError, SourceError
from magnet_cli.geometry import LEVEL0, Box
from magnet_cli.images import reading_server, tiff_store
from magnet_cli.images.reading_processes import ImageProcesses, _Reader
from magnet_cli.images.shared_regions import receive
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.segmentation import api as segmentation
from magnet_cli.segmentation import image_run
from magnet_cli.segmentation.image_planner import plan_image
from tests.cli.support import invoke, write_colours_bundle, write_image

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

COLORMAP = 320


class OddError(Exception):
    """An exception that no decoder is known to raise."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours_bundle(tmp_path_factory.mktemp("bundle") / "colours")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write two good images. Tests put other files between them."""
    for name in "az":
        write_image(tmp_path / "in" / f"{name}.tif")
    return tmp_path / "in"


def with_colormap(path: Path, entries: int) -> Path:
    """Return a TIFF whose palette has so many numbers, which are 768 in a sound one."""
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8), photometric="palette", colormap=np.zeros((3, 256), np.uint16))
    with tifffile.TiffFile(path) as file:
        offset = file.pages.first.tags[COLORMAP].offset
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, offset + 4, entries)
    path.write_bytes(data)
    return path


def breaking(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Give the reader a bug that shows in images of one name."""
    fetch = tiff_store.TiffStore.fetch

    def broken(self: tiff_store.TiffStore, level: int, box: Box, bands: tuple[int, ...] | None = None) -> object:
        if name in self._path:
            raise OddError("a slip of\nthe reader")
        return fetch(self, level, box, bands)

    monkeypatch.setattr(tiff_store.TiffStore, "fetch", broken)


def test_a_bug_in_a_reader_ends_one_image_of_a_folder(
    bundle: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(folder / "a.tif", folder / "odd.tif")
    breaking(monkeypatch, "odd")
    words = ("segment", folder, "--weights", bundle, "-o", tmp_path / "out")
    ended = invoke(*words)
    assert ended.exit_code == 7
    assert [path.name for path in sorted((tmp_path / "out").glob("*.tif"))] == ["a.tif", "z.tif"]
    # The summary table after the run has a row for the image as well.
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("magnet: ") and "odd.tif" in line]
    assert "Please report it" in line
    (why,) = [line for line in ended.stderr.splitlines() if line.startswith("  Why: ")]
    assert "bug in magnet's reader" in why
    assert "OddError: a slip of the reader" in why
    assert "Traceback" not in ended.stderr

    with_trace = invoke("--debug", *words, "--overwrite").stderr
    assert "Traceback (most recent call last)" in with_trace
    assert "in broken" in with_trace
    row = json.loads(invoke(*words, "--overwrite", "--json").stdout)["images"][1]
    assert row["exit_code"] == 3
    assert "in broken" in row["traceback"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bug_in_a_reader_is_the_failure_of_the_image(
    workers: int, bundle: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same holds with one input, and with and without threads."""
    breaking(monkeypatch, "a.tif")
    ended = invoke("segment", folder / "a.tif", "--weights", bundle, f"--num-workers={workers}", "-o", tmp_path / "o")
    assert ended.exit_code == 3
    assert ended.stderr.splitlines()[-2].startswith("magnet: ")
    assert ended.stderr.splitlines()[-1].startswith("  Why: ")
    assert "Traceback" not in ended.stderr
    assert not list((tmp_path / "o").glob("*"))


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="shared memory of this kind is Linux's")
def test_a_bug_in_a_reading_process_is_the_same_failure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server runs in a thread here, so that a test can give it a bug. The messages go over a real channel."""
    breaking(monkeypatch, "a.tif")
    own, other = socket.socketpair()
    server = Thread(target=reading_server._serve, args=(str(folder / "a.tif"), {}, other))
    server.start()
    with images.open_image(folder / "z.tif") as image, closing(other), closing(own):
        receive(own)
        found = object.__new__(ImageProcesses)
        found._image, found._lock = image, Lock()
        request = images.Request(pitch=LEVEL0, box=Box.whole(image.info.size))
        with pytest.raises(ReaderBugError, match="OddError: a slip of the reader") as raised:
            found._read(_Reader(channel=own), [request])
        assert "in broken" in str(raised.value.details)
        assert str(raised.value).startswith(str(folder / "a.tif"))
        own.close()
        server.join(timeout=20)
        assert not server.is_alive()


def test_a_bug_elsewhere_ends_one_of_several_images(
    bundle: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def broken(image: str, *more: object, **named: object) -> object:
        if image.endswith("a.tif"):
            raise OddError("slip")
        return plan_image(image, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(image_run, "plan_image", broken)
    ended = invoke("segment", folder, "--weights", bundle, "-o", tmp_path / "out")
    assert ended.exit_code == 7
    assert (tmp_path / "out" / "z.tif").exists()
    assert "Traceback (most recent call last)" in ended.stderr
    failed, done = segmentation.segment(folder, tmp_path / "again", SegmentOptions(weights=str(bundle)))
    assert isinstance(failed.error, BugError)
    assert done.error is None
    with pytest.raises(OddError):
        invoke("segment", folder / "a.tif", "--weights", bundle, "-o", tmp_path / "alone")


@pytest.mark.parametrize("entries", [1, 256, 767])
def test_a_palette_without_three_equal_parts_is_refused(entries: int, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=rf"as many numbers for red.*got {entries} numbers"):
        images.inspect(with_colormap(tmp_path / "p.tif", entries))


def test_a_palette_of_fewer_colours_than_values_is_read(tmp_path: Path) -> None:
    with images.open_image(with_colormap(tmp_path / "p.tif", 3 * 16)) as image:
        region = image.read([images.Request(pitch=LEVEL0, box=Box.whole(image.info.size))])[0]
    assert region.pixels.shape == (64, 64, 3)


@pytest.mark.parametrize("shape", [(0, 64, 64), (1, 0, 64, 64)])
def test_a_zarr_image_without_bands_or_planes_is_refused(shape: Sequence[int], tmp_path: Path) -> None:
    root = zarr.open_group(str(tmp_path / "q.zarr"), mode="w")
    root.create_array("0", shape=shape, chunks=(1,) * (len(shape) - 2) + (64, 64), dtype="u1")
    axes = [{"name": name} for name in "zcyx"[-len(shape) :]]
    root.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [{"path": "0"}]}]
    with pytest.raises(SourceError, match="no bands or planes"):
        images.inspect(tmp_path / "q.zarr")


def test_a_name_as_long_as_the_system_allows_stops_no_other_image(bundle: Path, folder: Path, tmp_path: Path) -> None:
    """Sidecars, journal and report would have longer names, which no file can have."""
    long = write_image(folder / f"{'x' * 251}.tif")
    assert invoke("info", long).exit_code == 0
    ended = invoke("segment", folder, "--weights", bundle, "-o", tmp_path / "out")
    assert ended.exit_code == 7
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.tif")) == ["a", "z"]
    assert "would get a name of 256 bytes" in ended.stderr

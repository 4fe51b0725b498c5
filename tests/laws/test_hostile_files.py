"""Law 8: a hostile file costs an error message, and neither the machine's memory nor its time."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import zarr

from magnet_cli import images
from magnet_cli.errors import SourceError, WeightsError
from magnet_cli.geometry import LEVEL0, Box
from magnet_cli.models import weights_file
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.bundle_check import verify_bundle
from magnet_cli.models.networks import load_networks
from magnet_cli.system import regular_files
from tests.cli.support import invoke, write_colours_bundle, write_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

posix = pytest.mark.skipif(sys.platform == "win32", reason="wants pipes and devices in the file system")
SECONDS = 20
"""Longest time that a refusal may take; a reader of a pipe would wait for ever, and the test's alarm ends it."""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_colours_bundle(tmp_path / "bundle")


@contextmanager
def quick() -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < SECONDS


def fifo(path: Path) -> None:
    os.mkfifo(path)


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def bound_socket(path: Path) -> None:
    own = socket.socket(socket.AF_UNIX)
    # A path to a socket may have about a hundred bytes only.
    before = os.getcwd()  # noqa: PTH109 - to go back by its very name
    os.chdir(path.parent)
    try:
        own.bind(path.name)
    finally:
        os.chdir(before)
        own.close()


SPECIAL = pytest.mark.parametrize("make", [fifo, zeros, bound_socket])


@posix
@SPECIAL
def test_only_regular_files_are_read(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "x")
    for read in (regular_files.content, regular_files.sha256_of, regular_files.check_regular):
        with quick(), pytest.raises(OSError, match="no regular file"):
            read(tmp_path / "x")
    assert not regular_files.is_file(tmp_path / "x")


@posix
@SPECIAL
def test_inputs_of_all_kinds_have_to_be_regular_files(
    make: Callable[[Path], None], bundle: Path, tmp_path: Path
) -> None:
    image = write_image(tmp_path / "s.tif")
    for name in ("x.tif", "x.geojson", "x.csv", "x.toml"):
        make(tmp_path / name)
    weights = ("--weights", bundle)
    out = ("-o", tmp_path / "out")
    for code, words in (
        (3, ("info", tmp_path / "x.tif")),
        (3, ("segment", tmp_path / "x.tif", *weights, *out)),
        (3, ("segment", image, *weights, *out, "--roi", tmp_path / "x.geojson")),
        (3, ("segment", image, *weights, *out, "--mask", tmp_path / "x.tif")),
        (3, ("evaluate", tmp_path / "x.tif", image)),
        (3, ("evaluate", "--data", tmp_path / "x.csv", *weights)),
        (3, ("refine", image, tmp_path / "x.tif", "--method=guided", *out)),
        (2, ("train", "backbone", image, "--config", tmp_path / "x.toml", *out)),
    ):
        with quick():
            ended = invoke(*words)
        assert ended.exit_code == code, (words, ended.stderr)
        assert "regular file" in ended.stderr or "a pipe" in ended.stderr, (words, ended.stderr)
    assert invoke("verify", tmp_path / "x.tif").exit_code != 0
    (bundle / "backbone.safetensors").unlink()
    make(bundle / "backbone.safetensors")
    with quick():
        ended = invoke("segment", image, *weights, *out)
    assert ended.exit_code == 4
    assert "no regular file" in ended.stderr
    (bundle / "bundle.json").unlink()
    make(bundle / "bundle.json")
    with quick():
        assert invoke("weights", "show", bundle).exit_code == 4


@posix
@SPECIAL
def test_chunks_of_zarr_images_have_to_be_regular_files(make: Callable[[Path], None], tmp_path: Path) -> None:
    array = zarr.create_array(str(tmp_path / "s.zarr"), shape=(64, 64), chunks=(64, 64), dtype="u1", zarr_format=3)
    array[:] = np.ones((64, 64), np.uint8)
    (chunk,) = (tmp_path / "s.zarr" / "c").rglob("0/0")
    chunk.unlink()
    make(chunk)
    with quick(), images.open_image(tmp_path / "s.zarr") as image:
        request = images.Request(pitch=LEVEL0, box=Box.whole(image.info.size))
        with pytest.raises(SourceError, match="no regular file"):
            image.read([request])


@pytest.mark.parametrize("width", [10_000_000, 1 << 40])
@pytest.mark.parametrize("sha256", ["given", ""])
def test_a_small_bundle_that_asks_for_a_huge_network_is_refused_from_the_numbers(
    width: int, sha256: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = bundle / "bundle.json"
    described: dict[str, Any] = json.loads(file.read_text())
    entry = described["networks"]["backbone"]
    entry |= {"architecture": "fpn-small", "options": {"width": width}}
    if not sha256:
        del entry["sha256"]
    file.write_text(json.dumps(described))
    allocated: list[str] = []
    normal = torch.nn.Parameter.__new__

    def counted(cls: type, data: Any = None, requires_grad: bool = True) -> Any:  # noqa: FBT001, FBT002 - as torch's own
        allocated.append(data.device.type)
        return normal(cls, data, requires_grad)

    monkeypatch.setattr(torch.nn.Parameter, "__new__", counted)
    with quick(), pytest.raises(WeightsError):
        load_networks(load_bundle(bundle), device="cpu", precision="float32")
    (check,) = verify_bundle(load_bundle(bundle))
    assert check.error is not None
    assert set(allocated) <= {"meta"}
    assert invoke("plan", write_image(bundle.parent / "s.tif"), "--weights", bundle).exit_code in (4, 6)


def test_a_header_of_weights_that_lies_about_its_sizes_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [10**7, 10**7], "data_offsets": [0, 4 * 10**14]}}).encode()
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    with pytest.raises(WeightsError, match="not a safetensors file"):
        weights_file.stated_shapes(tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + header)
    with pytest.raises(WeightsError, match="not a safetensors file"):
        weights_file.stated_shapes(tmp_path / "w.safetensors")

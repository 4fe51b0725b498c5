"""Spools keep data in files without a name, and caches keep values in memory."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from magnet_cli.errors import OutputError
from magnet_cli.geometry import Box, Size
from magnet_cli.system import durable
from magnet_cli.system.byte_cache import ByteCache
from magnet_cli.system.spool import Spool, SpooledRaster, raster_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator


def unnamed_files(folder: Path) -> int:
    """Return how many files without a name in `folder` are open. What other tests opened is not counted."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum(link.readlink().parent == folder for link in links)


def test_bytes_come_back_and_nothing_stays(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        places = [spool.append(data) for data in (b"one", b"", b"three")]
        hole = spool.reserve(4)
        assert [spool.read(length, place) for length, place in zip((3, 0, 5), places, strict=True)] == [
            b"one",
            b"",
            b"three",
        ]
        assert spool.read(4, hole) == bytes(4)
        assert list(tmp_path.iterdir()) == []
        assert unnamed_files(tmp_path) == 1
    assert unnamed_files(tmp_path) == 0
    spool = Spool(tmp_path)
    assert unnamed_files(tmp_path) == 1
    del spool
    gc.collect()
    assert unnamed_files(tmp_path) == 0


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def refusal() -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise LookupError from exc

    spool, other = Spool(tmp_path), Spool(tmp_path, refusal=refusal)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "write_at", full)
    with pytest.raises(OutputError, match=f"{tmp_path}.*No space left"):
        spool.append(b"x")
    with pytest.raises(LookupError):
        other.append(b"x")


def test_rasters_of_any_type_share_a_spool(tmp_path: Path) -> None:
    size, rng = Size(width=513, height=300), np.random.default_rng(1)
    with Spool(tmp_path) as spool:
        first, second = (SpooledRaster(spool, size, bands=2, dtype=dtype) for dtype in (np.uint16, np.float32))
        pixels = rng.integers(0, 60_000, (300, 513, 2)).astype(np.uint16)
        for top in range(0, 300, 77):
            first.write(top, pixels[top : top + 77])
            second.write(top, pixels[top : top + 77] / 7)
        box = Box(x=200, y=250, width=313, height=50)
        np.testing.assert_array_equal(first.read(box), pixels[box.slices])
        np.testing.assert_array_equal(second.read(box), (pixels[box.slices] / 7).astype(np.float32))
    assert raster_bytes(size, bands=2, dtype=np.uint16) == 3 * 2 * 256 * 256 * 2 * 2


def test_a_cache_forgets_the_least_recently_used_and_keeps_its_bound() -> None:
    cache: ByteCache[bytes] = ByteCache(10, size=len)
    made: list[str] = []

    def value(key: str, length: int) -> bytes:
        def make() -> bytes:
            made.append(key)
            return bytes(length)

        return cache.get(key, make)

    for key in ("a", "b", "a"):
        value(key, 4)
    assert (made, cache.nbytes) == (["a", "b"], 8)
    value("c", 4)
    value("a", 4)
    value("b", 4)
    assert made == ["a", "b", "c", "b"]
    assert len(value("large", 11)) == 11
    assert cache.nbytes <= 10
    cache.clear()
    assert cache.nbytes == 0

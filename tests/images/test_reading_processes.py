"""Processes that read an image return the same pixels as the image itself, and leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from magnet_cli.errors import MemoryShortageError, SourceError
from magnet_cli.geometry import LEVEL0, Box, Pitch, Size
from magnet_cli.images import open_image
from magnet_cli.images.protocol import Request
from magnet_cli.images.reading_processes import LEAST_PIXELS, ImageProcesses, can_be_read_by_processes
from magnet_cli.system.memory import host_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="shared memory of this kind is Linux's")

HALF = Pitch(x=Fraction(2), y=Fraction(2))


def requests(x: int, y: int, side: int) -> list[Request]:
    return [
        Request(pitch=LEVEL0, box=Box(x=x, y=y, width=side, height=side // 2)),
        Request(pitch=HALF, box=Box(x=x // 2, y=y // 2, width=side // 2, height=side // 4), bands=(2, 0)),
    ]


@contextmanager
def started(path: Path, count: int) -> Iterator[ImageProcesses]:
    """Open an image by processes and wait until all of them have started, because threads read until then."""
    with ImageProcesses(open_image(path), count) as found:
        deadline = time.monotonic() + 60
        while found._starting and time.monotonic() < deadline:
            if (reader := found._free_reader()) is not None:
                found._idle.put(reader)
            time.sleep(0.02)
        assert not found._starting
        yield found


@pytest.fixture
def processes(odd_pyramid: Path) -> Iterator[ImageProcesses]:
    with started(odd_pyramid, 2) as found:
        yield found


def descriptors() -> set[str]:
    """Return what is open. What earlier tests have left may be closed at any time, so what is new is compared alone."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(f"{link.name}: {link.readlink()}")
    return found


def is_running(process: int) -> bool:
    stat = Path(f"/proc/{process}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(of: int | None = None) -> list[int]:
    """Return all descendants of a process. Threads and processes may end while they are listed, in two ways."""
    found, waiting = [], [of or os.getpid()]
    while waiting:
        tasks: list[Path] = []
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            tasks = list(Path(f"/proc/{waiting.pop()}/task").iterdir())
        for task in tasks:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                own = [int(text) for text in (task / "children").read_text().split()]
                found += own
                waiting += own
    return found


def test_regions_are_those_of_the_image(odd_pyramid: Path, processes: ImageProcesses) -> None:
    boxes = [(10 * number, 7 * number, 40 + 20 * (number % 5)) for number in range(16)]
    with open_image(odd_pyramid) as image, ThreadPoolExecutor(4) as pool:
        assert processes.info == image.info
        # All are held while others are read: memory that is in use must not be given out again.
        found = list(pool.map(lambda at: processes.read(requests(*at)), boxes))
        for at, regions in zip(boxes, found, strict=True):
            for region, wanted in zip(regions, image.read(requests(*at)), strict=True):
                assert region.pixels.dtype == wanted.pixels.dtype
                assert np.array_equal(region.pixels, wanted.pixels)
                assert region.valid is None


def test_validity_arrives(tmp_path: Path) -> None:
    values = np.arange(300 * 200, dtype=np.uint16).reshape(200, 300) % 7
    path = tmp_path / "holes.tif"
    tifffile.imwrite(path, values, tile=(64, 64), extratags=[(42113, 2, 2, "3", True)])
    request = Request(pitch=LEVEL0, box=Box(x=5, y=9, width=111, height=77))
    with open_image(path) as image, started(path, 1) as processes:
        assert image.info.has_mask
        region, wanted = processes.read([request])[0], image.read([request])[0]
        assert region.valid is not None
        assert wanted.valid is not None
        assert np.array_equal(region.valid, wanted.valid)
        assert np.array_equal(region.pixels, wanted.pixels)


def test_what_was_read_outlives_the_processes(odd_pyramid: Path) -> None:
    with started(odd_pyramid, 1) as processes:
        pixels = processes.read(requests(0, 0, 100))[0].pixels
    with open_image(odd_pyramid) as image:
        wanted = image.read(requests(0, 0, 100))[0].pixels
    assert np.array_equal(pixels, wanted)
    pixels += 1  # it is memory of this process, as any other array


def test_memory_is_used_again_once_nothing_refers_to_it(processes: ImageProcesses) -> None:
    for _ in range(3):
        processes.read(requests(0, 0, 100))
        processes.read(requests(0, 0, 100))
    open_before = descriptors()
    for number in range(30):
        part = processes.read(requests(number, number, 100 - number))[0].pixels[1:, ::2]
        assert part.base is not None
    assert not {each for each in descriptors() - open_before if "/proc/" not in each}


def test_nothing_is_left_behind(odd_pyramid: Path) -> None:
    before, open_before = set(children()), descriptors()
    with started(odd_pyramid, 3) as processes:
        held = processes.read(requests(0, 0, 60))
        assert len(set(children()) - before) == 4
        assert (host_memory() or 0) > 0
    assert set(children()) <= before
    del held
    assert not {each for each in descriptors() - open_before if "/proc/" not in each}


def test_until_they_have_started_a_thread_reads_by_itself(odd_pyramid: Path) -> None:
    before = set(children())
    with open_image(odd_pyramid) as image, ImageProcesses(open_image(odd_pyramid), 2) as processes:
        found = processes.read(requests(0, 0, 100))
        assert processes._starting
        for region, wanted in zip(found, image.read(requests(0, 0, 100)), strict=True):
            assert np.array_equal(region.pixels, wanted.pixels)
    deadline = time.monotonic() + 60
    while (left := [pid for pid in set(children()) - before if is_running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def test_a_damaged_tile_is_named_as_ever(odd_pyramid: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.tif"
    data = bytearray(odd_pyramid.read_bytes())
    with tifffile.TiffFile(odd_pyramid) as file:
        page = file.pages.first
        start = page.dataoffsets[0]
        data[start : start + 40] = bytes(40)
    damaged.write_bytes(data)
    request = [Request(pitch=LEVEL0, box=Box(x=0, y=0, width=50, height=50))]
    with ExitStack() as stack:
        image = stack.enter_context(open_image(damaged))
        processes = stack.enter_context(started(damaged, 1))
        with pytest.raises(SourceError) as wanted:
            image.read(request)
        with pytest.raises(SourceError) as found:
            processes.read(request)
        assert str(found.value) == str(wanted.value)
        # The process goes on with the next.
        other = [Request(pitch=LEVEL0, box=Box(x=200, y=200, width=50, height=50))]
        assert np.array_equal(processes.read(other)[0].pixels, image.read(other)[0].pixels)


def test_a_process_that_is_killed_ends_the_run_with_exit_code_6(odd_pyramid: Path) -> None:
    before = set(children())
    with started(odd_pyramid, 1) as processes:
        processes.read(requests(0, 0, 60))
        # The server, and the one process that it started.
        *_, reading = sorted(set(children()) - before)
        os.kill(reading, signal.SIGKILL)
        with pytest.raises(MemoryShortageError, match="has ended") as raised:
            processes.read(requests(0, 0, 60))
        assert raised.value.exit_code == 6


def test_none_is_left_of_a_program_that_is_killed(odd_pyramid: Path) -> None:
    script = (
        "import sys, time\n"
        "from magnet_cli.images import open_image\n"
        "from magnet_cli.images.reading_processes import ImageProcesses\n"
        "processes = ImageProcesses(open_image(sys.argv[1]), 2)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    program = subprocess.Popen([sys.executable, "-c", script, str(odd_pyramid)], stdout=subprocess.PIPE)
    assert program.stdout is not None
    assert program.stdout.readline() == b"ready\n"
    deadline = time.monotonic() + 60
    while len(found := children(program.pid)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(found) == 3
    program.kill()
    program.wait()
    program.stdout.close()
    while (left := [pid for pid in found if is_running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def test_only_large_local_files_are_worth_it(odd_pyramid: Path) -> None:
    with open_image(odd_pyramid) as image:
        large = replace(image.info, size=Size(width=LEAST_PIXELS, height=1))
    assert can_be_read_by_processes(large)
    assert not can_be_read_by_processes(image.info)
    assert not can_be_read_by_processes(replace(large, path="https://example.org/x.tif"))
    assert not can_be_read_by_processes(replace(large, cache_bytes=1))

"""An image that is read by separate processes, for a program whose own threads are too busy to read it.

Python runs one thread of a process at a time, and a read is hundreds of short operations that each let go of that right
and wait for it again. Beside a GPU, sixteen threads on sixteen cores kept three of them busy and the thread that feeds
the GPU waiting. Processes do not wait for one another. Their pixels arrive in memory that they share with this one.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import pickle
import select
import socket
import subprocess
import sys
import weakref
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING

from magnet_cli.errors import MemoryShortageError, ReaderBugError, SourceError
from magnet_cli.images.protocol import Region
from magnet_cli.images.shared_regions import Failure, ReadMessage, receive, send, shared_bytes
from magnet_cli.images.urls import is_url
from magnet_cli.system.closing import Closing
from magnet_cli.system.threads import wait_briefly

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magnet_cli.images.protocol import Image, ImageInfo, Request
    from magnet_cli.images.shared_regions import SharedRegion

LEAST_PIXELS = 256_000_000
"""Pixels of an image below which processes are no gain: they take about a second to start."""
PROCESS_BYTES = 96 << 20
"""Memory that such a process takes, beside what it reads: Python, NumPy and the libraries of formats."""


def can_be_read_by_processes(info: ImageInfo) -> bool:
    """Return whether several processes can open the image without repeating the same work.

    Args:
        info: Facts about the image. A file that has to be decoded as a whole would be decoded by each process.
    """
    has_shared_memory = hasattr(os, "memfd_create") and hasattr(socket, "send_fds")
    return has_shared_memory and not is_url(info.path) and not info.cache_bytes and info.size.pixels >= LEAST_PIXELS


@dataclass(kw_only=True)
class _Slab:
    """Memory that one process and this one share."""

    number: int
    descriptor: int
    memory: mmap.mmap
    is_new: bool = True


@dataclass(kw_only=True)
class _Reader:
    """One reading process as the parent process knows it: its channel and its shared memory."""

    channel: socket.socket
    free: list[_Slab] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    """Numbers of slabs that the process may release, and that no message has named yet."""
    slabs: int = 0
    """Number of slabs made so far; negative once the image is closed."""


class ImageProcesses(Closing):
    """An `Image` that several processes read at the same time, on behalf of at least as many threads.

    They take a second to start. A thread that finds none ready until then reads by itself.

    Args:
        image: Image opened by this process, which states the facts; closed together with this one.
        processes: Number of reading processes.
    """

    def __init__(self, image: Image, processes: int) -> None:
        self._image = image
        self._lock = Lock()
        self._idle: SimpleQueue[_Reader] = SimpleQueue()
        pairs = [socket.socketpair() for _ in range(processes)]
        self._readers = [_Reader(channel=own) for own, _ in pairs]
        theirs = [other.fileno() for _, other in pairs]
        # -P keeps the current folder out of the path: a file there could take the place of a module.
        words = [sys.executable, "-P", "-m", "magnet_cli.images.reading_server", image.info.path]
        words += ["" if image.info.series is None else str(image.info.series), image.info.alpha or ""]
        root = str(Path(__file__).parents[2])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
        wait_briefly(environment)
        # A new interpreter and no fork of this one: OpenMP, libvips and CUDA do not survive a fork.
        self._server = subprocess.Popen(  # noqa: S603 - this interpreter and a module of this package
            [*words, *map(str, theirs)],
            pass_fds=theirs,
            stdin=subprocess.DEVNULL,
            # Each process uses one core; the libraries would start a team of threads for every one of them.
            env={**environment, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        # The child has its own copies. A channel reports its end only when no process holds the other side any more.
        for _, other in pairs:
            other.close()
        self._starting = list(self._readers)

    @property
    def info(self) -> ImageInfo:
        """Facts about the image, known before a pixel is decoded."""
        return self._image.info

    def read(self, requests: Sequence[Request]) -> list[Region]:
        """Read the requests in a free process, or in this thread where no process is ready.

        Raises:
            SourceError: The image could not be read; the process reports the error.
            MemoryShortageError: The reading process was killed.
        """
        reader = self._free_reader()
        if reader is None:
            return self._image.read(requests)
        try:
            return self._read(reader, requests)
        finally:
            self._idle.put(reader)

    def close(self) -> None:
        """End the processes, and close the image; what was read stays valid."""
        if self._starting:
            # A process that it has started by now ends with its channel.
            self._server.terminate()
        for reader in self._readers:
            reader.channel.close()
            with self._lock:
                for slab in reader.free:
                    _drop(slab)
                reader.free.clear()
                reader.slabs = -1
        self._server.wait()
        self._image.close()

    def _free_reader(self) -> _Reader | None:
        """Return a process that has nothing to do; None where some are still starting and the others are busy."""
        with self._lock:
            if self._starting:
                ready, _, _ = select.select([reader.channel for reader in self._starting], [], [], 0)
                for reader in [reader for reader in self._starting if reader.channel in ready]:
                    # A process that has ended instead is noticed by the thread that sends it a request.
                    with suppress(OSError):
                        receive(reader.channel)
                    self._starting.remove(reader)
                    self._idle.put(reader)
            has_started = not self._starting
        if has_started:
            return self._idle.get()
        try:
            return self._idle.get_nowait()
        except Empty:
            return None

    def _read(self, reader: _Reader, requests: Sequence[Request]) -> list[Region]:
        info = self._image.info
        size = sum(shared_bytes(request, bands=len(info.bands), dtype=info.dtype) for request in requests)
        slab = self._slab(reader, size)
        # Arrays refer to the exporter of their memory, and not to a memoryview of it. So the finalizer runs when the
        # last is gone.
        lease = (ctypes.c_ubyte * len(slab.memory)).from_buffer(slab.memory)
        weakref.finalize(lease, self._release, reader, slab)
        try:
            new = [slab.descriptor] if slab.is_new else []
            message = ReadMessage(
                slab=slab.number, size=len(slab.memory), requests=tuple(requests), dropped=self._dropped(reader)
            )
            send(reader.channel, pickle.dumps(message), new)
            slab.is_new = False
            data, _ = receive(reader.channel)
        except OSError as error:
            raise self._ended() from error
        if not data:
            raise self._ended()
        # The answer comes from a process that this one has started, over a channel that no other process has.
        answer: list[SharedRegion] | Failure = pickle.loads(data)  # noqa: S301
        if isinstance(answer, Failure):
            raise _error(answer)
        return [
            Region(pixels=found.pixels.within(lease), valid=None if found.valid is None else found.valid.within(lease))
            for found in answer
        ]

    def _slab(self, reader: _Reader, size: int) -> _Slab:
        """Return the shared memory of at least so many bytes that nothing refers to."""
        with self._lock:
            # Shared memory is reused: its pages are mapped and zeroed once, and not for each block.
            fitting = [slab for slab in reader.free if len(slab.memory) >= size]
            if fitting:
                slab = min(fitting, key=lambda one: len(one.memory))
                reader.free.remove(slab)
                return slab
            # Memory that is too small will hardly be used again: the largest blocks are those inside the image.
            for slab in reader.free:
                reader.dropped.append(slab.number)
                _drop(slab)
            reader.free.clear()
            reader.slabs += 1
            number = reader.slabs
        descriptor = os.memfd_create("magnet-pixels", os.MFD_CLOEXEC)
        os.truncate(descriptor, max(size, 1))
        return _Slab(number=number, descriptor=descriptor, memory=mmap.mmap(descriptor, max(size, 1)))

    def _dropped(self, reader: _Reader) -> tuple[int, ...]:
        with self._lock:
            dropped, reader.dropped = tuple(reader.dropped), []
        return dropped

    def _release(self, reader: _Reader, slab: _Slab) -> None:
        """Keep a slab for another read, once nothing refers to what was read into it."""
        with self._lock:
            if reader.slabs < 0:
                _drop(slab)
            else:
                reader.free.append(slab)

    def _ended(self) -> MemoryShortageError:
        return MemoryShortageError(
            "a process that reads the image has ended, perhaps because the system was short of memory",
            file=self._image.info.path,
            advice="Run the same command with fewer --num-workers: what was finished is kept",
        )


def _drop(slab: _Slab) -> None:
    with suppress(BufferError):  # the memory goes with the last array that refers to it
        slab.memory.close()
    os.close(slab.descriptor)


def _error(failure: Failure) -> Exception:
    if failure.is_memory:
        return MemoryError(failure.rule)
    if failure.details is not None:
        return ReaderBugError.from_words(
            failure.value or failure.rule, failure.details, file=failure.file or "the image"
        )
    return SourceError(failure.rule, value=failure.value, file=failure.file, advice=failure.advice)

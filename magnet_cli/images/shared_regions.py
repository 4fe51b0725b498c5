"""What processes that read an image and the one that asks them say to each other, and how pixels lie in between.

A message is its length in eight bytes and then a pickle, over a channel that only the two processes have. The pixels of
an answer lie in memory that both have mapped; its descriptor comes with the first message that names it.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from magnet_cli.images.protocol import Region, Request

ALIGNED = 64
"""Arrays begin at multiples of this, a cache line."""
LENGTH = 8
MOST_DESCRIPTORS = 1


@dataclass(frozen=True, kw_only=True)
class SharedArray:
    """An array in shared memory."""

    start: int
    """Position of the array's first byte."""
    shape: tuple[int, ...]
    dtype: str

    def within(self, memory: Any) -> NDArray[Any]:
        """Return the array, for as long as it lives part of what `memory` exports."""
        count = int(np.prod(self.shape, dtype=np.int64))
        return np.frombuffer(memory, self.dtype, count=count, offset=self.start).reshape(self.shape)


@dataclass(frozen=True, kw_only=True)
class SharedRegion:
    """A region whose arrays are in shared memory."""

    pixels: SharedArray
    valid: SharedArray | None


@dataclass(frozen=True, kw_only=True)
class ReadMessage:
    """Requests that are sent to a reading process."""

    slab: int
    """Number of the shared memory that takes the answer; its descriptor comes with the first message that names it."""
    size: int
    """Size of that shared memory, in bytes."""
    requests: tuple[Request, ...]
    dropped: tuple[int, ...] = ()
    """Numbers of shared memory that will not be named again."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An error of a read, in words: exceptions of this program cannot be pickled."""

    rule: str
    value: str | None
    file: str | None
    advice: str | None
    is_memory: bool = False
    """Whether the read failed because memory ran out."""
    details: str | None = None
    """Traceback where the failure is a bug; else None."""


def shared_bytes(request: Request, *, bands: int, dtype: str) -> int:
    """Return the largest number of bytes that a region takes in shared memory.

    Args:
        request: Request that the region answers.
        bands: Number of bands of the image.
        dtype: NumPy name of the image's dtype.
    """
    count = bands if request.bands is None else len(request.bands)
    return request.box.area * (count * np.dtype(dtype).itemsize + 1) + 2 * ALIGNED


def share(regions: Sequence[Region], memory: NDArray[np.uint8]) -> list[SharedRegion]:
    """Copy regions into shared memory, one after another.

    Args:
        regions: Regions as the image returned them.
        memory: The whole shared memory as an array of bytes.
    """
    placed: list[SharedRegion] = []
    start = 0
    for region in regions:
        pixels, start = _placed(region.pixels, memory, start)
        valid = None
        if region.valid is not None:
            valid, start = _placed(region.valid, memory, start)
        placed.append(SharedRegion(pixels=pixels, valid=valid))
    return placed


def _placed(array: NDArray[Any], memory: NDArray[np.uint8], start: int) -> tuple[SharedArray, int]:
    place = SharedArray(start=start, shape=array.shape, dtype=array.dtype.str)
    place.within(memory)[...] = array
    return place, -(-(start + array.nbytes) // ALIGNED) * ALIGNED


def send(channel: socket.socket, message: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send a message, and descriptors with it.

    Raises:
        OSError: The other side is gone.
    """
    length = len(message).to_bytes(LENGTH, "little")
    if descriptors:
        # Descriptors travel with the first bytes of a message, so that they arrive before what names them.
        socket.send_fds(channel, [length], list(descriptors))
    else:
        channel.sendall(length)
    channel.sendall(message)


def receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    """Return a message and the descriptors that came with it; an empty one where the other side has closed the channel.

    Raises:
        OSError: The other side is gone.
    """
    # Descriptors are lost if the bytes that they came with are read by a plain recv.
    length, descriptors, *_ = socket.recv_fds(channel, LENGTH, MOST_DESCRIPTORS)
    if length and len(length) < LENGTH:
        length += _exactly(channel, LENGTH - len(length))
    message = _exactly(channel, int.from_bytes(length, "little")) if len(length) == LENGTH else b""
    if not message:
        for descriptor in descriptors:
            os.close(descriptor)
        return b"", []
    return message, list(descriptors)


def _exactly(channel: socket.socket, count: int) -> bytes:
    """Return exactly so many bytes; an empty result where the channel is closed before."""
    found = bytearray()
    while len(found) < count:
        more = channel.recv(count - len(found))
        if not more:
            return b""
        found += more
    return bytes(found)

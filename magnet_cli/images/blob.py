"""Bytes of a file at an offset, from several threads at once: on this machine, or behind a URL."""

from __future__ import annotations

import io
import os
import stat
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from magnet_cli.errors import SourceError
from magnet_cli.images.failures import naming
from magnet_cli.system import durable

if TYPE_CHECKING:
    from pathlib import Path

STREAM_BUFFER = 64 << 10
"""Bytes that a stream reads ahead."""


class Blob(ABC):
    """Bytes that are read at offsets.

    Args:
        name: Path or URL as the user gave it.
        size: Number of bytes.
    """

    resident_bytes = 0
    """Largest memory that the blob keeps between reads, in bytes."""
    version = ""
    """The version of the file that a server states, by its ETag or the time of its last change; else empty."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size

    def read(self, offset: int, count: int, *, place: str) -> bytes:
        """Return exactly `count` bytes from `offset` on.

        Args:
            offset: Position of the first byte.
            count: Number of bytes.
            place: Description of these bytes for the error message.

        Raises:
            SourceError: The file ends before the last of these bytes, or cannot be read.
        """
        if offset < 0 or offset + count > self.size:
            raise SourceError(
                f"the file is truncated: {place} ends at byte {offset + count}",
                value=f"{self.size} bytes",
                file=self.name,
                advice="Copy or export the file again",
            )
        with naming(self.name, f"{place} cannot be read"):
            data = self._bytes(offset, count)
        if len(data) != count:
            raise SourceError(
                f"{place} could be read in part only",
                value=f"{len(data)} of {count} bytes",
                file=self.name,
                advice="Try again; if it stays so, copy the file again",
            )
        return data

    def stream(self) -> BinaryIO:
        """Return a file object over the bytes, for libraries that need one. Threads must not share it."""
        return cast("BinaryIO", io.BufferedReader(BlobStream(self), STREAM_BUFFER))

    @abstractmethod
    def _bytes(self, offset: int, count: int) -> bytes:
        """Return the bytes, or fewer where there are no more."""

    @abstractmethod
    def close(self) -> None:
        """Release the files and memory that the blob holds."""


class FileBlob(Blob):
    """A file opened for reading at offsets.

    Args:
        path: Path of the file.

    Raises:
        SourceError: The file cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        with naming(path, "the file cannot be opened", advice="Check that it exists and that you may read it"):
            # This comes before `open`, which waits for ever at a pipe that nobody writes to.
            if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 (path may be a string)
                rule = "an image is read in any order and has an end, which a pipe, a socket or a device has not"
                raise SourceError(rule, file=path, advice="Write what the pipe holds to a file, and give that file")
            # Reads go by offset past this object, so a buffer would only take memory.
            self._file = open(path, "rb", buffering=0)  # noqa: PTH123, SIM115 (kept open; path may be a string)
            super().__init__(str(path), os.fstat(self._file.fileno()).st_size)

    def close(self) -> None:
        """Close the file; reads fail from then on."""
        self._file.close()

    def _bytes(self, offset: int, count: int) -> bytes:
        return durable.read_at(self._file.fileno(), count, offset)


class ChangedBlob(Blob):
    """Another blob, some bytes of which are read as others; closing it closes the other.

    Args:
        blob: The other one.
        offset: Position of the first of these bytes.
        data: What is read there.
    """

    def __init__(self, blob: Blob, *, offset: int, data: bytes) -> None:
        super().__init__(blob.name, blob.size)
        self._blob, self._offset, self._data = blob, offset, data
        self.resident_bytes = blob.resident_bytes
        self.version = blob.version

    def close(self) -> None:
        """Close the other blob."""
        self._blob.close()

    def _bytes(self, offset: int, count: int) -> bytes:
        found = self._blob.read(offset, count, place=f"byte {offset} and what follows")
        first, last = max(offset, self._offset), min(offset + count, self._offset + len(self._data))
        if first >= last:
            return found
        changed = self._data[first - self._offset : last - self._offset]
        return found[: first - offset] + changed + found[last - offset :]


class BlobStream(io.RawIOBase):
    """A seekable stream over a blob; closing it leaves the blob open.

    Args:
        blob: Blob that the stream reads.
    """

    def __init__(self, blob: Blob) -> None:
        super().__init__()
        self._blob = blob
        self._position = 0

    def readable(self) -> bool:
        """Return True, as a stream over a blob can be read."""
        return True

    def seekable(self) -> bool:
        """Return True, as a blob is read at any offset."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, counted from the start, from here or from the end, and return it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._blob.size}[whence]
        if start + offset < 0:
            message = f"a position before the first byte: {start + offset}"
            raise ValueError(message)
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        """Return the position of the next byte that is read."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the current position on, and return the number of bytes, 0 at the end."""
        count = max(0, min(len(buffer), self._blob.size - self._position))
        if count:
            buffer[:count] = self._blob.read(self._position, count, place=f"byte {self._position} and what follows")
            self._position += count
        return count

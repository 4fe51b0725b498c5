"""Bytes of a file at an offset, from several threads at once."""

from __future__ import annotations

import os
from threading import Lock
from typing import TYPE_CHECKING

from magnet_cli.errors import SourceError
from magnet_cli.images.failures import naming

if TYPE_CHECKING:
    from pathlib import Path


class Blob:
    """A file opened for reading at offsets.

    Args:
        path: The file.

    Raises:
        SourceError: It cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        with naming(path, "the file cannot be opened", advice="Check that it exists and that you may read it"):
            self._file = open(path, "rb", buffering=0)  # noqa: PTH123, SIM115 (kept open; path may be a string)
            self.size = os.fstat(self._file.fileno()).st_size
        self._lock = Lock()

    def read(self, offset: int, count: int, *, place: str) -> bytes:
        """Exactly `count` bytes.

        Args:
            offset: Of the first byte.
            count: Number of bytes.
            place: What they are, for the message.

        Raises:
            SourceError: The file ends before, or cannot be read.
        """
        if offset < 0 or offset + count > self.size:
            raise SourceError(
                f"the file is truncated: {place} ends at byte {offset + count}",
                value=f"{self.size} bytes",
                file=self._path,
                advice="Copy or export the file again",
            )
        with naming(self._path, f"{place} cannot be read"):
            data = self._pread(offset, count)
        if len(data) != count:
            raise SourceError(
                f"{place} could be read in part only", value=f"{len(data)} of {count} bytes", file=self._path
            )
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _pread(self, offset: int, count: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), count, offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.read(count)

"""Folders and zip files of zarr images, whose entries are regular files of a bounded size, also when unpacked."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from typing_extensions import override
from zarr.storage import LocalStore, ZipStore

from magnet_cli.system.regular_files import check_regular

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

MOST_BYTES = 512 << 20
"""Largest entry that is read as a whole, and largest size to which it may say that it unpacks, in bytes. A chunk that
is read by region has half of it."""
ZSTD, GZIP = b"\x28\xb5\x2f\xfd", b"\x1f\x8b"
BLOSC_HEADER = 16
HEAD = 32
"""Bytes in which each of these headers ends."""
ID_SIZES = (0, 1, 2, 4)
CONTENT_SIZES = (0, 2, 4, 8)
TWO_BYTES_ADD = 256


class RegularStore(LocalStore):
    """A folder of a zarr image."""

    @override
    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        path = self.root / key
        if path.exists() and not path.is_dir():
            # To open a pipe would wait for ever.
            check_regular(path)
            if byte_range is None:
                check_size(path.stat().st_size, str(path))
        return checked(await super().get(key, prototype, byte_range), str(path))


class BoundedZipStore(ZipStore):
    """A zip file of a zarr image."""

    @override
    def _get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        if self._is_open and byte_range is None and key in self._zf.NameToInfo:
            check_size(self._zf.NameToInfo[key].file_size, key)
        return checked(super()._get(key, prototype, byte_range), key)


def check_size(size: int, name: str) -> None:
    """Pass where an entry is not too large to be read.

    Raises:
        OSError: The entry is too large.
    """
    if size > MOST_BYTES:
        said = f"an entry has or unpacks to {size:,} bytes, and at most {MOST_BYTES:,} are read"
        raise OSError(errno.EFBIG, said, name)


def checked(entry: Buffer | None, name: str) -> Buffer | None:
    """Return an entry that does not say that it unpacks to too many bytes.

    Raises:
        OSError: The entry states that it unpacks to too many bytes.
    """
    if entry is not None:
        check_size(unpacked_size(entry[:HEAD].to_bytes(), entry[-4:].to_bytes(), len(entry)), name)
    return entry


def unpacked_size(head: bytes, tail: bytes, length: int) -> int:
    """Return the size to which data unpack by the headers of Zstandard (RFC 8878), Blosc and gzip; 0 for others.

    Args:
        head: First bytes of the data.
        tail: Last four bytes of the data.
        length: Number of bytes of the data.
    """
    if head.startswith(ZSTD) and len(head) > len(ZSTD):
        flags = head[4]
        single = flags >> 5 & 1
        start = 5 + (1 - single) + ID_SIZES[flags & 3]
        count = CONTENT_SIZES[flags >> 6] or single
        # Two bytes state 256 less, because one byte does for smaller sizes.
        return int.from_bytes(head[start : start + count], "little") + (TWO_BYTES_ADD if count == 2 else 0)  # noqa: PLR2004
    # The last four bytes of gzip hold the size modulo 2 to the 32nd (RFC 1952), which the size of a bomb may exceed:
    # the decoder's own limits hold for those.
    if head.startswith(GZIP):
        return int.from_bytes(tail, "little")
    if length >= BLOSC_HEADER and int.from_bytes(head[12:16], "little") == length:
        return int.from_bytes(head[4:8], "little")
    return 0

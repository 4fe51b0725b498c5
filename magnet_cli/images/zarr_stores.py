"""Folders and zip files of zarr images, whose entries are regular files of a bounded size, also when unpacked."""

from __future__ import annotations

import bz2
import errno
import json
import lzma
import zlib
from functools import cached_property
from typing import TYPE_CHECKING, Any

from typing_extensions import override
from zarr.storage import FsspecStore, LocalStore, ZipStore

from magnet_cli.images.zarr_codecs import BLOSC_HEADER, refuse_other_length
from magnet_cli.system.regular_files import check_regular

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

MOST_BYTES = 512 << 20
"""Largest entry that is read as a whole, and largest size to which it may say that it unpacks, in bytes. A chunk that
is read by region has half of it."""
DEFLATE_RATIO = 1032
"""Most bytes of output for a byte of a deflate stream (zlib's technical details)."""
PART = 1 << 20
"""Bytes that are unpacked at a time while they are counted."""
DENSE = (b"BZh", b"\xfd7zXZ\x00")
"""Beginnings of bzip2 and xz data."""
LARGEST_BLOCK = 128 << 10
"""Most bytes to which a block of a Zstandard frame unpacks."""
REPEATED_BLOCK, COMPRESSED_BLOCK = 1, 2
CHECKSUM = 4
"""Bytes of the checksum that a Zarr codec adds to an entry."""
ZSTD, GZIP = b"\x28\xb5\x2f\xfd", b"\x1f\x8b"
METADATA = frozenset({".zarray", ".zmetadata", ".zattrs", ".zgroup", "zarr.json"})
"""Names of the entries that are no chunks."""
HEAD = 32
"""Bytes in which each of these headers ends."""
ID_SIZES = (0, 1, 2, 4)
CONTENT_SIZES = (0, 2, 4, 8)
TWO_BYTES_ADD = 256


class BloscArrays:
    """The arrays of a store whose chunks Blosc has packed, as their metadata say when they are read.

    Their chunks are checked here, where their path is known. Chunks in shards are checked by their codec.
    """

    def __init__(self) -> None:
        self._places: set[str] = set()

    def checked(self, entry: Buffer | None, key: str, *, is_whole: bool) -> Buffer | None:
        """Return an entry that is no chunk of such an array, or states its own length.

        Raises:
            OSError: The chunk states another length than it has.
        """
        if entry is None or not is_whole:
            return entry
        if key.rpartition("/")[2] in METADATA:
            self._places |= blosc_places(key, entry.to_bytes())
        elif any(not place or key.startswith(f"{place}/") for place in self._places):
            refuse_other_length(entry, key)
        return entry


def blosc_places(key: str, data: bytes) -> set[str]:
    """Return the paths of the arrays that metadata describe and whose chunks Blosc packs last.

    Args:
        key: Path of the metadata, of which one of `METADATA` is the name.
        data: The JSON document. Damaged documents describe no array.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return set()
    folder, _, name = key.rpartition("/")
    described = {folder: document}
    inner = document.get("consolidated_metadata", document) if isinstance(document, dict) else None
    several = inner.get("metadata") if isinstance(inner, dict) else None
    for place, array in several.items() if isinstance(several, dict) else ():
        place_of_array = place.removesuffix(".zarray").rstrip("/") if name == ".zmetadata" else place
        described["/".join(part for part in (folder, place_of_array) if part)] = array
    return {place for place, array in described.items() if isinstance(array, dict) and _ends_in_blosc(array)}


def _ends_in_blosc(array: dict[str, Any]) -> bool:
    compressor, codecs = array.get("compressor"), array.get("codecs")
    last = codecs[-1] if isinstance(codecs, list) and codecs else None
    return (isinstance(compressor, dict) and compressor.get("id") == "blosc") or (
        isinstance(last, dict) and last.get("name") == "blosc"
    )


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
        entry = checked(await super().get(key, prototype, byte_range), str(path))
        return self._known.checked(entry, key, is_whole=byte_range is None)

    @cached_property
    def _known(self) -> BloscArrays:
        return BloscArrays()


class BoundedRemoteStore(FsspecStore):
    """A folder of a zarr image behind a URL. Answers of servers have bounds of their own."""

    @override
    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        entry = checked(await super().get(key, prototype, byte_range), key)
        return self._known.checked(entry, key, is_whole=byte_range is None)

    @cached_property
    def _known(self) -> BloscArrays:
        return BloscArrays()


class BoundedZipStore(ZipStore):
    """A zip file of a zarr image."""

    @override
    def _get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        if self._is_open and byte_range is None and key in self._zf.NameToInfo:
            check_size(self._zf.NameToInfo[key].file_size, key)
        entry = checked(super()._get(key, prototype, byte_range), key)
        return self._known.checked(entry, key, is_whole=byte_range is None)

    @cached_property
    def _known(self) -> BloscArrays:
        return BloscArrays()


def check_size(size: int, name: str) -> None:
    """Check that an entry is not too large to be read.

    Raises:
        OSError: The entry is too large.
    """
    if size > MOST_BYTES:
        said = f"an entry has or unpacks to {size:,} bytes, and at most {MOST_BYTES:,} are read"
        raise OSError(errno.EFBIG, said, name)


def checked(entry: Buffer | None, name: str) -> Buffer | None:
    """Return an entry that does not unpack to too many bytes.

    The size that it states decides. Where it states none, or gzip's, which may be a part of it, the entry is walked
    through, or unpacked a little at a time as far as the limit.

    Raises:
        OSError: The entry unpacks to too many bytes.
    """
    if entry is None:
        return None
    head = entry[:HEAD].to_bytes()
    stated = unpacked_size(head, entry[-4:].to_bytes(), len(entry))
    # A checksum of Zarr may follow the size that gzip states at its end, and would be taken for it.
    if not (head.startswith(GZIP) and stated > MOST_BYTES and _is_followed(entry.to_bytes())):
        check_size(stated, name)
    if head.startswith(ZSTD) and not stated:
        check_size(zstd_bound(entry.to_bytes()), name)
    # A deflate stream unpacks to a thousand times its own size at most, the other two to much more.
    elif head.startswith(DENSE) or (_is_deflate(head) and len(entry) * DEFLATE_RATIO > MOST_BYTES):
        check_size(_streamed_size(entry.to_bytes(), MOST_BYTES), name)
    return entry


def zstd_bound(data: bytes) -> int:
    """Return how many bytes Zstandard frames unpack to at most, by the heads of their blocks (RFC 8878, section 3.1).

    Args:
        data: The frames. Damaged ones end what is counted, and their decoder.
    """
    at, found = 0, 0
    while data[at : at + 4] == ZSTD and len(data) > at + 5:
        flags = data[at + 4]
        single = flags >> 5 & 1
        at += 5 + (1 - single) + ID_SIZES[flags & 3] + (CONTENT_SIZES[flags >> 6] or single)
        is_last = False
        while not is_last and len(data) >= at + 3:
            block = int.from_bytes(data[at : at + 3], "little")
            is_last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
            found += LARGEST_BLOCK if kind == COMPRESSED_BLOCK else size
            at += 3 + (1 if kind == REPEATED_BLOCK else size)
        at += 4 * (flags >> 2 & 1)
    return found


def _is_deflate(head: bytes) -> bool:
    return head.startswith(GZIP) or (head[:1] == b"\x78" and int.from_bytes(head[:2], "big") % 31 == 0)


def _is_followed(data: bytes) -> bool:
    """Return whether gzip data are followed by other bytes, before they have unpacked to too many."""
    stream, found, part = zlib.decompressobj(32 + zlib.MAX_WBITS), 0, data
    try:
        while part and not stream.eof and found <= MOST_BYTES:
            found += len(stream.decompress(part, PART))
            part = stream.unconsumed_tail
    except zlib.error:
        return False
    return stream.eof and len(stream.unused_data) == CHECKSUM


def _streamed_size(data: bytes, most: int) -> int:
    """Return how many bytes gzip, zlib, bzip2 or xz data unpack to, counted until there are more than `most`."""
    found, left = 0, data
    while left and found <= most:
        stream: Any = (
            bz2.BZ2Decompressor()
            if data.startswith(DENSE[0])
            else lzma.LZMADecompressor()
            if data.startswith(DENSE[1])
            else zlib.decompressobj(32 + zlib.MAX_WBITS)
        )
        part = left
        try:
            while not stream.eof and found <= most:
                count = len(stream.decompress(part, PART))
                part = getattr(stream, "unconsumed_tail", b"")
                found += count
                if not count and not part:
                    return found
        except (zlib.error, lzma.LZMAError, OSError):
            return found
        left = stream.unused_data
    return found


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
    # A checksum of Zarr may follow, of four bytes.
    if length >= BLOSC_HEADER and int.from_bytes(head[12:16], "little") in (length, length - CHECKSUM):
        return int.from_bytes(head[4:8], "little")
    return 0

"""The journal's bytes: a magic word, then records that each carry two checksums.

    record = mark, kind, size of meta, size of payload, CRC-32 of meta and payload, CRC-32 of what stands before it
             meta, payload

The head has a checksum of its own so that a damaged payload can be stepped over, while a damaged head ends what can be
read. Numbers are little-endian.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from magnet_cli.system.durable import read_at

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"MAGNETJ\x02"
"""The last byte is the version of this format."""

# A mark at each record tells a damaged head from a tail that was never written.
MARK = b"mj"
HEAD = struct.Struct("<2sBBIII")
TILE_META = struct.Struct("<HIIIHHHHB")
"""Pass, group, row, col, then x, y, width, height inside the tile, and whether the payload is a whole stored tile."""
FIELD_META = struct.Struct("<HIHIIHHHH")
"""Pass, group, field, row, col of the chunk, then x, y, width, height inside the chunk."""
GROUP_META = struct.Struct("<HII")
"""Pass, group, number of its records since the file was last opened."""


def begins_journal(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of a journal of any version, or of one that was only begun.

    A kill may leave a part of the magic word, and a power cut may leave zeros.

    Args:
        head: The first `len(MAGIC)` bytes, fewer of a shorter file.
    """
    return not head.strip(b"\0") or MAGIC[:-1].startswith(head[: len(MAGIC) - 1])


class Kind(IntEnum):
    """The kind of a record."""

    HEADER = 1
    """JSON that identifies the run to which the journal belongs."""
    OPENED = 2
    """A process took over; unfinished groups of the one before count for nothing."""
    TILE = 3
    FIELD = 4
    GROUP = 5
    """JSON counts of a group, all of whose other records are stored before this one."""
    DROP = 6
    """The group's records since the file was last opened count for nothing."""
    END = 7
    """All groups are finished."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A record found in a file."""

    kind: Kind
    meta: bytes
    start: int
    """Offset of the record's first byte."""
    payload: bytes
    intact: bool
    """Whether meta and payload agree with their checksum."""

    @property
    def end(self) -> int:
        """Offset of the first byte behind the record."""
        return self.start + HEAD.size + len(self.meta) + len(self.payload)


def pack(kind: Kind, *, meta: bytes = b"", payload: bytes = b"") -> bytes:
    """Return the bytes of a record."""
    body = meta + payload
    # The checksum of the head covers everything in it but itself, so it is computed over a head with 0 in its place.
    head = HEAD.pack(MARK, kind, len(meta), len(payload), zlib.crc32(body), 0)[:-4]
    return head + struct.pack("<I", zlib.crc32(head)) + body


def read(descriptor: int, start: int) -> Record | None:
    """Return the record that starts at an offset; None where no whole record with an intact head does."""
    head = read_at(descriptor, HEAD.size, start)
    if len(head) < HEAD.size:
        return None
    mark, kind, meta_size, payload_size, body_crc, head_crc = HEAD.unpack(head)
    # A length from a damaged head could send the reader anywhere, so nothing behind such a head is trusted.
    if mark != MARK or zlib.crc32(head[:-4]) != head_crc or kind not in Kind.__members__.values():
        return None
    body = read_at(descriptor, meta_size + payload_size, start + HEAD.size)
    if len(body) < meta_size + payload_size:
        return None
    return Record(
        kind=Kind(kind),
        meta=body[:meta_size],
        start=start,
        payload=body[meta_size:],
        intact=zlib.crc32(body) == body_crc,
    )


def torn(descriptor: int, start: int) -> bool:
    """Return whether what stands at an offset, where no record could be read, is one whose end the file lacks."""
    head = read_at(descriptor, HEAD.size, start)
    return len(head) < HEAD.size or (head[:2] == MARK and zlib.crc32(head[:-4]) == HEAD.unpack(head)[-1])


def scan(descriptor: int, start: int) -> Iterator[Record]:
    """Yield all records from an offset on, to the end or to the first place where no record can be read."""
    while (record := read(descriptor, start)) is not None:
        yield record
        start = record.end

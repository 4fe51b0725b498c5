"""A mask's BigTIFF laid out anew: all directories first, then the tiles of the smallest level to those of the largest.

Tiles are copied as they are stored, so that nothing is computed again and a label cannot change; where each will lie is
known before the first byte is written. That is the layout of a Cloud-Optimized GeoTIFF, and serves OME-TIFF as well.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from magnet_cli.masks.mask_file import MaskFile, MaskLevel

HEADER = struct.Struct("<2sHHHQ")
ENTRY = struct.Struct("<HHQ")
INLINE = 8
"""Largest number of bytes of a value that its entry holds itself."""
ASCII, LONG8, IFD8 = 2, 16, 18
DESCRIPTION, TILE_OFFSETS, SUB_IFDS = 270, 324, 330
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of TIFF's data types."""
LEADER = struct.Struct("<I")
TRAILER = 4


@dataclass(frozen=True, kw_only=True)
class Tag:
    """An entry of a directory, its value as bytes."""

    code: int
    dtype: int
    count: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class TiffLayout:
    """Differences between a copy and the mask."""

    description: str
    """The description of the first directory."""
    nested: bool = False
    """Whether reduced levels are sub-directories of the first one instead of following it."""
    preamble: bytes = b""
    """Bytes between the header and the first directory."""
    framed: bool = False
    """Whether four bytes before each tile hold its length, and its last four bytes are repeated behind it."""


def write_relaid(mask: MaskFile, file: IO[bytes], layout: TiffLayout) -> None:
    """Write a copy of the mask to an empty file.

    Raises:
        SourceError: The mask ends too early.
    """
    tags = [_tags(mask, level, layout, number) for number, level in enumerate(mask.levels)]
    starts = [HEADER.size + len(layout.preamble)]
    for each in tags:
        starts.append(starts[-1] + _directory_size(each))
    # All sizes are known, because tiles are copied as they are. So every offset can stand in the directories before a
    # tile is written.
    offsets = _offsets(mask.levels, starts[-1], frame=LEADER.size + TRAILER if layout.framed else 0)
    # BigTIFF, little-endian: 43 instead of 42, offsets of 8 bytes, and a constant 0 (the BigTIFF file format).
    file.write(HEADER.pack(b"II", 43, 8, 0, starts[0]) + layout.preamble)
    for number, each in enumerate(tags):
        values = {TILE_OFFSETS: offsets[number] + (LEADER.size if layout.framed else 0)}
        if layout.nested:
            values[SUB_IFDS] = np.array(starts[1:-1], dtype=np.uint64)
        # Readers of OME-TIFF find sub-directories by their tag, and take every directory of the chain for a plane.
        following = 0 if layout.nested or number + 1 == len(tags) else starts[number + 1]
        file.write(_directory(each, values, start=starts[number], following=following))
    for level in reversed(mask.levels):
        # A Cloud-Optimized GeoTIFF has the smallest overview first: a viewer that starts with it needs one request.
        _copy_tiles(mask, level, file, framed=layout.framed)


def _tags(mask: MaskFile, level: MaskLevel, layout: TiffLayout, number: int) -> list[Tag]:
    """Return the tags of a level's directory, those of the mask except where the layout says otherwise."""
    found = {
        tag.code: Tag(
            code=tag.code,
            dtype=int(tag.dtype),
            count=tag.count,
            data=mask.bytes_at(tag.valueoffset, tag.count * SIZES[int(tag.dtype)]),
        )
        for tag in level.page.tags
    }
    count = len(level.page.dataoffsets)
    # Eight-byte offsets take the same space whatever they are, so the size of a directory is known before them.
    found[TILE_OFFSETS] = Tag(code=TILE_OFFSETS, dtype=LONG8, count=count, data=bytes(8 * count))
    if number == 0:
        text = layout.description.encode() + b"\0"
        found[DESCRIPTION] = Tag(code=DESCRIPTION, dtype=ASCII, count=len(text), data=text)
        nested = len(mask.levels) - 1 if layout.nested else 0
        if nested:
            found[SUB_IFDS] = Tag(code=SUB_IFDS, dtype=IFD8, count=nested, data=bytes(8 * nested))
    # TIFF requires the entries of a directory in ascending order (TIFF 6.0, section 2).
    return [found[code] for code in sorted(found)]


def _directory_size(tags: Sequence[Tag]) -> int:
    # The count of entries and the offset of the next directory have 8 bytes each.
    return 16 + sum(ENTRY.size + INLINE + _outside(tag) for tag in tags)


def _outside(tag: Tag) -> int:
    """Return the bytes of a value that stand behind the directory, padded to whole words."""
    return 0 if len(tag.data) <= INLINE else -(-len(tag.data) // INLINE) * INLINE


def _directory(tags: Sequence[Tag], values: Mapping[int, NDArray[np.uint64]], *, start: int, following: int) -> bytes:
    """Return the bytes of a directory at `start`, with the values that are known only now."""
    head, behind = [struct.pack("<Q", len(tags))], []
    place = start + 16 + len(tags) * (ENTRY.size + INLINE)
    for tag in tags:
        data = values[tag.code].astype("<u8").tobytes() if tag.code in values else tag.data
        head.append(ENTRY.pack(tag.code, tag.dtype, tag.count))
        if len(data) <= INLINE:
            head.append(data.ljust(INLINE, b"\0"))
            continue
        head.append(struct.pack("<Q", place))
        behind.append(data.ljust(_outside(tag), b"\0"))
        place += _outside(tag)
    return b"".join([*head, struct.pack("<Q", following), *behind])


def _offsets(levels: Sequence[MaskLevel], first: int, *, frame: int) -> list[NDArray[np.uint64]]:
    """Return by level the offset of each tile's frame; the last level's tiles come first."""
    found: list[NDArray[np.uint64]] = []
    for level in reversed(levels):
        ends = np.cumsum(np.array(level.page.databytecounts, dtype=np.uint64) + np.uint64(frame)) + np.uint64(first)
        found.insert(0, np.concatenate((np.array([first], dtype=np.uint64), ends[:-1])))
        first = int(ends[-1])
    return found


def _copy_tiles(mask: MaskFile, level: MaskLevel, file: IO[bytes], *, framed: bool) -> None:
    for index in range(len(level.page.dataoffsets)):
        data = mask.stored(level, index)
        if framed:
            file.write(LEADER.pack(len(data)))
        file.write(data)
        if framed:
            # GDAL compares the repeated bytes with the tile. They differ if a program that does not know the layout has
            # rewritten the tile.
            file.write(data[-TRAILER:])

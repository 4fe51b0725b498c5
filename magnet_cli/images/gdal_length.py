"""The length that a raster of GDAL's formats needs, where GDAL reads zeros or noise beyond the end of a file."""

from __future__ import annotations

from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from magnet_cli.errors import SourceError
from magnet_cli.system import regular_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HFA_FILE = Struct("<iIIhI")
"""Erdas IMG, Ehfa_File: version, free list, root entry, length of an entry, dictionary."""
HFA_ENTRY = Struct("<6I64s32s")
"""Erdas IMG, Ehfa_Entry: next, previous, parent, child, data, size of the data, name, type."""
HFA_STATE = Struct("<IIIHII")
"""Erdas IMG, Edms_State: three counts, compression, number of blocks, place of their table."""
HFA_BLOCK = np.dtype([("file", "<u2"), ("offset", "<u4"), ("size", "<u4"), ("valid", "<u2"), ("compression", "<u2")])
MOST_ENTRIES = 100_000
"""Largest number of entries of an Erdas IMG that are followed."""
PCIDSK_BLOCK = 512


def refuse_short_raster(path: str, dataset: Any) -> None:
    """Refuse a raster that is shorter than its header states, in formats whose GDAL driver accepts it.

    ENVI's driver takes a short file for a sparse one; those of Erdas IMG and PCIDSK read zeros or noise.

    Args:
        path: Path of the file that the user named, for the error message.
        dataset: The opened dataset.

    Raises:
        SourceError: The file ends too early.
    """
    needed = NEEDED.get(dataset.driver)
    if needed is None or not dataset.files:
        return
    file = Path(dataset.files[0])
    size, least = file.stat().st_size, needed(file, dataset)
    if size < least:
        raise SourceError(
            "the file is truncated: pixels lie beyond its end",
            value=f"{size:,} bytes, and needs at least {least:,}",
            file=path,
            advice="Copy or export the file again",
        )


def _envi(_: Path, dataset: Any) -> int:
    pixels = sum(np.dtype(kind).itemsize for kind in dataset.dtypes) * dataset.width * dataset.height
    return int(dataset.tags(ns="ENVI").get("header_offset", 0)) + int(pixels)


def _pcidsk(file: Path, _: Any) -> int:
    with regular_files.opened(file) as stream:
        stated = stream.read(32)[16:]
    return int(stated) * PCIDSK_BLOCK


def _hfa(file: Path, _: Any) -> int:
    with regular_files.opened(file) as stream:
        return max(_ends(stream), default=0)


def _ends(stream: BinaryIO) -> Iterator[int]:
    """Return where the data of each entry and the blocks of each table end, by a walk through the tree of entries."""
    stream.seek(16)
    stream.seek(int.from_bytes(stream.read(4), "little"))
    waiting, known = [HFA_FILE.unpack(stream.read(HFA_FILE.size))[2]], {0}
    while waiting and len(known) < MOST_ENTRIES:
        place = waiting.pop()
        if place in known:
            continue
        known.add(place)
        stream.seek(place)
        following, _, _, child, data, size, _, kind = HFA_ENTRY.unpack(stream.read(HFA_ENTRY.size))
        waiting += [following, child]
        yield data + size
        if kind.split(b"\0")[0] == b"Edms_State":
            yield _blocks_end(stream, data)


def _blocks_end(stream: BinaryIO, place: int) -> int:
    """Return the byte at which the last stored block of a table ends."""
    stream.seek(place)
    *_, count, table = HFA_STATE.unpack(stream.read(HFA_STATE.size))
    stream.seek(table)
    blocks = np.frombuffer(stream.read(count * HFA_BLOCK.itemsize), HFA_BLOCK)
    stored = blocks[(blocks["valid"] != 0) & (blocks["file"] == 0)]
    return int((stored["offset"].astype(np.int64) + stored["size"]).max(initial=0))


NEEDED: dict[str, Callable[[Path, Any], int]] = {"ENVI": _envi, "PCIDSK": _pcidsk, "HFA": _hfa}

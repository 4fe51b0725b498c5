"""The layout of a mask's file, with a checksum for each part that can break."""

from __future__ import annotations

import base64
import hashlib
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import tifffile

from magnet_cli.errors import OutputError
from magnet_cli.images.tiff_pages import first_pages
from magnet_cli.images.truncation import MAX_PAGES
from magnet_cli.system import durable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

ADVICE = "Compute the mask again with --overwrite"

STEP = 1 << 20
"""Bytes read at a time."""
COLORMAP = 320
MOST_BYTES = 1 << 28
"""The most bytes of one packed list: a page of 67 million tiles, more than a million pixels a side."""


@dataclass(frozen=True, kw_only=True)
class PageLayout:
    """One resolution of a mask in its file. The directory and the palette stand before the tiles."""

    columns: int
    """The columns of tiles."""
    first: int
    """Offset of the first tile; the others follow without a gap."""
    lengths: NDArray[np.uint32]
    """Bytes of each tile, row by row."""
    palette: tuple[int, int]
    """Offset and length of the colour map."""

    @property
    def end(self) -> int:
        """Offset of the first byte behind the tiles."""
        return self.first + int(self.lengths.sum(dtype=np.uint64))

    def starts(self) -> NDArray[np.uint64]:
        """Return the offset of each tile."""
        ends = np.cumsum(self.lengths, dtype=np.uint64)
        return ends - self.lengths + np.uint64(self.first)


@dataclass(frozen=True, kw_only=True)
class PageSums:
    """CRC-32 of what a page consists of."""

    tiles: NDArray[np.uint32]
    palette: int
    directory: int
    """All other bytes between the tiles of the page before and those of this one."""


@dataclass(frozen=True, kw_only=True)
class FileSums:
    """Checksums of a mask's file."""

    size: int
    sha256: str
    pages: tuple[PageSums, ...]


def read_layout(path: Path) -> tuple[PageLayout, ...]:
    """Return the layout of a mask that `assemble_mask` has written, as its own directories state it.

    Raises:
        OutputError: The file cannot be read, or is not laid out as this program does.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = tuple(_page(page, path=path) for page in first_pages(tiff.pages))
    except (OSError, tifffile.TiffFileError) as exc:
        raise OutputError("the mask cannot be opened as TIFF", value=exc, file=path, advice=ADVICE) from exc
    if len(pages) == MAX_PAGES:
        rule = "the mask has more directories than any mask, or their chain has no end"
        raise OutputError(rule, value=f"at least {MAX_PAGES:,}", file=path, advice=ADVICE)
    return pages


def measure(path: Path, layout: tuple[PageLayout, ...]) -> FileSums:
    """Read the file once, from the first byte to the last, and sum up everything that a layout names.

    Raises:
        OutputError: The file cannot be read.
    """
    with durable.writing(path), path.open("rb") as file:
        return measure_stream(file, path.stat().st_size, layout)


def measure_stream(file: BinaryIO, size: int, layout: tuple[PageLayout, ...]) -> FileSums:
    """Read a file as `measure` does.

    Args:
        file: The file, at its first byte.
        size: Bytes of the file.
        layout: The layout of the pages whose checksums are computed.
    """
    whole = hashlib.sha256()
    pages: list[PageSums] = []
    position = 0

    def crc(length: int, start: int = 0) -> int:
        for data in _chunks(file.read, length):
            whole.update(data)
            start = zlib.crc32(data, start)
        return start

    # The file is read once from front to back: on a network file system seeks between pages would take longer than the
    # checksums.
    for page in layout:
        directory = crc(page.palette[0] - position)
        palette = crc(page.palette[1])
        directory = crc(page.first - sum(page.palette), directory)
        tiles = np.array([crc(int(length)) for length in page.lengths], dtype=np.uint32)
        pages.append(PageSums(tiles=tiles, palette=palette, directory=directory))
        position = page.end
    crc(max(0, size - position))
    return FileSums(size=size, sha256=whole.hexdigest(), pages=tuple(pages))


def describe_mask(path: Path) -> dict[str, object]:
    """Return the section `mask` of a report: everything `verify_mask` compares, from the file itself.

    Raises:
        OutputError: The file cannot be read.
    """
    layout = read_layout(path)
    sums = measure(path, layout)
    return {
        "bytes": sums.size,
        "sha256": sums.sha256,
        "pages": [
            {
                "columns": page.columns,
                "first": page.first,
                "lengths": _pack(page.lengths),
                "palette": list(page.palette),
                "crc32": {"tiles": _pack(each.tiles), "palette": each.palette, "directory": each.directory},
            }
            for page, each in zip(layout, sums.pages, strict=True)
        ],
    }


def parse_description(section: Mapping[str, object]) -> tuple[tuple[PageLayout, ...], FileSums]:
    """Return the values that `describe_mask` has written.

    Raises:
        KeyError, TypeError, ValueError: The text is not one of `describe_mask`.
    """
    layout, pages = [], []
    entries = section["pages"]
    if not isinstance(entries, list):
        message = "pages is a list"
        raise TypeError(message)
    for entry in entries:
        offset, length = entry["palette"]
        sums = entry["crc32"]
        page = PageLayout(
            columns=int(entry["columns"]),
            first=int(entry["first"]),
            lengths=_unpack(entry["lengths"]),
            palette=(int(offset), int(length)),
        )
        if page.columns < 1 or len(page.lengths) != len(_unpack(sums["tiles"])):
            message = "tiles lie in columns, and every one has a length and a checksum"
            raise ValueError(message)
        layout.append(page)
        pages.append(
            PageSums(tiles=_unpack(sums["tiles"]), palette=int(sums["palette"]), directory=int(sums["directory"]))
        )
    size = section["bytes"]
    if not isinstance(size, int):
        message = "bytes is an integer"
        raise TypeError(message)
    return tuple(layout), FileSums(size=size, sha256=str(section["sha256"]), pages=tuple(pages))


def _page(page: tifffile.TiffPage, *, path: Path) -> PageLayout:
    palette = page.tags.get(COLORMAP)
    # Tiles without gaps let a report store one number a tile, from which all offsets follow.
    lengths = np.array(page.databytecounts, dtype=np.uint32)
    layout = PageLayout(
        columns=-(-page.imagewidth // page.tilewidth) if page.tilewidth else 0,
        first=page.dataoffsets[0] if page.dataoffsets else 0,
        lengths=lengths,
        palette=(palette.valueoffset, palette.valuebytecount) if palette else (0, 0),
    )
    if palette is None or not layout.columns or not np.array_equal(layout.starts(), page.dataoffsets):
        raise OutputError(
            "the mask is not laid out as this program writes it",
            file=path,
            advice=ADVICE,
        )
    return layout


def _chunks(read: Callable[[int], bytes], length: int) -> Iterator[bytes]:
    while length > 0 and (data := read(min(length, STEP))):
        length -= len(data)
        yield data


def _pack(values: NDArray[np.uint32]) -> str:
    return base64.b64encode(zlib.compress(values.astype("<u4").tobytes(), 9)).decode()


def _unpack(text: str) -> NDArray[np.uint32]:
    # The bound keeps a hostile report from unpacking a few kilobytes into all of the memory.
    data = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), MOST_BYTES)
    return np.frombuffer(data, dtype="<u4").astype(np.uint32)

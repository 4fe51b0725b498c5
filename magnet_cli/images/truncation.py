"""TIFF files that end too early, such as files that were copied in part, known before a pixel is read."""

from __future__ import annotations

from struct import iter_unpack, unpack
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.errors import SourceError
from magnet_cli.images.urls import is_url

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tifffile import TiffFile, TiffPage

MAX_PAGES = 4096
"""Largest number of pages that are read; a damaged chain may never end."""
MAX_REMOTE_PAGES = 64
"""Largest number of pages of a file behind a URL whose places are read: each may cost a request."""
MAX_CHECKED = 64
"""Largest number of pages that are all checked. Of more, only the last is: it lies at the end of the file, which is
what a truncated file lacks."""
VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of one value of a tag, by the number of its type."""

ADVICE = "Copy or export the file again"


def refuse_truncated(file: TiffFile, path: str) -> str:
    """Refuse a file that lacks a directory, or a tile or strip of a page, because it ends before.

    Args:
        file: The opened file.
        path: Path or URL of the file.

    Returns:
        A note for the user where the chain of directories is damaged inside the file; else an empty text.

    Raises:
        SourceError: The chain of directories, or a tile or strip, lies beyond the end of the file.
    """
    most = MAX_REMOTE_PAGES if is_url(path) else MAX_PAGES
    try:
        # tifffile follows the chain of directories only as far as it is asked for pages.
        file.pages[most - 1]
    except IndexError:
        note = _broken_chain(file, path)
    else:
        return ""
    count = len(file.pages)
    checked = range(count) if count <= MAX_CHECKED else (count - 1,)
    if count <= MAX_CHECKED:
        # The images of the file are found among the same pages, which tifffile would parse anew each time.
        file.pages.cache = True
    for page in (file.pages[index].aspage() for index in checked):
        _refuse_missing_values(page, path)
        refuse_missing_tiles([page], path)
        _refuse_missing_sub_pages(page, path)
    return note


def refuse_missing_tiles(pages: Iterable[TiffPage], path: str) -> None:
    """Refuse pages of which a tile or strip lies beyond the end of their file.

    Args:
        pages: Pages, which may be those of several files.
        path: Path or URL of the image for the error message.

    Raises:
        SourceError: A tile or strip lies there.
    """
    for page in pages:
        size = page.parent.filehandle.size
        total = min(len(page.dataoffsets), len(page.databytecounts))
        offsets = np.asarray(page.dataoffsets[:total], np.uint64)
        counts = np.asarray(page.databytecounts[:total], np.uint64)
        # A sum of the two could overflow in a hostile file. A tile without bytes has no place.
        missing = (counts > 0) & ((offsets > size) | (counts > size - np.minimum(offsets, np.uint64(size))))
        if missing.any():
            last = max(int(offsets[index]) + int(counts[index]) for index in np.flatnonzero(missing))
            what = f"a picture of {page.imagewidth}x{page.imagelength} pixels"
            raise _truncated(
                f"{np.count_nonzero(missing):,} of {total:,} tiles or strips of {what} lie beyond its end",
                f"{size:,} bytes, and needs at least {last:,}",
                path,
            )


def _broken_chain(file: TiffFile, path: str) -> str:
    """Return a note where the last pointer of a chain leads to no directory; refuse one that leads beyond the end.

    The last pointer of a file without any directory is that of its header.
    """
    place, length = file.pages.next_page_offset, file.tiff.offsetsize
    if place is None:
        return ""
    file.filehandle.seek(place)
    stored = file.filehandle.read(length)
    # A pointer of zero ends the chain (TIFF 6.0, section 2).
    if len(stored) == length and not any(stored):
        return ""
    size, rule = file.filehandle.size, "its chain of directories, which hold levels and other pictures, breaks off"
    if len(stored) < length:
        raise _truncated(rule, f"{size:,} bytes, which end inside a directory", path)
    target = unpack(file.tiff.offsetformat, stored)[0]
    if target + file.tiff.tagnosize > size:
        if not len(file.pages):
            raise _truncated(
                "its first directory, which describes the picture, lies beyond its end",
                f"{size:,} bytes, and the directory would be at byte {target:,}",
                path,
            )
        raise _truncated(rule, f"{size:,} bytes, and the next directory would be at byte {target:,}", path)
    return (
        f"the chain of directories leads to byte {target:,}, where there is no directory: levels and other pictures "
        "may be missing (copy or export the file again)"
    )


def _refuse_missing_sub_pages(page: TiffPage, path: str) -> None:
    size, places = page.parent.filehandle.size, page.subifds or ()
    beyond = [place for place in places if place + page.parent.tiff.tagnosize > size]
    if beyond:
        raise _truncated(
            f"{len(beyond)} of {len(places)} reduced levels of a picture lie beyond its end",
            f"{size:,} bytes, and a directory would be at byte {max(beyond):,}",
            path,
        )
    if places and page.pages is not None:
        for sub in (sub.aspage() for sub in page.pages):
            _refuse_missing_values(sub, path)
            refuse_missing_tiles([sub], path)


def _refuse_missing_values(page: TiffPage, path: str) -> None:
    """Refuse a page of which a tag's value, such as the description, lies beyond the end. tifffile drops such a tag."""
    tiff, stream, size = page.parent.tiff, page.parent.filehandle, page.parent.filehandle.size
    if tiff.is_ndpi:
        return  # Its entries have offsets of eight bytes, of which four lie elsewhere.
    stream.seek(page.offset)
    count = unpack(tiff.tagnoformat, stream.read(tiff.tagnosize))[0]
    for code, kind, values, inline in iter_unpack(tiff.tagheaderformat, stream.read(count * tiff.tagsize)):
        needed = values * VALUE_BYTES.get(kind, 0)
        # A value that is small enough stands in the entry itself, in place of an offset.
        if needed <= tiff.tagoffsetthreshold:
            continue
        end = unpack(tiff.offsetformat, inline)[0] + needed
        if end > size:
            rule = f"the value of tag {code} of a directory lies beyond its end"
            raise _truncated(rule, f"{size:,} bytes, and needs at least {end:,}", path)


def _truncated(rule: str, value: str, path: str) -> SourceError:
    return SourceError(f"the file is truncated or damaged: {rule}", value=value, file=path, advice=ADVICE)

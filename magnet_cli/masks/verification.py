"""Verification compares every tile, directory and palette of a mask with the checksums in its report."""

from __future__ import annotations

import io
import zlib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.errors import OutputError, UsageError
from magnet_cli.images.blob import BlobStream
from magnet_cli.images.blob_source import open_blob
from magnet_cli.images.failures import needing
from magnet_cli.images.urls import file_name, is_url, sibling_url
from magnet_cli.masks.layout import FileSums, PageLayout, measure, measure_stream, parse_description
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.report_file import parse_report, read_report
from magnet_cli.masks.targets import MASK_SUFFIXES, named_masks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

READ_AT_ONCE = 4 << 20
"""This many bytes of a mask behind an address are read at a time."""
LARGEST_REPORT = 1 << 30
"""A report behind an address is read up to this many bytes."""
LISTED = 1000
"""Damaged places that are named; more are counted."""


@dataclass(frozen=True, kw_only=True)
class Damage:
    """A place that is not as it was written."""

    part: str
    """`tile`, `palette`, `directory` (tags, offsets, description), or `file` (size, bytes behind the last tile)."""
    page: int | None = None
    """0 is full resolution, then the overviews."""
    row: int | None = None
    col: int | None = None
    """The column of a tile in its page."""

    def __str__(self) -> str:
        place = "".join(
            f", {name} {value}"
            for name, value in (("page", self.page), ("row", self.row), ("col", self.col))
            if value is not None
        )
        return f"{self.part}{place}"


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What `verify_mask` has found in the files of a mask."""

    mask: Path | str
    """The file of the mask, or its address."""
    report: Path | str
    damage: tuple[Damage, ...]
    """The first damaged places."""
    pages: int
    tiles: int
    """Checked, over all pages."""
    bytes: int
    """The bytes of the file."""
    damaged: int
    """Number of all damaged places."""

    @property
    def ok(self) -> bool:
        """Whether everything is as it was written."""
        return not self.damaged


def masks_to_verify(words: Iterable[str]) -> Iterator[Path | str]:
    """Yield the masks that words name: files, folders, addresses, and folders of buckets, which end in a slash.

    Raises:
        UsageError: A folder holds no mask that has a report beside it.
        SourceError: A folder of a bucket cannot be read.
    """
    for word in words:
        if not is_url(word):
            yield from named_masks([word])
        elif not word.endswith("/"):
            yield word
        else:
            with needing("remote", word):
                from magnet_cli.images.remote import files_under  # noqa: PLC0415 - an extra
            keys = set(files_under(word))
            masks = [
                key
                for key in sorted(keys)
                if key.lower().endswith(MASK_SUFFIXES) and f"{key.rpartition('.')[0]}.json" in keys
            ]
            if not masks:
                raise UsageError(
                    "the folder holds no mask with a report", value=word, advice="Name the masks themselves"
                )
            yield from masks


def verify_mask(mask: str | Path, report: str | Path | None = None) -> Verification:
    """Read a mask from the first byte to the last and compare it with its report, one tile at a time.

    Args:
        mask: The file of the mask, or its address.
        report: Its report; the one beside it where None.

    Raises:
        OutputError: The mask cannot be read, or the report is missing, damaged or describes no mask.
        SourceError: An address cannot be read.
    """
    if isinstance(mask, str) and is_url(mask):
        address = sibling_url(mask, f"{file_name(mask).rpartition('.')[0]}.json") if report is None else str(report)
        with closing(open_blob(address)) as blob:
            if blob.size > LARGEST_REPORT:
                raise OutputError(
                    "this file is too large for a report",
                    value=f"{blob.size:,} bytes",
                    file=address,
                    advice="Check the address; it may be the file of another program",
                )
            content = parse_report(blob.read(0, blob.size, place="the report"), address)
        with closing(open_blob(mask)) as blob:
            stream = io.BufferedReader(BlobStream(blob), READ_AT_ONCE)
            return _verified(mask, address, content, lambda layout: measure_stream(stream, blob.size, layout))
    mask = Path(mask)
    report = OutputPaths.of(mask).report if report is None else Path(report)
    return _verified(mask, report, read_report(report), lambda layout: measure(mask, layout))


def _verified(
    mask: Path | str,
    report: Path | str,
    content: Mapping[str, object],
    sums: Callable[[tuple[PageLayout, ...]], FileSums],
) -> Verification:
    section = content.get("mask")
    try:
        layout, written = parse_description(section)  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError, AttributeError, zlib.error) as exc:
        raise OutputError(
            "the report does not describe a mask",
            file=report,
            advice="Name a mask with the report that its run has written",
        ) from exc
    found = sums(layout)
    places = list(_compare(layout, written=written, found=found))
    return Verification(
        mask=mask,
        report=report,
        pages=len(layout),
        tiles=sum(len(page.lengths) for page in layout),
        bytes=found.size,
        damage=tuple(places[:LISTED]),
        damaged=len(places),
    )


def _compare(layout: tuple[PageLayout, ...], *, written: FileSums, found: FileSums) -> Iterator[Damage]:
    good = True
    for number, (page, old, new) in enumerate(zip(layout, written.pages, found.pages, strict=True)):
        if old.directory != new.directory:
            yield Damage(part="directory", page=number)
        if old.palette != new.palette:
            yield Damage(part="palette", page=number)
        wrong = np.flatnonzero(old.tiles != new.tiles)
        for index in wrong:
            yield Damage(part="tile", page=number, row=int(index) // page.columns, col=int(index) % page.columns)
        good &= old.directory == new.directory and old.palette == new.palette and not len(wrong)
    # The hash of the whole file only says something new if all parts agree: then the damage lies between or behind
    # them.
    if written.size != found.size or (good and written.sha256 != found.sha256):
        yield Damage(part="file")

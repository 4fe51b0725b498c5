"""Is a mask still what was written? Every tile, directory and palette against the report, damage by name."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.errors import OutputError
from magnet_cli.masks.layout import FileSums, PageLayout, measure, parse_description
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.report_file import read_report

if TYPE_CHECKING:
    from collections.abc import Iterator

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

    mask: Path
    report: Path
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


def verify_mask(mask: str | Path, report: str | Path | None = None) -> Verification:
    """Read a mask from the first byte to the last and compare it with its report, one tile at a time.

    Args:
        mask: The file of the mask.
        report: Its report; the one beside it where None.

    Raises:
        OutputError: The mask cannot be read, or the report is missing, damaged or says nothing of a mask.
    """
    mask = Path(mask)
    report = OutputPaths.of(mask).report if report is None else Path(report)
    section = read_report(report).get("mask")
    try:
        layout, written = parse_description(section)  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError, AttributeError, zlib.error) as exc:
        raise OutputError("the report does not describe a mask", file=report) from exc
    found = measure(mask, layout)
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

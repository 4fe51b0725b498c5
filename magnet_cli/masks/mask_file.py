"""A mask that this program has written, opened to be copied: its directories, its stored tiles, its labels."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING, Self

import numpy as np
import tifffile

from magnet_cli.errors import OutputError, SourceError
from magnet_cli.geometry import Box, Size
from magnet_cli.images import tiff_geo
from magnet_cli.images.failures import FOREIGN, naming
from magnet_cli.images.ground import ground_size
from magnet_cli.images.labels_tiff import bounds_of, classes_of, mask_description
from magnet_cli.images.protocol import Resolution
from magnet_cli.images.tiff_pages import first_pages
from magnet_cli.images.truncation import MAX_PAGES
from magnet_cli.masks import codec
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.report_file import read_report
from magnet_cli.masks.spec import MaskClass, parts
from magnet_cli.masks.tiff_writer import CODES
from magnet_cli.system import durable, regular_files
from magnet_cli.system.closing import Closing, undone_on_failure

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.images.geotransform import Geotransform

ADVICE = "Name a mask that magnet segment has written"


@dataclass(frozen=True, kw_only=True)
class MaskLevel:
    """One stored resolution of a mask."""

    page: tifffile.TiffPage
    size: Size

    @property
    def columns(self) -> int:
        """The number of tile columns."""
        return -(-self.size.width // self.page.tilewidth)


@dataclass(frozen=True, kw_only=True)
class MaskFacts:
    """Facts that a mask holds about itself."""

    classes: tuple[MaskClass, ...]
    description: Mapping[str, object]
    """The JSON of its ImageDescription."""
    resolution: Resolution | None
    bounds: Box | None
    """The scanned part of the slide, where the image had one."""
    crs: str | None
    """The coordinate reference system, in the form of `ImageInfo.crs`."""
    geotransform: Geotransform | None


class MaskFile(Closing):
    """An opened mask; close it, or use it as a context.

    Args:
        path: The file of the mask.
        tiff: The file, opened by tifffile.
        facts: The facts that the mask holds about itself.
    """

    def __init__(self, path: Path, tiff: tifffile.TiffFile, facts: MaskFacts) -> None:
        self.path = path
        self.facts = facts
        self.levels = tuple(
            MaskLevel(page=page, size=Size(width=page.imagewidth, height=page.imagelength)) for page in _pages(tiff)
        )
        """The levels, finest first."""
        first = self.levels[0].page
        self.tile: int = first.tilewidth
        self._compression = next(word for word, code in CODES.items() if code == first.compression)
        self._tiff = tiff
        self._descriptor = durable.open_for_reading(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Return the mask of a file.

        Raises:
            SourceError: It is missing, or no mask of this program.
        """
        if not path.exists():
            raise SourceError("there is no such mask", file=path, advice="Check the path")
        try:
            regular_files.check_regular(path)
            tiff = tifffile.TiffFile(path)
        except (*FOREIGN, tifffile.TiffFileError) as exc:
            raise SourceError("the mask cannot be opened as TIFF", value=exc, file=path, advice=ADVICE) from exc
        with undone_on_failure(tiff.close), naming(path, "the directories of the mask are damaged", advice=ADVICE):
            return cls(path, tiff, _facts(path, tiff))

    @property
    def size(self) -> Size:
        """The size of level 0."""
        return self.levels[0].size

    def stored(self, level: MaskLevel, index: int) -> bytes:
        """Return a tile as the file holds it, tiles counted row by row.

        Raises:
            SourceError: The file ends before the tile, or does not list it.
        """
        if index >= min(len(level.page.dataoffsets), len(level.page.databytecounts)):
            raise SourceError(
                "the mask has fewer tiles than its size needs",
                value=f"{index} tiles",
                file=self.path,
                advice="Compute the mask again with --overwrite",
            )
        return self.bytes_at(level.page.dataoffsets[index], level.page.databytecounts[index])

    def bytes_at(self, offset: int, length: int) -> bytes:
        """Read bytes of the file.

        Raises:
            SourceError: The file ends before these bytes.
        """
        # Room for all of the bytes is made before the first is read, so a length is not taken at its word.
        size = os.fstat(self._descriptor).st_size
        if offset + length > size:
            raise SourceError(
                "the mask ends too early",
                value=f"{size} bytes",
                file=self.path,
                advice="Compute the mask again with --overwrite",
            )
        return durable.read_at(self._descriptor, length, offset)

    def read(self, box: Box, *, level: int = 0) -> NDArray[np.uint8]:
        """Return the labels of a box inside a level, `(height, width)` uint8.

        Raises:
            SourceError: A tile is damaged.
        """
        out = np.empty((box.height, box.width), dtype=np.uint8)
        for part in parts(box, self.tile):
            tile = self._decoded(self.levels[level], part.row, part.col)
            out[part.box.shifted(x=-box.x, y=-box.y).slices] = tile[part.inner.slices]
        return out

    def digest(self) -> str:
        """Return the SHA-256 of the file: its report's where that describes a file of this size, else computed.

        Raises:
            SourceError: The file cannot be read.
        """
        return _reported_digest(self.path) or _sha256(self.path)

    def close(self) -> None:
        """Close the file."""
        self._tiff.close()
        os.close(self._descriptor)

    def _decoded(self, level: MaskLevel, row: int, col: int) -> NDArray[np.uint8]:
        data = self.stored(level, row * level.columns + col)
        try:
            return codec.decode_tile(data, side=self.tile, compression=self._compression)
        except (ValueError, RuntimeError) as exc:  # the last exception is imagecodecs' own
            raise SourceError(
                f"the tile at row {row}, column {col} of level {self.levels.index(level)} cannot be decoded",
                value=exc,
                file=self.path,
                advice="Check the mask with magnet verify",
            ) from exc


def _pages(tiff: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    # In a damaged file directories may follow each other in a circle, which tifffile walks for ever.
    return list(first_pages(tiff.pages))


def _facts(path: Path, tiff: tifffile.TiffFile) -> MaskFacts:
    pages = _pages(tiff)
    if not pages or len(pages) == MAX_PAGES or not all(_is_ours(page) for page in pages):
        raise SourceError("this TIFF is no mask", file=path, advice=ADVICE)
    if not all(map(_has_places, pages)):
        rule = "the directories of the mask are damaged"
        raise SourceError(rule, value="tiles without a place", file=path, advice=ADVICE)
    for each in pages:
        needed = ceil(each.imagewidth / each.tilewidth) * ceil(each.imagelength / each.tilelength)
        listed = min(len(each.dataoffsets), len(each.databytecounts))
        # Memory for a mask grows with the size that it states, so the size is checked before any is allocated.
        if listed < needed:
            rule = "the mask has fewer tiles than its size needs"
            raise SourceError(rule, value=f"{listed} of {needed}", file=path, advice=ADVICE)
    page = pages[0]
    description = mask_description(page) or {}
    try:
        classes = tuple(MaskClass(name=name, color=color) for name, color in classes_of(page) or ())
    except ValueError:
        classes = ()
    if not classes:
        raise SourceError("this TIFF names no classes, so it is no mask", file=path, advice=ADVICE)
    reference = tiff_geo.page_georeference(page)
    size = Size(width=page.imagewidth, height=page.imagelength)
    return MaskFacts(
        classes=classes,
        description=description,
        resolution=ground_size(reference, size)[0] or (None if reference.is_placed else _microscope(page)),
        bounds=bounds_of(description),
        crs=reference.name,
        geotransform=reference.geotransform,
    )


def _has_places(page: tifffile.TiffPage) -> bool:
    """Return whether offsets and lengths of tiles are numbers. A tag of another type gives a string of bytes."""
    listed: tuple[object, ...] = (page.dataoffsets, page.databytecounts)
    return all(isinstance(each, tuple | list) and all(isinstance(number, int) for number in each) for each in listed)


def _is_ours(page: tifffile.TiffPage) -> bool:
    return (
        page.photometric == tifffile.PHOTOMETRIC.PALETTE
        and page.dtype == np.uint8
        and page.tilewidth == page.tilelength > 0
        and page.compression in CODES.values()
    )


def _microscope(page: tifffile.TiffPage) -> Resolution | None:
    """Return the size of a pixel from pixels a centimetre, the unit that this program writes."""
    found = [page.tags.valueof(code) for code in (282, 283)]
    if page.tags.valueof(296) != tifffile.RESUNIT.CENTIMETER or not all(isinstance(each, tuple) for each in found):
        return None
    across, down = (Fraction(*each) for each in found)
    return Resolution(x=10_000 / across, y=10_000 / down, unit="um") if across > 0 and down > 0 else None


def _reported_digest(path: Path) -> str | None:
    try:
        section = read_report(OutputPaths.of(path).report).get("mask")
    except OutputError:
        return None
    if not isinstance(section, dict) or section.get("bytes") != path.stat().st_size:
        return None
    return str(section.get("sha256"))


def _sha256(path: Path) -> str:
    try:
        return regular_files.sha256_of(path)
    except OSError as exc:
        raise SourceError(
            "the mask cannot be read",
            value=exc.strerror,
            file=path,
            advice="Check that the file is there, and that this user may read it",
        ) from exc

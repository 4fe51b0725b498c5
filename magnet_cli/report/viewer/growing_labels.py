"""Labels of a mask that is still being computed, at the zooms of the page, with the tiles that have changed."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.errors import OutputError, SourceError
from magnet_cli.geometry import Box
from magnet_cli.images.protocol import NODATA
from magnet_cli.masks.overview import halve
from magnet_cli.masks.spec import parts
from magnet_cli.masks.unfinished_mask import pass_of
from magnet_cli.report.viewer.coarse_preview import CoarsePreview
from magnet_cli.report.viewer.zooms import TILE, ZoomGrid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.masks.unfinished_mask import FieldChunk, MaskProgress, UnfinishedMask

SMALL = 4
"""The labels of this zoom are kept in memory, for this zoom and coarser ones. Every tile of a mask can be halved this
often, because its side is a multiple of 16."""
MOST_KEPT = 1 << 27
"""At most this many labels are kept. Larger masks appear from a closer zoom on."""
MOST_READ = 1 << 26
"""At most this many kept labels are halved for one tile of the page."""


class GrowingLabels:
    """Reads the labels of an unfinished mask. Zooms are halved to the commonest label, as those of a finished mask.

    Args:
        mask: The mask; closed together with this object.
    """

    def __init__(self, mask: UnfinishedMask) -> None:
        self.mask = mask
        self._size = mask.spec.size
        self._tile = mask.spec.tile
        grid = ZoomGrid(size=self._size)
        kept = grid.cover(min(SMALL, grid.coarsest))
        self.coarsest = min(grid.coarsest, SMALL - 1)
        self._kept: NDArray[np.uint8] | None = None
        if grid.coarsest >= SMALL and kept.pixels <= MOST_KEPT:
            while self.coarsest < grid.coarsest and (TILE << (self.coarsest + 1 - SMALL)) ** 2 <= MOST_READ:
                self.coarsest += 1
            side = self._tile >> SMALL
            tiles = mask.spec.tiles
            self._kept = np.full((tiles.height * side, tiles.width * side), NODATA, np.uint8)
        cells = grid.cover(0)
        self.preview = CoarsePreview(mask)
        """What the coarser passes have found."""
        self.version = 0
        """The version is raised whenever labels or values of fields were added."""
        self._versions = np.zeros((-(-cells.height // TILE), -(-cells.width // TILE)), np.int64)
        self._waiting: OrderedDict[tuple[int, int], None] = OrderedDict()
        self._waiting_chunks: OrderedDict[tuple[int | str, Box], FieldChunk] = OrderedDict()
        """One chunk for each place of a pass, or of a field that belongs to no pass.

        The fields of a pass have chunks at the same places, all of which are read for one of them.
        """
        self._problem: str | None = None
        self._refreshing = threading.Lock()

    def read(self, box: Box, zoom: int) -> NDArray[np.uint8]:
        """Return the labels of a box of a zoom's pixels, `(height, width)`, 255 where there is none.

        Raises:
            SourceError: The journal is damaged there.
        """
        step = min(zoom, SMALL) if self._kept is not None and zoom >= SMALL else 0
        whole = Box(
            x=box.x << (zoom - step),
            y=box.y << (zoom - step),
            width=box.width << (zoom - step),
            height=box.height << (zoom - step),
        )
        labels = self._level0(whole) if step == 0 else self._small(whole)
        for _ in range(zoom - step):
            labels = halve(labels)
        return labels

    def refresh(self, seconds: float) -> bool:
        """Read what was added to the mask, for a limited time, and return whether all of it was read.

        Raises:
            SourceError: The mask has to be opened again, or cannot be read any more.
        """
        until = time.monotonic() + seconds
        with self._refreshing:
            try:
                changed, is_whole = self.mask.refresh(seconds)
            except OutputError as error:
                raise SourceError(error.rule, value=error.value, file=error.file, advice=error.advice) from error
            # Rows follow each other, so that a page that is opened meanwhile shows an area that grows and no scatter.
            self._waiting.update(dict.fromkeys(sorted(changed)))
            for chunk in sorted(self.mask.changed_chunks(), key=lambda each: (each.box.y, each.box.x)):
                number = pass_of(chunk.name)
                self._waiting_chunks[chunk.name if number is None else number, chunk.box] = chunk
            # Other threads ask for the changes since a version that they have read. The version is raised after its
            # squares are marked and their labels can be read, so that none of them is missed.
            is_changed, version = bool(self._waiting or self._waiting_chunks), self.version + 1
            while self._waiting or self._waiting_chunks:
                if self._waiting:
                    self._take(*self._waiting.popitem(last=False)[0], version)
                else:
                    self._take_chunk(self._waiting_chunks.popitem(last=False)[1], version)
                if time.monotonic() >= until:
                    break
            if is_changed:
                self.version = version
            return is_whole and not self._waiting and not self._waiting_chunks

    def changed(self, since: int) -> list[tuple[int, int]]:
        """Return the column and row of each square of 512 pixels that has changed since a version."""
        return [(int(column), int(row)) for row, column in np.argwhere(self._versions > since)]

    def progress(self) -> tuple[MaskProgress, str | None]:
        """Return how far the computation has come, and a sentence about damage that was met."""
        with self._refreshing:
            found = self.mask.progress()
        return found, found.problem or self._problem

    def close(self) -> None:
        """Close the files of the mask."""
        self.mask.close()

    def _take(self, row: int, col: int, version: int) -> None:
        """Halve a tile that has changed, and note the squares of the page that show it."""
        if self._kept is not None:
            side = self._tile >> SMALL
            try:
                labels = self.mask.tile(row, col)
            except OutputError as error:
                self._problem = f"A part of the mask cannot be read: {error}."
            else:
                for _ in range(SMALL):
                    labels = halve(labels)
                self._kept[row * side : (row + 1) * side, col * side : (col + 1) * side] = labels
        self._mark(Box(x=col * self._tile, y=row * self._tile, width=self._tile, height=self._tile), version)

    def _take_chunk(self, chunk: FieldChunk, version: int) -> None:
        """Take a chunk of a coarser pass into the preview, and note the squares of the page that show it."""
        try:
            box = self.preview.take(chunk)
        except OutputError as error:
            self._problem = f"A part of the preview cannot be read: {error}."
            return
        if self.mask.is_kept(chunk.name):
            box = chunk.level0.intersection(Box.whole(self._size))
        if box is not None and box.area:
            self._mark(box, version)

    def _mark(self, box: Box, version: int) -> None:
        """Note that the squares under a box of level 0 have changed."""
        self._versions[box.y // TILE : (box.bottom - 1) // TILE + 1, box.x // TILE : (box.right - 1) // TILE + 1] = (
            version
        )

    def _level0(self, box: Box) -> NDArray[np.uint8]:
        """Return labels of level 0; a box may reach beyond the image, where there are none."""
        labels = np.full((box.height, box.width), NODATA, np.uint8)
        for part in parts(box.intersection(Box.whole(self._size)), self._tile):
            try:
                tile = self.mask.tile(part.row, part.col)
            except OutputError as error:
                raise SourceError(error.rule, value=error.value, file=error.file, advice=error.advice) from error
            labels[part.box.shifted(x=-box.x, y=-box.y).slices] = tile[part.inner.slices]
        return labels

    def _small(self, box: Box) -> NDArray[np.uint8]:
        """Return labels of the zoom that is kept; a box may reach beyond the image, where there are none."""
        assert self._kept is not None  # noqa: S101 - the caller has checked it
        labels = np.full((box.height, box.width), NODATA, np.uint8)
        height, width = self._kept.shape
        inside = box.intersection(Box(x=0, y=0, width=width, height=height))
        if inside.area:
            labels[inside.shifted(x=-box.x, y=-box.y).slices] = self._kept[inside.slices]
        return labels

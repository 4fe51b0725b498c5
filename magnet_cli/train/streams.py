"""Pixels and labels of scenes that are too large for memory."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli import images
from magnet_cli.geometry import Box, Pitch, Size
from magnet_cli.images.levels import choose_level
from magnet_cli.images.protocol import Request
from magnet_cli.images.store import Pixels as Fetched
from magnet_cli.system.spool import TILE, Spool, SpooledRaster
from magnet_cli.train.stores import filled, halved_part, halvings, level0_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.images import Image, ImageInfo, Region
    from magnet_cli.images.reader import PyramidImage

    Pixels = NDArray[np.uint8]

CHUNK_BYTES = 32 << 20
"""Number of bytes that are handled at a time while a scene is prepared."""
SUMMED = 9
"""Bytes of a pixel and of the sum that it comes from where an image is read coarser than it is stored."""
CHUNK_ROWS = 2 * TILE
FAR = 4
"""Halvings at least so many times coarser than the stored level that they are read from are kept on disk."""
MOST_OPEN = 128
"""Images open at a time: systems allow a process a thousand files or so."""


class Shelf:
    """Images opened when they are read, a few at a time: the least recently read is closed first.

    Args:
        memory: Bytes that open images may keep between reads; one image is always open.
    """

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._lock = Lock()
        self._opened: OrderedDict[Path, Image] = OrderedDict()
        weakref.finalize(self, _close_all, self._opened)

    def read(self, path: Path, request: Request) -> Region:
        """Return the pixels of a request, and which of them hold data."""
        with self._lock:
            # Under the lock, because an image that one thread reads must not be closed by another one.
            if path not in self._opened:
                self._opened[path] = images.open_image(path)
                self._shut()
            self._opened.move_to_end(path)
            return self._opened[path].read([request])[0]

    def _shut(self) -> None:
        while len(self._opened) > 1 and (len(self._opened) > MOST_OPEN or self._resident > self._memory):
            self._opened.popitem(last=False)[1].close()

    @property
    def _resident(self) -> int:
        return sum(image.info.resident_bytes for image in self._opened.values())


def _close_all(opened: OrderedDict[Path, Image]) -> None:
    for image in opened.values():
        image.close()


@dataclass(frozen=True, kw_only=True)
class Original:
    """A scene's image, where windows are read straight from it."""

    shelf: Shelf
    path: Path
    bands: tuple[int, ...] | None = None
    """Positions of the bands that are read; None for all."""

    def read(self, request: Request) -> Region:
        """Read the bands of a region of the image."""
        return self.shelf.read(self.path, replace(request, bands=self.bands))


class StreamedPixels:
    """A `PixelStore` on disk: levels from the image where it stores them, else from a spool.

    Args:
        size: The size of level 0.
        bands: Number of bands.
        planes: Levels that were spooled. With one band more than the picture has, that band is 0 where there are no
            data.
        original: The image that has the other levels; None where there are none.
        filling: Value that each band has where there are no data; None for 0.
    """

    def __init__(
        self,
        size: Size,
        *,
        bands: int,
        planes: Mapping[int, SpooledRaster],
        original: Original | None,
        filling: tuple[int, ...] | None = None,
    ) -> None:
        self.sizes, self.bands, self.filling = halvings(size), bands, filling
        self._planes, self._original = dict(planes), original

    def read(self, level: int, box: Box) -> Pixels:
        """Return the pixels of a box of a level, from the spool where the level lies there."""
        return self.part(level, box)[0]

    def part(self, level: int, box: Box) -> tuple[Pixels, NDArray[np.bool_] | None]:
        """Return the pixels of a box of a level, and which of them hold data; None where all do."""
        if level in self._planes:
            return divided(self._planes[level].read(box), self.bands)
        region = self._asked(Request(pitch=Pitch.square(2**level), box=box))
        return filled(region, self.filling), region.valid

    def sample(self, request: Request) -> Pixels:
        """Return the pixels of a request, resampled."""
        region = self._spooled.read([request])[0] if 0 in self._planes else self._asked(request)
        return filled(region, self.filling)

    def _asked(self, request: Request) -> Region:
        if self._original is None:
            message = f"no level serves {request}"
            raise LookupError(message)
        return self._original.read(request)

    @cached_property
    def _spooled(self) -> PyramidImage:
        plane = self._planes[0]
        store, masked = PlaneStore(plane, self.bands), plane.bands > self.bands
        return level0_image(store, size=self.sizes[0], bands=self.bands, masked=masked)


def divided(values: Pixels, bands: int) -> tuple[Pixels, NDArray[np.bool_] | None]:
    """Return the bands of spooled pixels, and which of them hold data by a further band; None where all do."""
    if values.shape[2] == bands:
        return values, None
    valid = values[:, :, bands] > 0
    return values[:, :, :bands], None if valid.all() else valid


def joined(pixels: Pixels, valid: NDArray[np.bool_] | None) -> Pixels:
    """Return pixels with a further band that is 0 where they hold no data."""
    further = np.full(pixels.shape[:2], 1, np.uint8) if valid is None else valid.astype(np.uint8)
    return np.concatenate([pixels, further[:, :, None]], axis=2)


@dataclass(frozen=True)
class PlaneStore:
    """A plane in the form of a store, as readers of images use it."""

    plane: SpooledRaster
    bands: int
    """Bands of the picture; the plane may have one more."""

    def block(self, level: int) -> Size:  # noqa: ARG002 (there is one level)
        """Return the size of a tile."""
        return Size(width=TILE, height=TILE)

    def fetch(self, level: int, box: Box, bands: tuple[int, ...] | None = None) -> Fetched:  # noqa: ARG002 (one level)
        """Return the pixels of a box, and which of them hold data."""
        return Fetched(*divided(self.plane.read(box), self.bands)).only(bands)

    def close(self) -> None:
        """Do nothing, because the spool belongs to its owner."""


class StreamedLabels:
    """A `LabelStore` that lies on disk.

    Args:
        plane: Labels, exclusive-or `ignore`, so that what is not labelled takes no disk.
        ignore: The label of pixels without a class.
        counts: Pixels of each label, `(256,)`.
    """

    def __init__(self, plane: SpooledRaster, *, ignore: int, counts: NDArray[np.int64]) -> None:
        self.size, self.counts = plane.size, counts
        self._plane, self._ignore = plane, np.uint8(ignore)

    def at(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Pixels:
        """Return the labels at rows and columns; one row of tiles is in memory at a time."""
        found = np.empty((len(rows), len(columns)), np.uint8)
        left, right = int(columns.min()), int(columns.max()) + 1
        for line in np.unique(rows // TILE):
            mine = np.flatnonzero(rows // TILE == line)
            top, bottom = int(rows[mine].min()), int(rows[mine].max()) + 1
            part = self._plane.read(Box.between(left=left, top=top, right=right, bottom=bottom))[..., 0]
            found[mine] = part[(rows[mine] - top)[:, None], columns - left]
        return found ^ self._ignore


def chunks(size: Size, *, pixel: int) -> Iterator[Box]:
    """Yield rows of the whole width, of about `CHUNK_BYTES` where a pixel takes `pixel` bytes."""
    # The number of rows stays a power of two, so that no part splits a pair of rows when it is halved.
    rows = CHUNK_ROWS
    while rows > 2 and rows * size.width * pixel > CHUNK_BYTES:  # noqa: PLR2004 (halving takes two)
        rows //= 2
    for top in range(0, size.height, rows):
        yield Box(x=0, y=top, width=size.width, height=min(rows, size.height - top))


def spooled_levels(size: Size, info: ImageInfo | None) -> tuple[int, ...]:
    """Return the halvings that the image has no level near enough for; level 0 too where `info` is None."""
    numbers = range(len(halvings(size)))
    return tuple(numbers) if info is None else tuple(number for number in numbers if _far(info, 2**number))


def _far(info: ImageInfo, shrink: int) -> bool:
    found = info.levels[choose_level(info.levels, Pitch.square(shrink))].downsample
    return shrink >= FAR * min(found.x, found.y)


def spool_pixels(
    spool: Spool,
    size: Size,
    *,
    bands: int,
    levels: tuple[int, ...],
    level0: Callable[[Box], tuple[Pixels, NDArray[np.bool_] | None]] | Original,
    masked: bool = False,
    filling: tuple[int, ...] | None = None,
) -> StreamedPixels:
    """Decode what windows cannot be read from, once.

    Args:
        spool: The spool that receives the levels.
        size: The size of level 0.
        bands: The bands of the scene.
        levels: The levels that `spooled_levels` has returned.
        level0: The image where it can be read by region, else what reads a box of level 0 and its pixels with data.
        masked: Whether pixels may hold no data.
        filling: Value that each band gets there; None for 0.

    Raises:
        SourceError: The image cannot be decoded.
        OutputError: The disk is full.
    """
    original = level0 if isinstance(level0, Original) else None
    planes: dict[int, SpooledRaster] = {}
    sizes = halvings(size)
    for level in levels:
        done = StreamedPixels(size, bands=bands, planes=planes, original=original, filling=filling)
        plane = SpooledRaster(spool, sizes[level], bands=bands + masked)
        if level == 0 and not isinstance(level0, Original):
            for box in chunks(size, pixel=bands):
                part = level0(box)
                plane.write(box.y, joined(*part) if masked else part[0])
        elif level:
            for box in chunks(sizes[level - 1], pixel=bands * SUMMED):
                part = halved_part(*done.part(level - 1, box), filling)
                plane.write(box.y // 2, (joined(*part) if masked else part[0])[: sizes[level].height])
        planes[level] = plane
    return StreamedPixels(size, bands=bands, planes=planes, original=original, filling=filling)

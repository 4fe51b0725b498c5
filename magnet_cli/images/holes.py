"""Reduced levels whose missing tiles are made from the next finer level, as OpenSlide does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from magnet_cli.geometry import LEVEL0, Box, Pitch
from magnet_cli.images.protocol import Request
from magnet_cli.images.reader import fetch_reflected, pieces
from magnet_cli.images.sampler import Sampler
from magnet_cli.images.store import Pixels, Store
from magnet_cli.images.validity import spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from magnet_cli.geometry import Size
    from magnet_cli.images.protocol import Level, Region


class HoledStore(Store, Protocol):
    """A store whose levels may lack tiles."""

    def holes(self, level: int, box: Box, bands: tuple[int, ...] | None = None) -> list[Box]:
        """Return the tiles of a level that a box touches and that are not stored, for at least one of the bands."""


class FilledStore:
    """A store that reads the finer level where a tile of a reduced one is missing.

    In level 0 a missing tile is what the store makes of it: pixels without data.

    Args:
        store: Store whose reduced levels may lack tiles.
        levels: Levels of the store, finest first.
        dtype: NumPy dtype of the pixels.
        bands: Number of bands.
    """

    def __init__(self, store: HoledStore, levels: Sequence[Level], *, dtype: np.dtype[Any], bands: int) -> None:
        self._store = store
        self._levels = tuple(levels)
        self._dtype = dtype
        self._bands = bands

    def block(self, level: int) -> Size:
        """Return the block size of the wrapped store."""
        return self._store.block(level)

    def fetch(self, level: int, box: Box, bands: tuple[int, ...] | None = None) -> Pixels:
        """Return the pixels of a box, with missing tiles of a reduced level made from the next finer level."""
        pixels = self._store.fetch(level, box, bands)
        holes = self._store.holes(level, box, bands) if level else []
        # Where the finer levels store nothing either, making a tile would decode nothing many times over.
        holes = [hole for hole in holes if not self._is_blank(level, hole, bands)]
        if not holes:
            return pixels
        values = pixels.values.copy()
        valid = spread(pixels.valid, values.shape[:2] if pixels.valid is None else pixels.valid.shape).copy()
        for hole in holes:
            part = hole.intersection(box)
            region = self._finer(level, part, bands)
            target = part.shifted(x=-box.x, y=-box.y).slices
            values[target] = region.pixels
            valid[target] = spread(region.valid, valid[target].shape)
        return Pixels(values, None if valid.all() else valid)

    def close(self) -> None:
        """Close the wrapped store."""
        self._store.close()

    def _finer(self, level: int, box: Box, bands: tuple[int, ...] | None) -> Region:
        """Make a box of a level from the next finer level."""
        upper = self._levels[level - 1]
        taken = tuple(range(self._bands)) if bands is None else bands
        sampler = Sampler(
            Request(pitch=self._ratio(level), box=box, bands=taken),
            level=level - 1,
            downsample=LEVEL0,
            shape=(self._bands, self._dtype),
            masked=True,
        )
        for piece in pieces(sampler.box, self._store.block(level - 1)):
            sampler.add(piece, fetch_reflected(self, level - 1, upper.size, piece, bands), taken)
        return sampler.region()

    def _ratio(self, level: int) -> Pitch:
        coarse, fine = self._levels[level].downsample, self._levels[level - 1].downsample
        return Pitch(x=coarse.x / fine.x, y=coarse.y / fine.y)

    def _is_blank(self, level: int, box: Box, bands: tuple[int, ...] | None) -> bool:
        """Return whether no finer level stores anything of a box: sparse mosaics lack most tiles in all levels."""
        for finer in range(level - 1, -1, -1):
            box = self._ratio(finer + 1).level0(box).intersection(Box.whole(self._levels[finer].size))
            block = self._store.block(finer)
            columns = -(-box.right // block.width) - box.x // block.width
            rows = -(-box.bottom // block.height) - box.y // block.height
            if len(self._store.holes(finer, box, bands)) < columns * rows:
                return False
        return True

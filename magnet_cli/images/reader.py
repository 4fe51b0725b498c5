"""Reading boxes at several pitches from a store: level choice, one decode for what requests share, bounded memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from magnet_cli.errors import SourceError
from magnet_cli.geometry import Box
from magnet_cli.images.failures import reporting_bugs
from magnet_cli.images.levels import choose_level
from magnet_cli.images.sampler import Sampler
from magnet_cli.images.store import Pixels
from magnet_cli.system.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from magnet_cli.geometry import Size
    from magnet_cli.images.contents import Content
    from magnet_cli.images.protocol import ImageInfo, Region, Request
    from magnet_cli.images.store import Store

PIECE_PIXELS = 2 << 20
"""Stored pixels decoded at a time, about: the memory of a read, beside its result, is a small multiple of this."""

UNION_SLACK = 1.25
"""Requests share a decode while the box around them is at most so many times the area they ask for."""


class PyramidImage(Closing):
    """An `Image` over a store.

    Args:
        info: Facts about the image.
        store: Store of the image's pixels, orientation corrected.
        by_band: Whether nodata is a value that each band may have, rather than the index of a colour.
    """

    def __init__(self, info: ImageInfo, store: Store, *, by_band: bool = True) -> None:
        self._info = info
        self._by_band = by_band
        self._store = store
        self._closed = False

    @property
    def info(self) -> ImageInfo:
        """Facts about the image, known before a pixel is decoded."""
        return self._info

    def holding(self, contents: Sequence[Content], index: int) -> Self:
        """Record which image of its file this is, where the file holds several, and return it."""
        series = index if len(contents) > 1 else None
        self._info = replace(self._info, series=series, contents=tuple(contents) if len(contents) > 1 else ())
        return self

    def read(self, requests: Sequence[Request]) -> list[Region]:
        """Return one region for each request, in their order; requests that overlap share one decode."""
        if self._closed:
            raise SourceError(
                "the image was closed before this read",
                file=self._info.path,
                advice="Open the image again before you read from it",
            )
        samplers = [self._sampler(request) for request in requests]
        with reporting_bugs(self._info.path):
            for cluster in clusters(samplers):
                self._decode(cluster)
            return [sampler.region() for sampler in samplers]

    def close(self) -> None:
        """Close the store; later reads fail with `SourceError`."""
        if not self._closed:
            self._closed = True
            self._store.close()

    def _sampler(self, request: Request) -> Sampler:
        cover = Box.whole(request.pitch.cover(self._info.size))
        if request.box.area == 0 or not cover.contains(request.box):
            message = f"a request lies inside the image's grid {cover}, got {request.box}"
            raise ValueError(message)
        # The coarsest level that is still as fine as the request: finer ones would only be averaged away after
        # decoding.
        index = choose_level(self._info.levels, request.pitch)
        bands = range(len(self._info.bands))
        some = request.bands is not None and set(request.bands) != set(bands)
        return Sampler(
            request,
            level=index,
            downsample=self._info.levels[index].downsample,
            shape=(len(bands), np.dtype(self._info.dtype)),
            masked=self._info.has_mask,
            # The store looks for it in all bands together.
            nodata=self._info.nodata if some and self._by_band else None,
        )

    def _decode(self, cluster: Cluster) -> None:
        for piece in pieces(cluster.box, self._store.block(cluster.level)):
            users = [sampler for sampler in cluster.samplers if sampler.box.intersection(piece).area]
            if users:
                # Several requests may want different bands of one piece. It is decoded once, with all of them.
                bands = tuple(sorted({band for sampler in users for band in sampler.bands}))
                pixels = self._fetch(cluster.level, piece, bands)
                for sampler in users:
                    sampler.add(piece, pixels, bands)

    def _fetch(self, level: int, box: Box, bands: tuple[int, ...]) -> Pixels:
        some = None if len(bands) == len(self._info.bands) else bands
        return fetch_reflected(self._store, level, self._info.levels[level].size, box, some)


@dataclass(kw_only=True)
class Cluster:
    """Samplers that share a decode."""

    level: int
    box: Box
    """Smallest box around all samplers, on the level's grid."""
    area: int
    """Stored pixels that they ask for, those they have in common once, about."""
    samplers: list[Sampler] = field(default_factory=list)

    def accepts(self, sampler: Sampler) -> bool:
        """Return whether decoding a sampler with the cluster saves more pixels than the common box wastes."""
        if sampler.level != self.level or not self.box.intersection(sampler.box).area:
            return False
        return around(self.box, sampler.box).area <= UNION_SLACK * self._area_with(sampler.box)

    def join(self, sampler: Sampler) -> None:
        """Add a sampler to the cluster."""
        self.area = self._area_with(sampler.box)
        self.box = around(self.box, sampler.box)
        self.samplers.append(sampler)

    def _area_with(self, box: Box) -> int:
        return self.area + box.area - self.box.intersection(box).area


def clusters(samplers: Sequence[Sampler]) -> list[Cluster]:
    """Group samplers so that one decode serves each group, the largest sampler first."""
    found: list[Cluster] = []
    # Large boxes come first: a small one that lies in a large one then costs nothing more.
    for sampler in sorted(samplers, key=lambda sampler: -sampler.box.area):
        home = next((cluster for cluster in found if cluster.accepts(sampler)), None)
        if home is None:
            home = Cluster(level=sampler.level, box=sampler.box, area=sampler.box.area)
            home.samplers.append(sampler)
            found.append(home)
        else:
            home.join(sampler)
    return found


def around(one: Box, other: Box) -> Box:
    """Return the smallest box that contains both boxes."""
    return Box.between(
        left=min(one.x, other.x),
        top=min(one.y, other.y),
        right=max(one.right, other.right),
        bottom=max(one.bottom, other.bottom),
    )


def pieces(box: Box, block: Size) -> Iterator[Box]:
    """Cut a box along the storage blocks into pieces of about `PIECE_PIXELS`."""
    rows = max(1, PIECE_PIXELS // max(1, min(box.width, PIECE_PIXELS)))
    # Pieces follow the storage blocks, because a block that two pieces touch would be decoded twice.
    if rows < block.height < box.height:
        columns = max(block.width, PIECE_PIXELS // block.height // block.width * block.width)
        rows = block.height
    else:
        columns = box.width + block.width
        rows = max(1, rows // block.height) * block.height if rows >= block.height else rows
    for top, bottom in cuts(box.y, box.bottom, rows):
        for left, right in cuts(box.x, box.right, columns):
            yield Box.between(left=left, top=top, right=right, bottom=bottom)


def cuts(begin: int, end: int, step: int) -> Iterator[tuple[int, int]]:
    """Cut an interval at the multiples of a step."""
    while begin < end:
        stop = min(end, (begin // step + 1) * step)
        yield begin, stop
        begin = stop


def fetch_reflected(store: Store, level: int, size: Size, box: Box, bands: tuple[int, ...] | None) -> Pixels:
    """Return the stored pixels of a box that may reach beyond the level, which is continued by symmetric reflection."""
    if Box.whole(size).contains(box):
        return store.fetch(level, box, bands)
    rows, columns = reflected(box.y, box.bottom, size.height), reflected(box.x, box.right, size.width)
    inside = Box.between(
        left=int(columns.min()), top=int(rows.min()), right=int(columns.max()) + 1, bottom=int(rows.max()) + 1
    )
    values, valid = store.fetch(level, inside, bands)
    # Only pixels inside are fetched, and repeated afterwards: the rim costs no second decode.
    index = np.ix_(rows - inside.y, columns - inside.x)
    return Pixels(values[index], None if valid is None else valid[index])


def reflected(begin: int, end: int, length: int) -> NDArray[Any]:
    """Fold indices `[begin, end)` into `[0, length)` by symmetric reflection: 1, 0 | 0, 1, ..., n-1 | n-1, n-2."""
    folded = np.arange(begin, end) % (2 * length)
    return np.where(folded < length, folded, 2 * length - 1 - folded)

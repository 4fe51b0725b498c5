"""Percentiles of an image's values, from a sample that is cheap to read and always the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from magnet_cli.errors import SourceError
from magnet_cli.geometry import Box
from magnet_cli.images.protocol import Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from magnet_cli.geometry import Size
    from magnet_cli.images.protocol import Image, Level

LEAST_PIXELS = 1 << 18
"""Fewest pixels of a level that is sampled: the coarsest that has as many, level 0 where none has."""
MOST_PIXELS = 1 << 20
"""Most pixels of a level that is read as a whole; larger levels are read at some places."""
PLACES = 8
"""Places along each side of a level that are read."""
PLACE_SIDE = 128
"""Side of such a place in pixels of the level."""
STRIP_VALUES = 8 << 20
"""Number of values that are decoded at a time, so that hundreds of bands take no more memory than three."""


def sample_percentiles(
    image: Image, bands: Sequence[int], shares: tuple[float, float]
) -> tuple[tuple[float, float], ...]:
    """Return two percentiles of each band, from a stored overview or from places spread evenly over the image.

    Args:
        image: Image that is sampled; pixels without data do not count.
        bands: Positions of the bands in the image, from 0.
        shares: The two percentiles, 0 to 100, the lower first.

    Returns:
        For each of the bands the lower and the higher value.

    Raises:
        SourceError: The image cannot be decoded, or no pixel of the sample holds data.
    """
    found = [values for values in _sampled(image, tuple(bands)) if len(values)]
    if not found:
        raise SourceError(
            "no pixel of the sample holds data", file=image.info.path, advice="Give --value-range LOW,HIGH"
        )
    low, high = np.percentile(np.concatenate(found).astype(np.float64), shares, axis=0)
    return tuple((float(a), float(b)) for a, b in zip(low, high, strict=True))


def _sampled(image: Image, bands: tuple[int, ...]) -> Iterator[NDArray[Any]]:
    """Yield `(pixels, bands)` of one box after the other."""
    level = sampled_level(image.info.levels)
    cover = level.downsample.cover(image.info.size)
    inside = Box.whole(cover).intersection(Box.whole(level.size))
    for place in places(level.size, bands=len(image.info.bands)):
        box = place.intersection(inside)
        if box.area:
            region = image.read([Request(pitch=level.downsample, box=box, bands=bands)])[0]
            yield region.pixels.reshape(-1, len(bands)) if region.valid is None else region.pixels[region.valid]


def sampled_level(levels: Sequence[Level]) -> Level:
    """Return the index of the coarsest level that has enough pixels."""
    enough = [level for level in levels if level.size.pixels >= LEAST_PIXELS]
    return min(enough, key=lambda level: level.size.pixels, default=levels[0])


def places(size: Size, *, bands: int) -> Iterator[Box]:
    """Yield boxes over a level: strips of the whole of it, or small squares in the cells of a grid."""
    if size.pixels <= MOST_PIXELS:
        rows = max(1, STRIP_VALUES // (size.width * bands))
        for top in range(0, size.height, rows):
            yield Box(x=0, y=top, width=size.width, height=min(rows, size.height - top))
        return
    tops, lefts = (tuple(_middles(length)) for length in (size.height, size.width))
    for top, bottom in tops:
        for left, right in lefts:
            yield Box.between(left=left, top=top, right=right, bottom=bottom)


def _middles(length: int) -> Iterator[tuple[int, int]]:
    count = min(PLACES, length)
    for number in range(count):
        begin, end = number * length // count, (number + 1) * length // count
        side = min(PLACE_SIDE, end - begin)
        start = begin + (end - begin - side) // 2
        yield start, start + side

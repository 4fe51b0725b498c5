"""Pictures with their halvings, and label maps, in memory or on disk: windows are drawn from them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from magnet_cli.geometry import Box, Size
from magnet_cli.images.levels import level_table
from magnet_cli.images.protocol import ImageInfo
from magnet_cli.images.reader import PyramidImage
from magnet_cli.images.store import MemoryStore

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.images import Region
    from magnet_cli.images.protocol import Request
    from magnet_cli.images.store import Store

    Pixels = NDArray[np.uint8]
    Valid = NDArray[np.bool_]

SMALLEST_SIDE = 64
"""No halving has a shorter side, unless the picture has."""
BYTE_VALUES = 256
HISTOGRAM_PIXELS = 1 << 20
"""Number of pixels that are counted at a time: `bincount` makes eight bytes of each."""


class PixelStore(Protocol):
    """A picture at level 0 and at its halvings; safe from several threads at once."""

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The sizes of level 0 and each halving, as `halvings` gives them."""

    @property
    def bands(self) -> int:
        """The number of bands."""

    @property
    def filling(self) -> tuple[int, ...] | None:
        """Value that each band has where there are no data; None for 0."""

    def read(self, level: int, box: Box) -> Pixels:
        """Return a box inside a level, `(box.height, box.width, bands)` uint8.

        Raises:
            SourceError: The box cannot be decoded.
        """

    def part(self, level: int, box: Box) -> tuple[Pixels, Valid | None]:
        """Return a box inside a level, and which of its pixels hold data, `(box.height, box.width)`; None where all do.

        A pixel of a halving is the mean of those that hold data, and holds data where half of them do, as in a run.

        Raises:
            SourceError: The box cannot be decoded.
        """

    def sample(self, request: Request) -> Pixels:
        """Return what a run of the program reads for a request, `(box.height, box.width, bands)` uint8.

        Raises:
            SourceError: The request cannot be decoded.
        """


class LabelStore(Protocol):
    """A label map; safe from several threads at once."""

    @property
    def size(self) -> Size:
        """The size of the picture."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """Pixels of each value, `(256,)`."""

    def at(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Pixels:
        """Return the labels where rows and columns cross, `(len(rows), len(columns))` uint8; any order, all inside."""


def halvings(size: Size) -> tuple[Size, ...]:
    """Return the sizes of a picture and its halvings, which leave out an odd last row or column."""
    sizes = [size]
    while min(sizes[-1].width, sizes[-1].height) >= 2 * SMALLEST_SIDE:
        sizes.append(Size(width=sizes[-1].width // 2, height=sizes[-1].height // 2))
    return tuple(sizes)


def halved(pixels: Pixels) -> Pixels:
    """Return the mean of every 2 x 2 pixels, rounded half up; `(rows // 2, columns // 2, bands)` uint8."""
    rows, columns = (side // 2 * 2 for side in pixels.shape[:2])
    fine = pixels[:rows, :columns]
    # Two added before the division by four round the mean half up. The sum of four bytes needs ten bits.
    total = np.add(fine[::2, ::2], 2, dtype=np.uint16)
    for other in (fine[1::2, ::2], fine[::2, 1::2], fine[1::2, 1::2]):
        total += other
    total >>= 2
    return total.astype(np.uint8)


def halved_part(pixels: Pixels, valid: Valid | None, filling: tuple[int, ...] | None) -> tuple[Pixels, Valid | None]:
    """Return the mean of every 2 x 2 pixels that hold data, and whether at least two of them do; None where all do.

    Args:
        pixels: `(rows, columns, bands)` uint8.
        valid: `(rows, columns)`, or None where all pixels hold data.
        filling: Value that each band gets where fewer than two do; None for 0.
    """
    if valid is None:
        return halved(pixels), None
    rows, columns = (side // 2 * 2 for side in pixels.shape[:2])
    corners = [(slice(top, rows, 2), slice(left, columns, 2)) for top in (0, 1) for left in (0, 1)]
    count = np.add.reduce([valid[corner].astype(np.uint16) for corner in corners])[:, :, None]
    total = np.add.reduce([pixels[corner] * valid[corner][:, :, None].astype(np.uint16) for corner in corners])
    mean = ((total + count // 2) // np.maximum(count, 1)).astype(np.uint8)
    holding = 2 * count[:, :, 0] >= len(corners)
    return filled_where(mean, holding, filling), None if holding.all() else holding


def filled_where(pixels: Pixels, valid: Valid | None, filling: tuple[int, ...] | None) -> Pixels:
    """Return pixels that have a value of each band where they hold no data; None is 0."""
    if valid is None:
        return pixels
    found = pixels.copy()
    found[~valid] = 0 if filling is None else filling
    return found


def filled(region: Region, filling: tuple[int, ...] | None) -> Pixels:
    """Return the pixels of a region, with a value of each band where there are no data; None is 0."""
    return filled_where(region.pixels, region.valid, filling)


def histogram(labels: Pixels) -> NDArray[np.int64]:
    """Return the pixels of each value, `(256,)`."""
    flat = labels.reshape(-1)
    counts = np.zeros(BYTE_VALUES, np.int64)
    for first in range(0, len(flat), HISTOGRAM_PIXELS):
        counts += np.bincount(flat[first : first + HISTOGRAM_PIXELS], minlength=BYTE_VALUES)
    return counts


def level0_image(store: Store, *, size: Size, bands: int, masked: bool = False) -> PyramidImage:
    """Return an image of level 0 alone over any store of it; `masked` says whether pixels may hold no data."""
    names = tuple(f"band{number}" for number in range(1, bands + 1))
    info = ImageInfo(
        path="a scene",
        backend="training",
        size=size,
        levels=level_table(size, []),
        bands=names,
        dtype="uint8",
        has_mask=masked,
    )
    return PyramidImage(info, store)


class HeldPixels:
    """A `PixelStore` that is held in memory.

    Args:
        pixels: `(rows, columns, bands)` uint8, with the filling where there are no data.
        valid: `(rows, columns)`, True where there are; None where all pixels hold data.
        filling: Value that each band has where there are no data; None for 0.
    """

    def __init__(self, pixels: Pixels, valid: Valid | None = None, *, filling: tuple[int, ...] | None = None) -> None:
        self.pixels, self.valid, self.filling = pixels, valid, filling
        rows, columns, self.bands = pixels.shape
        self.sizes = halvings(Size(width=columns, height=rows))

    @cached_property
    def levels(self) -> tuple[tuple[Pixels, Valid | None], ...]:
        """The picture and its halvings, each with its pixels that hold data."""
        levels = [(self.pixels, self.valid)]
        while len(levels) < len(self.sizes):
            levels.append(halved_part(*levels[-1], self.filling))
        return tuple(levels)

    def read(self, level: int, box: Box) -> Pixels:
        """Return the pixels of a box of a level, as a view."""
        return self.levels[level][0][box.slices]

    def part(self, level: int, box: Box) -> tuple[Pixels, Valid | None]:
        """Return the pixels of a box of a level and which of them hold data, as views."""
        pixels, valid = self.levels[level]
        return pixels[box.slices], None if valid is None else valid[box.slices]

    def sample(self, request: Request) -> Pixels:
        """Return the pixels of a request, resampled."""
        store, masked = MemoryStore(self.pixels, self.valid), self.valid is not None
        image = level0_image(store, size=self.sizes[0], bands=self.bands, masked=masked)
        return filled(image.read([request])[0], self.filling)


class HeldLabels:
    """A `LabelStore` that is held in memory.

    Args:
        labels: `(rows, columns)` uint8.
    """

    def __init__(self, labels: Pixels) -> None:
        self.labels = labels
        rows, columns = labels.shape
        self.size = Size(width=columns, height=rows)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """The number of pixels by label, `(256,)` int64."""
        return histogram(self.labels)

    def at(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Pixels:
        """Return the labels at rows and columns."""
        return self.labels[rows[:, None], columns]

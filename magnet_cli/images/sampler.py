"""One request on its way to a region: pieces of a stored level are added to it in any order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from magnet_cli.geometry import Box
from magnet_cli.images.protocol import Region
from magnet_cli.images.resample import accumulator, divide, taps_for, weighted_sums
from magnet_cli.images.store import Pixels
from magnet_cli.images.validity import both, finite, without_nodata

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.geometry import Pitch
    from magnet_cli.images.protocol import Request
    from magnet_cli.images.resample import Taps


class Sampler:
    """Weighted sums of the stored pixels that a request covers.

    Args:
        request: What was asked for.
        level: Index of the stored level that serves it.
        downsample: Of that level.
        shape: Number of bands and dtype of the stored pixels.
        masked: Whether stored pixels may be invalid.
        nodata: A value that says so where all bands asked for have it; None where the store has looked for it.
    """

    def __init__(
        self,
        request: Request,
        *,
        level: int,
        downsample: Pitch,
        shape: tuple[int, np.dtype[Any]],
        masked: bool,
        nodata: float | None = None,
    ) -> None:
        bands, dtype = shape
        self._nodata = nodata
        self._bands = None if request.bands in (None, tuple(range(bands))) else list(request.bands or ())
        bands = bands if self._bands is None else len(self._bands)
        box, pitch = request.box, request.pitch
        self.level = level
        self._columns = taps_for(pitch.x / downsample.x, box.x, box.right, resample=request.resample)
        self._rows = taps_for(pitch.y / downsample.y, box.y, box.bottom, resample=request.resample)
        self.box = _box(self._columns, self._rows)
        """The stored pixels it takes; may reach beyond the level."""
        self._dtype = dtype
        self._whole = self._rows.total * self._columns.total
        copies = self._whole == 1 or (self._rows.exact_copy and self._columns.exact_copy and self.box.area == box.area)
        sums = dtype if copies else accumulator(dtype, self._rows.total, self._columns.total)
        self._sums = np.zeros((box.height, box.width, bands), sums)
        self._copies = copies
        self._weights = (
            np.zeros((box.height, box.width, 1), np.float64 if self._heavy else np.int64) if masked else None
        )

    @property
    def _heavy(self) -> bool:
        return self._whole.bit_length() > 62  # noqa: PLR2004 (bits of a signed sum)

    def add(self, piece: Box, pixels: Pixels) -> None:
        """Take what this request needs of a decoded piece of its level.

        Args:
            piece: Where it lies on the level's grid.
            pixels: Its values and validity.
        """
        part = piece.intersection(self.box)
        window = part.shifted(x=-piece.x, y=-piece.y).slices
        values, valid = self._taken(pixels, window)
        if valid is not None:
            values = np.where(valid[:, :, None], values, values.dtype.type(0))
        if self._copies:
            target = part.shifted(x=-self.box.x, y=-self.box.y).slices
            self._sums[target] = values
            if self._weights is not None:
                self._weights[target] = 1 if valid is None else valid[:, :, None]
            return
        self._accumulate(self._sums, values, part)
        if self._weights is not None:
            ones = np.ones((*values.shape[:2], 1), np.uint8) if valid is None else valid[:, :, None].view(np.uint8)
            self._accumulate(self._weights, ones, part)

    def _taken(self, pixels: Pixels, window: tuple[slice, slice]) -> Pixels:
        """The bands asked for of a part of a piece, and where they hold data."""
        values = pixels.values[window]
        values = values if self._bands is None else values[:, :, self._bands]
        valid = None if pixels.valid is None or pixels.valid[window].all() else pixels.valid[window]
        if self._weights is not None:
            valid = both(both(valid, without_nodata(values, self._nodata)), finite(values))
        return Pixels(values, valid)

    def region(self) -> Region:
        """The finished pixels, once every piece was added; asked for once."""
        if self._weights is None:
            return Region(pixels=self._divided(self._whole), valid=None)
        whole = 1 if self._copies else self._whole
        valid = 2 * self._weights >= whole
        pixels = self._divided(np.maximum(self._weights, 1))
        if valid.all():
            return Region(pixels=pixels, valid=None)
        return Region(pixels=np.where(valid, pixels, pixels.dtype.type(0)), valid=valid[:, :, 0])

    def _divided(self, weights: NDArray[Any] | int) -> NDArray[Any]:
        return self._sums if self._copies else divide(self._sums, weights, self._dtype)

    def _accumulate(self, target: NDArray[Any], values: NDArray[Any], part: Box) -> None:
        height, width, bands = values.shape
        flat = np.ascontiguousarray(values).reshape(height, width * bands)
        rows, partial = weighted_sums(flat, self._rows, origin=part.y, dtype=target.dtype)
        turned = partial.reshape(-1, width, bands).swapaxes(0, 1).reshape(width, -1)
        columns, sums = weighted_sums(turned, self._columns, origin=part.x, dtype=target.dtype)
        target[rows, columns] += sums.reshape(sums.shape[0], -1, bands).swapaxes(0, 1)


def _box(columns: Taps, rows: Taps) -> Box:
    return Box.between(
        left=int(columns.start[0]), top=int(rows.start[0]), right=int(columns.stop[-1]), bottom=int(rows.stop[-1])
    )

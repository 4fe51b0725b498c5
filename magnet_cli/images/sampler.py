"""One request on its way to a region: pieces of a stored level are added to it in any order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from magnet_cli.geometry import Box
from magnet_cli.images.protocol import Region
from magnet_cli.images.resampling import accumulator, divide, taps_for
from magnet_cli.images.store import Pixels
from magnet_cli.images.validity import both, finite, of_bands, without_nodata

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.geometry import Pitch
    from magnet_cli.images.protocol import Request
    from magnet_cli.images.resampling import Taps


class Sampler:
    """Weighted sums of the stored pixels that a request covers.

    Args:
        request: Request that is served.
        level: Index of the stored level that serves the request.
        downsample: Downsample of that level.
        shape: Number of bands and dtype of the stored pixels.
        masked: Whether stored pixels may be invalid.
        nodata: Value of pixels without data, where the store does not mark them; None where the store does.
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
        self.bands = tuple(range(bands)) if request.bands is None else request.bands
        """Positions of the requested bands, in their order."""
        box, pitch = request.box, request.pitch
        self.level = level
        self._columns = taps_for(pitch.x / downsample.x, box.x, box.right, resample=request.resample)
        self._rows = taps_for(pitch.y / downsample.y, box.y, box.bottom, resample=request.resample)
        self.box = _box(self._columns, self._rows)
        """Box of the stored pixels that the request uses; it may reach beyond the level."""
        self._dtype = dtype
        self._width, self._height = box.width, box.height
        self._copies = self._rows.exact_copy and self._columns.exact_copy and self.box.area == box.area
        self._whole = 1 if self._copies else self._rows.total * self._columns.total
        """Weight of the stored pixels that make one pixel."""
        self._sums = self._zeros(len(self.bands))
        """`(height, width, bands)` where pixels are copied, otherwise `(bands, width, height)`."""
        self._masked = masked
        self._lacking: NDArray[Any] | None = None
        """Weights of pixels without data, laid out like the sums of one band; None while all added pixels hold data."""

    def add(self, piece: Box, pixels: Pixels, bands: tuple[int, ...]) -> None:
        """Add the part of a decoded piece of the level that this request covers.

        Args:
            piece: Box of the piece on the level's grid.
            pixels: Values and validity of the piece.
            bands: Positions of the bands in `pixels`, which include all requested bands.
        """
        part = piece.intersection(self.box)
        values, valid = self._taken(pixels, part.shifted(x=-piece.x, y=-piece.y).slices, bands)
        if valid is not None:
            # Pixels without data add nothing to the sum. Their weights are summed separately, so that the mean is that
            # of the others.
            values = np.where(valid[:, :, None], values, values.dtype.type(0))
            self._lacking = self._zeros(1) if self._lacking is None else self._lacking
            self._accumulate(self._lacking, ~valid[:, :, None], part)
        self._accumulate(self._sums, values, part)

    def _zeros(self, bands: int) -> NDArray[Any]:
        height, width = self._height, self._width
        if self._copies:
            return np.zeros((height, width, bands), self._dtype)
        # The planes have their axes exchanged, as sums over columns do: adding to them is several times quicker.
        return np.zeros((bands, width, height), accumulator(self._dtype, self._rows.total, self._columns.total))

    def _taken(self, pixels: Pixels, window: tuple[slice, slice], bands: tuple[int, ...]) -> Pixels:
        """Return the requested bands of a part of a piece, and where they hold data."""
        values = pixels.values[window]
        positions = [bands.index(band) for band in self.bands]
        if bands != self.bands:
            values = values[:, :, positions]
        valid = None if pixels.valid is None else of_bands(pixels.valid[window], positions)
        valid = None if valid is None or valid.all() else valid
        if self._masked:
            # Only the requested bands decide: NaN in a band that the network does not see is no reason to leave out a
            # pixel.
            valid = both(both(valid, without_nodata(values, self._nodata)), finite(values))
        return Pixels(values, valid)

    def region(self) -> Region:
        """Return the finished pixels, once after all pieces were added."""
        if self._lacking is None:
            return Region(pixels=self._divided(self._whole), valid=None)
        # Every pixel is divided by the weight of what holds data. It counts as valid from half of the full weight on.
        weights = self._whole - self._lacking
        pixels, valid = self._divided(np.maximum(weights, 1)), self._upright(2 * weights >= self._whole)
        if valid.all():
            return Region(pixels=pixels, valid=None)
        return Region(pixels=np.where(valid, pixels, pixels.dtype.type(0)), valid=valid[:, :, 0])

    def _divided(self, weights: NDArray[Any] | int) -> NDArray[Any]:
        return self._sums if self._copies else self._upright(divide(self._sums, weights, self._dtype))

    def _upright(self, planes: NDArray[Any]) -> NDArray[Any]:
        if self._copies:
            return planes
        pixels = np.empty((self._height, self._width, len(planes)), planes.dtype)
        for band, plane in enumerate(planes):
            pixels[:, :, band] = plane.T
        return pixels

    def _accumulate(self, target: NDArray[Any], values: NDArray[Any], part: Box) -> None:
        if self._copies:
            target[part.shifted(x=-self.box.x, y=-self.box.y).slices] = values
            return
        rows, down = self._rows.within(part.y, part.bottom)
        columns, across = self._columns.within(part.x, part.right)
        # The weights take the type of the sums: products with 64-bit integers would be computed in float64.
        down, across = down.astype(target.dtype), across.astype(target.dtype)
        for band, plane in enumerate(target):
            plane[columns, rows] += across @ (down @ values[:, :, band].astype(target.dtype)).T


def _box(columns: Taps, rows: Taps) -> Box:
    return Box.between(left=columns.start, top=rows.start, right=columns.stop, bottom=rows.stop)

"""Conversion between level-0 pixels and the coordinates of an image's reference system; comparison of places."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from magnet_cli.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from magnet_cli.images.protocol import ImageInfo


PIXEL_SCALE, TIEPOINT, TRANSFORMATION, KEY_DIRECTORY = 33550, 33922, 34264, 34735
RASTER_TYPE, POINT = 1025, 2
TIEPOINT_VALUES, MATRIX_VALUES, KEY_VALUES = 6, 16, 4
DOUBLE = 12
"""TIFF's number for a float64."""

Tag = tuple[int, int, int, object]
"""A TIFF tag: code, TIFF data type, count, value."""


@dataclass(frozen=True, kw_only=True)
class Geotransform:
    """`coordinates = matrix @ (x, y) + origin`, with `(0, 0)` the top-left corner of level 0."""

    matrix: tuple[tuple[float, float], tuple[float, float]]
    origin: tuple[float, float]

    @classmethod
    def of(cls, tags: Mapping[int, object]) -> Self | None:
        """Read the geotransform of GeoTIFF tags by code; None where the tags state none, or state points alone.

        As GDAL reads them: a scale wins over a matrix, the first of several tie points places the image, and a negative
        scale of y means north-up like a positive one, although the standard says otherwise.
        """
        matrix, scale, tie, keys = (
            value if isinstance(value := tags.get(code), tuple) else ()
            for code in (TRANSFORMATION, PIXEL_SCALE, TIEPOINT, KEY_DIRECTORY)
        )
        has_scale = len(scale) > 1 and scale[0] != 0 and scale[1] != 0
        placed = cls._from_scale(scale, tie) if has_scale else cls._from_matrix(matrix)
        # GDAL moves the corner of a scale only where a tie point names the pixel that it belongs to.
        if placed is None or not _places_centres(keys) or (has_scale and not tie):
            return placed
        return placed.shifted(-0.5, -0.5)

    @classmethod
    def of_gdal(cls, values: Sequence[float]) -> Self:
        """Make a geotransform of GDAL's six numbers: corner x, x steps along a row and down, then the same of y."""
        c, a, b, f, d, e = values
        return cls(matrix=((a, b), (d, e)), origin=(c, f))

    def tags(self) -> tuple[Tag, ...]:
        """Return the geotransform as tags of a GeoTIFF whose raster type is area."""
        (a, b), (d, e) = self.matrix
        c, f = self.origin
        if b == d == 0 and a > 0 > e:
            scale, tie = (a, -e, 0.0), (0.0, 0.0, 0.0, c, f, 0.0)
            return (PIXEL_SCALE, DOUBLE, 3, scale), (TIEPOINT, DOUBLE, TIEPOINT_VALUES, tie)
        values = (a, b, 0.0, c, d, e, 0.0, f, *[0.0] * 7, 1.0)
        return ((TRANSFORMATION, DOUBLE, MATRIX_VALUES, values),)

    def shifted(self, x: float, y: float) -> Self:
        """Return the geotransform with its origin moved by `x` columns and `y` rows."""
        (a, b), (d, e) = self.matrix
        c, f = self.origin
        return replace(self, origin=(c + a * x + b * y, f + d * x + e * y))

    @property
    def is_usable(self) -> bool:
        """Whether every pixel has a place of its own: the numbers are finite, and the matrix can be inverted."""
        (a, b), (d, e) = self.matrix
        return bool(np.isfinite([a, b, d, e, *self.origin]).all()) and a * e != b * d

    @property
    def mirrors(self) -> bool:
        """Whether the direction of a ring changes, as on maps, whose y points upward."""
        (a, b), (d, e) = self.matrix
        return a * e - b * d < 0

    def coordinates(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Return coordinates of `(n, 2)` level-0 x, y."""
        x, y = points[:, 0], points[:, 1]
        (a, b), (d, e) = self.matrix
        c, f = self.origin
        return np.column_stack((a * x + b * y + c, d * x + e * y + f))

    def pixels(self, coordinates: NDArray[Any]) -> NDArray[np.float64]:
        """Return level-0 x, y of `(n, 2)` coordinates."""
        solved: NDArray[np.float64] = np.linalg.solve(np.array(self.matrix), (coordinates - self.origin).T).T
        return solved

    @classmethod
    def _from_matrix(cls, values: tuple[float, ...]) -> Self | None:
        if len(values) != MATRIX_VALUES:
            return None
        a, b, _, c, d, e, _, f = values[:8]
        return cls(matrix=((a, b), (d, e)), origin=(c, f))

    @classmethod
    def _from_scale(cls, scale: tuple[float, ...], tie: tuple[float, ...]) -> Self | None:
        tie = tie if len(tie) >= TIEPOINT_VALUES else (0.0,) * TIEPOINT_VALUES
        across, down = scale[0], -abs(scale[1])
        return cls(matrix=((across, 0.0), (0.0, down)), origin=(tie[3] - tie[0] * across, tie[4] - tie[1] * down))


def _places_centres(keys: tuple[int, ...]) -> bool:
    """Return whether the tags place the centre of a pixel, not its corner."""
    entries = [keys[start : start + KEY_VALUES] for start in range(KEY_VALUES, len(keys) - KEY_VALUES + 1, KEY_VALUES)]
    return any(entry[0] == RASTER_TYPE and entry[3] == POINT for entry in entries)


HALF = 0.51
"""Pixels by which corners may differ: programs disagree on whether coordinates are of a pixel's corner or centre."""
ADVICE = "Warp one onto the grid of the other; where a georeference is wrong, write it anew or leave it out"


def check_fits(found: ImageInfo, image: ImageInfo, *, rule: str, advice: str) -> None:
    """Check that a raster that belongs to an image has its size and is not georeferenced to another place.

    Args:
        found: The facts of the raster.
        image: The facts of the image.
        rule: Text of the error about a wrong size.
        advice: The next step where the sizes differ.

    Raises:
        SourceError: The raster differs from the image in size or place.
    """
    if found.size != image.size:
        raise SourceError(rule, value=found.size, file=found.path, advice=advice)
    check_place(found, image)


def check_place(found: ImageInfo, image: ImageInfo) -> None:
    """Check that a raster and the image that it belongs to do not state different places.

    Args:
        found: Facts about the raster, which has the image's shape; its pixels may be larger.
        image: Facts about the image.

    Raises:
        SourceError: The rasters name different reference systems, or their corners lie apart.
    """
    if found.crs is not None and image.crs is not None and not same_system(found.crs, image.crs):
        raise SourceError(
            f"the reference system must be that of {image.path}, {system_label(image.crs)}",
            value=system_label(found.crs) if system_label(found.crs) != system_label(image.crs) else found.crs,
            file=found.path,
            advice=ADVICE,
        )
    apart = _apart(found, image)
    same_size = found.size == image.size
    # The last pixel of a smaller raster may reach beyond the image, or end before it.
    larger = max(1, image.size.width / found.size.width, image.size.height / found.size.height)
    if apart is not None and apart > (HALF if same_size else 2 * HALF * larger):
        raise SourceError(
            f"by its georeference this does not lie where {image.path} lies",
            value=f"corners {apart:.3g} of its pixels apart",
            file=found.path,
            advice=ADVICE,
        )


def same_system(one: str, other: str) -> bool:
    """Return whether two reference systems, as `ImageInfo.crs` has them, are one.

    The whole definitions are compared.
    """
    from magnet_cli.images.crs import same_crs  # noqa: PLC0415 (PROJ takes long to load)

    return one == other or same_crs(one, other)


def system_label(crs: str) -> str:
    """Return a reference system for a message: its code, or its name."""
    from magnet_cli.images.crs import label  # noqa: PLC0415 (as above)

    return label(crs)


def _apart(found: ImageInfo, image: ImageInfo) -> float | None:
    """Return how far corners lie from the image's, in pixels of the image.

    The result is None where either does not say where it lies.
    """
    here, there = (Geotransform.of({code: value for code, _, _, value in info.geo_tags}) for info in (found, image))
    if here is None or there is None or (found.crs is None) != (image.crs is None):
        return None
    mine, its = (
        np.array([(0, 0), (info.size.width, 0), (0, info.size.height), (info.size.width, info.size.height)], float)
        for info in (found, image)
    )
    return float(np.abs(there.pixels(here.coordinates(mine)) - its).max())

"""Between pixels of level 0 and the coordinates of the image's own reference system."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

PIXEL_SCALE, TIEPOINT, TRANSFORMATION, KEY_DIRECTORY = 33550, 33922, 34264, 34735
RASTER_TYPE, POINT = 1025, 2
TIEPOINT_VALUES, MATRIX_VALUES, KEY_VALUES = 6, 16, 4


@dataclass(frozen=True, kw_only=True)
class Geotransform:
    """`coordinates = matrix @ (x, y) + origin`, with `(0, 0)` the top-left corner of level 0."""

    matrix: tuple[tuple[float, float], tuple[float, float]]
    origin: tuple[float, float]

    @classmethod
    def of(cls, tags: Mapping[int, object]) -> Self | None:
        """From the tags of a GeoTIFF by their codes; None where they say nothing, or place it by several points."""
        matrix, scale, tie, keys = (
            value if isinstance(value := tags.get(code), tuple) else ()
            for code in (TRANSFORMATION, PIXEL_SCALE, TIEPOINT, KEY_DIRECTORY)
        )
        placed = cls._from_matrix(matrix) or cls._from_scale(scale, tie)
        if placed is None or not _places_centres(keys):
            return placed
        (a, b), (d, e) = placed.matrix
        c, f = placed.origin
        return cls(matrix=placed.matrix, origin=(c - (a + b) / 2, f - (d + e) / 2))

    @property
    def mirrors(self) -> bool:
        """Whether the direction of a ring changes, as on maps, whose y points upward."""
        (a, b), (d, e) = self.matrix
        return a * e - b * d < 0

    def coordinates(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Coordinates of `(n, 2)` level-0 x, y."""
        x, y = points[:, 0], points[:, 1]
        (a, b), (d, e) = self.matrix
        c, f = self.origin
        return np.column_stack((a * x + b * y + c, d * x + e * y + f))

    def pixels(self, coordinates: NDArray[Any]) -> NDArray[np.float64]:
        """Level-0 x, y of `(n, 2)` coordinates."""
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
        if len(scale) < 2 or len(tie) != TIEPOINT_VALUES:  # noqa: PLR2004 - x and y
            return None
        across, down = scale[0], -scale[1]
        return cls(matrix=((across, 0.0), (0.0, down)), origin=(tie[3] - tie[0] * across, tie[4] - tie[1] * down))


def _places_centres(keys: tuple[int, ...]) -> bool:
    """Whether the tags place the centre of a pixel, not its corner."""
    entries = [keys[start : start + KEY_VALUES] for start in range(KEY_VALUES, len(keys) - KEY_VALUES + 1, KEY_VALUES)]
    return any(entry[0] == RASTER_TYPE and entry[3] == POINT for entry in entries)

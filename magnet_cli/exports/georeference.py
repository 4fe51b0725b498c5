"""Pixel corners to coordinates of the image's own reference system, from the tags of a GeoTIFF."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from numpy.typing import NDArray

PIXEL_SCALE, TIEPOINT, TRANSFORMATION, KEY_DIRECTORY = 33550, 33922, 34264, 34735
RASTER_TYPE, IS_POINT = 1025, 2
TIEPOINT_VALUES = 6


@dataclass(frozen=True, kw_only=True)
class Affine:
    """x' = a x + b y + c, y' = d x + e y + f, with x = y = 0 at the top-left corner of the first pixel."""

    a: float
    b: float
    c: float
    d: float
    e: float
    f: float

    @classmethod
    def of(cls, tags: Mapping[int, tuple[float, ...]]) -> Self | None:
        """From a GeoTIFF's tags; None where they place the image by nothing, or by several points."""
        scale, tie, matrix = (tags.get(code, ()) for code in (PIXEL_SCALE, TIEPOINT, TRANSFORMATION))
        if len(matrix) > 7:  # noqa: PLR2004 - two rows of a 4 x 4 matrix
            found = cls(a=matrix[0], b=matrix[1], c=matrix[3], d=matrix[4], e=matrix[5], f=matrix[7])
        elif len(tie) == TIEPOINT_VALUES and len(scale) > 1:
            across, down = scale[0], -scale[1]
            found = cls(a=across, b=0.0, c=tie[3] - tie[0] * across, d=0.0, e=down, f=tie[4] - tie[1] * down)
        else:
            return None
        return found._moved(-0.5) if _is_point(tags.get(KEY_DIRECTORY, ())) else found

    def apply(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Coordinates of `(n, 2)` lattice points x, y."""
        x, y = points[:, 0], points[:, 1]
        return np.column_stack((self.a * x + self.b * y + self.c, self.d * x + self.e * y + self.f))

    @property
    def mirrors(self) -> bool:
        """Whether the direction of a ring changes, as on maps, whose y points upward."""
        return self.a * self.e - self.b * self.d < 0

    def _moved(self, by: float) -> Self:
        """With the first pixel's corner `by` pixels away from where it was."""
        c, f = self.apply(np.array([[by, by]]))[0].tolist()
        return type(self)(a=self.a, b=self.b, c=c, d=self.d, e=self.e, f=f)


def _is_point(keys: tuple[float, ...]) -> bool:
    """Whether the tags place the centre of the first pixel instead of its corner."""
    entries = [keys[start : start + 4] for start in range(4, len(keys) - 3, 4)]
    return any(entry[0] == RASTER_TYPE and entry[3] == IS_POINT for entry in entries)

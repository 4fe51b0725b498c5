"""The slow part of a scene on a lattice 16 pixels apart: height, rivers, forest, towns, light and the warp of roads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.scene.noise import fractal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.geometry import Box

STEP = 16
"""Distance of lattice points, in pixels; between them a field is bilinear."""
WARP = 56
"""Largest distance in pixels by which roads and fields are bent away from a straight grid."""
MARGIN = 192
"""Pixels around a box in which the fields are known: at least twice the warp and the reach of the largest object."""

WATER_LEVEL = -0.30
RIVER_WIDTH = 0.022
FOREST_EDGE = 0.13
TOWN_EDGE = 0.24


@dataclass(frozen=True, kw_only=True)
class Terrain:
    """Fields around a box; all arrays are `(rows, columns)` of lattice points, float32."""

    box: Box
    """The pixels that `fine` returns."""
    column: int
    """Lattice index of the first column."""
    row: int
    """Lattice index of the first row."""
    height: NDArray[np.float32]
    """Ground above the water level; negative under water, rivers included."""
    forest: NDArray[np.float32]
    """Values that are positive in a forest."""
    town: NDArray[np.float32]
    """Values that are positive in a town."""
    light: NDArray[np.float32]
    """Brightness, about 0.88 to 1.12: a trend that only a view from afar shows."""
    warp_x: NDArray[np.float32]
    """Pixels that are added to x, from `-WARP` to `WARP`."""
    warp_y: NDArray[np.float32]
    """Pixels that are added to y, from `-WARP` to `WARP`."""

    def fine(self, field: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return one of the fields at every pixel of the box, `(box.height, box.width)`."""
        xs = np.arange(self.box.x, self.box.right)
        ys = np.arange(self.box.y, self.box.bottom)
        columns = xs // STEP - self.column
        rows = ys // STEP - self.row
        across = (xs % STEP).astype(np.float32) * np.float32(1 / STEP)
        down = (ys % STEP).astype(np.float32) * np.float32(1 / STEP)
        start = field[:, columns]
        lines = start + (field[:, columns + 1] - start) * across
        rises = lines[1:] - lines[:-1]
        values = rises[rows]
        values *= down[:, None]
        values += lines[rows]
        return values

    def near(self, field: NDArray[np.float32], *, xs: NDArray[np.int64], ys: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return one of the fields at the lattice points next to some places, which lie within `MARGIN` of the box."""
        columns = (xs + STEP // 2) // STEP - self.column
        rows = (ys + STEP // 2) // STEP - self.row
        return field[rows, columns]


def terrain(box: Box, *, seed: int) -> Terrain:
    """Return the fields around a box of level 0."""
    column, row = (box.x - MARGIN) // STEP, (box.y - MARGIN) // STEP
    xs = np.arange(column, (box.right + MARGIN) // STEP + 2, dtype=np.int64) * STEP
    ys = np.arange(row, (box.bottom + MARGIN) // STEP + 2, dtype=np.int64) * STEP

    def field(wavelength: int, octaves: int, number: int) -> NDArray[np.float32]:
        return fractal(xs, ys, wavelength=wavelength, octaves=octaves, salt=seed * 101 + number)

    lake = field(3072, 7, 1) - np.float32(WATER_LEVEL)
    river = np.abs(field(4096, 6, 2)) - np.float32(RIVER_WIDTH)
    return Terrain(
        box=box,
        column=column,
        row=row,
        height=np.minimum(lake, river),
        forest=field(1536, 6, 3) - np.float32(FOREST_EDGE),
        town=field(2048, 5, 4) - np.float32(TOWN_EDGE),
        light=np.float32(1) + np.float32(0.18) * field(8192, 3, 5),
        warp_x=np.float32(WARP) * field(1536, 2, 6),
        warp_y=np.float32(WARP) * field(1536, 2, 7),
    )

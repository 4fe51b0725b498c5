"""The countryside: a bent grid of cells, split into strips of crop, with roads and hedges along its lines."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.scene.noise import hashed, uniform

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.scene.landscapes import Landscape

CELL = 512
"""Side of a cell in bent pixels, and of the chunks in which a scene is computed."""

_AROUND = 1
_SIDE = 2 * _AROUND + 1
_STRIPS = 4
_MEADOW = 4
_WAVE = np.abs(np.arange(64, dtype=np.float32) / np.float32(32) - np.float32(1)) * np.float32(0.1)
_WAVE -= _WAVE[0]


class Line(IntEnum):
    """Kind of a line of the grid."""

    NONE = 0
    HEDGE = 1
    STREET = 2
    ROAD = 3


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Crops and lines at every pixel. All arrays are `(height, width)`."""

    material: NDArray[np.uint8]
    """A crop or a meadow."""
    tone: NDArray[np.float32]
    """Brightness, furrows included, about 0.8 to 1.1."""
    wild: NDArray[np.bool_]
    """Parcels that are clearings where they lie in a forest."""
    line: NDArray[np.uint8]
    """A `Line`."""


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The cells of a chunk and of its neighbours, and the bent coordinates of pixels in them."""

    columns: NDArray[np.int64]
    rows: NDArray[np.int64]
    index_u: NDArray[np.int32]
    """`(height, width)`, into `columns`."""
    index_v: NDArray[np.int32]
    u: NDArray[np.float32]
    """`(height, width)`, 0 to `CELL`, from the cell's left edge."""
    v: NDArray[np.float32]


def ground(
    u: NDArray[np.float32], v: NDArray[np.float32], *, column: int, row: int, seed: int, landscape: Landscape
) -> Ground:
    """Return the parcels under bent coordinates.

    Args:
        u: `(height, width)`, bent x from the chunk's left edge; a cell beyond the chunk at most.
        v: `(height, width)`, bent y from the chunk's top edge.
        column: Number of the chunk, from the left.
        row: Number of the chunk, from the top.
        seed: The seed of the scene.
        landscape: What fields and lines are made of.
    """
    index_u, inside_u = _split(u)
    index_v, inside_v = _split(v)
    cells = Cells(
        columns=np.arange(column - _AROUND, column + _AROUND + 1, dtype=np.int64),
        rows=np.arange(row - _AROUND, row + _AROUND + 1, dtype=np.int64),
        index_u=index_u,
        index_v=index_v,
        u=inside_u,
        v=inside_v,
    )
    material, tone, wild = _crops(cells, seed=seed, landscape=landscape)
    line = _lines(cells, seed=seed, half_widths=landscape.half_widths)
    return Ground(material=material, tone=tone, wild=wild, line=line)


def _split(place: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the number of the cell, 0 to `_SIDE - 1`, and the place inside it."""
    whole = np.floor(place * np.float32(1 / CELL))
    return (whole + np.float32(_AROUND)).astype(np.int32), place - whole * np.float32(CELL)


def _lines(cells: Cells, *, seed: int, half_widths: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the line under every pixel; a road hides a street, a street a hedge."""
    end_x, end_y = cells.columns[-1:] + 1, cells.rows[-1:] + 1
    upright = _kinds(np.concatenate([cells.columns, end_x])[None, :], along=cells.rows[:, None], salt=seed * 7 + 1)
    level = _kinds(np.concatenate([cells.rows, end_y])[:, None], along=cells.columns[None, :], salt=seed * 7 + 2)
    nearest_u = cells.index_u + (cells.u > CELL // 2)
    nearest_v = cells.index_v + (cells.v > CELL // 2)
    kind_u = upright.ravel().take(cells.index_v * (_SIDE + 1) + nearest_u)
    kind_v = level.ravel().take(nearest_v * _SIDE + cells.index_u)
    across = _on_line(cells.u, kind=kind_u, half_widths=half_widths)
    return np.maximum(across, _on_line(cells.v, kind=kind_v, half_widths=half_widths))


def _kinds(line: NDArray[np.int64], *, along: NDArray[np.int64], salt: int) -> NDArray[np.uint8]:
    """Return the kind of each stretch of each line, as `Line`: every fourth line is a main road."""
    draw = uniform(line, along >> 1, salt=salt)
    minor = np.where(draw < np.float32(0.3), Line.STREET, np.where(draw < np.float32(0.65), Line.HEDGE, Line.NONE))
    return np.where(line % 4 == 0, Line.ROAD, minor).astype(np.uint8)


def _on_line(
    inside: NDArray[np.float32], *, kind: NDArray[np.uint8], half_widths: NDArray[np.float32]
) -> NDArray[np.uint8]:
    distance = np.minimum(inside, np.float32(CELL) - inside)
    on_line: NDArray[np.uint8] = kind * (distance < half_widths.take(kind))
    return on_line


def _crops(
    cells: Cells, *, seed: int, landscape: Landscape
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]:
    """Return the material, brightness and wildness of the strip under every pixel."""
    xs, ys = cells.columns[None, :], cells.rows[:, None]
    draw = hashed(xs, ys, salt=seed * 7 + 3).ravel()
    upright = (draw & 1).astype(np.bool_)
    strips = (1 + (draw >> 1) % _STRIPS).astype(np.float32) * np.float32(1 / CELL)
    cell = cells.index_v * _SIDE + cells.index_u
    along = np.where(upright.take(cell), cells.u, cells.v)
    # Rounding can lift a place just below the cell's edge onto it.
    strip = np.minimum((along * strips.take(cell)).astype(np.int32), _STRIPS - 1)
    strip += cell * _STRIPS

    numbers = np.arange(_STRIPS, dtype=np.int64)
    draws = hashed(xs[..., None] * _STRIPS + numbers, ys[..., None], salt=seed * 7 + 4).ravel()
    tones = np.float32(0.88) + (draws >> 8 & 255).astype(np.float32) * np.float32(0.2 / 255)
    wilds = (draws >> 16) % 5 == 0
    crop = np.where(wilds, _MEADOW, draws % len(landscape.crops))
    furrows = landscape.furrows[crop] * np.float32(len(_WAVE))
    furrow = (along * furrows.take(strip)).astype(np.int32) & (len(_WAVE) - 1)
    return landscape.fields[crop].take(strip), tones.take(strip) + _WAVE.take(furrow), wilds.take(strip)

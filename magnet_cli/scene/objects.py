"""Houses with their shadows, trees and cars, which are visible only at a high resolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.scene.materials import Material
from magnet_cli.scene.noise import hashed, uniform
from magnet_cli.scene.terrain import STEP, WARP, Terrain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.scene.landscapes import Landscape

STREET_GAP = 128
"""Distance of a town's streets, in bent pixels."""
_PLOT = STREET_GAP // 2
_REACH = 40
"""The largest distance in pixels of an object's edge from its centre, its shadow included."""
_SHADOW = 5
_CARS = np.array([Material.CAR_LIGHT, Material.CAR_DARK, Material.CAR_RED, Material.CAR_LIGHT], np.uint8)
_RADII = range(3, 8)


def _disc(radius: int) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Return a tree's crown and its light, which falls from the north-west."""
    steps = np.arange(-radius, radius + 1, dtype=np.float32)
    crown = steps[:, None] ** 2 + steps**2 <= np.float32((radius + 0.3) ** 2)
    light = np.float32(1) - np.float32(0.3 / (2 * radius)) * (steps[:, None] + steps)
    return crown, light


_DISCS = {radius: _disc(radius) for radius in _RADII}


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Labels and light on which objects are painted; both arrays show `terrain.box`."""

    material: NDArray[np.uint8]
    """`(height, width)`."""
    light: NDArray[np.float32]
    """`(height, width)`, a factor of brightness."""
    terrain: Terrain
    landscape: Landscape


@dataclass(frozen=True, kw_only=True)
class Plots:
    """Places of a bent grid where an object may stand. All arrays have one value for each place."""

    draw: NDArray[np.uint32]
    """A random number for each place, which decides what stands there."""
    x: NDArray[np.int64]
    """Column of the place, in pixels of level 0."""
    y: NDArray[np.int64]
    town: NDArray[np.float32]
    """Positive in a town, as in `Terrain.town`."""
    dry: NDArray[np.bool_]
    """Whether the place lies well away from water."""

    def chosen(self, mask: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
        """Return `(draw, x, y)` of the places that a mask selects, row by row."""
        return list(
            zip(self.draw[mask].tolist(), self.x[mask].tolist(), self.y[mask].tolist(), strict=True),
        )


def paint_objects(canvas: Drawing, *, seed: int) -> None:
    """Paint trees, houses and cars. They are the same whatever part of the scene the canvas shows."""
    town = bool((canvas.terrain.town > 0).any())
    if town:
        _paint_cars(canvas, seed=seed)
    _paint_trees(canvas, seed=seed)
    if town:
        _paint_houses(canvas, seed=seed)


def _plots(terrain: Terrain, *, gap: int, offset: tuple[int, int], jitter: tuple[int, int], salt: int) -> Plots:
    """Return places `gap` bent pixels apart, moved by up to `jitter`, whose objects may reach the terrain's box."""
    box, reach = terrain.box, WARP + _REACH
    columns = np.arange((box.x - reach) // gap - 1, (box.right + reach) // gap + 2, dtype=np.int64)[None, :]
    rows = np.arange((box.y - reach) // gap - 1, (box.bottom + reach) // gap + 2, dtype=np.int64)[:, None]
    u = columns * gap + offset[0] + _spread(uniform(columns, rows, salt=salt + 1), jitter[0])
    v = rows * gap + offset[1] + _spread(uniform(columns, rows, salt=salt + 2), jitter[1])
    # Places beyond the known margin cannot reach the box, and must not be looked up.
    near = (u >= box.x - reach) & (u < box.right + reach) & (v >= box.y - reach) & (v < box.bottom + reach)
    u, v, draw = u[near], v[near], hashed(columns, rows, salt=salt)[near]
    x, y = u, v
    # The bend is known at pixels, and the place is given after the bend. The inverse is found by fixed-point steps.
    for _ in range(3):
        bend_x, bend_y = terrain.near(terrain.warp_x, xs=x, ys=y), terrain.near(terrain.warp_y, xs=x, ys=y)
        x, y = u - np.rint(bend_x).astype(np.int64), v - np.rint(bend_y).astype(np.int64)
    height = terrain.near(terrain.height, xs=x, ys=y)
    return Plots(draw=draw, x=x, y=y, town=terrain.near(terrain.town, xs=x, ys=y), dry=height > np.float32(0.5 / STEP))


def _spread(draw: NDArray[np.float32], jitter: int) -> NDArray[np.int64]:
    return (draw * np.float32(2 * jitter + 1)).astype(np.int64) - jitter


def _paint_cars(canvas: Drawing, *, seed: int) -> None:
    plots = _plots(canvas.terrain, gap=STREET_GAP, offset=(0, 64), jitter=(1, 48), salt=seed * 13 + 40)
    for draw, x, y in plots.chosen(plots.dry & (plots.town > 0) & (plots.draw % 3 > 0)):
        _fill(canvas, x=x - 1, y=y - 2, width=3, height=5, material=int(_CARS[draw >> 8 & 3]), light=1.0)


def _paint_trees(canvas: Drawing, *, seed: int) -> None:
    plots = _plots(canvas.terrain, gap=_PLOT, offset=(32, 0), jitter=(24, 10), salt=seed * 13 + 50)
    likely = np.where(plots.town > 0, 150, 14)
    for draw, x, y in plots.chosen(plots.dry & ((plots.draw & 255) < likely)):
        radius = _RADII[(draw >> 8) % len(_RADII)]
        crown, light = _DISCS[radius]
        _shade(canvas, x=x - radius + 3, y=y - radius + 3, shape=crown)
        _stamp(canvas, x=x - radius, y=y - radius, shape=crown, light=light)


def _paint_houses(canvas: Drawing, *, seed: int) -> None:
    plots = _plots(canvas.terrain, gap=_PLOT, offset=(32, 32), jitter=(5, 5), salt=seed * 13 + 60)
    least, largest = canvas.landscape.house
    sides, roofs = largest - least + 1, canvas.landscape.roofs
    for draw, x, y in plots.chosen(plots.dry & (plots.town > np.float32(0.01)) & (plots.draw % 8 > 0)):
        width, height = least + (draw >> 8) % sides, least + (draw >> 13) % sides
        left, top = x - width // 2, y - height // 2
        _shade(canvas, x=left + _SHADOW, y=top + _SHADOW, shape=np.ones((height, width), np.bool_))
        roof = int(roofs[(draw >> 20) % len(roofs)])
        _roof(canvas, x=left, y=top, width=width, height=height, material=roof)


def _roof(canvas: Drawing, *, x: int, y: int, width: int, height: int, material: int) -> None:
    """Draw a flat roof, or a gable with its ridge along the longer side and its lit half to the north or west."""
    if material in (Material.ROOF_FLAT, Material.ROOF_DARK):
        _fill(canvas, x=x, y=y, width=width, height=height, material=material, light=1.0)
    elif width >= height:
        half = height // 2
        _fill(canvas, x=x, y=y, width=width, height=half, material=material, light=1.12)
        _fill(canvas, x=x, y=y + half, width=width, height=height - half, material=material, light=0.85)
    else:
        half = width // 2
        _fill(canvas, x=x, y=y, width=half, height=height, material=material, light=1.12)
        _fill(canvas, x=x + half, y=y, width=width - half, height=height, material=material, light=0.85)


def _fill(canvas: Drawing, *, x: int, y: int, width: int, height: int, material: int, light: float) -> None:
    box = canvas.terrain.box
    rows = slice(max(0, y - box.y), max(0, y + height - box.y))
    columns = slice(max(0, x - box.x), max(0, x + width - box.x))
    canvas.material[rows, columns] = material
    canvas.light[rows, columns] = light


def _clip(canvas: Drawing, *, x: int, y: int, shape: NDArray[np.bool_]) -> tuple[slice, slice, slice, slice]:
    """Return the rows and columns of the canvas under a shape, and of the shape over the canvas."""
    box = canvas.terrain.box
    top, left = max(0, y - box.y), max(0, x - box.x)
    bottom = max(top, min(box.height, y - box.y + shape.shape[0]))
    right = max(left, min(box.width, x - box.x + shape.shape[1]))
    down, across = top - (y - box.y), left - (x - box.x)
    return (
        slice(top, bottom),
        slice(left, right),
        slice(down, down + bottom - top),
        slice(across, across + right - left),
    )


def _shade(canvas: Drawing, *, x: int, y: int, shape: NDArray[np.bool_]) -> None:
    rows, columns, down, across = _clip(canvas, x=x, y=y, shape=shape)
    part = canvas.light[rows, columns]
    np.copyto(part, np.minimum(part, np.float32(canvas.landscape.shade)), where=shape[down, across])


def _stamp(canvas: Drawing, *, x: int, y: int, shape: NDArray[np.bool_], light: NDArray[np.float32]) -> None:
    rows, columns, down, across = _clip(canvas, x=x, y=y, shape=shape)
    mask = shape[down, across]
    canvas.material[rows, columns][mask] = Material.TREE
    canvas.light[rows, columns][mask] = light[down, across][mask]

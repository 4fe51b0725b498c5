"""A scene of any size, with its truth: every pixel is a function of the seed and of its place."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.geometry import Box, Size
from magnet_cli.scene.landscapes import COUNTRYSIDE, LANDSCAPES, Landscape
from magnet_cli.scene.materials import NODATA, Material
from magnet_cli.scene.noise import GRASS, TEXTURE_SIDE, textures
from magnet_cli.scene.objects import STREET_GAP, Drawing, paint_objects
from magnet_cli.scene.parcels import CELL, Ground, Line, ground
from magnet_cli.scene.terrain import terrain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_SHORE = np.float32(0.006)
_TILT = 12
"""Number of pixels over which the scanned part of a scene with nodata is tilted by one pixel."""


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """A part of a scene."""

    pixels: NDArray[np.uint8]
    """`(height, width, 3)`: red, green, blue."""
    labels: NDArray[np.uint8]
    """`(height, width)`: a `Label`, or 255 where the scene has no data."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An aerial-like scene with five classes."""

    size: Size
    seed: int = 0
    nodata: bool = False
    """Whether only a tilted part was scanned: outside it pixels are 0 and labels 255."""
    plain: bool = False
    """Whether one part of 1024 x 1024 pixels is repeated, which is much faster, for measurements of cost."""
    landscape: Landscape = COUNTRYSIDE

    def pixels(self, box: Box) -> NDArray[np.uint8]:
        """Return the pixels of a box inside the scene, `(height, width, 3)`: red, green, blue."""
        return self.render(box).pixels

    def labels(self, box: Box) -> NDArray[np.uint8]:
        """Return the truth of a box inside the scene, `(height, width)`: 0 to 4, or 255 without data."""
        return self.render(box).labels

    def render(self, box: Box) -> Rendering:
        """Return pixels and labels of a box. They do not depend on the other boxes that are rendered.

        Raises:
            ValueError: The box is not inside the scene.
        """
        if not Box.whole(self.size).contains(box):
            message = f"the box {box} is not inside a scene of {self.size}"
            raise ValueError(message)
        pixels = np.empty((box.height, box.width, 3), np.uint8)
        labels = np.empty((box.height, box.width), np.uint8)
        side = TEXTURE_SIDE if self.plain else CELL
        for part in _parts(box, side=side):
            here = part.shifted(x=-box.x, y=-box.y).slices
            done = self._repeated(part) if self.plain else _render_part(part, seed=self.seed, landscape=self.landscape)
            pixels[here], labels[here] = done.pixels, done.labels
        if self.nodata:
            outside = ~self._scanned(box)
            pixels[outside], labels[outside] = 0, NODATA
        return Rendering(pixels=pixels, labels=labels)

    def _repeated(self, part: Box) -> Rendering:
        whole = _sample(self.seed, self.landscape.name)
        here = part.shifted(x=-(part.x // TEXTURE_SIDE) * TEXTURE_SIDE, y=-(part.y // TEXTURE_SIDE) * TEXTURE_SIDE)
        return Rendering(pixels=whole.pixels[here.slices], labels=whole.labels[here.slices])

    def _scanned(self, box: Box) -> NDArray[np.bool_]:
        """Return `(height, width)`, whether a pixel lies between the four tilted edges."""
        x = np.arange(box.x, box.right, dtype=np.int64)[None, :]
        y = np.arange(box.y, box.bottom, dtype=np.int64)[:, None]
        width, height = self.size.width, self.size.height
        sides = (x * _TILT >= height - y) & ((width - x) * _TILT > y)
        inside: NDArray[np.bool_] = sides & (y * _TILT >= x) & ((height - y) * _TILT > width - x)
        return inside


def _parts(box: Box, *, side: int) -> Iterator[Box]:
    """Yield the box cut along a fixed grid."""
    for top in range(box.y // side * side, box.bottom, side):
        for left in range(box.x // side * side, box.right, side):
            yield box.intersection(Box(x=left, y=top, width=side, height=side))


@lru_cache(maxsize=2)
def _textures(seed: int) -> NDArray[np.int8]:
    return textures(seed)


@lru_cache(maxsize=2)
def _sample(seed: int, landscape: str) -> Rendering:
    side = Size(width=TEXTURE_SIDE, height=TEXTURE_SIDE)
    return Scene(size=side, seed=seed, landscape=LANDSCAPES[landscape]).render(Box.whole(side))


def _render_part(box: Box, *, seed: int, landscape: Landscape) -> Rendering:
    """Return a box inside one cell of the fixed grid.

    Coordinates are float32 from the cell's corner, never from the box's, so that a pixel has the same bits in any box.
    """
    column, row = box.x // CELL, box.y // CELL
    land = terrain(box, seed=seed)
    u = land.fine(land.warp_x)
    u += np.arange(box.x - column * CELL, box.right - column * CELL, dtype=np.float32)
    v = land.fine(land.warp_y)
    v += np.arange(box.y - row * CELL, box.bottom - row * CELL, dtype=np.float32)[:, None]
    parcels = ground(u, v, column=column, row=row, seed=seed, landscape=landscape)
    canvas = Drawing(material=parcels.material, light=parcels.tone, terrain=land, landscape=landscape)
    ragged = _texture_rows(box, seed=seed, number=GRASS) * np.float32(landscape.ragged / 127)
    _cover(canvas, parcels=parcels, ragged=ragged)
    if (land.town > 0).any():
        _build_town(canvas, u=u, v=v, line=parcels.line)
    _flood(canvas, line=parcels.line, ragged=ragged)
    # Materials before the forest keep their parcel's brightness.
    canvas.light[canvas.material >= Material.FOREST] = 1
    paint_objects(canvas, seed=seed)
    return Rendering(pixels=_shine(canvas, seed=seed), labels=landscape.labels.take(canvas.material))


def _cover(canvas: Drawing, *, parcels: Ground, ragged: NDArray[np.float32]) -> None:
    """Paint forests, clearings in them, hedges and side roads."""
    material, land = canvas.material, canvas.terrain
    if (land.forest > -np.float32(canvas.landscape.ragged)).any():
        forest = land.fine(land.forest) + ragged > 0
        material[forest & ~parcels.wild] = Material.FOREST
        material[forest & parcels.wild] = Material.CLEARING
    material[parcels.line == Line.HEDGE] = Material.HEDGE
    material[parcels.line == Line.STREET] = Material.STREET


def _build_town(canvas: Drawing, *, u: NDArray[np.float32], v: NDArray[np.float32], line: NDArray[np.uint8]) -> None:
    """Paint yards, and streets between them."""
    town, half = canvas.terrain.fine(canvas.terrain.town) > 0, canvas.landscape.street
    canvas.material[town & (line != Line.STREET)] = Material.YARD
    canvas.material[town & (_near_street(u, half_width=half) | _near_street(v, half_width=half))] = Material.STREET


def _near_street(place: NDArray[np.float32], *, half_width: float) -> NDArray[np.bool_]:
    away = place - np.rint(place * np.float32(1 / STREET_GAP)) * np.float32(STREET_GAP)
    near: NDArray[np.bool_] = np.abs(away) < np.float32(half_width)
    return near


def _flood(canvas: Drawing, *, line: NDArray[np.uint8], ragged: NDArray[np.float32]) -> None:
    """Paint water with its shore, and the main roads that cross it."""
    land = canvas.terrain
    if (land.height < _SHORE + np.float32(canvas.landscape.ragged)).any():
        height = land.fine(land.height) + ragged
        canvas.material[(height < _SHORE) & (canvas.material != Material.STREET)] = Material.SHORE
        canvas.material[height < 0] = Material.WATER
    canvas.material[line == Line.ROAD] = Material.ROAD


def _texture_rows(box: Box, *, seed: int, number: int) -> NDArray[np.int8]:
    """Return one texture under a box that crosses no multiple of its period."""
    place = box.shifted(x=-(box.x // TEXTURE_SIDE) * TEXTURE_SIDE, y=-(box.y // TEXTURE_SIDE) * TEXTURE_SIDE)
    rows: NDArray[np.int8] = _textures(seed)[number][place.slices]
    return rows


def _shine(canvas: Drawing, *, seed: int) -> NDArray[np.uint8]:
    """Return `(height, width, 3)`: every material's colour under its texture and the light."""
    box, material, light, landscape = canvas.terrain.box, canvas.material, canvas.light, canvas.landscape
    place = (np.arange(box.y, box.bottom, dtype=np.int32) % TEXTURE_SIDE * TEXTURE_SIDE)[:, None]
    place = place + np.arange(box.x, box.right, dtype=np.int32) % TEXTURE_SIDE
    place += (landscape.textures * np.int32(TEXTURE_SIDE**2)).take(material)
    shade = _textures(seed).ravel().take(place) * landscape.contrasts.take(material)
    shade += np.float32(1)
    shade *= light
    shade *= canvas.terrain.fine(canvas.terrain.light)
    pixels = np.empty((box.height, box.width, 3), np.uint8)
    for band in range(3):
        values = landscape.colors[:, band].take(material)
        values *= shade
        # A conversion of larger values to uint8 has no defined result.
        np.minimum(values, np.float32(255), out=values)
        pixels[..., band] = values
    return pixels

"""The landscapes in which scenes are drawn: colours, widths of roads, roofs and fields."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.scene.materials import NODATA, Appearance, Label, Material
from magnet_cli.scene.noise import CANOPY, GRAIN, GRASS, RIPPLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """What a scene is drawn with. The places of its fields, towns, woods and waters do not depend on it."""

    name: str
    appearances: Mapping[Material, Appearance]
    crops: tuple[tuple[Material, float], ...]
    """Material of each kind of field, and the number of its furrows in a pixel. The fifth kind is a meadow."""
    hedge: float
    """Half of the width of a hedge, in pixels; -1 for a landscape without hedges."""
    lane: float
    """Half of the width of a side road in the country, in pixels."""
    road: float
    """Half of the width of a main road, in pixels."""
    street: float
    """Half of the width of a street in a town, in pixels."""
    roofs: tuple[Material, ...]
    house: tuple[int, int]
    """Least and largest side of a house, in pixels."""
    shade: float
    """Brightness of a shadow, as a share."""
    ragged: float
    """Largest change of the fields of water and forest by a texture, which makes their edges ragged."""

    @cached_property
    def colors(self) -> NDArray[np.float32]:
        """The mean colours of the materials, `(materials, 3)`, 0 to 255."""
        return np.array([self.appearances[material].color for material in Material], np.float32)

    @cached_property
    def textures(self) -> NDArray[np.int32]:
        """The index of the texture of each material, `(materials,)`."""
        return np.array([self.appearances[material].texture for material in Material], np.int32)

    @cached_property
    def contrasts(self) -> NDArray[np.float32]:
        """The contrast of each material for a unit of an int8 texture, `(materials,)`."""
        return np.array([self.appearances[material].contrast / 127 for material in Material], np.float32)

    @cached_property
    def labels(self) -> NDArray[np.uint8]:
        """The class of each material, `(materials,)`."""
        return np.array([self.appearances[material].label for material in Material], np.uint8)

    @cached_property
    def fields(self) -> NDArray[np.uint8]:
        """The material of each kind of field, `(kinds,)`."""
        return np.array([material for material, _ in self.crops], np.uint8)

    @cached_property
    def furrows(self) -> NDArray[np.float32]:
        """The furrows in a pixel of each kind of field, `(kinds,)`."""
        return np.array([furrows for _, furrows in self.crops], np.float32)

    @cached_property
    def half_widths(self) -> NDArray[np.float32]:
        """Half of the width of each `Line` of the country, in pixels, `(lines,)`; -1 where nothing is drawn."""
        return np.array([-1.0, self.hedge, self.lane, self.road], np.float32)


def _look(color: tuple[int, int, int], texture: int, contrast: float, label: int) -> Appearance:
    return Appearance(color=color, texture=texture, contrast=contrast, label=label)


COUNTRYSIDE = Landscape(
    name="countryside",
    appearances={
        # A meadow and a clearing look the same to the last bit: only the forest around it makes a clearing vegetation.
        Material.MEADOW: _look((118, 136, 80), GRASS, 0.22, Label.LAND),
        Material.CLEARING: _look((118, 136, 80), GRASS, 0.22, Label.VEGETATION),
        Material.CROP: _look((96, 126, 66), GRASS, 0.12, Label.LAND),
        Material.WHEAT: _look((194, 178, 124), GRASS, 0.10, Label.LAND),
        Material.PLOUGHED: _look((142, 116, 90), GRASS, 0.14, Label.LAND),
        Material.YOUNG: _look((142, 158, 98), GRASS, 0.10, Label.LAND),
        Material.FOREST: _look((56, 78, 48), CANOPY, 0.42, Label.VEGETATION),
        Material.HEDGE: _look((62, 86, 50), CANOPY, 0.30, Label.VEGETATION),
        Material.TREE: _look((60, 88, 48), CANOPY, 0.30, Label.VEGETATION),
        Material.SHORE: _look((184, 170, 140), GRASS, 0.12, Label.LAND),
        Material.WATER: _look((46, 72, 88), RIPPLE, 0.10, Label.WATER),
        Material.YARD: _look((134, 142, 108), GRASS, 0.26, Label.LAND),
        Material.STREET: _look((140, 139, 138), GRAIN, 0.06, Label.ROAD),
        Material.ROAD: _look((164, 162, 158), GRAIN, 0.06, Label.ROAD),
        Material.CAR_LIGHT: _look((228, 230, 232), GRAIN, 0.02, Label.ROAD),
        Material.CAR_DARK: _look((48, 52, 62), GRAIN, 0.02, Label.ROAD),
        Material.CAR_RED: _look((170, 48, 42), GRAIN, 0.02, Label.ROAD),
        Material.ROOF_TILE: _look((170, 96, 74), GRAIN, 0.12, Label.BUILDING),
        Material.ROOF_BRICK: _look((150, 84, 66), GRAIN, 0.12, Label.BUILDING),
        Material.ROOF_CLAY: _look((182, 124, 98), GRAIN, 0.12, Label.BUILDING),
        Material.ROOF_SLATE: _look((124, 124, 130), GRAIN, 0.08, Label.BUILDING),
        Material.ROOF_FLAT: _look((192, 190, 186), GRAIN, 0.05, Label.BUILDING),
        Material.ROOF_DARK: _look((104, 98, 98), GRAIN, 0.08, Label.BUILDING),
        Material.NODATA: _look((0, 0, 0), GRAIN, 0.0, NODATA),
    },
    crops=(
        (Material.CROP, 0.09),
        (Material.WHEAT, 0.05),
        (Material.PLOUGHED, 0.12),
        (Material.YOUNG, 0.06),
        (Material.MEADOW, 0.0),
        (Material.MEADOW, 0.0),
    ),
    hedge=2.5,
    lane=2.5,
    road=5.0,
    street=3.0,
    roofs=(
        Material.ROOF_TILE,
        Material.ROOF_BRICK,
        Material.ROOF_CLAY,
        Material.ROOF_SLATE,
        Material.ROOF_FLAT,
        Material.ROOF_DARK,
    ),
    house=(16, 36),
    shade=0.62,
    ragged=0.01,
)
"""Meadows, fields, woods and villages of a green country."""

DESERT = Landscape(
    name="desert",
    appearances={
        Material.MEADOW: _look((206, 208, 212), GRASS, 0.10, Label.LAND),
        Material.CLEARING: _look((206, 208, 212), GRASS, 0.10, Label.LAND),
        Material.CROP: _look((212, 206, 198), GRASS, 0.08, Label.LAND),
        Material.WHEAT: _look((190, 196, 206), GRASS, 0.10, Label.LAND),
        Material.PLOUGHED: _look((184, 180, 178), GRASS, 0.10, Label.LAND),
        Material.YOUNG: _look((82, 94, 62), CANOPY, 0.42, Label.VEGETATION),
        Material.FOREST: _look((62, 72, 52), CANOPY, 0.42, Label.VEGETATION),
        Material.HEDGE: _look((66, 78, 56), CANOPY, 0.30, Label.VEGETATION),
        Material.TREE: _look((56, 68, 48), CANOPY, 0.30, Label.VEGETATION),
        Material.SHORE: _look((208, 205, 200), GRASS, 0.08, Label.LAND),
        Material.WATER: _look((30, 36, 30), RIPPLE, 0.15, Label.WATER),
        Material.YARD: _look((164, 156, 154), GRASS, 0.20, Label.LAND),
        Material.STREET: _look((106, 94, 90), GRAIN, 0.12, Label.ROAD),
        Material.ROAD: _look((112, 102, 98), GRAIN, 0.12, Label.ROAD),
        Material.CAR_LIGHT: _look((228, 230, 232), GRAIN, 0.02, Label.ROAD),
        Material.CAR_DARK: _look((40, 42, 48), GRAIN, 0.02, Label.ROAD),
        Material.CAR_RED: _look((150, 60, 52), GRAIN, 0.02, Label.ROAD),
        Material.ROOF_TILE: _look((206, 198, 190), GRAIN, 0.08, Label.BUILDING),
        Material.ROOF_BRICK: _look((186, 160, 140), GRAIN, 0.08, Label.BUILDING),
        Material.ROOF_CLAY: _look((220, 214, 208), GRAIN, 0.08, Label.BUILDING),
        Material.ROOF_SLATE: _look((196, 198, 208), GRAIN, 0.08, Label.BUILDING),
        Material.ROOF_FLAT: _look((236, 236, 238), GRAIN, 0.05, Label.BUILDING),
        Material.ROOF_DARK: _look((150, 150, 158), GRAIN, 0.08, Label.BUILDING),
        Material.NODATA: _look((0, 0, 0), GRAIN, 0.0, NODATA),
    },
    crops=(
        (Material.CROP, 0.0),
        (Material.WHEAT, 0.0),
        (Material.PLOUGHED, 0.0),
        (Material.YOUNG, 0.0),
        (Material.MEADOW, 0.0),
        (Material.MEADOW, 0.0),
    ),
    hedge=-1.0,
    lane=7.0,
    road=14.0,
    street=7.0,
    roofs=(
        Material.ROOF_TILE,
        Material.ROOF_FLAT,
        Material.ROOF_CLAY,
        Material.ROOF_SLATE,
        Material.ROOF_FLAT,
        Material.ROOF_BRICK,
    ),
    house=(22, 40),
    shade=0.3,
    ragged=0.003,
)
"""Pale sand, dark asphalt, bright roofs, parks and groves, as in the images that the bundle `aerial` was trained on."""

LANDSCAPES = {landscape.name: landscape for landscape in (COUNTRYSIDE, DESERT)}
"""The landscapes by name."""

"""Colour, texture and label of every material of a scene."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, auto

import numpy as np

from magnet_cli.scene.noise import CANOPY, GRAIN, GRASS, RIPPLE

NODATA = 255
"""Label of a pixel without data."""


class Label(IntEnum):
    """The classes, in the order of the aerial bundle."""

    BUILDING = 0
    LAND = 1
    ROAD = 2
    VEGETATION = 3
    WATER = 4


class Material(IntEnum):
    """Row of a material in the tables below."""

    MEADOW = 0
    CLEARING = auto()
    CROP = auto()
    WHEAT = auto()
    PLOUGHED = auto()
    YOUNG = auto()
    FOREST = auto()
    HEDGE = auto()
    TREE = auto()
    SHORE = auto()
    WATER = auto()
    YARD = auto()
    STREET = auto()
    ROAD = auto()
    CAR_LIGHT = auto()
    CAR_DARK = auto()
    CAR_RED = auto()
    ROOF_TILE = auto()
    ROOF_BRICK = auto()
    ROOF_CLAY = auto()
    ROOF_SLATE = auto()
    ROOF_FLAT = auto()
    ROOF_DARK = auto()
    NODATA = auto()


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """The colour and texture of a material."""

    color: tuple[int, int, int]
    """Mean colour: red, green, blue."""
    texture: int
    """Index of the texture in `noise.textures`."""
    contrast: float
    """Relative brightness at the texture's extremes."""
    label: int


def _look(color: tuple[int, int, int], texture: int, contrast: float, label: int) -> Appearance:
    return Appearance(color=color, texture=texture, contrast=contrast, label=label)


LOOKS: dict[Material, Appearance] = {
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
}

COLORS = np.array([LOOKS[material].color for material in Material], np.float32)
"""Colours of the materials, `(materials, 3)`, 0 to 255."""
TEXTURES = np.array([LOOKS[material].texture for material in Material], np.int32)
"""`(materials,)`."""
CONTRASTS = np.array([LOOKS[material].contrast / 127 for material in Material], np.float32)
"""`(materials,)`, per unit of an int8 texture."""
LABELS = np.array([LOOKS[material].label for material in Material], np.uint8)
"""`(materials,)`."""

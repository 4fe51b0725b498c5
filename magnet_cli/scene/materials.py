"""The materials of a scene, its classes, and what describes the appearance of a material."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, auto

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
    """What covers a pixel; the number is the row in the tables of a landscape."""

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

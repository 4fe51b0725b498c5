"""Scenes with known truth, of any size: an image to try the program on when there is none at hand."""

from __future__ import annotations

from magnet_cli.scene.landscapes import LANDSCAPES, Landscape
from magnet_cli.scene.materials import NODATA, Label
from magnet_cli.scene.painter import Rendering, Scene
from magnet_cli.scene.repetition import write_repeated, write_repeated_mask
from magnet_cli.scene.scene_writer import Pyramid, write_scene

__all__ = [
    "LANDSCAPES",
    "NODATA",
    "Label",
    "Landscape",
    "Pyramid",
    "Rendering",
    "Scene",
    "write_repeated",
    "write_repeated_mask",
    "write_scene",
]

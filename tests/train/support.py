"""A tiny training: its configuration and its scenes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import imagecodecs
import numpy as np

from magnet_cli.geometry import Box

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.train.scenes import LabelledScene

CONFIG = """
[bundle]
name = "tiny"
activation = "softmax"
classes = [{ name = "dark", color = "#000000" }, { name = "light", color = "#FFFFFF" }]
scales = [{ width = 16, height = 16 }, { width = 32, height = 32 }]

[bundle.input]
size = { width = 16, height = 16 }
bands = ["red", "green", "blue"]
range = [0, 255]
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
resample = "area"

[bundle.magnet]
merge = "mean"
points = "all"
patches = "all"
median = 11
margin = 0

[network]
architecture = "conv"

[data]
colour = 0.0

[loop]
iterations = 40
batch = 4
rate = 0.2
decay = 0.0
average = 0.5
save_every = 3
log_every = 10
"""


def pixels_of(scene: LabelledScene) -> NDArray[np.uint8]:
    """Return the whole picture, `(rows, columns, bands)`."""
    return scene.pixels.read(0, Box.whole(scene.size))


def labels_of(scene: LabelledScene) -> NDArray[np.uint8]:
    """Return the whole label map, `(rows, columns)`."""
    return scene.labels.at(np.arange(scene.size.height), np.arange(scene.size.width))


def make_data(folder: Path) -> Path:
    """Return two scenes of light and dark squares, with a few unlabelled pixels."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for scene in ("a", "b"):
        labels = np.kron(rng.integers(0, 2, (6, 5), dtype=np.uint8), np.ones((8, 8), np.uint8))
        pixels = np.where(labels, 200, 60)[..., None] + rng.integers(-30, 30, (48, 40, 3))
        labels[:2, :2] = 255
        imagecodecs.imwrite(folder / "images" / f"{scene}.png", pixels.astype(np.uint8))
        imagecodecs.imwrite(folder / "labels" / f"{scene}.png", labels)
    return folder


def validating(text: str = CONFIG, *, every: int = 2, patience: int = 0) -> str:
    """Return the configuration with scene b held out."""
    text = text.replace("colour = 0.0", 'colour = 0.0\nvalidation = ["b"]')
    return text.replace("save_every = 3", f"save_every = 3\nvalidate_every = {every}\npatience = {patience}")

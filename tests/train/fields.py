"""Tiny scenes and bundles whose fields can be accumulated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import imagecodecs
import numpy as np
import torch
import zarr

from magnet_cli.geometry import Box, Size
from magnet_cli.masks.output import OutputPaths
from magnet_cli.models.bundle_writer import describe, write_bundle
from magnet_cli.models.networks import load_networks
from magnet_cli.models.registry import build_backbone
from magnet_cli.train.scene_fields import SceneView, view_scene
from magnet_cli.train.scenes import LabelledScene
from tests.train.support import labels_of, pixels_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.models.bundle import Bundle
    from magnet_cli.train.canvases import Field


def square(side: int) -> Size:
    return Size(width=side, height=side)


def make_scene(name: str, *, seed: int, rows: int = 50, columns: int = 44) -> LabelledScene:
    """Return soft random colours; the label is whether red is strong."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 9, 8)))
    pixels = torch.nn.functional.interpolate(coarse, size=(rows, columns), mode="bicubic").clamp(0, 255)
    array = np.ascontiguousarray(pixels[0].permute(1, 2, 0).numpy().astype(np.uint8))
    return LabelledScene.of(name, pixels=array, labels=(array[..., 0] > 127).astype(np.uint8))


def make_data(folder: Path) -> Path:
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for seed, name in enumerate(("a", "b")):
        scene = make_scene(name, seed=seed)
        imagecodecs.imwrite(folder / "images" / f"{name}.png", pixels_of(scene))
        imagecodecs.imwrite(folder / "labels" / f"{name}.png", labels_of(scene))
    return folder


def make_bundle(folder: Path, *, scales: tuple[int, ...] = (16, 32), seed: int = 1, **other: Any) -> Path:
    torch.manual_seed(seed)
    network = build_backbone("conv", classes=2, bands=3, options={"kernel": 3})
    description = describe(size=16, scales=scales, backbone={"options": {"kernel": 3}}, **other)
    description["input"].update(mean=[0.4, 0.5, 0.5], std=[0.1, 0.2, 0.2])
    write_bundle(folder, description, {"backbone.safetensors": network}, dtype=torch.float32)
    return folder


def whole(field: Field) -> Tensor:
    """Return all of a field, `(classes, rows, columns)`."""
    _, rows, columns = field.shape
    return field.read(Box(x=0, y=0, width=columns, height=rows))


def view_of(folder: Path, bundle: Bundle, scene: LabelledScene) -> SceneView:
    network = load_networks(bundle, device="cpu", precision="float32").backbone
    return view_scene(network, scene, bundle=bundle, folder=folder)


def probabilities_in(mask: Path) -> NDArray[np.float32]:
    """Return the probabilities of every canvas pixel, `(classes, rows, columns)`."""
    array = zarr.open_array(OutputPaths.of(mask).field("probabilities"), mode="r")
    scale, offset = cast("float", array.attrs["scale_factor"]), cast("float", array.attrs["add_offset"])
    return (np.asarray(array[:]) * scale + offset).astype(np.float32)

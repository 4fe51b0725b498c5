"""Networks that stand in for a cascade, and images and masks to refine with them."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import torch
from torch.nn import functional

from magnet_cli.models.bundle import CascadeBundle, NetworkSpec, PixelSpec, Temperature
from magnet_cli.options.refine import RefineOptions
from magnet_cli.plan import Machine
from magnet_cli.refinement import api as refine
from magnet_cli.refinement import method_loader as loading
from magnet_cli.refinement import refinement_plan as plan
from magnet_cli.refinement.cascade_model import RefineModel
from magnet_cli.run import mask_run

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

SIDE = 128
"""L of the cascade: windows lie 32 pixels apart, a region of more than 256 x 256 pixels is a large object, and a block
of one of its levels has five windows along either axis."""


@dataclass
class Echo:
    """A cascade that returns the mask that it gets."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    calls: int = 0
    largest: int = 0
    fail_at: int | None = None
    """Number of the call that raises `KeyboardInterrupt`."""
    kill_at: int | None = None
    """Number of the call that ends the process without any cleaning up."""

    def three_levels(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        self.largest = max(self.largest, images.shape[2] * images.shape[3])
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        if self.calls == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        found = self.sharpened(images, (masks + 1) / 2)
        return found, found

    def two_levels(self, images: Tensor, masks: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        del coarse
        return self.three_levels(images, masks)

    def sharpened(self, images: Tensor, inside: Tensor) -> Tensor:
        del images
        return inside

    def normalised(self, pixels: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(pixels.astype(np.float32).transpose(2, 0, 1) / 255))


@dataclass
class Bright(Echo):
    """A cascade that takes pixels near the border that are as bright as the object's middle, and keeps the rest."""

    reach: int = 6

    def sharpened(self, images: Tensor, inside: Tensor) -> Tensor:
        side = 2 * self.reach + 1
        grown = functional.max_pool2d(inside, side, stride=1, padding=self.reach)
        shrunk = -functional.max_pool2d(-inside, side, stride=1, padding=self.reach)
        grey = images.mean(dim=1, keepdim=True) - 0.5
        # A window may lack the object's middle, or what is around it.
        sides = (torch.where(shrunk > 0.5, grey, 0) - torch.where(grown < 0.5, grey, 0)).sum(
            dim=(1, 2, 3), keepdim=True
        )
        alike = (sides.sign() * grey * 20).sigmoid()
        return torch.where(grown - shrunk > 0.5, alike, inside)


class Swallow(Echo):
    """A cascade that claims everything for each object, more certainly the more of its region the object covers."""

    def sharpened(self, images: Tensor, inside: Tensor) -> Tensor:
        del images
        return torch.full_like(inside, 0.6) + 0.3 * inside.mean()


def model_of(network: Echo, *, side: int = SIDE, kind: str = "") -> RefineModel:
    """Return a bundle that holds a stand-in, for one kind of object or for any."""
    bundle = CascadeBundle(
        name="stand-in",
        domain="",
        folder=Path(),
        digest="d" * 64,
        input=PixelSpec(bands=("red", "green", "blue"), range=(0, 255), mean=(0, 0, 0), std=(1, 1, 1)),
        side=side,
        compat="paper",
        kind_of_object=kind,
        network=NetworkSpec(
            architecture="echo", options={}, file="none.safetensors", sha256=None, temperature=Temperature()
        ),
    )
    machine = Machine(device="cpu", precision="float32", memory=4 << 30)
    return RefineModel(bundle=bundle, network=network, machine=machine, activation_bytes=1 << 20)


def use(monkeypatch: pytest.MonkeyPatch, network: Echo, *, side: int = SIDE, kind: str = "") -> Echo:
    """Let `magnet refine` load a stand-in, whatever its options name."""

    def load(*_: object) -> RefineModel:
        return model_of(network, side=side, kind=kind)

    monkeypatch.setattr(loading, "load_refine_model", load)
    monkeypatch.setattr(mask_run, "usable_cores", lambda: 1)
    monkeypatch.setattr(plan, "UNIT_SIDES", 2)
    monkeypatch.setattr(plan, "BLOCK_SIDES", 1)
    return network


def killed_run() -> None:
    """Refine the files that the command line names, and be killed at a call: for a process of its own."""
    image, mask, output, at = sys.argv[1:]
    with pytest.MonkeyPatch.context() as patch:
        use(patch, Bright(kill_at=int(at)))
        refine.refine(image, mask, output, RefineOptions())


def write_image(path: Path, bright: NDArray[np.bool_]) -> Path:
    """Return an RGB image that is bright where the object is, with some noise."""
    noise = np.random.default_rng(1).integers(0, 60, (*bright.shape, 3), dtype=np.uint8)
    tifffile.imwrite(
        path, np.where(bright[..., None], 190, 5).astype(np.uint8) + noise, tile=(64, 64), photometric="rgb"
    )
    return path


def write_grey(path: Path, values: NDArray[Any]) -> Path:
    """Return a raster of one band."""
    tifffile.imwrite(path, values, tile=(64, 64), photometric="minisblack", compression="deflate")
    return path


def write_named(path: Path, values: NDArray[np.uint8], *names: str) -> Path:
    """Return class indices with their names, as this program writes them."""
    classes = [{"name": name, "color": "#000000"} for name in names]
    tifffile.imwrite(
        path, values, tile=(64, 64), photometric="minisblack", description=json.dumps({"classes": classes})
    )
    return path


def labels_in(path: Path) -> NDArray[np.uint8]:
    """Return the full-resolution labels of a mask, by a reader that is not this program's."""
    with tifffile.TiffFile(path) as file:
        return np.asarray(file.pages[0].asarray(), dtype=np.uint8)


def discs(shape: tuple[int, int], *circles: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Return a mask that is True inside circles of row, column and radius."""
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    found = np.zeros(shape, bool)
    for row, col, radius in circles:
        found |= (rows - row) ** 2 + (cols - col) ** 2 <= radius**2
    return found

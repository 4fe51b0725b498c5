"""Bundles, images and runs of the whole program, for tests of its laws."""

from __future__ import annotations

import hashlib
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import tifffile
import torch
from typer.testing import CliRunner

from magnet_cli.cli.app import app
from magnet_cli.geometry import Box, Size
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.report_file import read_report
from magnet_cli.models.bundle_writer import describe, write_bundle
from magnet_cli.models.registry import build_backbone, build_refiner, build_selector
from magnet_cli.options.rules import parse_patches, parse_points
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.scene import Scene
from magnet_cli.segmentation import api as segmentation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn


CLASSES = 5
STEP = 40
"""Difference of grey values between two consecutive labels of a coded image."""
NODATA_TAG = 42113
"""GDAL's TIFF tag for the value of missing pixels."""
KILLED = -signal.SIGKILL


METHODS_OF_ONE_PASS = {
    "all": SegmentOptions(points=parse_points("all")),
    "threshold": SegmentOptions(points=parse_points("q>0.02")),
    "count": SegmentOptions(points=parse_points("700"), batch_size=3),
    "share": SegmentOptions(points=parse_points("30%"), merge="mean"),
    "fast": SegmentOptions(method="magnet-fast", points=parse_points("50%"), patches=parse_patches("2,4")),
    "budget": SegmentOptions(method="magnet-fast", budget=Fraction(2, 5), select="both", batch_size=2),
}


def sides(*values: int) -> tuple[Size, ...]:
    return tuple(Size(width=value, height=value) for value in values)


def template_backbone(*, sharpness: float) -> nn.Module:
    """Return a network that finds the nearest of the grey values `STEP * label`.

    It is one 1 x 1 convolution: `2 v t - t^2` is largest where v = t.
    """
    network = build_backbone("conv", classes=CLASSES, bands=3, options={})
    values = torch.arange(CLASSES) * (STEP / 255)
    state = network.state_dict()
    state["conv.weight"] = torch.zeros(CLASSES, 3, 1, 1)
    state["conv.weight"][:, 1, 0, 0] = 2 * sharpness * values
    state["conv.bias"] = -sharpness * values**2
    network.load_state_dict(state)
    return network


def echo_refiner(*, sharpness: float, classes: int = CLASSES) -> nn.Module:
    """Return what the stage itself says, sharpened: `softmax(sharpness * O)`."""
    network = build_refiner("conv", classes=classes, options={})
    weight = torch.zeros(classes, 2 * classes, 1, 1)
    weight[:, :classes, 0, 0] = sharpness * torch.eye(classes)
    network.load_state_dict({"conv.weight": weight, "conv.bias": torch.zeros(classes)})
    return network


def template_bundle(
    folder: Path, *, side: int = 32, scales: Sequence[int] = (), own: float = 1000, refined: float = 20
) -> Path:
    """Return a bundle that gives the labels of a coded image back.

    Args:
        folder: To be made.
        side: Side of the network's input.
        scales: Scales that the bundle was trained at.
        own: Sharpness of the backbone.
        refined: Sharpness of the refiner.
    """
    description = describe(
        name="template",
        classes=CLASSES,
        size=side,
        scales=scales,
        refiners=[{}],
        magnet={"merge": "refiner", "points": "all", "patches": "all", "median": 3, "margin": 0},
    )
    networks = {
        "backbone.safetensors": template_backbone(sharpness=own),
        "refiner.safetensors": echo_refiner(sharpness=refined),
    }
    write_bundle(folder, description, networks, dtype=torch.float32)
    return folder


def blurry_backbone(*, kernel: int, strength: float) -> nn.Module:
    """Return a convolution with random weights: what it says depends on the neighbours, and on the patch's rim."""
    network = build_backbone("conv", classes=CLASSES, bands=3, options={"kernel": kernel})
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn((CLASSES, 3, kernel, kernel), generator=generator) * (strength / kernel)
    network.load_state_dict({"conv.weight": weight, "conv.bias": torch.zeros(CLASSES)})
    return network


def blurry_refiner() -> nn.Module:
    """Return a refiner that adds up both inputs, with a little of their neighbours."""
    network = build_refiner("conv", classes=CLASSES, options={"kernel": 3})
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn((CLASSES, 2 * CLASSES, 3, 3), generator=generator) * 0.1
    weight[:, :, 1, 1] += 4 * torch.eye(CLASSES).repeat(1, 2)
    network.load_state_dict({"conv.weight": weight, "conv.bias": torch.zeros(CLASSES)})
    return network


def blurry_bundle(
    folder: Path,
    *,
    side: int = 32,
    scales: Sequence[int] = (),
    kernel: int = 3,
    margin: int = 0,
    strength: float = 1,
    selector: bool = False,
) -> Path:
    """Return a bundle whose every stage changes the result: random convolutions over neighbours, in both networks.

    With `selector` it has one, as random, which sees the field and compares with a constant.
    """
    options = {"width": 2, "sees": "image+field", "against": "constant"}
    chooser = {"architecture": "ppn-small", "options": options, "file": "selector.safetensors"}
    description = describe(
        name="blurry",
        classes=CLASSES,
        size=side,
        scales=scales,
        backbone={"options": {"kernel": kernel}},
        refiners=[{"options": {"kernel": 3}}],
        input={"mean": [0.21, 0.32, 0.38], "std": [0.1, 0.08, 0.06]},
        magnet={"merge": "refiner", "points": "all", "patches": "all", "median": 3, "margin": margin},
        networks={"selector": chooser if selector else None},
    )
    networks = {
        "backbone.safetensors": blurry_backbone(kernel=kernel, strength=strength),
        "refiner.safetensors": blurry_refiner(),
    }
    if selector:
        torch.manual_seed(6)
        network = build_selector("ppn-small", bands=3, classes=CLASSES, options=options)
        torch.nn.init.normal_(network.score.weight)
        networks["selector.safetensors"] = network
    write_bundle(folder, description, networks, dtype=torch.float32)
    return folder


def coded(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an RGB image whose grey value is its label times `STEP`."""
    return np.repeat((labels * STEP)[..., None], 3, axis=2)


def random_labels(size: Size, seed: int = 0) -> NDArray[np.uint8]:
    """Return a label for every pixel, each its own."""
    return np.random.default_rng(seed).integers(0, CLASSES, (size.height, size.width), dtype=np.uint8)


def write_tiled(path: Path, pixels: NDArray[np.generic], *, nodata: int | None = None) -> Path:
    """Return a tiled TIFF of `(height, width, 3)` pixels."""
    tags = [] if nodata is None else [(NODATA_TAG, 2, 0, str(nodata), True)]
    tifffile.imwrite(
        path, pixels, tile=(64, 64), photometric="rgb", compression="deflate", extratags=tags, metadata=None
    )
    return path


def scene_pixels(size: Size, *, seed: int = 5, nodata: bool = False) -> NDArray[np.uint8]:
    """Return a generated scene, `(height, width, 3)`; with `nodata` pixels outside a tilted part are 0."""
    return Scene(size=size, seed=seed, nodata=nodata).pixels(Box.whole(size))


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    code: int
    said: str


@contextmanager
def _handlers_kept() -> Iterator[None]:
    old = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


def magnet(*words: str | Path) -> Ended:
    """Run the command line in this process."""
    with _handlers_kept():
        result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ended(code=result.exit_code, said=result.stderr)


def segment(image: Path, mask: Path, options: SegmentOptions) -> dict[str, object]:
    """Segment one image, which must succeed, and return its report."""
    result = segmentation.segment([image], mask, options)[0]
    if result.error is not None:
        raise result.error
    assert result.report is not None
    return result.report


def labels_in(mask: Path) -> NDArray[np.uint8]:
    """Return the full-resolution labels of a mask, by a reader that is not this program's."""
    with tifffile.TiffFile(mask) as file:
        return np.asarray(file.pages[0].asarray(), dtype=np.uint8)


def report_of(mask: Path) -> dict[str, object]:
    """Return the report beside a mask."""
    return read_report(OutputPaths.of(mask).report)


def part(report: dict[str, object], *keys: str) -> object:
    """Return a value deep inside a report."""
    found: object = report
    for key in keys:
        assert isinstance(found, dict)
        found = found[key]
    return found


def number(report: dict[str, object], *keys: str) -> int:
    """Return a whole number deep inside a report."""
    found = part(report, *keys)
    assert isinstance(found, int)
    return found


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()

"""Tasks for a bench that are small enough for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from magnet_cli.bench.cascades.cascade_studio import CascadeStudio
from magnet_cli.bench.task import Task, mask_beside
from magnet_cli.geometry import Size
from magnet_cli.models.architectures.cascade_base import BANDS, MASKS
from magnet_cli.models.bundle_writer import describe_cascade, write_cascade_bundle
from magnet_cli.models.registry import build_cascade
from magnet_cli.options.refine import RefineOptions
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.scene import write_repeated
from tests.laws.support import blurry_bundle

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.options.segment import Method

SIDE = 150
"""Side of the image in pixels. It is no multiple of any tile or window."""
SCALES = (32, 64, 128)
L = 96
SIDE_OF_MASK = 300
"""Side of the mask in pixels, larger than a unit of refinement with that L, and small enough to be no large object."""


def task(
    folder: Path, *, method: Method = "magnet", side: int = SIDE, timed: bool = False, bundle: Path | None = None
) -> Task[SegmentOptions]:
    """Return a task on a generated image. Without a bundle it gets one whose networks are single convolutions."""
    bundle = bundle or blurry_bundle(folder / "bundle", scales=SCALES)
    write_repeated(folder / "image.tif", size=Size(width=side, height=side))
    write_repeated(folder / "warm.tif", size=Size(width=64, height=64))
    scratch = folder / "scratch"
    scratch.mkdir()
    options = SegmentOptions(weights=str(bundle), method=method, device="cpu")
    return Task(
        image=str(folder / "image.tif"), options=options, folder=scratch, warm=str(folder / "warm.tif"), timed=timed
    )


def cascade_bundle(folder: Path, **changes: Any) -> Path:
    """Return a cascade of one convolution, which returns its mask, slightly blurred by tanh."""
    network = build_cascade("conv", options={})
    weight = torch.zeros(1, BANDS + MASKS, 1, 1)
    weight[0, BANDS] = 4
    network.load_state_dict({"network.conv.weight": weight, "network.conv.bias": torch.zeros(1)})
    write_cascade_bundle(folder, describe_cascade(name="plumbing", side=L, **changes), network)
    return folder


def cascade_task(folder: Path, *, side: int = SIDE_OF_MASK) -> Task[RefineOptions]:
    """Return a task on a generated image and its mask, with a cascade of one convolution."""
    options = RefineOptions(weights=str(cascade_bundle(folder / "bundle")), device="cpu")
    studio, image, warm = CascadeStudio(options), folder / "image.tif", folder / "warm.tif"
    studio.draw(image, side)
    studio.draw_warm(warm, side)
    scratch = folder / "scratch"
    scratch.mkdir()
    return Task(
        image=str(image),
        mask=str(mask_beside(image)),
        options=options,
        folder=scratch,
        warm=str(warm),
        warm_mask=str(mask_beside(warm)),
    )

"""A bundle for measuring speed: the paper's networks and sizes with seeded random weights.

    python benchmarks/make_bundle.py fpn508

FPN with ResNet-50 and MagNet's refiner, 7 classes, windows of 612, 1224 and 2448 pixels seen at 508, three quarters of
the points, a median of 11: the paper's DeepGlobe. What it says of an image means nothing; what it costs does not depend
on the weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from magnet_cli.models.bundle_writer import describe, write_bundle
from magnet_cli.models.registry import build_backbone, build_refiner

CLASSES = 7
INPUT = 508
SCALES = (612, 1224, 2448)
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def settled(network: nn.Module, sample: torch.Tensor) -> nn.Module:
    """Return the network with batch norms that have seen one sample, without which values grow from block to block."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(sample)
    return network.eval()


def write_fpn(folder: Path, *, seed: int = 0) -> None:
    """Write the bundle into a folder."""
    torch.manual_seed(seed)
    backbone = settled(
        build_backbone("fpn-resnet50", classes=CLASSES, bands=3, options={}), torch.randn(2, 3, 256, 256)
    )
    refiner = settled(
        build_refiner("magnet", classes=CLASSES, options={}), torch.randn(2, 2 * CLASSES, 64, 64).softmax(dim=1)
    )
    description = describe(
        name=folder.name,
        classes=CLASSES,
        size=INPUT,
        scales=SCALES,
        backbone={"architecture": "fpn-resnet50"},
        refiners=[{"architecture": "magnet"}],
        input={**IMAGENET, "resample": "area"},
        magnet={"merge": "refiner", "points": "75%", "patches": "all", "median": 11, "margin": 0},
    )
    write_bundle(
        folder, description, {"backbone.safetensors": backbone, "refiner.safetensors": refiner}, dtype=torch.float32
    )


def main() -> None:
    """Write the bundle to the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    write_fpn(words.folder, seed=words.seed)


if __name__ == "__main__":
    main()

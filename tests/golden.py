"""The published networks with the weights of the golden values, for tests where those weights are present."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

from magnet_cli.models.architectures.fpn import fpn_resnet50
from magnet_cli.models.architectures.refiner import RefinementMagNet

if TYPE_CHECKING:
    from torch import nn

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"
GOLDEN = REFERENCE / "magnet-fpn7"


def golden_networks() -> tuple[nn.Module, nn.Module]:
    """Return the backbone and the refiner."""
    spec = importlib.util.spec_from_file_location("seeded_weights", REFERENCE / "seeded_weights.py")
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    shapes = generator.read_manifest(REFERENCE / "manifests" / "magnet_fpn_c7.txt")
    state = {key: torch.from_numpy(value) for key, value in generator.seeded_state(shapes, 11).items()}
    backbone, refiner = fpn_resnet50(classes=7).eval(), RefinementMagNet(classes=7).eval()
    backbone.load_state_dict(state | load_file(GOLDEN / "backbone-overrides.safetensors"))
    refiner.load_state_dict(load_file(GOLDEN / "refinement.safetensors"))
    return backbone, refiner

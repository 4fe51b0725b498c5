"""Helpers for tests of networks: the published keys, weights without files, and networks without memory."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pytest
import torch

from magnet_cli.models.architectures.resnet import BasicBlock, ResNet

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

REFERENCE = Path(__file__).parents[2].parent / "shared" / "reference"

N = TypeVar("N", bound=torch.nn.Module)
Shapes = dict[str, tuple[tuple[int, ...], str]]


def manifest(name: str) -> Shapes:
    """Return keys, shapes and types of a published state dict."""
    path = REFERENCE / "manifests" / name
    if not path.exists():
        pytest.skip("reference manifests are not here")
    rows = (line.split("\t") for line in path.read_text().splitlines())
    return {key: (() if shape == "scalar" else tuple(map(int, shape.split("x"))), kind) for key, shape, kind in rows}


def shapes(network: torch.nn.Module) -> Shapes:
    """Return the keys, shapes and types of a network."""
    state = network.state_dict()
    return {key: (tuple(value.shape), str(value.dtype).removeprefix("torch.")) for key, value in state.items()}


def parameters(network: torch.nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(value.numel() for value in network.parameters())


def on_meta(build: Callable[..., N], **options: Any) -> N:
    """Return a network that has shapes but no values."""
    with torch.device("meta"):
        return build(**options).eval()


def seeded(name: str, *, seed: int = 11) -> dict[str, torch.Tensor]:
    """Return weights for a manifest that are computed from a seed."""
    weights = seeding().seeded_state(manifest(name), seed)
    return {key: torch.from_numpy(value).reshape(value.shape) for key, value in weights.items()}


def seeded_patch(*, height: int, width: int) -> torch.Tensor:
    """Return a picture `(1, 3, height, width)` with values in -2..2."""
    values = cast("npt.NDArray[np.float32]", seeding().uniform(11, "input", 3 * height * width))
    return torch.from_numpy(values).reshape(1, 3, height, width) * 4 - 2


def seeding() -> Any:
    """Return the module that computes the seeded weights."""
    if not (REFERENCE / "seeded_weights.py").exists():
        pytest.skip("seeded weights are not here")
    sys.path.insert(0, str(REFERENCE))
    try:
        return importlib.import_module("seeded_weights")
    finally:
        sys.path.remove(str(REFERENCE))


def slim_encoder(**options: Any) -> ResNet:
    """Return an encoder of a few thousand parameters."""
    return ResNet(block=BasicBlock, depths=(1, 1, 1, 1), width=4, **options)

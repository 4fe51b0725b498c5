"""The shapes that are found without PyTorch's compiler equal those that the compiler finds."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest
import torch

from magnet_cli.geometry import Size
from magnet_cli.models import facts, registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

SIZE = Size(width=160, height=96)
NETWORKS: dict[str, tuple[Callable[[str], nn.Module], int]] = {
    **{
        name: (lambda name: registry.build_backbone(name, classes=3, bands=3, options={}), 3)
        for name in registry.BACKBONES
        if name != "fpn-timm"
    },
    **{name: (lambda name: registry.build_refiner(name, classes=3, options={}), 6) for name in registry.REFINERS},
    **{
        name: (lambda name: registry.build_selector(name, bands=3, classes=3, options={}), 3)
        for name in registry.SELECTORS
    },
    **{
        name: (lambda name: registry.build_local(name, classes=3, bands=3, options={}).branch, 3)
        for name in registry.LOCAL_BRANCHES
    },
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_estimate_of_memory_is_that_of_pytorchs_own_shapes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build, channels = NETWORKS[name]
    with torch.device("meta"):
        network = build(name)
    found = facts._largest(network, (channels,), SIZE)
    monkeypatch.setattr(facts, "ShapeRules", nullcontext)
    assert found == facts._largest(network, (channels,), SIZE) > 0


def test_a_plan_does_not_import_the_compiler() -> None:
    code = (
        "import sys; from magnet_cli.models.bundle import load_bundle; from magnet_cli.models.facts import model_facts;"
        "model_facts(load_bundle('aerial')); print(sorted({'torch._dynamo', 'sympy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"

"""Every architecture gives logits of the patch's size, and its memory is estimated without data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from magnet_cli.errors import WeightsError
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.bundle_writer import describe, write_bundle
from magnet_cli.models.facts import model_facts
from magnet_cli.models.registry import BACKBONES, build_backbone, build_selector
from tests.laws.support import blurry_bundle
from tests.segmentation.test_grnet import grnet

if TYPE_CHECKING:
    from pathlib import Path


NEEDED = {"fpn-timm": {"encoder": "mobilenetv3_small_050"}}
"""Options without which an architecture cannot be built."""


@pytest.mark.parametrize("architecture", BACKBONES)
def test_logits_have_the_patchs_size(architecture: str) -> None:
    with torch.device("meta"):
        network = build_backbone(architecture, classes=5, bands=4, options=NEEDED.get(architecture, {})).eval()
        assert network(torch.empty(1, 4, 64, 96)).shape == (1, 5, 64, 96)


def estimated(folder: Path, architecture: str, size: int) -> int:
    options = NEEDED.get(architecture, {})
    table = describe(size=size, classes=7, backbone={"architecture": architecture, "options": options})
    return model_facts(write_bundle(folder, table, {"backbone.safetensors": {}})).activation_bytes


@pytest.mark.parametrize("kind", ["plain", "with a selector", "grnet"])
def test_weights_of_all_networks_are_counted(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "bundle"
    if kind == "grnet":
        grnet(folder)
    else:
        blurry_bundle(folder, selector=kind == "with a selector")
    stored = [load_file(path) for path in folder.glob("*.safetensors")]
    assert len(stored) == {"plain": 2, "with a selector": 3, "grnet": 3}[kind]
    values = sum(
        tensor.numel()
        for state in stored
        for name, tensor in state.items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    )
    assert model_facts(load_bundle(str(folder))).weight_bytes == 4 * values


@pytest.mark.parametrize(("sees", "channels"), [("image", 0), ("image+field", 6 + 1 + 3 + 5 + 1)])
def test_what_a_selector_joins_before_its_first_layer_is_counted(sees: str, channels: int) -> None:
    """The terms are two classes in float32 and their indices in 64 bits; uncertainty; and what the encoder sees."""
    with torch.device("meta"):
        network = build_selector("ppn-small", bands=3, classes=5, options={"sees": sees})
    assert network.joined_channels == channels


@pytest.mark.parametrize("architecture", BACKBONES)
def test_memory_is_estimated_without_weights(tmp_path: Path, architecture: str) -> None:
    small, large = (estimated(tmp_path, architecture, size) for size in (64, 512))
    # Two float32 planes of logits at the least.
    assert 2 * 64 * 64 * 4 <= small < large


@pytest.mark.parametrize(
    ("architecture", "size", "least", "most"),
    [
        ("deeplabv3plus-resnet50", 32, 7, 103),
        ("deeplabv3plus-resnet50", 256, 60, 130),
        ("deeplabv3plus-resnet50", 512, 189, 210),
        ("unet", 32, 4, 95),
        ("unet", 256, 65, 120),
        ("unet", 512, 176, 200),
        ("fpn-small", 256, 8, 9),
        ("fpn-resnet50", 256, 24, 25),
    ],
)
def test_memory_of_small_inputs_is_not_below_what_was_measured(
    tmp_path: Path, architecture: str, size: int, least: int, most: int
) -> None:
    """The limits are in MiB. Those of the pyramids are the estimate of their tensors alone."""
    assert least <= estimated(tmp_path, architecture, size) / 2**20 <= most


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("vgg", {}, "unknown architecture"),
        ("unet", {"colour": "red"}, "options do not fit unet"),
        ("unet", {"depths": [1, 1]}, "options do not fit unet"),
        ("unet", {"widths": [8, 8]}, "options do not fit unet"),
        ("deeplabv3plus-resnet50", {"output_stride": 4}, "must be 8, 16 or 32"),
        ("hrnet18-ocr", {"stem_stride": "two"}, "options do not fit hrnet18-ocr"),
    ],
)
def test_what_cannot_be_built_is_refused(architecture: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        build_backbone(architecture, classes=2, bands=3, options=options)

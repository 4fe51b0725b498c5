"""Every architecture by its name: logits of the patch's size, and an estimate of memory without data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from magnet_cli.errors import WeightsError
from magnet_cli.models.facts import activation_bytes
from magnet_cli.models.registry import BACKBONES, build_backbone
from magnet_cli.models.writing import describe, write_bundle

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("architecture", BACKBONES)
def test_logits_have_the_patchs_size(architecture: str) -> None:
    with torch.device("meta"):
        network = build_backbone(architecture, classes=5, bands=4, options={}).eval()
        assert network(torch.empty(1, 4, 64, 96)).shape == (1, 5, 64, 96)


def estimated(folder: Path, architecture: str, size: int) -> int:
    table = describe(size=size, classes=7, backbone={"architecture": architecture})
    return activation_bytes(write_bundle(folder, table, {"backbone.safetensors": {}}))["activation_bytes"]


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
    """In MiB; the pyramids' estimate is that of their tensors alone."""
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

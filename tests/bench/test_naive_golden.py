"""The naive arithmetic, with which a bench compares, gives the values of the published program."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from magnet_cli.arithmetic.published.stages import PublishedSettings
from magnet_cli.bench.naive import run_naive
from magnet_cli.bench.timing import TimedNetworks
from magnet_cli.geometry import Size
from tests.golden import GOLDEN, golden_networks

if TYPE_CHECKING:
    from torch import Tensor

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not GOLDEN.exists(), reason="the golden values are not beside the repository"),
]


@dataclass(frozen=True)
class Seeded:
    """The published networks with the weights of the golden values."""

    backbone: torch.nn.Module
    refiner: torch.nn.Module
    device: torch.device

    def predict(self, patches: Tensor, scale: Size) -> Tensor:
        assert scale.width in (153, 306, 612)
        probabilities: Tensor = self.backbone(patches).softmax(dim=1)
        return probabilities

    def refine(self, own: Tensor, field: Tensor, scale: Size) -> Tensor:
        assert scale.width in (153, 306)
        probabilities: Tensor = self.refiner(torch.cat([own, field], dim=1)).softmax(dim=1)
        return probabilities


def seeded() -> Seeded:
    backbone, refiner = golden_networks()
    return Seeded(backbone=backbone, refiner=refiner, device=torch.device("cpu"))


def test_the_naive_arithmetic_gives_the_golden_labels() -> None:
    from PIL import Image  # noqa: PLC0415 - only this test wants it

    case = json.loads((GOLDEN / "case.json").read_text())
    settings = PublishedSettings(
        stages=tuple(Size(width=width, height=height) for width, height in case["stage_sizes_wh"]),
        crop=Size(width=case["window_crop_wh"][0], height=case["window_crop_wh"][1]),
        input=Size(width=case["network_input_wh"][0], height=case["network_input_wh"][1]),
        points=case["points"],
        patches=case["patches"],
        median=case["median"],
    )
    with Image.open(GOLDEN / "image.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    with np.load(GOLDEN / "expected.npz") as stored:
        expected = stored["published/argmax"]

    run = run_naive(pixels, TimedNetworks(seeded()), settings=settings, size=settings.finest)

    windows = [stored_windows(settings, index) for index in range(len(settings.stages))]
    assert run.windows == sum(windows)
    assert (run.labels == expected).mean() >= 0.9995


def stored_windows(settings: PublishedSettings, index: int) -> int:
    size = settings.stages[index]
    return -(-size.width // settings.crop.width) * -(-size.height // settings.crop.height)

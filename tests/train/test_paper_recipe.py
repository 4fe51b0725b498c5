"""The paper's recipe for refiners can be read, has the paper's settings, and trains."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from magnet_cli.errors import UsageError
from magnet_cli.models.architectures.conv import conv_backbone
from magnet_cli.train.config import LoopConfig, TrainConfig
from magnet_cli.train.loop import optimizer_of, rate_at
from magnet_cli.train.refiner_training import train_refiner
from tests.train.fields import make_bundle, make_data
from tests.train.test_recipes import recipe

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.full

RECIPE = recipe("paper-refiner")


def test_the_rate_falls_tenfold_where_the_paper_says() -> None:
    loop = TrainConfig.read(RECIPE).loop
    epoch = loop.iterations / 50
    rates = [rate_at(round(epoch * number), loop) for number in (0, 19, 21, 29, 31, 39, 41, 44, 46)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6, 1e-7])


def test_it_trains_one_refiner_a_stage_on_own_scenes(tmp_path: Path) -> None:
    data, output = make_data(tmp_path / "data"), make_bundle(tmp_path / "tiny", scales=(16, 32, 64))
    config = TrainConfig.read(RECIPE)
    config = replace(config, loop=replace(config.loop, iterations=2, batch=2))
    bundle = train_refiner(data, output, config)
    assert [spec.architecture for spec in bundle.refiners] == ["magnet", "magnet"]
    assert [spec.scale.width for spec in bundle.refiners if spec.scale] == [32, 16]
    assert bundle.backbone.temperature.at(bundle.scales[0]) == 1.0
    assert list(bundle.metrics) == ["own_scenes"]


def test_a_loop_names_its_optimizer() -> None:
    network = conv_backbone(classes=2)
    sgd = optimizer_of(network, LoopConfig(optimizer="sgd", momentum=0.8, decay=0.3, rate=0.5))
    assert isinstance(sgd, torch.optim.SGD)
    expected = {"lr": 0.5, "momentum": 0.8, "weight_decay": 0.3}
    assert {key: sgd.param_groups[0][key] for key in expected} == expected
    assert isinstance(optimizer_of(network, LoopConfig()), torch.optim.AdamW)
    assert type(optimizer_of(network, LoopConfig(optimizer="adam"))) is torch.optim.Adam
    for wrong in ({"optimizer": "adagrad"}, {"momentum": 1.0}):
        with pytest.raises(UsageError, match="|".join(wrong)):
            LoopConfig(**wrong)

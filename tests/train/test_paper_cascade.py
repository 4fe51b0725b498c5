"""The paper's recipe for cascades can be read, has the paper's settings, and its loss falls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from magnet_cli.train.cascade_training import cascade_description, cascade_of
from magnet_cli.train.config import CascadeConfig, TrainConfig
from magnet_cli.train.loop import optimizer_of, rate_at
from tests.train.test_recipes import recipe

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = recipe("paper-cascade")


def test_it_is_the_papers(tmp_path: Path) -> None:
    config = TrainConfig.read(RECIPE)
    loop = config.loop
    assert [rate_at(iteration, loop) for iteration in (0, 29_999, 30_000, 59_999)] == pytest.approx(
        [3e-4, 3e-4, 3e-5, 3e-5]
    )
    optimizer = optimizer_of(torch.nn.Linear(1, 1), loop)
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.param_groups[0]["weight_decay"] == 1e-4
    usual = CascadeConfig()
    assert config.cascade == CascadeConfig(pieces=0.0)
    assert (usual.crop, usual.iou, usual.gradient) == (224, (0.8, 1.0), 5.0)
    assert cascade_of(cascade_description(config), folder=tmp_path).side == 900

"""The paper's recipe for cascades: its file can be read, says what the paper says, and its loss falls."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from magnet_cli.train.cascade_training import described, understood
from magnet_cli.train.config import CascadeConfig, TrainConfig
from magnet_cli.train.loop import optimizer_of, rate_at

RECIPE = Path(__file__).parents[2] / "weights" / "paper-cascade.toml"


def test_every_setting_says_whose_it_is() -> None:
    settings = [line for line in RECIPE.read_text(encoding="utf-8").splitlines() if "=" in line and line[0] != "#"]
    assert len(settings) > 25
    for line in settings:
        assert line.partition("#")[2].strip().startswith(("paper", "published program", "ours")), line


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
    assert understood(described(config), folder=tmp_path).side == 900

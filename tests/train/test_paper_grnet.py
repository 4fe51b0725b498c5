"""The GRNet paper's recipes have the paper's settings, name the source of each, and describe a bundle."""

from __future__ import annotations

from math import ceil
from pathlib import Path

import pytest
import torch

from magnet_cli.models.network_spec import distance
from magnet_cli.train.backbone_training import Recipe, bundle_of
from magnet_cli.train.config import TrainConfig
from magnet_cli.train.grnet_training import build_grnet, grnet_description
from tests.models.support import parameters

RECIPES = sorted((Path(__file__).parents[2] / "weights" / "paper-grnet").glob("*.toml"))
IMAGES = {"deepglobe": 455, "isic": 2077, "crag": 173, "cityscapes": 2975}
"""Number of training images ("Datasets")."""


def test_there_is_one_for_each_data_set_of_the_paper() -> None:
    assert {path.stem for path in RECIPES} == set(IMAGES)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_setting_says_whose_it_is(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    settings = [line for line in lines if " = " in line and line[0] not in "# " and not line.startswith("classes")]
    assert len(settings) > 30
    for line in settings:
        assert line.partition("#")[2].strip().startswith(("paper", "ours")), line
    assert f"weights/paper-grnet/{path.name}" in lines[2]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_says_what_the_paper_says(path: Path) -> None:
    config = TrainConfig.read(path)
    loop, grnet = config.loop, config.grnet
    assert (loop.batch, loop.loss, loop.focal_gamma) == (10, "focal", 3)
    assert (loop.optimizer, loop.rate, loop.decay) == ("adam", 1e-4, 5e-4)
    epoch = ceil(IMAGES[path.stem] / loop.batch)
    assert (grnet.alone, grnet.selecting, grnet.refining) == (10 * epoch, epoch, epoch)
    assert loop.iterations == grnet.alone + 120 * (grnet.selecting + grnet.refining)
    assert (grnet.cells, grnet.fusion, grnet.variant) == (4, "literal", "selected")
    bundle = bundle_of(grnet_description(config, folder=Path()), folder=Path())
    assert distance(bundle.input.size, bundle.scales[0]) > 0
    with torch.device("meta"):
        network = build_grnet(Recipe(bundle=bundle, data=config.data, loop=loop), grnet)
    assert parameters(network.selector) == 2_783_041
    assert network.layout.fused == bundle.input.size

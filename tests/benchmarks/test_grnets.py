"""Trainings behind the tables on GRNets and on CascadePSP's structure."""

from __future__ import annotations

import pytest
import torch

from benchmarks.accuracy.grnets import MODELS, ROWS, grnet_config, looked_at
from benchmarks.accuracy.structure import ROWS as STRUCTURE
from benchmarks.accuracy.structure import Losses, Outputs
from magnet_cli.models.architectures.cascadepsp import cascadepsp_light
from magnet_cli.train.cascade_losses import LevelObjective


@pytest.mark.parametrize("name", MODELS)
def test_a_training_leaves_the_scene_out_and_keeps_one_backbone(name: str) -> None:
    config, plain = grnet_config(MODELS[name], "tile4"), grnet_config(MODELS["cells16"], "tile4")
    assert "tile4" not in config.data.scenes
    assert len(config.data.scenes) == 5
    assert config.network == plain.network
    assert config.grnet.local == plain.grnet.local
    own, cells = config.loop.iterations, plain.grnet
    rounds = (plain.loop.iterations - cells.alone) // 2
    assert own in (plain.loop.iterations, cells.alone + rounds, 2 * rounds)


def test_every_row_has_a_training_and_every_training_a_row() -> None:
    assert {row.model for row in ROWS.values()} == set(MODELS)


def test_cells_are_counted_only_where_there_are_cells() -> None:
    stage = {"windows": 8, "windows_run": 2}
    assert looked_at({"options": {"method": "grnet"}, "passes": [{"stages": [stage]}]}) == 0.25
    assert looked_at({"options": {"method": "patch"}, "passes": [{"stages": [stage]}]}) is None


@pytest.mark.parametrize(("strides", "outputs"), [("1", (0, 0)), ("8-1", (2, 0)), ("8-4-1", (3, 2))])
def test_outputs_that_are_left_out_are_not_there(strides: str, outputs: tuple[int, int]) -> None:
    network = Outputs(cascadepsp_light(width=4, depths=[1, 1, 1, 1], pooled=8, widths=[8, 8, 4], hidden=4), strides)  # type: ignore[arg-type]
    found = network.eval()(torch.rand(1, 3, 32, 32), torch.ones(1, 1, 32, 32))
    assert (len(found.s8), len(found.s4)) == outputs
    assert found.s1.shape == (1, 1, 32, 32)


def test_losses_are_the_ones_that_a_row_names() -> None:
    torch.manual_seed(1)
    levels = cascadepsp_light(width=4, depths=[1, 1, 1, 1], pooled=8, widths=[8, 8, 4], hidden=4)(
        torch.rand(1, 3, 32, 32), torch.ones(1, 1, 32, 32)
    )
    labels = torch.randint(0, 2, (1, 32, 32))
    paper = LevelObjective(gradient=5.0).total(levels, labels)
    torch.testing.assert_close(Losses(gradient=5.0).total(levels, labels), paper)
    ce, near, both = (Losses(gradient=5.0, kind=kind).total(levels, labels) for kind in ("ce", "distances", "both"))
    torch.testing.assert_close(both, (ce + near) / 2)
    assert len({round(value.item(), 4) for value in (paper, ce, near, both)}) == 4
    assert {row.kind for row in STRUCTURE.values()} == {"levels", "ce", "distances", "both", "levels-ce"}

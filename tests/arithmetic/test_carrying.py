"""Details that coarse levels cannot see are kept, and changes of coarse levels are not undone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from magnet_cli.arithmetic.canvas import Canvas
from magnet_cli.arithmetic.cascade.carry import carried, noted, refine_object
from magnet_cli.arithmetic.cascade.steps import S1, CascadeSettings
from magnet_cli.geometry import LEVEL0, Box, Pitch
from tests.arithmetic.cascades import Echo


@dataclass(frozen=True)
class Moving(Echo):
    """A cascade that moves the mask to the right in the global step."""

    columns: int = 0

    def three_levels(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        return super().three_levels(images, torch.roll(masks, self.columns, dims=3))


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("shape", [(5, 3), (90, 70), (127, 130), (211, 345)])
def test_any_mask_comes_back_of_a_network_that_changes_nothing(shape: tuple[int, int], *, fast: bool) -> None:
    mask = torch.from_numpy((np.random.default_rng(1).random(shape) < 0.4).astype(np.float32))
    settings = CascadeSettings(side=96, fast=fast, least=80)
    found = refine_object(torch.zeros(3, *shape), mask, Echo(), settings)
    assert torch.equal(found > 0.5, mask > 0.5)


@pytest.mark.parametrize("column", range(100, 116))
def test_a_border_that_the_global_step_moved_leaves_no_trace(column: int) -> None:
    mask = torch.zeros(192, 384)
    mask[:, 40:column] = 1
    found = refine_object(torch.zeros(3, 192, 384), mask, Moving(columns=8), CascadeSettings(side=96)) > 0.5
    borders = torch.nonzero(found[50, 1:] != found[50, :-1]).ravel().tolist()
    assert len(borders) == 2
    assert abs(borders[1] + 1 - column - 8 * 4) <= 2
    assert (found == found[50]).all()


def test_a_level_starts_from_the_mask_where_the_one_before_could_not_see_it() -> None:
    before = Canvas(values=torch.full((2, 1, 4), 0.25), box=Box(x=0, y=0, width=4, height=1), pitch=Pitch.square(4))
    before.values[S1, 0, 3] = 0.9
    whole = noted(before, torch.full((1, 4), 0.25))
    own = torch.zeros(4, 16)
    own[:, 3] = own[:, 13] = 1
    start = carried(whole.sample(Box(x=0, y=0, width=16, height=4), LEVEL0), own)[S1, 0] > 0.5
    assert start.tolist() == [False] * 3 + [True] + [False] * 8 + [True] * 4

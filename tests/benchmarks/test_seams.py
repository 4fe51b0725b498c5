"""The measurement of seams finds lines that are drawn into masks along borders, and names the kind of border."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest

from benchmarks.seams import BAND, FREE, KINDS, NEAR, TILE, Axis, Measured, cuts_of, kinds_of, seams_of
from magnet_cli.geometry import LEVEL0, Size
from magnet_cli.plan.windows import Pass, Stage

if TYPE_CHECKING:
    from magnet_cli.plan import Plan

SIDE = Size(width=64, height=64)


def plan_of(size: Size) -> Plan:
    """Return a plan of two stages whose blocks have two by two cells of 48 pixels, in groups of three."""
    stages = tuple(
        Stage(number=number, scale=Size(width=scale, height=scale), input=SIDE, margin=8, image=size, working=LEVEL0)
        for number, scale in ((1, 128), (2, 64))
    )
    step = Pass(number=0, stages=stages)
    return cast("Plan", SimpleNamespace(image=SimpleNamespace(size=size), passes=(step,), stages=stages, group={0: 3}))


def test_each_border_is_of_its_kind() -> None:
    plan = plan_of(Size(width=600, height=200))
    computed = np.ones((5, 13), bool)
    computed[0, 0] = False
    kinds = kinds_of(plan, computed, down=False)
    assert kinds.shape == (200, 600)
    names = [{FREE: "free", NEAR: "near"}.get(int(kind)) or KINDS[kind] for kind in kinds[10]]
    assert names[48 - BAND : 48 + BAND + 1] == ["selected"] * (2 * BAND + 1)
    assert KINDS[kinds[60, 48]] == "cell"
    assert names[96] == "block"
    assert names[288] == "group"
    assert names[144] == "cell"
    assert names[144 - 8] == names[144 + 8] == "window"
    assert names[144 + 4] == "near"
    assert names[192 + 16] == "coarse"
    assert names[24] == names[120] == "free"
    assert names[TILE] == "tile"
    assert [KINDS[kind] for kind in kinds_of(plan, computed, down=True)[24, [48, 96]]] == ["selected", "group"]
    nothing = Size(width=40, height=40)
    assert (kinds_of(plan_of(nothing), np.ones((1, 1), bool), down=False) == FREE).all()


@pytest.mark.parametrize("factor", [1, 3])
def test_a_line_that_is_drawn_along_borders_is_found(factor: int) -> None:
    """Classes change three times as often at one kind of border, and only the ratio of that kind shows it."""
    rng = np.random.default_rng(1)
    rates = np.where(np.arange(400) < 200, 0.02, 0.08)
    runs = []
    for shift in (0, 40, 88):
        kinds = np.full((3000, 400), FREE, np.int8)
        kinds[:, 20 + shift :: 130] = KINDS.index("cell")
        kinds[:, 60 + shift :: 130] = KINDS.index("window")
        share = rates * np.where(kinds[0] == KINDS.index("cell"), factor, 1)
        runs.append((Axis(changes=rng.random(kinds.shape) < share, kinds=kinds),) * 2)
    found = seams_of(runs)
    assert found.seams["cell"].ratio == pytest.approx(factor, rel=0.1)
    assert found.seams["window"].ratio == pytest.approx(1, rel=0.1)
    total = Measured()
    total.add(found)
    total.add(found)
    assert total.seams["cell"].changes == 2 * found.seams["cell"].changes
    assert total.describe()["seams"]["cell"]["ratio"] == pytest.approx(found.seams["cell"].ratio, abs=0.001)


def test_all_cuts_share_one_area() -> None:
    corners = {(cut.x + inner.x, cut.y + inner.y, inner.size) for cut, inner in cuts_of(Size(width=900, height=800))}
    assert len(corners) == 1

"""Law 5 with a network that was trained: the grid of windows, blocks and tiles does not show in the mask.

Rates are those within two pixels of a border, and are compared with the same places of the same scene in runs in which
they are no borders (`benchmarks/seams.py` says why). A single scene scatters by a tenth, so several are added up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.seams import Measured, image_of, measure, scene_of
from benchmarks.selected_seams import Slope, measure_selected
from magnet_cli.geometry import Box
from magnet_cli.options.segment import SegmentOptions

SIZE, SEEDS = 1500, (3, 4)
PHOTOGRAPHS = Path(__file__).parents[3] / "shared" / "data" / "dubai" / "mosaics"
PARTS = {
    "tile5.tif": Box(x=600, y=600, width=SIZE, height=SIZE),
    "tile7.tif": Box(x=1500, y=1500, width=SIZE, height=SIZE),
}
LIMIT = 1.15
FEWEST = 1000
"""Fewest changes around a kind of border for which its ratio is compared."""


def ratios(folder: Path, *, where: str, **more: Any) -> dict[str, float]:
    """Measure `aerial` on scenes of a kind, and return the ratio for each kind of border with enough changes."""
    options, total = SegmentOptions(weights="aerial", tissue="none", **more), Measured()
    if where == "generated":
        images = [scene_of(SIZE, seed) for seed in SEEDS]
    else:
        images = [image_of(str(PHOTOGRAPHS / name), box) for name, box in PARTS.items()]
    for number, pixels in enumerate(images):
        (folder / str(number)).mkdir()
        total.add(measure(pixels, options, folder / str(number)))
    return {kind: seam.ratio for kind, seam in total.seams.items() if seam.changes >= FEWEST}


@pytest.mark.full
@pytest.mark.parametrize("method", ["patch", "magnet"])
@pytest.mark.parametrize("where", ["generated", "photographs"])
def test_borders_of_a_shipped_network_do_not_show(where: str, method: str, tmp_path: Path) -> None:
    if where == "photographs" and not PHOTOGRAPHS.is_dir():
        pytest.skip("the photographs are not there")
    found = ratios(tmp_path, where=where, method=method)
    assert {"cell", "window", "tile", "group" if method == "patch" else "coarse"} <= set(found)
    assert max(found.values()) < LIMIT, found


@pytest.mark.full
def test_borders_of_an_earlier_pass_do_not_show(tmp_path: Path) -> None:
    """Scales whose ratio is no whole number each have a pass of their own."""
    found = ratios(tmp_path, where="generated", method="magnet", scales="384,256")
    assert {"pass", "group", "coarse", "window"} <= set(found)
    assert max(found.values()) < LIMIT, found


@pytest.mark.full
@pytest.mark.parametrize(
    ("patches", "rise", "bounds"), [("40%", None, (0.9, LIMIT)), ("20%", None, (0.9, LIMIT)), ("40%", 0, (LIMIT, 2))]
)
def test_borders_of_selected_windows_do_not_show(
    patches: str, rise: int | None, bounds: tuple[float, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Towards windows that are not computed a weight has to fall further than between computed ones."""
    if rise is not None:
        monkeypatch.setattr("magnet_cli.plan.windows.RISE", rise)
    options, total = SegmentOptions(weights="aerial", tissue="none", method="magnet-fast", patches=patches), Slope()
    for seed in SEEDS:
        (tmp_path / str(seed)).mkdir()
        total.add(measure_selected(scene_of(SIZE, seed), options, tmp_path / str(seed)))
    found = total.describe()
    assert found["changes"] > FEWEST
    assert bounds[0] < total.border < bounds[1], found
    assert bounds[0] < total.fall < bounds[1], found


@pytest.mark.full
def test_without_blending_the_grid_shows(tmp_path: Path) -> None:
    """This shows that the check above can fail."""
    found = ratios(tmp_path, where="generated", method="patch", blend="none")
    # Without blending each window is a block of its own.
    assert min(found["block"], found["group"]) > 1.3

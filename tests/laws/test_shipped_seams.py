"""Law 5 with a network that was trained: the grid of windows, blocks and tiles does not show in the mask.

Rates are those within two pixels of a border, and are compared with the same places of the same scene in runs in which
they are no borders (`benchmarks/seams.py` says why). A single scene scatters by a tenth, so several are added up.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.seams import Measured, image_of, measure, scene_of
from benchmarks.selected_seams import KINDS, Slope, measure_slopes
from magnet_cli.geometry import Box
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan import segmentation_planner
from magnet_cli.segmentation.selection import BeyondBlock

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIZE, SEEDS = 1500, (3, 4)
PHOTOGRAPHS = Path(__file__).parents[3] / "shared" / "data" / "dubai" / "mosaics"
PARTS = {
    "tile5.tif": Box(x=600, y=600, width=SIZE, height=SIZE),
    "tile7.tif": Box(x=1500, y=1500, width=SIZE, height=SIZE),
}
LIMIT = 1.15
FEWEST = 1000
"""Fewest changes around a kind of border for which its ratio is compared."""


def images_of(where: str) -> list[NDArray[np.uint8]]:
    """Return the generated scenes or the parts of photographs, `(height, width, 3)` each."""
    if where == "generated":
        return [scene_of(SIZE, seed) for seed in SEEDS]
    return [image_of(str(PHOTOGRAPHS / name), box) for name, box in PARTS.items()]


def ratios(folder: Path, *, where: str, **more: Any) -> dict[str, float]:
    """Measure `aerial` on scenes of a kind, and return the ratio for each kind of border with enough changes."""
    options, total = SegmentOptions(weights="aerial", tissue="none", **more), Measured()
    for number, pixels in enumerate(images_of(where)):
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
    total = slopes(tmp_path, where="generated", patches=patches)["inside"]
    found = total.describe()
    assert found["changes"] > FEWEST
    assert bounds[0] < total.border < bounds[1], found
    assert bounds[0] < total.fall < bounds[1], found


def slopes(folder: Path, *, where: str, **more: Any) -> dict[str, Slope]:
    """Measure MagNet-Fast with `aerial` by the second judge on scenes of a kind, and add up what it has found."""
    options = SegmentOptions(weights="aerial", tissue="none", method="magnet-fast", **more)
    total = {kind: Slope() for kind in KINDS}
    for number, pixels in enumerate(images_of(where)):
        (folder / str(number)).mkdir()
        for kind, slope in measure_slopes(pixels, options, folder / str(number)).items():
            total[kind].add(slope)
    return total


@pytest.mark.full
@pytest.mark.parametrize("more", [{}, {"points": "q>0.2", "overlap": 12}], ids=["default", "least overlap"])
@pytest.mark.parametrize("where", ["generated", "photographs"])
def test_borders_of_blocks_that_select_windows_do_not_show(where: str, more: dict[str, Any], tmp_path: Path) -> None:
    """Blocks of four windows, each of which computes one: most borders of windows are borders of blocks."""
    if where == "photographs" and not PHOTOGRAPHS.is_dir():
        pytest.skip("the photographs are not there")
    found = slopes(tmp_path, where=where, scales="512,256", patches="1", **more)
    for kind in ("blocks", "selected"):
        described = found[kind].describe()
        assert described["changes"] > FEWEST / 2, kind
        assert 0.9 < found[kind].border < LIMIT, (kind, described)
        assert 0.9 < found[kind].fall < LIMIT, (kind, described)


@pytest.mark.full
def test_stages_that_block_by_block_share_a_pass_show_where_windows_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This shows that the check above can fail: coarse results are blended over the overlap of fine windows alone."""
    monkeypatch.setattr(segmentation_planner, "_split_at_selection", lambda passes, _: tuple(passes))
    monkeypatch.setattr(BeyondBlock, "of", lambda *_: None)
    options = SegmentOptions(weights="aerial", tissue="none", method="magnet-fast", scales="1024,512,256", patches="3")
    found = measure_slopes(scene_of(2100, 5), options, tmp_path)["blocks"]
    assert found.describe()["changes"] > FEWEST
    assert found.border > LIMIT, found.describe()


@pytest.mark.full
def test_without_blending_the_grid_shows(tmp_path: Path) -> None:
    """This shows that the check above can fail."""
    found = ratios(tmp_path, where="generated", method="patch", blend="none")
    # Without blending each window is a block of its own.
    assert min(found["block"], found["group"]) > 1.3

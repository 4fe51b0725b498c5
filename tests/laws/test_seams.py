"""Law 5: in the mask, labels change across borders of cells and blocks hardly more often than elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from magnet_cli.errors import UsageError
from magnet_cli.geometry import Size
from magnet_cli.options.rules import parse_points
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan import segmentation_planner as making
from tests.laws.support import CLASSES, blurry_bundle, labels_in, number, segment, sides, write_tiled

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SIDE = 64
"""Side of the network's input."""
SIZE = Size(width=700, height=610)
GRAIN = 2
"""Deviation of the bell that blurs the scene, in pixels."""
SHIFT = 24
"""Pixels between two parts of a scene. The borders of one lie inside the cells of the other, but places lie alike on
the canvas grids of all stages: along a coarse grid the rate may vary with the place in its pixel, which is no seam."""
EDGE = 64
"""Pixels next to the edge of either part that are not compared."""
KERNEL = 7
"""The backbone sees three pixels to each side, so that the rim of a patch says something else than its middle."""
MARGIN = 8


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "blurry"
    return blurry_bundle(folder, side=SIDE, scales=(64, 128, 256, 512), kernel=KERNEL, margin=MARGIN)


def smooth_scene(shift: int) -> NDArray[np.uint8]:
    """Part of a smooth scene that is everywhere alike, `(height, width, 3)`: white noise, blurred."""
    noise = torch.randn((3, SIZE.height + 100, SIZE.width + 100), generator=torch.Generator().manual_seed(1))
    reach = torch.arange(-3 * GRAIN, 3 * GRAIN + 1)
    bell = torch.exp(-(reach**2) / (2 * GRAIN**2))
    for shape in ((1, 1, -1, 1), (1, 1, 1, -1)):
        noise = torch.nn.functional.conv2d(noise[:, None], bell.reshape(shape))[:, 0]
    values = noise[:, shift : shift + SIZE.height, shift : shift + SIZE.width].permute(1, 2, 0)
    return np.asarray((128 + 50 * values / values.std()).clamp(0, 255).byte().numpy())


@dataclass
class Changes:
    """How often neighbouring pixels differ at some places of a scene, by what these places are in two runs."""

    border: int = 0
    """Changes of labels across places that are borders."""
    middle: int = 0
    """Changes of labels across the same places where they lie inside cells."""

    @property
    def excess(self) -> float:
        """How much more often they differ across borders, as a share."""
        return self.border / self.middle - 1


@dataclass(kw_only=True)
class Borders:
    """Changes across the borders of cells that are no blocks' borders, and across the borders of blocks."""

    cells: Changes
    blocks: Changes

    def add(self, own: NDArray[np.uint8], other: NDArray[np.uint8], *, cell: int, block: int, start: int) -> None:
        """Compare two runs along columns of the same pixels; `start` is where the first column lies in the own run."""
        mine, others = ((labels[:, 1:] != labels[:, :-1]).sum(axis=0) for labels in (own, other))
        place = start + np.arange(1, own.shape[1])
        is_block = place % block == 0
        for changes, where in ((self.cells, (place % cell == 0) & ~is_block), (self.blocks, is_block)):
            changes.border += int(mine[where].sum())
            changes.middle += int(others[where].sum())


def measure(folder: Path, options: SegmentOptions) -> Borders:
    """Segment two parts of a scene, shifted against each other, and count label changes at the borders of both."""
    borders = Borders(cells=Changes(), blocks=Changes())
    runs = []
    cell = 0
    for shift in (0, SHIFT):
        image, mask = write_tiled(folder / f"{shift}.tif", smooth_scene(shift)), folder / f"{shift}.mask.tif"
        cell = SIDE - number(segment(image, mask, options), "options", "overlap")
        runs.append(labels_in(mask))
        assert len(np.unique(runs[-1])) == CLASSES
    assert isinstance(options.scales, tuple)
    block = cell * options.scales[0].width // SIDE
    first = runs[0][SHIFT + EDGE : -EDGE, SHIFT + EDGE : -EDGE]
    second = runs[1][EDGE : -EDGE - SHIFT, EDGE : -EDGE - SHIFT]
    for own, other, start in ((first, second, SHIFT + EDGE), (second, first, EDGE)):
        borders.add(own, other, cell=cell, block=block, start=start)
        borders.add(own.T, other.T, cell=cell, block=block, start=start)
    return borders


@pytest.mark.parametrize(
    ("points", "scales"), [("all", (128, 64)), ("q>0.05", (128, 64)), ("q>0.05", (512, 256, 128, 64))], ids=str
)
def test_borders_do_not_show(points: str, scales: tuple[int, ...], bundle: Path, tmp_path: Path) -> None:
    options = SegmentOptions(weights=str(bundle), scales=sides(*scales), points=parse_points(points))
    borders = measure(tmp_path, options)
    assert min(borders.cells.middle, borders.blocks.middle) > 200
    assert abs(borders.cells.excess) < 0.05
    assert abs(borders.blocks.excess) < 0.05


def test_borders_show_without_a_margin(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above can fail. The program refuses this; here it is made to do it."""
    options = SegmentOptions(weights=str(bundle), scales=sides(128, 64), points=parse_points("all"), overlap=0)
    with pytest.raises(UsageError, match="overlap"):
        measure(tmp_path, options)
    monkeypatch.setattr(making, "_check_blocks", lambda *_: None)
    borders = measure(tmp_path, options)
    assert borders.cells.excess > 0.25
    assert borders.blocks.excess > 0.25

"""Law 5: in the mask, labels change across borders of cells and blocks hardly more often than elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from magnet_cli.arithmetic.canvas import Canvas
from magnet_cli.arithmetic.cascade.pyramid import CascadeLevel, LevelPart, spans
from magnet_cli.arithmetic.cascade.steps import S1, local_step
from magnet_cli.errors import UsageError
from magnet_cli.geometry import LEVEL0, Box, Size
from magnet_cli.options.rules import parse_points
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan import segmentation_planner as making
from tests.arithmetic.cascades import Echo as Cascade
from tests.laws.support import CLASSES, blurry_bundle, labels_in, number, segment, sides, write_tiled

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.arithmetic.cascade.pyramid import CascadeWindow

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
"""Side of the backbone's kernel: it reads three pixels to each side, so that results differ at the rim of a patch."""
MARGIN = 8


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "blurry"
    return blurry_bundle(folder, side=SIDE, scales=(64, 128, 256, 512), kernel=KERNEL, margin=MARGIN)


def smooth_scene(shift: int) -> NDArray[np.uint8]:
    """Return a part of a smooth scene that is alike everywhere, `(height, width, 3)`: blurred white noise."""
    noise = torch.randn((3, SIZE.height + 100, SIZE.width + 100), generator=torch.Generator().manual_seed(1))
    reach = torch.arange(-3 * GRAIN, 3 * GRAIN + 1)
    bell = torch.exp(-(reach**2) / (2 * GRAIN**2))
    for shape in ((1, 1, -1, 1), (1, 1, 1, -1)):
        noise = torch.nn.functional.conv2d(noise[:, None], bell.reshape(shape))[:, 0]
    values = noise[:, shift : shift + SIZE.height, shift : shift + SIZE.width].permute(1, 2, 0)
    return np.asarray((128 + 50 * values / values.std()).clamp(0, 255).byte().numpy())


@dataclass
class Changes:
    """Counts of neighbouring pixels that differ at some places of a scene, by the kind of these places in two runs."""

    border: int = 0
    """Number of label changes across places that are borders."""
    middle: int = 0
    """Number of label changes across the same places where they lie inside cells."""

    @property
    def excess(self) -> float:
        """Return how much more often labels change across borders, as a share."""
        return self.border / self.middle - 1


@dataclass(kw_only=True)
class Borders:
    """Changes across the borders of cells that are no blocks' borders, and across the borders of blocks."""

    cells: Changes
    blocks: Changes

    def add(self, own: NDArray[np.uint8], other: NDArray[np.uint8], *, cell: int, block: int, start: int) -> None:
        """Compare the labels of two runs for the same pixels, the first of which have column `start` in the own run."""
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
    """This shows that the check above can fail. The program refuses such margins; here it is made to use them."""
    options = SegmentOptions(weights=str(bundle), scales=sides(128, 64), points=parse_points("all"), overlap=0)
    with pytest.raises(UsageError, match="overlap"):
        measure(tmp_path, options)
    monkeypatch.setattr(making, "_check_blocks", lambda *_: None)
    borders = measure(tmp_path, options)
    assert borders.cells.excess > 0.25
    assert borders.blocks.excess > 0.25


@dataclass(frozen=True)
class Moody(Cascade):
    """Networks whose certainty differs from window to window, so that only blending can hide the borders."""

    def two_levels(self, images: Tensor, masks: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        del masks, coarse
        inside = (0.5 + 0.2 * images[:, :1] + 0.35 * torch.sin(1000 * images[:, 0].mean())).clamp(0, 1)
        return inside, inside


@pytest.mark.parametrize(("blended", "most", "least"), [(True, 1.1, 0.9), (False, 2, 1.25)])
def test_windows_of_a_cascade_end_without_a_trace(
    *, blended: bool, most: float, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A level computed in parts equals the whole level to the bit, so only windows have borders."""
    side = 200
    if not blended:
        monkeypatch.setattr(LevelPart, "weights", plain_weights)
    image = torch.from_numpy(smooth_scene(0)).permute(2, 0, 1).float() / 50 - 2.56
    start = torch.rand(2, SIZE.height, SIZE.width, generator=torch.Generator().manual_seed(2))
    part = LevelPart.whole(CascadeLevel(pitch=LEVEL0, size=SIZE), side=side)
    found = local_step(image, Canvas(values=start, box=Box.whole(SIZE), pitch=LEVEL0), Moody(), part)
    inside = found.values[S1].numpy() > 0.5
    changes = (inside[:, 1:] != inside[:, :-1]).mean(axis=0)
    along = spans(SIZE.width, side=side)
    ends = np.array([end for span in along for end in (span.kept_begin, span.kept_end) if 0 < end < SIZE.width])
    elsewhere = np.array([place for place in range(EDGE, SIZE.width - EDGE) if np.abs(ends - place).min() > 3])
    ratio = changes[ends - 1].mean() / changes[elsewhere - 1].mean()
    assert least < ratio < most


def plain_weights(part: LevelPart, window: CascadeWindow) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the weights of a plain mean of all windows."""
    found: list[NDArray[np.float32]] = []
    for length, begin, end in (
        (part.level.size.height, window.kept.y, window.kept.bottom),
        (part.level.size.width, window.kept.x, window.kept.right),
    ):
        count = np.zeros(length, np.float32)
        for span in spans(length, side=part.side):
            count[span.kept_begin : span.kept_end] += 1
        found.append(np.reciprocal(count[begin:end]))
    return found[0], found[1]

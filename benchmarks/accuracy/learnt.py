"""What a bundle's selector says of the windows of a scene, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from magnet_cli.arithmetic.canvas import reflected
from magnet_cli.geometry import Box
from magnet_cli.plan.windows import Index
from magnet_cli.train.scene_fields import patch_at

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from benchmarks.accuracy.selection import Row
    from magnet_cli.arithmetic.canvas import Canvas
    from magnet_cli.models.networks import Networks
    from magnet_cli.plan.windows import Stage
    from magnet_cli.train.scenes import Scene


@dataclass(frozen=True, kw_only=True, eq=False)
class Learnt:
    """The mean score of a selector over each window, from the patch of the window of the stage before that holds it.

    A selector that sees the field is given what that stage has come to. It looks at every window of the stage before,
    also at those that were passed over.
    """

    networks: Networks
    """With a selector."""
    scene: Scene
    sees_field: bool
    by_change: bool = False
    _patches: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    _maps: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def of(self, row: Row) -> NDArray[np.float64]:
        """Less the scores, for a low score says that a look is worth it."""
        before = row.before
        across = before.scale.width // row.stage.scale.width
        above = row.number // across
        maps = self._scored(before, above, row.canvas)
        worths = np.empty(row.stage.cells.width)
        for column in range(row.stage.cells.width):
            parent, own = Index(column=column // across, row=above), Index(column=column, row=row.number)
            worths[column] = -mean_over(maps[parent.column], child_part(before, parent, row.stage, own))
        return worths

    def _scored(self, stage: Stage, number: int, canvas: Canvas) -> NDArray[np.float64]:
        """The score maps of a row of a stage's windows, `(columns, h', w')`."""
        key = (stage.number, number)
        if self.sees_field or key not in self._maps:
            known = self._under(stage, number, canvas) if self.sees_field else None
            self._maps[key] = self.networks.score_map(self._row(stage, number), known).double()
        return self._maps[key].numpy()

    def _row(self, stage: Stage, number: int) -> Tensor:
        """The patches of a row of windows, `(columns, bands, h, w)`."""
        key = (stage.number, number)
        if key not in self._patches:
            boxes = [stage.window(Index(column=column, row=number)) for column in range(stage.cells.width)]
            spec = self.networks.bundle.input
            patches = np.stack([patch_at(self.scene, box, stage=stage, spec=spec) for box in boxes])
            self._patches[key] = torch.from_numpy(patches)
        return self._patches[key]

    @staticmethod
    def _under(stage: Stage, number: int, canvas: Canvas) -> Tensor:
        """What is known of a row of windows, `(columns, classes, h, w)`."""
        parts = []
        for column in range(stage.cells.width):
            box = stage.window(Index(column=column, row=number))
            inside = box.intersection(Box.whole(stage.extent))
            rows, columns = reflected(inside.height, box.height), reflected(inside.width, box.width)
            parts.append(canvas.view(inside).float()[:, rows[:, None], columns[None]])
        return torch.stack(parts)


def child_part(before: Stage, parent: Index, stage: Stage, own: Index) -> tuple[slice, slice]:
    """The part of a window's patch, rows and columns as shares from 0 to 1, that a window of the next stage decides."""
    patch, cell = before.window(parent), stage.own(own)
    rows = [float(edge * stage.pitch.y / before.pitch.y) - patch.y for edge in (cell.y, cell.bottom)]
    columns = [float(edge * stage.pitch.x / before.pitch.x) - patch.x for edge in (cell.x, cell.right)]
    return slice(*(edge / patch.height for edge in rows)), slice(*(edge / patch.width for edge in columns))


def mean_over(scores: NDArray[np.float64], part: tuple[slice, slice]) -> float:
    """The mean of a map `(h, w)` over a part of it, given as shares of its sides; places count by the area inside."""
    weights = []
    for side, inside in zip(scores.shape, part, strict=True):
        edges = np.arange(side + 1) / side
        share = np.minimum(edges[1:], inside.stop) - np.maximum(edges[:-1], inside.start)
        weights.append(share.clip(min=0))
    rows, columns = weights
    return float(rows @ scores @ columns / (rows.sum() * columns.sum()))

"""Which windows of a stage are worth computing: one protocol, and all that answer it.

The windows of a block's stage go through the selectors of the run, one after another. Each leaves some out, for one
reason; what no selector leaves out is computed, so what is computed is their intersection:

- `InArea`: a label that is wanted depends on it; `WithData`: a pixel of it holds data. Always, first;
- by `--patches`: nothing for `all`; `Best` for a count or a share, of each block; `Above` for a threshold;
  `Flagged` for `selector`, the cells that a GRNet chose; by `--budget`: `Paid`, of the whole image;
- `Unsettled`: a pixel of it can pass the threshold of `--points`.

`Best`, `Above` and `Paid` compare windows by what `--select` names (`worth.py`).
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from math import floor
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from magnet_cli.arithmetic.scores import rank_windows, uncertainty
from magnet_cli.plan import windows_selected
from magnet_cli.report.maps import NO_DATA, OUTSIDE, RUN, SETTLED, UNPAID, UNSELECTED
from magnet_cli.segmentation.results import largest
from magnet_cli.segmentation.window_budget import NOTHING, next_cells

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from fractions import Fraction

    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.arithmetic.canvas import Canvas
    from magnet_cli.geometry import Box, Pitch
    from magnet_cli.options.segment import MethodSettings, Rule
    from magnet_cli.plan import Plan
    from magnet_cli.plan.windows import Index, Pass, Stage, Window
    from magnet_cli.segmentation.group_reader import BlockPixels


SLACK = 1e-5
"""Interpolating in float32 may lower a certainty by a few units in the last place."""
ROWS = 512
"""Of the canvas, looked at in one go."""


@dataclass(frozen=True, kw_only=True)
class Settled:
    """Where the canvas of the stage before leaves nothing to choose."""

    canvas: Canvas
    labels: Tensor
    """The class of each canvas pixel; `(height, width)` uint8."""
    unsure: Tensor
    """Where a canvas pixel alone may pass the threshold; `(height, width)` bool."""

    @classmethod
    def of(cls, canvas: Canvas, threshold: float) -> Settled:
        """Look at a canvas.

        Args:
            canvas: Y', before it is resampled.
            threshold: That the median of a score has to exceed.
        """
        labels = torch.empty(canvas.values.shape[1:], dtype=torch.uint8, device=canvas.values.device)
        unsure = torch.empty(labels.shape, dtype=torch.bool, device=labels.device)
        for top in range(0, len(labels), ROWS):
            values = canvas.values[:, top : top + ROWS].float()
            labels[top : top + ROWS] = largest(values)
            unsure[top : top + ROWS] = ~(uncertainty(values) <= threshold - SLACK)
        return cls(canvas=canvas, labels=labels, unsure=unsure)

    def at(self, box: Box, pitch: Pitch) -> bool:
        """Whether nothing in a box of the next stage's grid can pass the threshold.

        Args:
            box: With as many pixels around it as the median reaches.
            pitch: Of the grid.
        """
        rows, columns = (taps.reach for taps in self.canvas.taps(box, pitch))
        if bool(self.unsure[rows, columns].any()):
            return False
        labels = self.labels[rows, columns]
        return bool((labels == labels[0, 0]).all())


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The windows of a block's stage, and what is known before any of them is computed."""

    plan: Plan
    step: Pass
    stage: Stage
    pixels: BlockPixels
    box: Box
    """The block's canvas at this stage."""
    windows: tuple[Window, ...]
    """All of them, row-major."""
    canvas: Canvas | None
    """Of the stage before; None in the first of a run."""
    worth: Callable[[Box], float]
    """Of a window's own part; not asked in the first stage of a run."""
    flagged: frozenset[Index] = frozenset()
    """Cells that a GRNet's selector found worth a look."""


class Selector(Protocol):
    """Leaves windows out, for one reason."""

    @property
    def fate(self) -> str:
        """The reason, as a letter of `maps`."""

    def keep(self, windows: Sequence[Window], among: Candidates) -> list[Window]:
        """Those of some windows that are worth computing, in their order.

        Args:
            windows: What other selectors have left.
            among: All windows of the stage in the block, and what is known of them.
        """


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What became of the windows of a block's stage."""

    windows: tuple[Window, ...]
    """To be computed, row-major."""
    fates: str
    """A letter for each window, also those that are left out."""


def select(among: Candidates, paid: Paid | None) -> Selection:
    """Choose the windows of a block's stage that are computed.

    Args:
        among: All of them.
        paid: Those that a budget pays for; None without one, and in the first pass.
    """
    fates = dict.fromkeys((window.cell for window in among.windows), RUN)
    left: Sequence[Window] = among.windows
    for selector in selectors(among.plan.settings, first=among.canvas is None, paid=paid):
        kept = selector.keep(left, among)
        found = {window.cell for window in kept}
        fates |= {window.cell: selector.fate for window in left if window.cell not in found}
        left = kept
    return Selection(windows=tuple(left), fates="".join(fates.values()))


def selectors(settings: MethodSettings, *, first: bool, paid: Paid | None = None) -> tuple[Selector, ...]:
    """The selectors of a stage, in order.

    Args:
        settings: Of the run.
        first: Whether the stage starts the run, with nothing known.
        paid: The windows that a budget pays for.
    """
    if first:
        return InArea(), WithData()
    return InArea(), WithData(), *_by_patches(settings.patches, paid), *_by_points(settings)


def _by_patches(rule: Rule, paid: Paid | None) -> tuple[Selector, ...]:
    if rule.kind in ("count", "share"):
        return (Best(rule=rule),)
    if rule.kind == "threshold":
        return (Above(limit=float(rule.values[0])),)
    if rule.kind == "selector":
        return (Flagged(),)
    return () if paid is None else (paid,)


def _by_points(settings: MethodSettings) -> tuple[Selector, ...]:
    if settings.points.kind != "threshold":
        return ()
    return (Unsettled(threshold=float(settings.points.values[0]), reach=settings.median // 2),)


@dataclass(frozen=True)
class InArea:
    """Windows on which a label in the area depends that is looked at."""

    fate: str = OUTSIDE

    def keep(self, windows: Sequence[Window], among: Candidates) -> list[Window]:
        """As `Selector`."""
        looked = among.pixels.looked
        if looked is None:
            return list(windows)
        wanted = looked[among.step.stages.index(among.stage)]
        return [window for window in windows if window.cell in wanted]


@dataclass(frozen=True)
class WithData:
    """Windows of which a pixel holds data."""

    fate: str = NO_DATA

    def keep(self, windows: Sequence[Window], among: Candidates) -> list[Window]:
        """As `Selector`."""
        if among.pixels.is_empty:
            return []
        valid = among.pixels.valid[among.step.stages.index(among.stage)]
        if valid is None:
            return list(windows)
        return [window for window in windows if valid[_local(window.box, among.box).slices].any()]


@dataclass(frozen=True, kw_only=True)
class Best:
    """The windows of a block that are worth most: a count or a share of them (MagNet-Fast, section 4.3)."""

    rule: Rule
    fate: str = UNSELECTED

    def keep(self, windows: Sequence[Window], among: Candidates) -> list[Window]:
        """As `Selector`; ties go to the lowest row-major index."""
        count = windows_selected(
            self.rule,
            total=len(among.windows),
            full=among.step.ratio(among.stage).pixels,
            step=among.plan.rule_step(among.stage),
        )
        return [windows[index] for index in rank_windows([among.worth(window.own) for window in windows], count)]


@dataclass(frozen=True, kw_only=True)
class Above:
    """Windows that are worth more than a limit, wherever they lie."""

    limit: float
    fate: str = UNSELECTED

    def keep(self, windows: Sequence[Window], among: Candidates) -> list[Window]:
        """As `Selector`."""
        return [window for window in windows if among.worth(window.own) > self.limit]


@dataclass(frozen=True)
class Flagged:
    """The cells that a GRNet's selector chose."""

    fate: str = UNSELECTED

    def keep(self, windows: Sequence[Window], among: Candidates) -> list[Window]:
        """As `Selector`."""
        return [window for window in windows if window.cell in among.flagged]


@dataclass(frozen=True, kw_only=True)
class Unsettled:
    """Windows in which a pixel can pass the threshold of `--points`, whatever the networks say."""

    threshold: float
    reach: int
    """Pixels beyond a window that the median sees."""
    fate: str = SETTLED

    def keep(self, windows: Sequence[Window], among: Candidates) -> list[Window]:
        """As `Selector`."""
        if among.canvas is None or not windows:
            return list(windows)
        settled = Settled.of(among.canvas, self.threshold)
        around = [window.kept.grown(self.reach).intersection(among.box) for window in windows]
        pitch = among.stage.pitch
        return [window for window, box in zip(windows, around, strict=True) if not settled.at(box, pitch)]


def _local(box: Box, canvas: Box) -> Box:
    return box.intersection(canvas).shifted(x=-canvas.x, y=-canvas.y)


@dataclass(frozen=True, kw_only=True)
class Paid:
    """The windows of a pass of one stage that a budget pays for; a `Selector`."""

    cells: NDArray[np.bool_]
    """`(rows, columns)` of the stage's cells."""
    fate: str = UNPAID

    @classmethod
    def of(cls, plan: Plan, step: Pass, finished: Mapping[int, Mapping[str, Any]]) -> Paid:
        """Choose the best windows of the image: those above one number, at most the stage's share of all with data.

        Args:
            plan: With a budget.
            step: The pass to be computed, of one stage.
            finished: The counts of each group of the pass before, with the worths that it has found.
        """
        stage, before = step.stages[0], plan.passes[step.number - 1]
        worths = np.full((stage.cells.height, stage.cells.width), NOTHING, np.uint16)
        for group, counts in finished.items():
            packed = np.frombuffer(zlib.decompress(base64.b64decode(counts["worths"])), "<u2")
            cells = (cell for block in plan.blocks(before, group) for cell in next_cells(before, stage, block))
            for cell, worth in zip(cells, packed, strict=True):
                worths[cell.row, cell.column] = worth
        known = worths != NOTHING
        return cls(cells=known & (worths > _cut(worths[known], plan.paid(stage))))

    def has(self, cell: Index) -> bool:
        """Whether a window is computed."""
        return bool(self.cells[cell.row, cell.column])

    def keep(self, windows: Sequence[Window], among: Candidates) -> list[Window]:
        """As `Selector`."""
        del among
        return [window for window in windows if self.has(window.cell)]


def _cut(worths: NDArray[np.uint16], share: Fraction) -> int:
    """The number that the worths of at most a share of them exceed."""
    count = floor(share * len(worths))
    if count >= len(worths):
        return -1
    return int(np.sort(worths)[len(worths) - count - 1])

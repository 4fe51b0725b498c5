"""Which windows of a stage are worth computing: one protocol, and all that answer it.

The windows of a block's stage go through the selectors of the run, one after another. Each leaves some out, for one
reason; what no selector leaves out is computed, so what is computed is their intersection:

- `InArea`: a label that is wanted depends on it; `WithData`: a pixel of it holds data. Always, first;
- by `--patches`: nothing for `all`; `Best` for a count or a share, of each block; `Above` for a threshold;
  `Flagged` for `selector`, the cells that a GRNet chose; by `--budget`: `WithinBudget`, of the whole
  image;
- `Unsettled`: a pixel of it can pass the threshold of `--points`.

`Best`, `Above` and `WithinBudget` compare windows by what `--select` names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from magnet_cli.arithmetic.scores import rank_windows, uncertainty
from magnet_cli.plan import windows_selected
from magnet_cli.report.maps import NO_DATA, OUTSIDE, RUN, SETTLED, UNPAID, UNSELECTED
from magnet_cli.segmentation.canvas_output import largest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from magnet_cli.arithmetic.canvas import Canvas
    from magnet_cli.geometry import Box, Pitch
    from magnet_cli.options.method_settings import MethodSettings
    from magnet_cli.options.rules import Rule
    from magnet_cli.plan.windows import Index, Stage, Window
    from magnet_cli.segmentation.bound_pass import BoundPass
    from magnet_cli.segmentation.group_reader import BlockPixels
    from magnet_cli.segmentation.window_budget import BudgetCells


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

    bound: BoundPass
    stage: Stage
    pixels: BlockPixels
    box: Box
    """The block's canvas at this stage."""
    windows: tuple[Window, ...]
    """All of them, row-major."""
    canvas: Canvas | None
    """Of the stage before; None in the first of a run."""
    score: Callable[[Box], float]
    """Of a window's own part; not asked in the first stage of a run."""
    flagged: frozenset[Index] = frozenset()
    """Cells that a GRNet's selector found worth a look."""


class Selector(Protocol):
    """Leaves windows out, for one reason."""

    @property
    def status(self) -> str:
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
    statuses: str
    """A letter for each window, also those that are left out."""


def select(among: Candidates) -> Selection:
    """Choose the windows of a block's stage that are computed.

    Args:
        among: All of its windows, and what is known of them.
    """
    statuses = dict.fromkeys((window.cell for window in among.windows), RUN)
    left: Sequence[Window] = among.windows
    for selector in selectors(among.bound.settings, first=among.canvas is None, budget=among.bound.budget):
        kept = selector.keep(left, among)
        found = {window.cell for window in kept}
        statuses |= {window.cell: selector.status for window in left if window.cell not in found}
        left = kept
    return Selection(windows=tuple(left), statuses="".join(statuses.values()))


def selectors(settings: MethodSettings, *, first: bool, budget: BudgetCells | None = None) -> tuple[Selector, ...]:
    """The selectors of a stage, in order.

    Args:
        settings: Of the run.
        first: Whether the stage starts the run, with nothing known.
        budget: The cells that a budget allows to be computed; None without one, and in the first pass.
    """
    if first:
        return InArea(), WithData()
    return InArea(), WithData(), *_by_patches(settings.patches, budget), *_by_points(settings)


def _by_patches(rule: Rule, budget: BudgetCells | None) -> tuple[Selector, ...]:
    if rule.kind in ("count", "share"):
        return (Best(rule=rule),)
    if rule.kind == "threshold":
        return (Above(limit=float(rule.values[0])),)
    if rule.kind == "selector":
        return (Flagged(),)
    return () if budget is None else (WithinBudget(cells=budget),)


def _by_points(settings: MethodSettings) -> tuple[Selector, ...]:
    if settings.points.kind != "threshold":
        return ()
    return (Unsettled(threshold=float(settings.points.values[0]), reach=settings.median // 2),)


@dataclass(frozen=True)
class InArea:
    """Windows on which a label in the area depends that is looked at."""

    status: str = OUTSIDE

    def keep(self, windows: Sequence[Window], among: Candidates) -> list[Window]:
        """As `Selector`."""
        needed = among.pixels.needed
        if needed is None:
            return list(windows)
        wanted = needed[among.bound.step.stages.index(among.stage)]
        return [window for window in windows if window.cell in wanted]


@dataclass(frozen=True)
class WithData:
    """Windows of which a pixel holds data."""

    status: str = NO_DATA

    def keep(self, windows: Sequence[Window], among: Candidates) -> list[Window]:
        """As `Selector`."""
        if among.pixels.is_empty:
            return []
        valid = among.pixels.valid[among.bound.step.stages.index(among.stage)]
        if valid is None:
            return list(windows)
        return [window for window in windows if valid[_local(window.box, among.box).slices].any()]


@dataclass(frozen=True, kw_only=True)
class Best:
    """The windows of a block that are worth most: a count or a share of them (MagNet-Fast, section 4.3)."""

    rule: Rule
    status: str = UNSELECTED

    def keep(self, windows: Sequence[Window], among: Candidates) -> list[Window]:
        """As `Selector`; ties go to the lowest row-major index."""
        count = windows_selected(
            self.rule,
            total=len(among.windows),
            full=among.bound.step.ratio(among.stage).pixels,
            step=among.bound.plan.rule_step(among.stage),
        )
        return [windows[index] for index in rank_windows([among.score(window.own) for window in windows], count)]


@dataclass(frozen=True, kw_only=True)
class Above:
    """Windows that are worth more than a limit, wherever they lie."""

    limit: float
    status: str = UNSELECTED

    def keep(self, windows: Sequence[Window], among: Candidates) -> list[Window]:
        """As `Selector`."""
        return [window for window in windows if among.score(window.own) > self.limit]


@dataclass(frozen=True)
class Flagged:
    """The cells that a GRNet's selector chose."""

    status: str = UNSELECTED

    def keep(self, windows: Sequence[Window], among: Candidates) -> list[Window]:
        """As `Selector`."""
        return [window for window in windows if window.cell in among.flagged]


@dataclass(frozen=True, kw_only=True)
class WithinBudget:
    """Windows that a budget allows to be computed, of the whole image."""

    cells: BudgetCells
    status: str = UNPAID

    def keep(self, windows: Sequence[Window], among: Candidates) -> list[Window]:
        """As `Selector`."""
        del among
        return [window for window in windows if self.cells.has(window.cell)]


@dataclass(frozen=True, kw_only=True)
class Unsettled:
    """Windows in which a pixel can pass the threshold of `--points`, whatever the networks say."""

    threshold: float
    reach: int
    """Pixels beyond a window that the median sees."""
    status: str = SETTLED

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

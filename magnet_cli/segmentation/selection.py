"""Selection of the windows of a stage that are computed: the `Selector` protocol and all rules that implement it.

The windows of a block's stage go through the selectors of the run, one after another. Each selector leaves out windows
for one reason. A window is computed if no selector leaves it out:

- `InArea` keeps windows on which a wanted label depends, and `WithData` those of which a pixel holds data. Both apply
  to every stage. They come first, so that the others rank only windows that are of use.
- `--patches` adds no selector for `all`, `Best` for a count or a share of each block, `Above` for a threshold, and
  `Flagged` for the cells that a GRNet chose. `--budget` adds `WithinBudget`, which compares windows of the whole image.
- `Unsettled` keeps windows of which a pixel can pass the threshold of `--points`.

`Best`, `Above` and `WithinBudget` compare windows by the score that `--select` names.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import torch
from typing_extensions import override

from magnet_cli.arithmetic.scores import rank_windows, uncertainty
from magnet_cli.plan import windows_selected
from magnet_cli.plan.windows import Sides
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
"""Tolerance of a threshold, because float32 interpolation may lower a certainty by a few units in the last place."""
ROWS = 512
"""Rows of a canvas that are compared with a threshold at a time, in float32."""


@dataclass(frozen=True, kw_only=True)
class Settled:
    """The places where no pixel of the next stage can pass the threshold of `--points`, whatever the networks predict.

    Q is at most the uncertainty of Y', which is interpolated from the canvas. Between pixels of one class that are all
    certain enough, interpolation stays certain. Between two classes it does not, so a box is settled only if its pixels
    have one class and none of them alone passes the threshold.
    """

    canvas: Canvas
    labels: Tensor
    """The class of each canvas pixel; `(height, width)` uint8."""
    unsure: Tensor
    """`(height, width)` bool, True for canvas pixels that are uncertain enough to pass the threshold."""

    @classmethod
    def of(cls, canvas: Canvas, threshold: float) -> Settled:
        """Compare a canvas with the threshold of the points.

        Args:
            canvas: Y' before it is resampled.
            threshold: The value that the median of the scores Q has to exceed.
        """
        labels = torch.empty(canvas.values.shape[1:], dtype=torch.uint8, device=canvas.values.device)
        unsure = torch.empty(labels.shape, dtype=torch.bool, device=labels.device)
        for top in range(0, len(labels), ROWS):
            values = canvas.values[:, top : top + ROWS].float()
            labels[top : top + ROWS] = largest(values)
            # NaN compares as false, so the negated comparison counts it as uncertain: nothing is skipped for it.
            unsure[top : top + ROWS] = ~(uncertainty(values) <= threshold - SLACK)
        return cls(canvas=canvas, labels=labels, unsure=unsure)

    def at(self, box: Box, pitch: Pitch) -> bool:
        """Return whether no pixel in a box of the next stage's grid can pass the threshold.

        Args:
            box: The pixels of a window, and those around it that the median of its pixels reaches.
            pitch: The pitch of the next stage's grid.
        """
        rows, columns = (taps.reach for taps in self.canvas.taps(box, pitch))
        if bool(self.unsure[rows, columns].any()):
            return False
        labels = self.labels[rows, columns]
        return bool((labels == labels[0, 0]).all())


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The windows of a block's stage, with everything that selectors may compare before a window is computed."""

    bound: BoundPass
    stage: Stage
    pixels: BlockPixels
    box: Box
    """The block's canvas at this stage."""
    windows: tuple[Window, ...]
    """All windows of the stage in the block, row-major."""
    canvas: Canvas | None
    """The canvas of the stage before. None in the first stage of a run."""
    score: Callable[[Box], float]
    """Function that returns the score of a window's own part.

    The first stage of a run has no scores and does not call it.
    """
    flagged: frozenset[Index] = frozenset()
    """Cells that the selector of a GRNet chose."""


class Selector(Protocol):
    """A rule that leaves windows out for one reason."""

    @property
    def status(self) -> str:
        """The status of windows that the rule leaves out: a letter of `report/maps.py`."""

    def keep(self, windows: Sequence[Window], among: Candidates) -> list[Window]:
        """Return the windows that the rule does not leave out, in the order in which they were given.

        Args:
            windows: The windows that earlier selectors have kept.
            among: All windows of the stage in the block, with what they are compared by.
        """


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The windows of a block's stage that are computed, and the statuses of all."""

    windows: tuple[Window, ...]
    """The windows that are computed, row-major."""
    statuses: str
    """The status of each window of the stage, computed or not: one letter of `report/maps.py`, row-major."""

    def of_cells(self, among: Candidates) -> str:
        """Return the status of the window of each cell of the block, row-major."""
        pairs = zip(among.windows, self.statuses, strict=True)
        found = {cell: status for window, status in pairs for cell in window.cells}
        return "".join(found[cell] for cell in among.bound.step.cells(among.pixels.block, among.stage))


def select(among: Candidates) -> Selection:
    """Choose the windows of a block's stage that are computed.

    Args:
        among: All windows of the stage in the block, with what they are compared by.
    """
    statuses = dict.fromkeys((window.cell for window in among.windows), RUN)
    left: Sequence[Window] = among.windows
    for selector in selectors(among.bound.settings, first=among.canvas is None, budget=among.bound.budget):
        kept = selector.keep(left, among)
        found = {window.cell for window in kept}
        statuses |= {window.cell: selector.status for window in left if window.cell not in found}
        left = kept
    return Selection(windows=tuple(left), statuses="".join(statuses.values()))


def sides_of(among: Candidates, selection: Selection) -> dict[Index, Sides]:
    """Return where computed windows lie beside windows that others, a limit or the budget have left out.

    Beside a window without data nothing was known before that the result could fall back to, and beside one in which no
    point can be chosen the result is what was known. Of the windows of other blocks only a budget knows which are
    computed; with other rules it is judged by what the block itself knows of them (`BeyondBlock`).

    Args:
        among: All windows of the stage in the block.
        selection: What was chosen of them.

    Returns:
        The sides of each computed window that has any.
    """
    if among.canvas is None or not among.stage.fade:
        return {}
    budget = among.bound.budget
    beyond = BeyondBlock.of(among, selection) if budget is None else None
    left_out = {
        cell
        for window, status in zip(among.windows, selection.statuses, strict=True)
        if status in (UNSELECTED, UNPAID)
        for cell in window.cells
    }

    def is_left_out(cell: Index) -> bool:
        if cell in left_out:
            return True
        return budget.leaves_out(cell) if budget is not None else beyond is not None and beyond.leaves_out(cell)

    found = ((window.cell, Sides.of(window, is_left_out, fall=among.stage.fall)) for window in selection.windows)
    return {cell: sides for cell, sides in found if sides}


@dataclass(frozen=True, kw_only=True)
class BeyondBlock:
    """What a block expects of the cells beyond its border, whose windows other blocks select.

    A block never waits for another one, but its canvas reaches a margin beyond its border. A cell there counts as left
    out if the score of this strip is not above the lowest score with which the block selects a window. If such a cell
    is computed after all, less is refined beside it than could be; if a cell is left out that was expected to be
    computed, the border is blended as between computed windows.
    """

    among: Candidates
    selection: Selection

    @classmethod
    def of(cls, among: Candidates, selection: Selection) -> BeyondBlock | None:
        """Return what the block expects. None where its rule leaves out none of its windows, or does not rank them."""
        rule = among.bound.settings.patches.kind
        is_ranked = rule in ("count", "share") and UNSELECTED in selection.statuses
        return cls(among=among, selection=selection) if is_ranked or rule == "threshold" else None

    @cached_property
    def own(self) -> frozenset[Index]:
        """The block's own cells."""
        return frozenset(cell for window in self.among.windows for cell in window.cells)

    @cached_property
    def cut(self) -> float:
        """The lowest score of the selected windows, or the limit of a threshold."""
        rule = self.among.bound.settings.patches
        if rule.kind == "threshold":
            return float(rule.values[0])
        pairs = zip(self.among.windows, self.selection.statuses, strict=True)
        return min(self.among.score(window.own) for window, status in pairs if status in (RUN, SETTLED))

    def leaves_out(self, cell: Index) -> bool:
        """Return whether a cell of another block is expected to be left out; False for the block's own cells."""
        among, stage = self.among, self.among.stage
        is_inside = 0 <= cell.row < stage.cells.height and 0 <= cell.column < stage.cells.width
        if cell in self.own or not is_inside:
            return False
        strip = stage.own(cell).intersection(among.box)
        valid = among.pixels.valid[among.bound.step.stages.index(stage)]
        # Pixels without data get no label, so that there is nothing that the result could fall back to.
        if valid is not None and not valid[_local(strip, among.box).slices].any():
            return False
        return among.score(strip) <= self.cut


def selectors(settings: MethodSettings, *, first: bool, budget: BudgetCells | None = None) -> tuple[Selector, ...]:
    """Return the selectors of a stage in the order in which they are applied.

    Args:
        settings: The settings of the method.
        first: Whether the stage starts the run, so that windows have no scores.
        budget: The cells that a budget selects. None without a budget, and in the first pass.
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
class InArea(Selector):
    """Keeps windows on which a label inside the area depends."""

    status: str = OUTSIDE

    @override
    def keep(self, windows: Sequence[Window], among: Candidates) -> list[Window]:
        needed = among.pixels.needed
        if needed is None:
            return list(windows)
        wanted = needed[among.bound.step.stages.index(among.stage)]
        return [window for window in windows if window.cell in wanted]


@dataclass(frozen=True)
class WithData(Selector):
    """Keeps windows of which a pixel holds data."""

    status: str = NO_DATA

    @override
    def keep(self, windows: Sequence[Window], among: Candidates) -> list[Window]:
        if among.pixels.is_empty:
            return []
        valid = among.pixels.valid[among.bound.step.stages.index(among.stage)]
        if valid is None:
            return list(windows)
        return [window for window in windows if valid[_local(window.box, among.box).slices].any()]


@dataclass(frozen=True, kw_only=True)
class Best(Selector):
    """Keeps the windows of a block with the highest scores: a count or a share of them (MagNet-Fast, section 4.3)."""

    rule: Rule
    status: str = UNSELECTED

    @override
    def keep(self, windows: Sequence[Window], among: Candidates) -> list[Window]:
        # Windows that earlier selectors left out do not lower the count: it is a share of all windows of the block.
        count = windows_selected(
            self.rule,
            total=len(among.windows),
            full=among.bound.step.ratio(among.stage).pixels,
            step=among.bound.plan.rule_step(among.stage),
        )
        return [windows[index] for index in rank_windows([among.score(window.own) for window in windows], count)]


@dataclass(frozen=True, kw_only=True)
class Above(Selector):
    """Keeps windows whose score is above a limit, which is the same for all blocks of the image."""

    limit: float
    status: str = UNSELECTED

    @override
    def keep(self, windows: Sequence[Window], among: Candidates) -> list[Window]:
        return [window for window in windows if among.score(window.own) > self.limit]


@dataclass(frozen=True)
class Flagged(Selector):
    """Keeps the cells that the selector of a GRNet chose."""

    status: str = UNSELECTED

    @override
    def keep(self, windows: Sequence[Window], among: Candidates) -> list[Window]:
        return [window for window in windows if window.cell in among.flagged]


@dataclass(frozen=True, kw_only=True)
class WithinBudget(Selector):
    """Keeps the windows that a budget of the whole image selects."""

    cells: BudgetCells
    status: str = UNPAID

    @override
    def keep(self, windows: Sequence[Window], among: Candidates) -> list[Window]:
        del among
        return [window for window in windows if self.cells.has(window.cell)]


@dataclass(frozen=True, kw_only=True)
class Unsettled(Selector):
    """Keeps windows in which a pixel can pass the threshold of `--points`."""

    threshold: float
    reach: int
    """Pixels beyond a window that the median of its pixels reaches."""
    status: str = SETTLED

    @override
    def keep(self, windows: Sequence[Window], among: Candidates) -> list[Window]:
        if among.canvas is None or not windows:
            return list(windows)
        settled = Settled.of(among.canvas, self.threshold)
        around = [window.reach.grown(self.reach).intersection(among.box) for window in windows]
        pitch = among.stage.pitch
        return [window for window, box in zip(windows, around, strict=True) if not settled.at(box, pitch)]


def _local(box: Box, canvas: Box) -> Box:
    return box.intersection(canvas).shifted(x=-canvas.x, y=-canvas.y)

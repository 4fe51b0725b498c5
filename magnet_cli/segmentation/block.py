"""One block on its way through the stages of a pass."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from magnet_cli.arithmetic.canvas import Canvas, reflected
from magnet_cli.arithmetic.points import Smoothed, choose_points
from magnet_cli.arithmetic.scores import certainty, share_of, uncertainty
from magnet_cli.geometry import Box
from magnet_cli.report.maps import NO_DATA, OUTSIDE, RUN, SETTLED, UNPAID, UNSELECTED
from magnet_cli.segmentation.changes import Changes, Sample
from magnet_cli.segmentation.selection import Candidates, Paid, Selection, select
from magnet_cli.segmentation.window_scores import Known, difference, spread, window_worth

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.plan import Plan
    from magnet_cli.plan.windows import Index, Pass, Stage, Window
    from magnet_cli.segmentation.group_reader import BlockPixels

STRIP = 256
"""Rows of a canvas that are resampled at a time where Y' fills what was not chosen."""


@dataclass(kw_only=True)
class StageCount:
    """What a stage did."""

    windows: int = 0
    run: int = 0
    nodata: int = 0
    outside: int = 0
    """Windows on which no label in the area depends."""
    unselected: int = 0
    """Passed over as worth less than others or than a limit."""
    unpaid: int = 0
    """Passed over as no budget pays for them."""
    settled: int = 0
    """Passed over as no point of them could be taken."""
    points: int = 0

    @classmethod
    def of(cls, selection: Selection) -> StageCount:
        """Before a window is computed."""
        found = Counter(selection.fates)
        return cls(
            windows=len(selection.fates),
            run=found[RUN],
            nodata=found[NO_DATA],
            outside=found[OUTSIDE],
            unselected=found[UNSELECTED],
            unpaid=found[UNPAID],
            settled=found[SETTLED],
        )

    def describe(self) -> dict[str, int]:
        """As JSON values."""
        return dict(vars(self))


@dataclass(kw_only=True)
class BlockState:
    """The canvas of a block, and the one that the current stage is making."""

    plan: Plan
    step: Pass
    pixels: BlockPixels
    device: torch.device
    canvas: Canvas | None
    """Of the stage before, or the field of the pass before; None where the run starts here."""
    paid: Paid | None = None
    """The windows that a budget pays for; None without one, and in the first pass."""
    moved: Canvas | None = None
    """How far the stage before moved each pixel of the canvas; None where nothing asks for it, or none has yet."""
    scored: Canvas | None = None
    """What a selector says of each pixel of the canvas; None where none is asked, and in the first stage of a run."""
    against: float = 0.0
    """What such scores are compared with."""
    counts: dict[int, StageCount] = field(default_factory=dict)
    fates: dict[int, str] = field(default_factory=dict)
    """What became of each window, by stage number; see `maps`."""
    flagged: frozenset[Index] = frozenset()
    """Cells of the next stage that a selector found worth a look."""
    samples: dict[int, Sample] = field(default_factory=dict)
    """Of what each stage changed, by number; none where nothing was known before, or no window was computed."""
    _next: Tensor = field(init=False)
    _score: Tensor | None = field(init=False, default=None)
    _box: Box = field(init=False)
    _stored: Tensor = field(init=False)
    _valid: Tensor | None = field(init=False, default=None)
    _selected: Sequence[Window] = field(init=False, default=())

    def begin(self, stage: Stage) -> Sequence[Window]:
        """Make room for a stage's result and say which windows it looks at."""
        self._box = self.step.canvas(self.pixels.block, stage)
        shape = (self.plan.classes, self._box.height, self._box.width)
        self._next = torch.empty(shape, dtype=torch.float16, device=self.device)
        if self.canvas is not None and self.plan.settings.points.kind != "all":
            self._score = torch.zeros(shape[1:], dtype=torch.float32, device=self.device)
        if self.pixels.stages and not self.pixels.is_empty:
            self._load(self.step.stages.index(stage))
        selection = select(self._candidates(stage), self.paid)
        self._selected = selection.windows
        self.counts[stage.number] = StageCount.of(selection)
        self.fates[stage.number] = selection.fates
        return self._selected

    def _candidates(self, stage: Stage) -> Candidates:
        return Candidates(
            plan=self.plan,
            step=self.step,
            stage=stage,
            pixels=self.pixels,
            box=self._box,
            windows=tuple(self.step.windows(self.pixels.block, stage)),
            canvas=self.canvas,
            worth=partial(self.worth, stage=stage),
            flagged=self.flagged,
        )

    def _load(self, number: int) -> None:
        self._stored = self._on_device(self.pixels.stages[number])
        valid = self.pixels.valid[number]
        self._valid = None if valid is None else self._on_device(valid)

    def _on_device(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)

    def _local(self, box: Box) -> Box:
        return box.intersection(self._box).shifted(x=-self._box.x, y=-self._box.y)

    def worth(self, own: Box, stage: Stage) -> float:
        """What a window of the next stage may be worth, from the canvas of the one before."""
        if self.canvas is None:
            message = "what a window is worth is known after a stage"
            raise RuntimeError(message)
        known = Known(canvas=self.canvas, moved=self.moved, scored=self.scored, against=self.against)
        return window_worth(known, own, stage.pitch, by=self.plan.settings.select)

    def has_data(self, own: Box, stage: Stage) -> bool:
        """Whether any pixel under a box of the next stage's grid holds data."""
        valid = self.pixels.kept_valid
        if self.pixels.is_empty or valid is None or self.canvas is None:
            return not self.pixels.is_empty
        rows, columns = (taps.reach for taps in self.canvas.taps(own, stage.pitch))
        return bool(valid[rows, columns].any())

    def patch(self, window: Window, into: Tensor) -> Tensor | None:
        """A window's stored pixels and validity, continued by reflection where the image is smaller than it.

        Args:
            window: Of the current stage.
            into: Filled with the stored pixels; `(h, w, bands)` float32, h and w the network's input size.

        Returns:
            Which pixels hold data, `(h, w)` bool; None where all do.
        """
        local = self._local(window.box)
        stored, valid = self._stored[local.slices], None if self._valid is None else self._valid[local.slices]
        if local.height != window.box.height or local.width != window.box.width:
            rows = torch.from_numpy(reflected(local.height, window.box.height)).to(self.device)
            columns = torch.from_numpy(reflected(local.width, window.box.width)).to(self.device)
            index = (rows[:, None], columns[None])
            # Indexing by tensors is not there for unsigned integers of 16 bits and more.
            stored, valid = stored.float()[index], None if valid is None else valid[index]
        into.copy_(stored)
        return valid

    def field_under(self, window: Window, stage: Stage) -> Tensor:
        """Y' for a patch: `(classes, h, w)` float32."""
        if self.canvas is None:
            message = "the first stage of a run has no field"
            raise RuntimeError(message)
        return self.under(self.canvas, window, stage)

    def under(self, canvas: Canvas, window: Window, stage: Stage) -> Tensor:
        """What a canvas of the block says of a patch: `(classes, h, w)` float32."""
        inside = window.box.intersection(self._box)
        under = canvas.sample(inside, stage.pitch)
        for dim, have, want in ((1, inside.height, window.box.height), (2, inside.width, window.box.width)):
            if have < want:
                under = under.index_select(dim, torch.from_numpy(reflected(have, want)).to(self.device))
        return under

    def put(self, window: Window, probs: Tensor, under: Tensor | None) -> None:
        """Take a window's result.

        Args:
            window: Of the current stage.
            probs: R (or O in the run's first stage), `(classes, h, w)` float32.
            under: Y', the same shape, where there is one.
        """
        source = window.kept.shifted(x=-window.box.x, y=-window.box.y).slices
        target = self._local(window.kept).slices
        self.keep(window, probs[:, *source])
        if self._score is not None and under is not None:
            self._score[target] = uncertainty(under[:, *source]) * certainty(probs[:, *source])

    def keep(self, window: Window, probs: Tensor) -> None:
        """Take what is kept of a window's result, `(classes, kept.height, kept.width)`."""
        self._next[:, *self._local(window.kept).slices] = probs.half()

    def finish(self, stage: Stage) -> Canvas:
        """Choose the points, keep Y' elsewhere, and make the result the block's canvas."""
        result = Canvas(values=self._next, box=self._box, pitch=stage.pitch)
        if self.pixels.is_empty:
            # Nothing of it reaches the mask, so it is not worth resampling: no opinion, as in `_fill_skipped`.
            self._next.zero_()
            self._score, self.moved, self.canvas = None, None, result
            return result
        counts = self.counts[stage.number]
        own = self.step.own(self.pixels.block, stage)
        if self.canvas is None:
            self._fill_skipped(stage)
            counts.points = sum(window.own.area for window in self._selected)
        elif self._score is None:
            counts.points = sum(window.own.area for window in self._selected)
            self._keep_field(self._covered(stage), stage)
        else:
            chosen = self._choose(own, stage)
            counts.points = int(chosen[self._local(own).slices].sum())
            self._keep_field(chosen, stage)
        if self.canvas is not None and self._selected:
            self.samples[stage.number] = Sample.of(self.canvas, result, self._valid, own=own, stage=stage)
        self.moved = self._movement(stage)
        self._score = None
        self.canvas = result
        return result

    def score(self, windows: Sequence[tuple[Window, Tensor]], stage: Stage) -> None:
        """Take what a selector says of the windows that were computed, once the stage is finished.

        A window that was not keeps what the stage before was told of the place; where nobody was, its worth is a half.

        Args:
            windows: Each with `(h', w')`, the scores of its places.
            stage: That was finished.
        """
        scored = torch.zeros((1, *self._next.shape[1:]), dtype=torch.float16, device=self.device)
        for window, scores in windows:
            source = window.kept.shifted(x=-window.box.x, y=-window.box.y).slices
            scored[:, *self._local(window.kept).slices] = spread(scores, stage.input)[:, *source]
        covered, facts = self._covered(stage), self.plan.selector
        own = self._local(self.step.own(self.pixels.block, stage)).slices
        if facts is not None and facts.against == "constant":
            self.against = facts.constant
        else:
            known = scored[0][own] if covered is None else scored[0][own][covered[own]]
            self.against = float(known.float().mean()) if known.numel() else 0.0
        if covered is not None:
            for rows, box in self._strips():
                before = self.against if self.scored is None else self.scored.sample(box, stage.pitch).half()
                scored[:, rows] = torch.where(covered[rows], scored[:, rows], before)
        self.scored = Canvas(values=scored, box=self._box, pitch=stage.pitch)

    def changes(self) -> dict[int, Changes]:
        """What each stage changed that had something to change, by number; waits for the device."""
        found = {}
        for stage in self.step.stages:
            sample = self.samples.get(stage.number)
            if sample is not None:
                cells = self.step.cells(self.pixels.block, stage)
                shape = cells[-1].row - cells[0].row + 1, cells[-1].column - cells[0].column + 1
                run = np.array([fate == RUN for fate in self.fates[stage.number]]).reshape(shape)
                own = self.step.own(self.pixels.block, stage)
                found[stage.number] = Changes.of(sample, run, own=own, stage=stage)
        return found

    def _movement(self, stage: Stage) -> Canvas | None:
        """How far the stage has moved each pixel, where windows are compared by that."""
        if self.canvas is None or self.plan.settings.select == "uncertainty":
            return None
        moved = torch.empty((1, *self._next.shape[1:]), dtype=torch.float16, device=self.device)
        for rows, box in self._strips():
            moved[0, rows] = difference(self._next[:, rows], self.canvas.sample(box, stage.pitch)).half()
        covered = self._covered(stage)
        if covered is not None:
            # A window that was passed over differs by the rounding of what it keeps, which is more than nothing and
            # would be compared with windows that moved little.
            moved[0].masked_fill_(~covered, 0)
        return Canvas(values=moved, box=self._box, pitch=stage.pitch)

    def _strips(self) -> Iterator[tuple[slice, Box]]:
        """Rows of the stage's canvas that are resampled at a time, and their box."""
        for top in range(0, self._box.height, STRIP):
            rows = slice(top, min(top + STRIP, self._box.height))
            yield rows, Box(x=self._box.x, y=self._box.y + top, width=self._box.width, height=rows.stop - top)

    def _covered(self, stage: Stage) -> Tensor | None:
        """Where selected windows lie; None where they cover the canvas."""
        if len(self._selected) == self.counts[stage.number].windows:
            return None
        covered = torch.zeros(self._next.shape[1:], dtype=torch.bool, device=self.device)
        for window in self._selected:
            covered[self._local(window.kept).slices] = True
        return covered

    def _fill_skipped(self, stage: Stage) -> None:
        """No opinion where nothing was looked at, and no label unless a later stage looks: no class has any share."""
        covered = self._covered(stage)
        if covered is not None:
            self._next.masked_fill_(~covered, 0)

    def _keep_field(self, chosen: Tensor | None, stage: Stage) -> None:
        if chosen is None or self.canvas is None:
            return
        for rows, box in self._strips():
            under = self.canvas.sample(box, stage.pitch).half()
            self._next[:, rows] = torch.where(chosen[rows], self._next[:, rows], under)

    def _choose(self, own: Box, stage: Stage) -> Tensor:
        if self._score is None:
            message = "points are chosen by a score"
            raise RuntimeError(message)
        if self._valid is not None:
            self._score.masked_fill_(~self._valid, 0)
        smoothed = Smoothed(score=self._score, side=self.plan.settings.median)
        covered = self._covered(stage)
        rule = self.plan.settings.points
        if rule.kind == "threshold":
            chosen = smoothed.above(float(rule.values[0]))
            return chosen if covered is None else chosen & covered
        ranked = self._local(own).slices
        return choose_points(smoothed, self._points(own, stage), ranked=ranked, allowed=covered)

    def _points(self, own: Box, stage: Stage) -> int:
        """How many points the block may choose: its share by area, and by windows selected (MagNet, section 4.3)."""
        rule = self.plan.settings.points
        ratio = self.step.ratio(stage)
        counts = self.counts[stage.number]
        selected = Fraction(counts.run, counts.windows)
        if rule.kind == "share":
            return share_of(rule.values[0] * own.area, selected)
        full = ratio.pixels * stage.cell.pixels
        return share_of(rule.value(self.plan.rule_step(stage)) * Fraction(own.area, full), selected)

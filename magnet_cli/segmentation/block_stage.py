"""One stage of a block while it is computed: it collects the results of windows, then chooses points and finishes."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

import torch

from magnet_cli.arithmetic.canvas import Canvas, reflected
from magnet_cli.arithmetic.merge import geometric_parts, share_of_field
from magnet_cli.arithmetic.points import SmoothedScore, choose_points
from magnet_cli.arithmetic.scores import certainty, share_of, uncertainty
from magnet_cli.geometry import Box
from magnet_cli.plan.windows import Sides
from magnet_cli.segmentation.block import StageCount
from magnet_cli.segmentation.changes import Sample
from magnet_cli.segmentation.selection import Candidates, select, sides_of
from magnet_cli.segmentation.window_scores import Known, difference, spread

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.plan.windows import Stage, Window
    from magnet_cli.segmentation.block import BlockState

STRIP = 256
"""Rows of Y' that are resampled at a time, because a whole canvas of float32 probabilities takes twice the memory of
the canvas itself."""
LEAST_WEIGHT = 1e-12
"""A number below all weights that are not 0, by which sums of 0 can be divided."""


class BlockStage:
    """A stage of a block. Its construction selects the windows to compute; `finish` replaces the block's known result.

    Args:
        state: The block before the stage.
        stage: A stage of the block's pass.
    """

    def __init__(self, state: BlockState, stage: Stage) -> None:
        bound = state.bound
        self.state = state
        self.stage = stage
        self.box = bound.step.canvas(state.pixels.block, stage)
        """The block's canvas at this stage, on the stage's grid."""
        self._before = state.known
        """Result of the stage before, or of the pass before. None in the first stage of a run."""
        # Canvases are most of the device's memory: float16 halves them, and its step is 0.0005 at most.
        shape = (bound.plan.classes, self.box.height, self.box.width)
        self._next = torch.zeros(shape, dtype=torch.float16, device=bound.device)
        # The weights of a window's rows and columns are kept, and not their product, which is as large as the window.
        self._weights: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}
        self._scores: SmoothedScore | None = None
        if self._before is not None and bound.settings.points.kind != "all":
            # Windows that are not computed keep a score of 0, which is never chosen.
            self._scores = SmoothedScore.zeros(*shape[1:], side=bound.settings.median, device=bound.device)
        self._row: tuple[Box, Tensor] | None = None
        """A row of windows, and `share_of_field` of Y' in it, `(classes, height, width)` float32."""
        self._stored: Tensor | None = None
        self._valid: Tensor | None = None
        if state.pixels.stages and not state.pixels.is_empty:
            self._load(bound.step.stages.index(stage))
        candidates = self._candidates()
        selection = select(candidates)
        self.windows = selection.windows
        """The windows that are computed, row-major."""
        self._sides = sides_of(candidates, selection)
        self.is_finished = False
        state.counts[stage.number] = StageCount.of(selection)
        state.statuses[stage.number] = selection.of_cells(candidates)

    @property
    def is_start(self) -> bool:
        """Whether the stage starts the run, with nothing to refine."""
        return self._before is None

    def patch(self, window: Window, into: Tensor) -> Tensor | None:
        """Copy a window's stored pixels, reflected where the image is smaller than the window.

        Args:
            window: A window of the stage.
            into: Tensor that receives the stored pixels, `(h, w, bands)` float32, of the network's input size.

        Returns:
            Which pixels hold data, `(h, w)` bool. None where every pixel does.

        Raises:
            RuntimeError: No pixels of the block were read.
        """
        if self._stored is None:
            message = "a block whose windows are computed was read"
            raise RuntimeError(message)
        local = self._local(window.box)
        stored, valid = self._stored[local.slices], None if self._valid is None else self._valid[local.slices]
        if local.height != window.box.height or local.width != window.box.width:
            rows = torch.from_numpy(reflected(local.height, window.box.height)).to(self._next.device)
            columns = torch.from_numpy(reflected(local.width, window.box.width)).to(self._next.device)
            index = (rows[:, None], columns[None])
            # PyTorch cannot index uint16 and uint32 tensors by tensors.
            stored, valid = stored.float()[index], None if valid is None else valid[index]
        into.copy_(stored)
        return valid

    def field_under(self, window: Window) -> Tensor:
        """Resample the block's known probabilities to a patch: `(classes, h, w)` float32.

        They are Y' before the stage is finished, and the stage's result afterwards.
        """
        return self.under(self.state.canvas, window)

    def under(self, canvas: Canvas, window: Window) -> Tensor:
        """Resample a canvas of the block to a patch, `(classes, h, w)` float32, reflected as the patch is."""
        return self._reflected(canvas.sample(window.box.intersection(self.box), self.stage.pitch), window)

    def merge(self, window: Window, own: Tensor) -> Tensor:
        """Merge O with Y' under a window by their geometric mean, and store the result as `put` does.

        Args:
            window: One of `windows`.
            own: O, `(classes, h, w)` float32.

        Returns:
            A number that is NaN if any value of the result is.
        """
        share = self._share_under(window)
        if self._scores is not None or window.cell in self._sides:
            powers, total = geometric_parts(own, share)
            self.put(window, powers.div_(total), self.field_under(window))
            return total.sum()
        self._check(is_finished=False)
        # A window that was moved in from the image's edge has a share in a part of its pixels alone.
        rows, columns = window.reach.shifted(x=-window.box.x, y=-window.box.y).slices
        powers, total = geometric_parts(own[:, rows, columns], share[:, rows, columns])
        # One factor of a pixel scales the sum of its classes to one, and weights them.
        self._add(window, powers.mul_(self.weights(window) / total))
        return total.sum()

    def _share_under(self, window: Window) -> Tensor:
        """Return `share_of_field` of Y' under a window, `(classes, h, w)` float32.

        It is made at once for a row of windows, which overlap, if all of them are computed.
        """
        box = row = window.box.intersection(self.box)
        if len(self.windows) == self.state.counts[self.stage.number].windows:
            row = Box(x=self.box.x, y=box.y, width=self.box.width, height=box.height)
        if self._row is None or self._row[0] != row:
            # The row before is let go of first.
            self._row = None
            self._row = row, share_of_field(self.state.canvas.sample(row, self.stage.pitch))
        return self._reflected(self._row[1][:, :, box.shifted(x=-row.x, y=0).slices[1]], window)

    def _reflected(self, under: Tensor, window: Window) -> Tensor:
        """Continue values under the part of a window that lies in the image as the patch is continued."""
        inside = window.box.intersection(self.box)
        for dim, have, want in ((1, inside.height, window.box.height), (2, inside.width, window.box.width)):
            if have < want:
                under = under.index_select(dim, torch.from_numpy(reflected(have, want)).to(under.device))
        return under

    def put(self, window: Window, probs: Tensor, under: Tensor | None) -> None:
        """Store the result of a window, and its scores Q before the median where points are chosen.

        Args:
            window: One of `windows`.
            probs: R, or O in the first stage of a run, `(classes, h, w)` float32.
            under: Y' of the same shape. None in the first stage of a run.

        Raises:
            RuntimeError: The stage is finished.
        """
        if under is not None and window.cell in self._sides:
            self._sides[window.cell] = self._fitted(window, probs, under)
        source = window.reach.shifted(x=-window.box.x, y=-window.box.y).slices
        self.add(window, probs[:, *source])
        if self._scores is not None and under is not None:
            score = uncertainty(under[:, *source]) * certainty(probs[:, *source])
            self._scores.score[self._local(window.reach).slices] += score * self.weights(window)

    def add(self, window: Window, probs: Tensor) -> None:
        """Add a window's result to those of the windows beside it, each by its weights.

        Args:
            window: One of `windows`.
            probs: Its result in `reach`, `(classes, reach.height, reach.width)` float32.

        Raises:
            RuntimeError: The stage is finished.
        """
        self._check(is_finished=False)
        is_weighted = not window.is_sharp or window.cell in self._sides
        self._add(window, probs * self.weights(window) if is_weighted else probs)

    def _add(self, window: Window, weighted: Tensor) -> None:
        """Add a window's result, multiplied by its weights, to those of the windows beside it."""
        target = self._next[:, *self._local(window.reach).slices]
        if window.is_sharp and window.cell not in self._sides:
            target.copy_(weighted)
        else:
            target += weighted.half()

    def weights(self, window: Window) -> Tensor:
        """Give the weights of a window, `(reach.height, reach.width)` float32 in (0, 1]."""
        box, inner, own, sides = window.reach, window.kept, window.own, self._sides.get(window.cell)
        places = ((part.x - box.x, part.y - box.y, part.width, part.height) for part in (box, inner, own))
        key = (*places, sides)
        if key not in self._weights:
            found = window.weights if sides is None else window.weights_beside(sides)
            rows, columns = (torch.from_numpy(part).to(self._next.device) for part in found)
            self._weights[key] = rows, columns
        rows, columns = self._weights[key]
        return rows[:, None] * columns

    def finish(self) -> None:
        """Choose the points, keep Y' elsewhere, and make the result the block's known probabilities.

        Raises:
            RuntimeError: The stage is finished already.
        """
        self._check(is_finished=False)
        state, before = self.state, self._before
        self._row = None
        selector = state.bound.plan.selector
        if selector is None or self.stage is state.bound.plan.stages[-1]:
            self._drop_pixels()
        result = Canvas(values=self._next, box=self.box, pitch=self.stage.pitch)
        moved = None
        if state.pixels.is_empty:
            # No label of an empty block reaches the mask, so its canvas is zeroed instead of resampled.
            self._next.zero_()
        else:
            self._choose(before)
            if before is not None and self.windows:
                own = state.bound.step.own(state.pixels.block, self.stage)
                state.samples[self.stage.number] = Sample.of(
                    before.canvas, result, self._valid, own=own, stage=self.stage
                )
            moved = self._movement(before)
        self._scores = None
        self.is_finished = True
        state.known = Known(canvas=result) if before is None else replace(before, canvas=result, moved=moved)

    def take_scores(self, windows: Sequence[tuple[Window, Tensor]]) -> None:
        """Store the scores that a patch proposal network gave to the windows that were computed.

        A window that was not computed keeps the score that its place had after the stage before. Where there is none,
        it gets the value G that scores are compared with, so that its score is sigmoid(0) = 0.5.

        Args:
            windows: Computed windows, each with the scores of its places `(h', w')`.

        Raises:
            RuntimeError: The stage is not finished.
        """
        self._check(is_finished=True)
        state, facts = self.state, self.state.bound.plan.selector
        scored = torch.zeros((1, *self._next.shape[1:]), dtype=torch.float16, device=self._next.device)
        for window, scores in windows:
            # Where patches overlap, a place has the score of the window whose kept part it lies in.
            source = window.kept.shifted(x=-window.box.x, y=-window.box.y).slices
            scored[:, *self._local(window.kept).slices] = spread(scores, self.stage.input)[:, *source]
        covered = self._covered()
        own = self._local(state.bound.step.own(state.pixels.block, self.stage)).slices
        if facts is not None and facts.against == "constant":
            against = facts.constant
        else:
            computed = scored[0][own] if covered is None else scored[0][own][covered[own]]
            against = float(computed.float().mean()) if computed.numel() else 0.0
        scored_before = None if self._before is None else self._before.scored
        if covered is not None:
            for rows, box in self._strips():
                beside = against if scored_before is None else scored_before.sample(box, self.stage.pitch).half()
                scored[:, rows] = torch.where(covered[rows], scored[:, rows], beside)
        canvas = Canvas(values=scored, box=self.box, pitch=self.stage.pitch)
        known = Known(canvas=state.canvas) if state.known is None else state.known
        state.known = replace(known, scored=canvas, against=against)
        self._drop_pixels()

    def _check(self, *, is_finished: bool) -> None:
        if self.is_finished != is_finished:
            message = f"stage {self.stage.number} of the block is {'not ' if is_finished else ''}finished"
            raise RuntimeError(message)

    def _candidates(self) -> Candidates:
        state = self.state
        return Candidates(
            bound=state.bound,
            stage=self.stage,
            pixels=state.pixels,
            box=self.box,
            windows=tuple(state.bound.step.windows(state.pixels.block, self.stage)),
            canvas=None if self._before is None else self._before.canvas,
            score=partial(state.score, stage=self.stage),
            flagged=state.flagged,
        )

    def _drop_pixels(self) -> None:
        """Let go of the stage's stored pixels. Choosing points takes the most memory, and no patch is made after it."""
        self._stored = None
        # A device may still copy from the pixels of the host.
        if self.state.pixels.stages and self._next.device.type == "cpu":
            self.state.pixels.drop(self.state.bound.step.stages.index(self.stage))

    def _load(self, number: int) -> None:
        self._stored = self._on_device(self.state.pixels.stages[number])
        valid = self.state.pixels.valid[number]
        self._valid = None if valid is None else self._on_device(valid)

    def _on_device(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._next.device, non_blocking=True)

    def _fitted(self, window: Window, probs: Tensor, under: Tensor) -> Sides:
        """Return how far a window's weight falls, from how often the classes differ from those known before.

        Args:
            window: A window beside others that were left out.
            probs: R, `(classes, h, w)`.
            under: Y' of the same shape.
        """
        differs = probs.argmax(dim=0) != under.argmax(dim=0)
        sides = [name for name, fall in vars(self._sides[window.cell]).items() if fall]
        strips = [window.strips[name].shifted(x=-window.box.x, y=-window.box.y) for name in sides]
        # All counts are fetched together, because the calling thread waits for the device.
        counts = torch.stack([differs[strip.slices].sum() for strip in strips]).tolist()
        falls = (window.fall_for(count, strip.area) for count, strip in zip(counts, strips, strict=True))
        return Sides(**dict(zip(sides, falls, strict=True)))

    def _local(self, box: Box) -> Box:
        return box.intersection(self.box).shifted(x=-self.box.x, y=-self.box.y)

    def _choose(self, before: Known | None) -> None:
        """Restore Y' wherever the result is not chosen, and count the chosen points."""
        counts = self.state.counts[self.stage.number]
        if before is not None and self._scores is not None:
            chosen = self._chosen(self._scores)
            own = self.state.bound.step.own(self.state.pixels.block, self.stage)
            counts.points = int(chosen[self._local(own).slices].sum())
            self._keep_field(before.canvas, self.share(), chosen)
            return
        counts.points = sum(window.own.area for window in self.windows)
        share = self.share()
        if share is None:
            return
        if before is not None:
            self._keep_field(before.canvas, share, None)
            return
        # Probabilities of 0 say that no class was predicted: the label is 255, unless a later stage predicts one.
        for rows, _ in self._strips():
            part = share[rows]
            self._next[:, rows] = (self._next[:, rows] / torch.where(part > 0, part, 1)).half()

    def _keep_field(self, canvas: Canvas, share: Tensor | None, chosen: Tensor | None) -> None:
        """Add what was known before, by the share that the computed windows leave, and keep it where nothing is chosen.

        Args:
            canvas: Y' before it is resampled.
            share: The summed weights of the computed windows, `(height, width)`; None where they are 1 everywhere.
            chosen: True for pixels that take the stage's result. None means all.
        """
        for rows, box in self._strips():
            under = canvas.sample(box, self.stage.pitch)
            found = self._next[:, rows]
            if share is not None:
                found = (found + (1 - share[rows]) * under).half()
            if chosen is not None:
                found = torch.where(chosen[rows], found, under.half())
            self._next[:, rows] = found

    def _movement(self, before: Known | None) -> Canvas | None:
        """Return the change of each pixel's probabilities, where `--select` compares windows by it."""
        if before is None or self.state.bound.settings.select == "uncertainty":
            return None
        moved = torch.empty((1, *self._next.shape[1:]), dtype=torch.float16, device=self._next.device)
        for rows, box in self._strips():
            moved[0, rows] = difference(self._next[:, rows], before.canvas.sample(box, self.stage.pitch)).half()
        covered = self._covered()
        if covered is not None:
            # A window that was left out differs from Y' by rounding to float16. That is more than 0, and would rank it
            # among windows that changed little.
            moved[0].masked_fill_(~covered, 0)
        return Canvas(values=moved, box=self.box, pitch=self.stage.pitch)

    def _strips(self) -> Iterator[tuple[slice, Box]]:
        """Divide the stage's canvas into strips of rows, each with its box on the stage's grid."""
        for top in range(0, self.box.height, STRIP):
            rows = slice(top, min(top + STRIP, self.box.height))
            yield rows, Box(x=self.box.x, y=self.box.y + top, width=self.box.width, height=rows.stop - top)

    def share(self) -> Tensor | None:
        """Return the summed weights of computed windows, `(height, width)` float32. None if they are 1 everywhere."""
        if len(self.windows) == self.state.counts[self.stage.number].windows and not self._sides:
            return None
        share = torch.zeros(self._next.shape[1:], dtype=torch.float32, device=self._next.device)
        for window in self.windows:
            share[self._local(window.reach).slices] += self.weights(window)
        return share

    def _covered(self) -> Tensor | None:
        """Return where computed windows have a weight, `(height, width)` bool. None where they cover the canvas."""
        share = self.share()
        return None if share is None else share > 0

    def _chosen(self, smoothed: SmoothedScore) -> Tensor:
        """Return which pixels of the canvas take the stage's result, `(height, width)` bool.

        Args:
            smoothed: Medians of Q, which is summed by the weights of the computed windows. It is overwritten.
        """
        bound = self.state.bound
        covered = self._unweighted(smoothed.score)
        if self._valid is not None:
            smoothed.score.masked_fill_(~self._valid, 0)
        rule = bound.settings.points
        if rule.kind == "threshold":
            chosen = smoothed.above(float(rule.values[0]))
            return chosen if covered is None else chosen & covered
        # Only the block's own pixels are ranked. The cut found among them holds for the rim too, whose pixels are
        # ranked in the neighbouring blocks.
        own = bound.step.own(self.state.pixels.block, self.stage)
        return choose_points(smoothed, self._points(own), ranked=self._local(own).slices, allowed=covered)

    def _unweighted(self, score: Tensor) -> Tensor | None:
        """Divide a sum over computed windows by the sum of their weights, and return where these are not 0.

        Weights that fall towards windows that were left out would lower Q too, and fewer points would be chosen there:
        the result would change at once where Q crosses the cut, and not by the slope of the weight.

        Args:
            score: The sum, `(height, width)` float32 in [0, 1]. It is overwritten.

        Returns:
            `(height, width)` bool. None where the weights sum to 1 everywhere.
        """
        share = self.share()
        if share is None:
            return None
        for rows, _ in self._strips():
            score[rows].div_(share[rows].clamp_min(LEAST_WEIGHT)).clamp_max_(1)
        return share > 0

    def _points(self, own: Box) -> int:
        """Return how many points the block may choose.

        A count is given for a whole block, and a block that the image's edge cuts gets its share by area. MagNet-Fast
        multiplies it by the share of windows that were selected (MagNet, section 4.3).
        """
        bound, counts = self.state.bound, self.state.counts[self.stage.number]
        rule, selected = bound.settings.points, Fraction(counts.run, counts.windows)
        if rule.kind == "share":
            return share_of(rule.values[0] * own.area, selected)
        full = bound.step.ratio(self.stage).pixels * self.stage.cell.pixels
        return share_of(rule.value(bound.plan.rule_step(self.stage)) * Fraction(own.area, full), selected)

"""GRNet on a group of blocks: each block is an image of the paper, and each window of its second stage is a cell.

`arithmetic/grnet_stages.py` computes the same on whole tensors, for training and as the reference in tests.
"""

from __future__ import annotations

from math import floor
from typing import TYPE_CHECKING, Protocol, cast

import torch

from magnet_cli.arithmetic.canvas import Canvas
from magnet_cli.arithmetic.grnet_stages import REACH, flags_of
from magnet_cli.segmentation.computer import Computer, Forward, Predictor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from magnet_cli.geometry import Box, Pitch
    from magnet_cli.plan.windows import Index, Stage, Window
    from magnet_cli.segmentation.block import BlockState
    from magnet_cli.segmentation.block_stage import BlockStage


class GRNetworks(Predictor, Protocol):
    """The networks of a GRNet bundle on a device."""

    @property
    def fusion(self) -> str:
        """The resolution of the fusion: `literal` is that of F^G, `detail` that of the cells (docs/grnet.md)."""

    def scores(self, patches: Tensor) -> Tensor:
        """Return F^G, the global scores of normalised patches: logits `(n, classes, h, w)` float32."""

    def selected(self, patches: Tensor) -> Tensor:
        """Return the proposal logits of the cells of normalised patches, `(n, cells * cells)` float32, row-major."""

    def cell_scores(self, patches: Tensor, probs: Tensor | None) -> Tensor:
        """Return F^R, the scores of cells magnified to patches: logits `(n, classes, h, w)` float32.

        Args:
            patches: Normalised patches of the cells.
            probs: F^G under the patches as probabilities `(n, classes, h, w)`; None for a LocalNet, which has no F^G.
        """

    def aggregate(self, refined: Tensor, scores: Tensor) -> Tensor:
        """Fuse F^E and F^G, `(n, classes, h, w)` float32 each, to logits of the same shape."""


class GRNetComputer(Computer):
    """Runs GRNet's global branch for a group of blocks, and its refinement branch for the cells that are selected."""

    _scores: dict[Index, Canvas]
    """F^G of each block of the group, kept from the first stage to the second."""

    def _run_stage(self, states: Sequence[BlockState], stage: Stage) -> None:
        if states[0].known is None:
            self._scores = {}
            self._run_global(states, stage)
        else:
            self._run_cells(states, stage)

    @property
    def _parts(self) -> GRNetworks:
        return cast("GRNetworks", self._networks)

    def _run_global(self, states: Sequence[BlockState], stage: Stage) -> None:
        blocks, batches = self._begun(states, stage)
        for batch in batches:
            with self._clock.measure("select"):
                patches = self._patches(batch, stage)
            with self._clock.measure("forward"):
                scores = self._parts.scores(patches)
                flags = flags_of(self._parts.selected(patches)) if self._selects else None
            self._check(scores.sum()[None], [batch], stage)
            with self._clock.measure("select"):
                for index, one in enumerate(batch):
                    # A block has one window of its coarsest stage.
                    one.at.put(one.window, scores[index].softmax(dim=0), None)
                    self._scores[one.block] = self._cut(one, scores[index])
                    if flags is not None:
                        one.at.state.flagged = flagged(one, flags[index])
        for block in blocks:
            self._scores.setdefault(block.state.pixels.block, self._nothing(block))
            block.finish()

    def _nothing(self, block: BlockStage) -> Canvas:
        """Return F^G of a block without data at the coarse resolution: all scores are equal.

        At the finer resolution a cell of such a block may have a few pixels with data, and is then computed.
        """
        values = torch.zeros((self._bound.plan.classes, 1, 1), device=self._networks.device)
        height, width = block.box.height, block.box.width
        return Canvas(values=values.expand(-1, height, width), box=block.box, pitch=block.stage.pitch)

    @property
    def _selects(self) -> bool:
        return self._bound.settings.patches.kind == "selector"

    def _cut(self, one: Forward, scores: Tensor) -> Canvas:
        """Return the part of a window's scores that lies in the image, as a canvas."""
        box = one.window.kept
        part = scores[:, *box.shifted(x=-one.window.box.x, y=-one.window.box.y).slices]
        return Canvas(values=part.contiguous(), box=box, pitch=one.at.stage.pitch)

    def _run_cells(self, states: Sequence[BlockState], stage: Stage) -> None:
        refined: dict[Index, Tensor] = {}
        blocks, batches = self._begun(states, stage)
        for batch in batches:
            with self._clock.measure("select"):
                patches = self._patches(batch, stage)
                known = torch.stack([self._known(one) for one in batch]).softmax(dim=1)
            with self._clock.measure("refine"):
                scores = self._parts.cell_scores(patches, known)
            self._check(scores.sum()[None], [batch], stage)
            for index, one in enumerate(batch):
                self._paste(one, scores[index], refined)
        with self._clock.measure("refine"):
            for block in blocks:
                if block.windows:
                    self._fuse(block, refined[block.state.pixels.block])
        with self._clock.measure("select"):
            for block in blocks:
                block.finish()

    def _known(self, one: Forward) -> Tensor:
        """Return F^G of a cell, magnified to a patch `(classes, h, w)`.

        Only pixels under the cell are interpolated, because the paper cuts F^G into cells before it magnifies them.
        """
        scores = self._scores[one.block]
        return one.at.under(narrowed(scores, one.window.box, one.at.stage.pitch), one.window)

    def _paste(self, one: Forward, scores: Tensor, refined: dict[Index, Tensor]) -> None:
        """Add a window's F^R to F^E by its weights; F^E is zero where no window was computed."""
        window, whole = one.window, one.at.box
        if one.block not in refined:
            refined[one.block] = torch.zeros((len(scores), whole.height, whole.width), device=scores.device)
        source = window.reach.shifted(x=-window.box.x, y=-window.box.y).slices
        target = window.reach.shifted(x=-whole.x, y=-whole.y).slices
        refined[one.block][:, *target] += scores[:, *source] * one.at.weights(window)

    def _fuse(self, block: BlockStage, refined: Tensor) -> None:
        whole, scores, pitch = block.box, self._scores[block.state.pixels.block], block.stage.pitch
        share = block.share()
        if share is not None:
            # Beside windows that are not computed, F^E is the mean of those that are; their weights count afterwards.
            refined /= torch.where(share > 0, share, 1)
        near = Canvas(values=refined, box=whole, pitch=pitch)
        if self._parts.fusion == "literal":
            fused = self._fused_small(block.windows, near, scores)
            for window in block.windows:
                block.add(window, fused.sample(window.reach, pitch).softmax(dim=0))
            return
        for window in block.windows:
            # Two 3 x 3 convolutions need REACH pixels around a cell. With them each cell is fused by itself, and the
            # 256 channels of the aggregation layer never exist for a whole block.
            around = window.reach.grown(REACH).intersection(whole)
            pair = (near.view(around), scores.sample(around, pitch))
            found = self._parts.aggregate(*(part[None] for part in pair))[0]
            cut = window.reach.shifted(x=-around.x, y=-around.y).slices
            block.add(window, found[:, *cut].softmax(dim=0))

    def _fused_small(self, windows: Sequence[Window], near: Canvas, scores: Canvas) -> Canvas:
        """Return the fused scores at the resolution of F^G, and F^G itself outside the selected cells."""
        small = near.sample(scores.box, scores.pitch)
        found, values = self._parts.aggregate(small[None], scores.values[None])[0], scores.values.clone()
        for window in windows:
            box = covered(window.reach, near.pitch, scores).shifted(x=-scores.box.x, y=-scores.box.y)
            values[:, *box.slices] = found[:, *box.slices]
        return Canvas(values=values, box=scores.box, pitch=scores.pitch)


class LocalComputer(Computer):
    """Runs the refinement branch alone on every cell, without F^G: the paper's LocalNet ("Effect of our method")."""

    def _predict(self, patches: Tensor, stage: Stage) -> Tensor:
        del stage
        return cast("GRNetworks", self._networks).cell_scores(patches, None).softmax(dim=1)


def flagged(one: Forward, flags: Tensor) -> frozenset[Index]:
    """Return the cells of a block's next stage whose centres lie in cells of the patch that the selector chose.

    The selector divides the whole patch into cells, rim included. With a margin these do not coincide with the cells of
    the block, so centres decide.

    Args:
        one: The window of the block's coarsest stage.
        flags: The selector's choice of the patch's cells, `(side * side,)` bool, row-major.
    """
    state, stage, patch = one.at.state, one.at.stage, one.window.box
    step = state.bound.step
    side = round(len(flags) ** 0.5)
    table = flags.reshape(side, side).tolist()
    finer = step.stages[step.stages.index(stage) + 1]
    ratio_x, ratio_y = finer.pitch.x / stage.pitch.x, finer.pitch.y / stage.pitch.y

    def is_chosen(cell: Index) -> bool:
        own = finer.own(cell)
        x = floor(((own.x + own.right) * ratio_x / 2 - patch.x) * side / patch.width)
        y = floor(((own.y + own.bottom) * ratio_y / 2 - patch.y) * side / patch.height)
        chosen: bool = table[min(max(y, 0), side - 1)][min(max(x, 0), side - 1)]
        return chosen

    windows = step.windows(state.pixels.block, finer)
    return frozenset(window.cell for window in windows if any(map(is_chosen, window.cells)))


def covered(box: Box, pitch: Pitch, canvas: Canvas) -> Box:
    """Return the box of a canvas's pixels that a box of another grid overlaps."""
    return canvas.pitch.around(box, pitch).intersection(canvas.box)


def narrowed(canvas: Canvas, box: Box, pitch: Pitch) -> Canvas:
    """Return the part of a canvas under a box of another grid."""
    part = covered(box, pitch, canvas)
    return Canvas(values=canvas.view(part), box=part, pitch=canvas.pitch)

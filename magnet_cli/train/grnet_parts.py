"""A GRNet as one network that can be fitted, and what each of its turns lowers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from magnet_cli.arithmetic.grnet_stages import (
    CellLayout,
    all_cells,
    chosen_cells,
    cut_out,
    flags_of,
    refine_cells,
    resized,
    segmented,
    size_of,
)
from magnet_cli.geometry import grid_cells
from magnet_cli.train.losses import summed_loss
from magnet_cli.train.proposals import SelectorObjective, evaluating

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magnet_cli.arithmetic.cells import Cell
    from magnet_cli.arithmetic.grnet_stages import Variant
    from magnet_cli.models.architectures.grnet import LocalBranch
    from magnet_cli.models.architectures.ppn import PatchProposalNetwork
    from magnet_cli.train.config import GRNetConfig, LoopConfig
    from magnet_cli.train.precision import Arithmetic

Turn = Literal["alone", "selecting", "refining"]


class GRNet(nn.Module):
    """Global branch, selector and local branch over windows that are as large as all cells' patches together.

    Args:
        backbone: The global branch.
        selector: The selector of the cells, which the variant `all` does not use.
        local: Refinement branch and aggregation layer.
        layout: The equal cells into which a window is cut.
        variant: `selected` or `all`.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        selector: PatchProposalNetwork,
        local: LocalBranch,
        layout: CellLayout,
        variant: Variant,
    ) -> None:
        super().__init__()
        self.backbone, self.selector, self.local = backbone, selector, local
        self.layout, self.variant = layout, variant

    def forward(self, x: Tensor) -> Tensor:
        """Map `(n, bands, side * h, side * w)`, normalised, to logits of that size."""
        patches = partial(cut_out, x, side=self.layout.side)
        found = segmented(self, self.overview(x), patches, layout=self.layout, variant=self.variant)
        return resized(found.scores, size_of(x))

    def overview(self, x: Tensor) -> Tensor:
        """Return I_g: windows reduced by area, `(n, bands, h, w)`."""
        return functional.avg_pool2d(x, self.layout.side)

    def overview_labels(self, labels: Tensor) -> Tensor:
        """Return `(n, side * h, side * w)` labels at the centres of the overview's pixels, `(n, h, w)`."""
        side = self.layout.side
        return labels[:, side // 2 :: side, side // 2 :: side]

    def chosen(self, overview: Tensor) -> tuple[Cell, ...]:
        """Return the cells that are refined, by the selector in its present state."""
        if self.variant == "all":
            return all_cells(len(overview), side=self.layout.side)
        with evaluating(self.selector):
            return chosen_cells(flags_of(self.selector(overview)))


@dataclass(frozen=True, kw_only=True)
class TurnObjective:
    """The objective of a GRNet in one of its turns ("Overall Loss Function", "Training")."""

    config: LoopConfig
    """The loop, whose `loss` is that of pixels."""
    weights: Tensor
    """The weights of the classes, `(classes,)` float32."""
    ignore: int
    """The label of pixels without a class."""
    turn: Turn
    shares: list[float] = field(default_factory=list)
    """The share of refined cells in each iteration of `refining`. The reader clears the list."""

    def __call__(self, network: nn.Module, inputs: Tensor, labels: Tensor, arithmetic: Arithmetic) -> Tensor:
        """Return the loss of inputs that a `GRNet` takes with labels `(n, side * h, side * w)` int64."""
        grnet = cast("GRNet", network)
        overview, small = grnet.overview(inputs), grnet.overview_labels(labels)
        if self.turn == "selecting":
            own = SelectorObjective(backbone=grnet.backbone, cells=grnet.layout.side, ignore=self.ignore)
            return own(grnet.selector, overview, small, arithmetic)
        with arithmetic.autocast():
            scores = grnet.backbone(overview)
        total = self.mean(scores, small)
        return total if self.turn == "alone" else total + self.refining(grnet, inputs, labels, scores, arithmetic)

    def refining(self, grnet: GRNet, inputs: Tensor, labels: Tensor, scores: Tensor, arithmetic: Arithmetic) -> Tensor:
        """Return L_R + L_A of the selected cells (equations 2 and 3); others are neither refined nor aggregated."""
        layout = grnet.layout
        with arithmetic.autocast():
            chosen = grnet.chosen(grnet.overview(inputs))
            patches = partial(cut_out, inputs, side=layout.side)
            closer = refine_cells(grnet.local, scores, patches, chosen, layout)
        self.shares.append(len(chosen) / (len(inputs) * layout.side**2))
        if not chosen:
            return scores.new_zeros(())
        mine = cut_out(labels[:, None], chosen, side=layout.side)[:, 0]
        fused = labels if layout.fused == size_of(labels) else grnet.overview_labels(labels)
        known = only_in(fused, chosen, side=layout.side, ignore=self.ignore)
        return self.mean(closer.refined, mine) + self.mean(closer.scores, known)

    def mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of pixels, mean over those that have a label."""
        total = summed_loss(
            logits.float(), labels, self.weights.to(logits.device), config=self.config, ignore=self.ignore
        )
        return total / max(1, int((labels != self.ignore).sum()))


def only_in(labels: Tensor, chosen: Sequence[Cell], *, side: int, ignore: int) -> Tensor:
    """Return the labels `(n, h, w)` in the chosen cells, that of pixels without a class elsewhere."""
    found = torch.full_like(labels, ignore)
    boxes = grid_cells(size_of(labels), side=side)
    for image, cell in chosen:
        found[image, *boxes[cell].slices] = labels[image, *boxes[cell].slices]
    return found


def turn_at(iteration: int, config: GRNetConfig) -> Turn:
    """Return the part whose turn an iteration is, counted from 0 ("Training": one after the other until the end)."""
    if iteration < config.alone:
        return "alone"
    if config.variant == "all":
        return "refining"
    inside = (iteration - config.alone) % (config.selecting + config.refining)
    return "selecting" if inside < config.selecting else "refining"

"""Objectives of a patch proposal network, which learns the cells where the global branch is worse than in the image."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch.nn import functional

from magnet_cli.arithmetic.grnet_stages import mean_scores, selector_labels
from magnet_cli.geometry import Size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from magnet_cli.models.architectures.ppn import PatchProposalNetwork
    from magnet_cli.train.precision import Arithmetic

SMALLEST = 1e-6
"""The smallest of the weights of a batch, where no window changes anything."""


@dataclass(frozen=True, kw_only=True)
class SelectorObjective:
    """Binary cross-entropy, mean over cells ("Patch Proposal Network", "Training PPN")."""

    backbone: nn.Module
    """The global branch, which stays as it is; on the device."""
    cells: int
    """Cells a side."""
    ignore: int
    """The label of pixels without a class. Cells of this label alone do not count."""
    minimum: float = 0.0
    """The smallest share of a class that counts, as `selector_labels` takes it."""

    def __call__(self, network: nn.Module, inputs: Tensor, labels: Tensor, arithmetic: Arithmetic) -> Tensor:
        """Return the loss of inputs `(n, bands, h, w)` with labels `(n, h, w)` int64."""
        with evaluating(self.backbone), arithmetic.autocast():
            scores = self.backbone(inputs)
        wanted, counted = selector_labels(scores, labels, side=self.cells, ignore=self.ignore, minimum=self.minimum)
        with arithmetic.autocast():
            logits = network(inputs)
        return cross_entropy(logits.float(), wanted, counted)


@dataclass(frozen=True, kw_only=True)
class FieldObjective:
    """The objective of `SelectorObjective` over given fields in place of a backbone's scores."""

    bands: int
    """First channels of the inputs; the others are the field."""
    cells: int
    """The number of cells a side; this field, `ignore` and `minimum` are those of `SelectorObjective`."""
    ignore: int
    minimum: float

    def __call__(self, network: nn.Module, inputs: Tensor, labels: Tensor, arithmetic: Arithmetic) -> Tensor:
        """Return the loss of inputs `(n, bands + classes, h, w)` with labels `(n, h, w)` int64."""
        image, field = inputs[:, : self.bands], inputs[:, self.bands :]
        wanted, counted = selector_labels(field, labels, side=self.cells, ignore=self.ignore, minimum=self.minimum)
        with arithmetic.autocast():
            logits = network(image, field)
        return cross_entropy(logits.float(), wanted, counted)


def cross_entropy(logits: Tensor, wanted: Tensor, counted: Tensor) -> Tensor:
    """Return the mean over the cells that count, of tensors `(n, cells)`."""
    losses = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return losses.where(counted, 0).sum() / counted.sum().clamp_min(1)


@dataclass(frozen=True, kw_only=True)
class GainObjective:
    """Cross-entropy of whether a window gains or loses, each weighted by how much.

    The logit is minus the score. The best one gives the share of gains in all that similar windows gain and lose, so
    a score is negative where more is gained than lost.
    """

    bands: int
    """First channels of the inputs; the others are the field."""

    def __call__(self, network: nn.Module, inputs: Tensor, labels: Tensor, arithmetic: Arithmetic) -> Tensor:
        """Return the loss of a selector's scores.

        Args:
            network: The selector.
            inputs: `(n, bands + classes, h, w)`.
            labels: `(n, k, 6)` float32 of windows: left, top, right and bottom in pixels of the patch, gain, and the
                share of labelled pixels, by which they count.
            arithmetic: The device and the precision, as `Objective` takes them.
        """
        selector = cast("PatchProposalNetwork", network)
        with arithmetic.autocast():
            scores = selector.score_map(inputs[:, : self.bands], inputs[:, self.bands :])
        size = Size(width=inputs.shape[3], height=inputs.shape[2])
        logits, gains = -mean_scores(scores, labels[..., :4], size=size), labels[..., 4]
        weights = labels[..., 5] * gains.abs()
        losses = functional.binary_cross_entropy_with_logits(logits, (gains > 0).float(), reduction="none")
        return (losses * weights).sum() / weights.sum().clamp_min(SMALLEST)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode without gradients until the block ends."""
    was = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(was)

"""What a patch proposal network learns: cells that the global branch does worse in than in the whole image."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from magnet_cli.refine.grnet import selector_labels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from magnet_cli.train.precision import Arithmetic


@dataclass(frozen=True, kw_only=True)
class SelectorObjective:
    """Binary cross-entropy, mean over cells ("Patch Proposal Network", "Training PPN")."""

    backbone: nn.Module
    """The global branch, which stays as it is; on the device."""
    cells: int
    """Cells a side."""
    ignore: int
    """The label that says nothing; cells that have no other do not count."""

    def __call__(self, network: nn.Module, inputs: Tensor, labels: Tensor, arithmetic: Arithmetic) -> Tensor:
        """See `Objective`; inputs `(n, bands, h, w)`, labels `(n, h, w)` int64."""
        with asked(self.backbone), arithmetic.autocast():
            scores = self.backbone(inputs)
        wanted, counted = selector_labels(scores, labels, side=self.cells, ignore=self.ignore)
        with arithmetic.autocast():
            logits = network(inputs)
        losses = functional.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none")
        return losses.where(counted, 0).sum() / counted.sum().clamp_min(1)


@contextmanager
def asked(network: nn.Module) -> Iterator[None]:
    """A context in which a network answers as in a run, and learns nothing."""
    was = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(was)

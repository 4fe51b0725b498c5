"""The patch proposal network (Wu and others, AAAI 2020): which cells of an image are worth a closer look."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import Tensor, nn
from torch.nn import functional

from magnet_cli.models.resnet import BasicBlock, ResNet

if TYPE_CHECKING:
    from collections.abc import Sequence

LAYERS = (3, 4)
"""Of the encoder that may be left: a ResNet has four."""


class PatchProposalNetwork(nn.Module):
    """Compares each cell of an image with the whole ("Patch Proposal Network", figure 3).

    One fully connected layer scores the mean of the deep features, G, and their mean in each cell, P. A cell's
    probability is sigmoid(G - P): it is selected where its score is not above the image's. The layer is linear, so
    where cells are equal its scores' mean is G, the logits of an image sum to zero, and at least one cell is selected.

    Args:
        bands: Channels of the input.
        cells: Cells a side.
        width: Channels of the stem.
        depths: Blocks of each layer. The paper's ResNet-18 is "without the last residual block": three layers of two,
            as we read it (stride 16), or `(2, 2, 2, 1)`.
    """

    def __init__(self, *, bands: int = 3, cells: int = 4, width: int = 64, depths: Sequence[int] = (2, 2, 2)) -> None:
        super().__init__()
        if len(depths) not in LAYERS:
            raise ValueError(f"depths must be of 3 or 4 layers, not {len(depths)}")
        if cells < 1:
            raise ValueError(f"cells must be at least 1, not {cells}")
        self.cells = cells
        self.encoder = ResNet(block=BasicBlock, depths=(*depths, 1)[: max(LAYERS)], width=width, bands=bands)
        if len(depths) < max(LAYERS):
            self.encoder.layer4 = nn.Sequential()
        self.score = nn.Linear(self.encoder.channels[len(depths) - 1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, bands, h, w)`, normalised, to the cells' logits G - P, `(n, cells * cells)` row by row."""
        deep = self.encoder(x)[-1]
        whole = self.score(deep.mean(dim=(2, 3)))
        # Where the map is no multiple of the cells, this takes every pixel that a cell touches.
        parts = functional.adaptive_avg_pool2d(deep, self.cells).flatten(2).transpose(1, 2)
        return cast("Tensor", whole - self.score(parts).squeeze(2))


def ppn_resnet18(*, bands: int = 3, cells: int = 4, depths: Sequence[int] = (2, 2, 2)) -> PatchProposalNetwork:
    """The paper's: ResNet-18 without its last layer, 2.8 million parameters."""
    return PatchProposalNetwork(bands=bands, cells=cells, depths=depths)


def ppn_small(
    *, bands: int = 3, cells: int = 4, width: int = 16, depths: Sequence[int] = (1, 1, 1)
) -> PatchProposalNetwork:
    """A slim one, for machines without an accelerator; 77 thousand parameters by default."""
    return PatchProposalNetwork(bands=bands, cells=cells, width=width, depths=depths)

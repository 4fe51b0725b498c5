"""The patch proposal network (Wu and others, AAAI 2020), which selects the cells of an image that are refined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from magnet_cli.models.architectures.resnet import BasicBlock, ResNet

if TYPE_CHECKING:
    from collections.abc import Sequence

LAYERS = (3, 4)
"""The layers of the encoder that may be left out at the end: a ResNet has four."""
SEES = ("image", "image+field")
AGAINST = ("image", "constant")
TWO = 2
"""Smallest number of classes of which one is the second best."""


class PatchProposalNetwork(nn.Module):
    """Scores the places of an image; the cells with the lowest scores are refined ("Patch Proposal Network").

    One fully connected layer scores the mean of the deep features, G, and their mean in each cell, P. A cell's
    probability is sigmoid(G - P): it is selected where its score is not above the image's (figure 3). The layer is
    linear, so a cell's score is the mean of its places' (`score_map`), and with equal cells the cells' mean is G: the
    logits of an image sum to zero, and at least one cell is selected. Where an image is one of many windows, a
    constant in G's place makes them comparable.

    Args:
        bands: Channels of the input.
        classes: Channels of the field, where the network sees one.
        cells: Cells a side.
        width: Channels of the stem.
        depths: Blocks of each layer. The paper's ResNet-18 is "without the last residual block": three layers of two,
            as we read it (stride 16), or `(2, 2, 2, 1)`.
        sees: `image`, as in the paper, or `image+field`, which adds the class probabilities of the stage before and
            their uncertainty as channels, and the uncertainty once more as a deep feature. The initial weights then
            score places by their uncertainty alone.
        against: The number that P is compared with: `image` is the paper's G, `constant` is the next argument.
        constant: The number in G's place.
    """

    def __init__(
        self,
        *,
        bands: int = 3,
        classes: int = 0,
        cells: int = 4,
        width: int = 64,
        depths: Sequence[int] = (2, 2, 2),
        sees: str = "image",
        against: str = "image",
        constant: float = 0.0,
    ) -> None:
        super().__init__()
        if len(depths) not in LAYERS:
            raise ValueError(f"depths must be of 3 or 4 layers, not {len(depths)}")
        if cells < 1:
            raise ValueError(f"cells must be at least 1, not {cells}")
        if sees not in SEES or against not in AGAINST:
            raise ValueError(f"sees must be one of {', '.join(SEES)}, and against one of {', '.join(AGAINST)}")
        if constant and against != "constant":
            raise ValueError("a constant must come with against = constant")
        self.cells, self.against, self.constant = cells, against, float(constant)
        self.sees_field = sees == "image+field"
        if self.sees_field and classes < TWO:
            raise ValueError(f"classes must be at least {TWO} where the field is seen, not {classes}")
        known = classes + 1 if self.sees_field else 0
        self.encoder_bands = bands + known
        self.encoder = ResNet(
            block=BasicBlock, depths=(*depths, 1)[: max(LAYERS)], width=width, bands=self.encoder_bands
        )
        if len(depths) < max(LAYERS):
            # An empty layer passes its input on, so the encoder still gives four maps.
            self.encoder.layer4 = nn.Sequential()
        self.score = nn.Linear(self.encoder.channels[len(depths) - 1] + int(self.sees_field), 1)
        if self.sees_field:
            with torch.no_grad():
                self.score.weight.zero_()
                self.score.weight[:, -1] = -1
                self.score.bias.zero_()

    def forward(self, x: Tensor, field: Tensor | None = None) -> Tensor:
        """Return the logits of cells, `(n, cells * cells)` row by row: G - P, or the constant - P.

        Args:
            x: `(n, bands, h, w)`, normalised.
            field: Probabilities under it, `(n, classes, h, w)`; needed where the network sees them.

        Raises:
            ValueError: The network sees the field, and there is none.
        """
        deep = self.features(x, field)
        # Where the map is no multiple of the cells, this takes every pixel that a cell touches.
        parts = functional.adaptive_avg_pool2d(deep, self.cells).flatten(2).transpose(1, 2)
        own = self.score(parts).squeeze(2)
        if self.against == "constant":
            return cast("Tensor", self.constant - own)
        return cast("Tensor", self.score(deep.mean(dim=(2, 3))) - own)

    def score_map(self, x: Tensor, field: Tensor | None = None) -> Tensor:
        """Return P of every place, `(n, h', w')` float32, h' and w' those of the deep features; see `forward`.

        The score of any area is the mean over its places.
        """
        places = self.score(self.features(x, field).permute(0, 2, 3, 1)).squeeze(3)
        return cast("Tensor", places.float())

    @property
    def joined_channels(self) -> int:
        """Channels in float32 of what `features` makes as large as its input.

        The best classes, their places in 64 bits, uncertainty, and all that the encoder sees.
        """
        return 3 * TWO + 1 + self.encoder_bands if self.sees_field else 0

    def features(self, x: Tensor, field: Tensor | None) -> Tensor:
        """Return the input of the last layer, `(n, channels, h', w')`, for the arguments of `forward`."""
        if not self.sees_field:
            return cast("Tensor", self.encoder(x)[-1])
        if field is None:
            raise ValueError("this network must be given the field")
        best, second = field.float().topk(TWO, dim=1).values.unbind(dim=1)
        unsure = (1 - (best - second)).unsqueeze(1)
        deep = self.encoder(torch.cat((x, field.to(x.dtype), unsure.to(x.dtype)), dim=1))[-1]
        return torch.cat((deep.float(), functional.adaptive_avg_pool2d(unsure, deep.shape[2:])), dim=1)


def ppn_resnet18(
    *, bands: int = 3, classes: int = 0, cells: int = 4, depths: Sequence[int] = (2, 2, 2), **seeing: Any
) -> PatchProposalNetwork:
    """Return the paper's selector, ResNet-18 without its last layer: 2.8 million parameters."""
    return PatchProposalNetwork(bands=bands, classes=classes, cells=cells, depths=depths, **seeing)


def ppn_small(
    *,
    bands: int = 3,
    classes: int = 0,
    cells: int = 4,
    width: int = 16,
    depths: Sequence[int] = (1, 1, 1),
    **seeing: Any,
) -> PatchProposalNetwork:
    """Return a slim selector for machines without an accelerator: 77 thousand parameters by default."""
    return PatchProposalNetwork(bands=bands, classes=classes, cells=cells, width=width, depths=depths, **seeing)

"""The refinement branch of a GRNet (Wu and others, AAAI 2020), and the layer that fuses it with the global branch."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from magnet_cli.models.architectures.fpn import fpn_lite0, fpn_resnet18, fpn_small

if TYPE_CHECKING:
    from collections.abc import Sequence

FUSIONS = ("literal", "detail")
AROUND = 1e-2
"""Deviation of the weights that a saliency begins with."""


class Saliency(nn.Module):
    """Weights an image by class probabilities ("Feature Extraction and Refinement", after Yu and others 2018, RSTN).

    The weights of its bands come from a 3 x 3 convolution of the class probabilities, a ReLU and a 5 x 5 convolution.
    They begin near one, so that the branch behind it first gets nearly the image itself.

    Args:
        classes: Channels of the probabilities.
        bands: Channels of the image.
    """

    def __init__(self, *, classes: int, bands: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(classes, classes, 3, padding=1)
        self.outer = nn.Conv2d(classes, bands, 5, padding=2)
        nn.init.normal_(self.outer.weight, std=AROUND)
        nn.init.ones_(cast("Tensor", self.outer.bias))

    def forward(self, image: Tensor, probs: Tensor) -> Tensor:
        """Return the image `(n, bands, h, w)`, normalised, weighted by its probabilities `(n, classes, h, w)`."""
        return cast("Tensor", image * self.outer(torch.relu(self.inner(probs))))


class LocalBranch(nn.Module):
    """A GRNet's refinement branch and aggregation layer.

    Args:
        branch: Maps normalised patches to logits of their size.
        classes: Number of logits.
        bands: Channels of the image.
        cells: Cells a side that an image is cut into.
        fusion: `literal` fuses at the global branch's resolution, as in the paper, `detail` at that of the cells.
        width: Channels of the aggregation layer ("Feature Fusion": 256).
    """

    def __init__(
        self, *, branch: nn.Module, classes: int, bands: int = 3, cells: int = 4, fusion: str = "literal", width: int
    ) -> None:
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(f"fusion must be one of {', '.join(FUSIONS)}, not {fusion!r}")
        if cells < 1:
            raise ValueError(f"cells must be at least 1, not {cells}")
        self.cells, self.fusion = cells, fusion
        self.saliency = Saliency(classes=classes, bands=bands)
        self.branch = branch
        self.aggregation = nn.Sequential(
            nn.Conv2d(2 * classes, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, classes, 1),
        )

    def forward(self, patches: Tensor, probs: Tensor | None) -> Tensor:
        """Return F^R, the scores of cells, `(n, classes, h, w)`.

        Args:
            patches: The cells of the image, `(n, bands, h, w)`, normalised.
            probs: The global branch's probabilities, `(n, classes, h, w)`; None leaves out the saliency.
        """
        seen = patches if probs is None else self.saliency(patches, probs)
        return cast("Tensor", self.branch(seen))

    def aggregate(self, refined: Tensor, scores: Tensor) -> Tensor:
        """Map F^E and F^G, `(n, classes, h, w)` each, to fused scores; a score depends on two pixels around it."""
        return cast("Tensor", self.aggregation(torch.cat((refined, scores), dim=1)))


def grnet_resnet18(
    *, classes: int, bands: int = 3, cells: int = 4, fusion: str = "literal", aggregation: int = 256
) -> LocalBranch:
    """Return the paper's local branch, an FPN over ResNet-18."""
    branch = fpn_resnet18(classes=classes, bands=bands)
    return LocalBranch(branch=branch, classes=classes, bands=bands, cells=cells, fusion=fusion, width=aggregation)


def grnet_small(
    *,
    classes: int,
    bands: int = 3,
    cells: int = 4,
    fusion: str = "literal",
    aggregation: int = 32,
    width: int = 16,
    depths: Sequence[int] = (1, 1, 1, 1),
    lateral: int = 32,
    head: int = 16,
) -> LocalBranch:
    """Return a slim local branch for machines without an accelerator: an `fpn-small` of these options."""
    branch = fpn_small(classes=classes, bands=bands, width=width, depths=depths, lateral=lateral, head=head)
    return LocalBranch(branch=branch, classes=classes, bands=bands, cells=cells, fusion=fusion, width=aggregation)


def grnet_lite0(
    *,
    classes: int,
    bands: int = 3,
    cells: int = 4,
    fusion: str = "literal",
    aggregation: int = 32,
    lateral: int = 64,
    head: int = 48,
) -> LocalBranch:
    """Return a branch over EfficientNet-Lite0, which can begin with weights of other images."""
    branch = fpn_lite0(classes=classes, bands=bands, lateral=lateral, head=head)
    return LocalBranch(branch=branch, classes=classes, bands=bands, cells=cells, fusion=fusion, width=aggregation)

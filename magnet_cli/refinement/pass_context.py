"""What the passes of a cascade share: opened files, the network, and where results go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from magnet_cli.images.protocol import NODATA

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.arithmetic.cascade.network import CascadeNetwork
    from magnet_cli.geometry import Box
    from magnet_cli.refinement.input_mask import InputMask
    from magnet_cli.refinement.refinement_plan import RefinePlan
    from magnet_cli.run.job import Resources


class Sharpener(Protocol):
    """A bundle's network on a device."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""

    def three_levels(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """The global step; see `CascadeNetwork`."""

    def two_levels(self, images: Tensor, masks: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """The local step; see `CascadeNetwork`."""

    def normalised(self, pixels: NDArray[Any]) -> Tensor:
        """`(h, w, 3)` stored values as the network wants them: `(3, h, w)` float32, on the host."""


@dataclass(frozen=True, kw_only=True)
class RefineWork:
    """What all passes of a cascade share."""

    plan: RefinePlan
    mask: InputMask
    """May be read by several threads."""
    network: Sharpener
    resources: Resources

    def pixels(self, box: Box, *, pitch: int) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """The bands that the network sees, `(height, width, 3)`, and which pixels hold data; None where all do."""
        return self.plan.seen.read(self.resources.image, box, pitch=pitch)

    def objects(self, box: Box) -> NDArray[np.uint8]:
        """Labels of a box of level 0, with 255 where there is no object either; those of classes not refined too."""
        return objects_in(self.mask.read(box), is_binary=self.plan.is_binary)


def objects_in(labels: NDArray[np.uint8], *, is_binary: bool, only: Sequence[int] = ()) -> NDArray[np.uint8]:
    """The labels with 255 for what is no object: a background, and classes that are not refined."""
    if is_binary:
        labels[labels == 0] = NODATA
    if only:
        labels[~np.isin(labels, only)] = NODATA
    return labels


class Counted:
    """A network that counts its forward passes.

    Args:
        network: What runs.
    """

    def __init__(self, network: CascadeNetwork) -> None:
        self._network = network
        self.wholes = 0
        self.windows = 0

    @property
    def device(self) -> torch.device:
        """See `CascadeNetwork`."""
        return self._network.device

    def three_levels(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """See `CascadeNetwork`."""
        self.wholes += len(images)
        return self._network.three_levels(images, masks)

    def two_levels(self, images: Tensor, masks: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """See `CascadeNetwork`."""
        self.windows += len(images)
        return self._network.two_levels(images, masks, coarse)

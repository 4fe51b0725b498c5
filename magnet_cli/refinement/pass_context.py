"""The context that the passes of a cascade share: opened files, the network, and the sink for results."""

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
    """The network of a cascade's bundle on a device."""

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""

    def three_levels(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Run the module three times, for the global step (`CascadeNetwork`)."""

    def two_levels(self, images: Tensor, masks: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """Run the module twice, for the local step (`CascadeNetwork`)."""

    def normalised(self, pixels: NDArray[Any]) -> Tensor:
        """Normalise `(h, w, 3)` stored values to the network's input: `(3, h, w)` float32 on the host."""


@dataclass(frozen=True, kw_only=True)
class RefineWork:
    """The plan, the opened files and the network that all passes of a cascade share."""

    plan: RefinePlan
    mask: InputMask
    """The open mask, which several threads may read."""
    network: Sharpener
    resources: Resources

    def pixels(self, box: Box, *, pitch: int) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Read the bands of the network, `(height, width, 3)`, and which pixels hold data; None where all do."""
        return self.plan.view.read(self.resources.image, box, pitch=pitch)

    def objects(self, box: Box) -> NDArray[np.uint8]:
        """Read the labels of objects in a box of level 0; 255 for the background of a binary mask.

        Objects of classes that are not refined are included, since they claim nothing but may be too small to change.
        """
        return objects_in(self.mask.read(box), is_binary=self.plan.is_binary)


def objects_in(labels: NDArray[np.uint8], *, is_binary: bool, only: Sequence[int] = ()) -> NDArray[np.uint8]:
    """Set the background and classes that are not refined to 255, in place, and return the labels."""
    if is_binary:
        labels[labels == 0] = NODATA
    if only:
        labels[~np.isin(labels, only)] = NODATA
    return labels


class Counted:
    """Counts the steps of a network.

    Args:
        network: The network that is run.
    """

    def __init__(self, network: CascadeNetwork) -> None:
        self._network = network
        self.wholes = 0
        self.windows = 0

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""
        return self._network.device

    def three_levels(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Run and count global steps."""
        self.wholes += len(images)
        return self._network.three_levels(images, masks)

    def two_levels(self, images: Tensor, masks: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """Run and count local steps."""
        self.windows += len(images)
        return self._network.two_levels(images, masks, coarse)

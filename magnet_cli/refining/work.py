"""What the passes of `magnet refine` share: opened files, the network, and where results go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from magnet_cli.geometry import Box, Pitch
from magnet_cli.images import Request
from magnet_cli.masks.spec import NODATA
from magnet_cli.plan import needs_clamp

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.images import Image
    from magnet_cli.masks.journal import Journal
    from magnet_cli.masks.spec import GroupId
    from magnet_cli.objects.mask import InputMask
    from magnet_cli.pipeline.clock import Clock
    from magnet_cli.refine.cascade import CascadeNetwork
    from magnet_cli.refining.plan import RefinePlan


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
    """What a run needs beside its plan."""

    plan: RefinePlan
    image: Image
    mask: InputMask
    network: Sharpener
    journal: Journal
    clock: Clock
    threads: int
    """Of the network's operations; noted with each group: a resumed run has to use as many."""

    def pixels(self, box: Box, *, pitch: int) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """The bands that the network sees, `(height, width, 3)`, and which pixels hold data; None where all do."""
        region = self.image.read([Request(pitch=Pitch.square(pitch), box=box, bands=self.plan.bands)])[0]
        return self._in_range(region.pixels), region.valid

    def _in_range(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Stored values as those of the range that the network was trained on, cut to it."""
        low, high = self.plan.value_range
        if not needs_clamp(self.plan.image, self.plan.spans) and set(self.plan.spans) == {(low, high)}:
            return pixels
        first, last = (np.array(ends, np.float32) for ends in zip(*self.plan.spans, strict=True))
        share = np.nan_to_num((pixels.astype(np.float32) - first) / (last - first)).clip(0, 1)
        return share * np.float32(high - low) + np.float32(low)

    def objects(self, box: Box) -> NDArray[np.uint8]:
        """Labels of a box of level 0, with 255 where there is no object either."""
        return hiding_background(self.mask.read(box), is_binary=self.plan.is_binary)


def hiding_background(labels: NDArray[np.uint8], *, is_binary: bool) -> NDArray[np.uint8]:
    """The labels with 255 for the background of a mask that has one."""
    if is_binary:
        labels[labels == 0] = NODATA
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


class Runner(Protocol):
    """A pass: what is read, computed and stored of a group."""

    def read(self, group: int) -> Any:
        """All that the group needs; in a thread of its own, ahead of the computation."""

    def compute(self, given: Any) -> Any:
        """What follows from it."""

    def store(self, group: GroupId, found: Any) -> dict[str, object]:
        """Put it into the journal; what the report counts of it."""

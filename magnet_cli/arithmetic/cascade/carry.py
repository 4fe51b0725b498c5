"""Detail that a coarse level cannot hold, carried over from the mask itself so that thin structures survive a cascade.

A line of one pixel vanishes when a large object is shrunk for its first level, and later levels could not recover it.
Each level therefore starts from the result of the level before, except where that result differs from the mask at this
level although the level before had changed nothing there. In such places the level starts from the mask.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from magnet_cli.arithmetic.canvas import Canvas
from magnet_cli.arithmetic.cascade.pyramid import LevelPart, cascade_levels
from magnet_cli.arithmetic.cascade.steps import BORDER, S1, S4, at_level, global_step, local_step, refine_region
from magnet_cli.geometry import LEVEL0, Box, Size

if TYPE_CHECKING:
    from torch import Tensor

    from magnet_cli.arithmetic.cascade.network import CascadeNetwork
    from magnet_cli.arithmetic.cascade.steps import CascadeSettings

CHANGED = 2
"""Channel of a canvas: 1 where a level put a pixel on the other side of one half than the mask at that level."""
CHANNELS = 3


@torch.no_grad()
def refine_object(image: Tensor, mask: Tensor, network: CascadeNetwork, settings: CascadeSettings) -> Tensor:
    """Return the mask of an object that fits in memory, refined. Details that no level could see stay as they are.

    Args:
        image: `(3, h, w)` float32, normalised for the network.
        mask: `(h, w)` float32, 0 or 1.
        network: The cascade's network.
        settings: Settings of the cascade. With the published package's arithmetic no detail of the mask is kept.

    Returns:
        `(h, w)` float32, 0 to 1, in the host's memory.

    Raises:
        WeightsError: The network gives values that are not finite.
    """
    if settings.published:
        return refine_region(image, mask, network, settings)
    size = Size(width=mask.shape[1], height=mask.shape[0])
    if max(size.width, size.height) < min(settings.least, settings.side):
        return _small(image, mask, network, settings)
    first, *finer = cascade_levels(size, side=settings.side)
    own = at_level(mask[None], first)[0]
    found = noted(global_step(at_level(image, first), own, network, pitch=first.pitch), own)
    for level in [] if settings.fast else finer:
        own = at_level(mask[None], level)[0]
        whole = Box.whole(level.size)
        start = Canvas(values=carried(found.sample(whole, level.pitch), own), box=whole, pitch=level.pitch)
        part = LevelPart.whole(level, side=settings.side)
        found = noted(local_step(at_level(image, level), start, network, part), own)
    if found.pitch == LEVEL0:
        return found.values[S1]
    return carried(found.sample(Box.whole(size), LEVEL0), mask)[S1]


def carried(start: Tensor, own: Tensor) -> Tensor:
    """Return what a level starts from.

    Args:
        start: `(3, h, w)` float32: the outputs of the level before and where it changed the mask, enlarged bilinearly.
            So a change reaches half a pixel of that level around it: as far as a border within an unchanged pixel.
        own: `(h, w)` float32: the mask at this level, the share of each pixel that is inside.

    Returns:
        `(2, h, w)` float32: outputs of strides 4 and 1, as `local_step` takes them.
    """
    # The level before put no pixel here on the other side of one half, and yet enlarging its result moves the border:
    # that difference is detail it could not see.
    unseen = ((start[S1] > BORDER) != (own > BORDER)) & (start[CHANGED] == 0)
    return torch.stack((start[S4], torch.where(unseen, own, start[S1])))


def noted(found: Canvas, own: Tensor) -> Canvas:
    """Return a level's outputs with one more channel, which is 1 where the level changed the mask.

    Args:
        found: Outputs of strides 4 and 1.
        own: `(h, w)`, the mask over the same box.
    """
    changed = (found.values[S1] > BORDER) != (own > BORDER)
    return replace(found, values=torch.cat((found.values, changed.float()[None])))


def _small(image: Tensor, mask: Tensor, network: CascadeNetwork, settings: CascadeSettings) -> Tensor:
    """Add to an enlarged region what it has lost, which a pass through a network without effect shows."""
    result = refine_region(image, mask, network, settings)
    shown = refine_region(image, mask, _Echo(device=network.device), settings)
    changed = ((result > BORDER) != (shown > BORDER)).float()[None]
    # A change reaches one pixel around it, as it does where the levels of larger regions are enlarged.
    changed = functional.max_pool2d(changed, kernel_size=3, stride=1, padding=1)
    return carried(torch.cat((result[None], result[None], changed)), mask)[S1]


@dataclass(frozen=True, kw_only=True)
class _Echo:
    """A network that gives the mask back."""

    device: torch.device

    def three_levels(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mask itself for both outputs of the global step."""
        del images
        inside = (masks + 1) / 2
        return inside, inside

    def two_levels(self, images: Tensor, masks: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mask itself for both outputs of the local step."""
        del coarse
        return self.three_levels(images, masks)

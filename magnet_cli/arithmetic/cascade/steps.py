"""CascadePSP: a mask sharpened as a whole, then at every finer resolution in overlapping windows.

What differs from the arithmetic of the published program is in docs/refine.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from magnet_cli.arithmetic.canvas import Canvas
from magnet_cli.arithmetic.cascade.area_means import area_mean
from magnet_cli.arithmetic.cascade.pyramid import CascadeLevel, LevelPart, cascade_levels, check_side
from magnet_cli.arithmetic.published.cascade_steps import refine_published
from magnet_cli.errors import WeightsError
from magnet_cli.geometry import LEVEL0, Box, Pitch, Size

if TYPE_CHECKING:
    from torch import Tensor

    from magnet_cli.arithmetic.cascade.network import CascadeNetwork

STRIDE = 8
"""Networks take sides that are multiples of it."""
S4, S1 = 0, 1
"""Channels of a canvas: the output of stride 4, and the one of stride 1."""
BORDER = 0.5
"""A mask's border runs where its probability crosses this."""


@dataclass(frozen=True, kw_only=True)
class CascadeSettings:
    """Settings for the refinement of a region."""

    side: int = 900
    """L: the longer side in the global step, and the side of the local step's windows."""
    fast: bool = False
    """Whether the global step alone is done."""
    least: int = 224
    """A region whose longer side is shorter is enlarged to it, because the network was trained on nothing smaller."""
    published: bool = False
    """Whether the arithmetic is that of the published package, which ignores `least`."""


@torch.no_grad()
def refine_region(image: Tensor, mask: Tensor, network: CascadeNetwork, settings: CascadeSettings) -> Tensor:
    """Sharpen the mask of a region that fits in memory.

    Args:
        image: `(3, h, w)` float32, normalised for the network.
        mask: `(h, w)` float32, 0 outside to 1 inside; 0 or 1 alone with `CascadeSettings.published`.
        network: The cascade's network.
        settings: The settings of the sharpening.

    Returns:
        `(h, w)` float32, 0 to 1, in the host's memory.

    Raises:
        UsageError: The side is too small for windows.
        WeightsError: The network gives values that are not finite.
    """
    check_side(settings.side)
    if settings.published:
        return refine_published(image, mask, network, side=settings.side, fast=settings.fast)
    size = Size(width=image.shape[2], height=image.shape[1])
    least = min(settings.least, settings.side)
    if max(size.width, size.height) < least:
        return _enlarged_step(image, mask, network, longest=least)
    first, *finer = cascade_levels(size, side=settings.side)
    found = global_step(at_level(image, first), at_level(mask[None], first)[0], network, pitch=first.pitch)
    for level in [] if settings.fast else finer:
        part = LevelPart.whole(level, side=settings.side)
        found = local_step(at_level(image, level), found, network, part)
    return found.sample(Box.whole(size), LEVEL0)[S1]


@torch.no_grad()
def global_step(image: Tensor, mask: Tensor, network: CascadeNetwork, *, pitch: Pitch) -> Canvas:
    """Run the three passes of the global step over a whole region.

    Args:
        image: `(3, h, w)` float32, normalised, at the resolution of the step.
        mask: `(h, w)` float32, 0 outside to 1 inside.
        network: The cascade's network.
        pitch: The pitch of the image and the mask, in pixels of the region at full size.

    Returns:
        The outputs of strides 4 and 1, `(2, h, w)` float32, on the host.
    """
    height, width = mask.shape
    found = network.three_levels(_placed(image, network), _placed(mask[None] * 2 - 1, network))
    values = _joined(found, height=height, width=width)
    return Canvas(values=values, box=Box(x=0, y=0, width=width, height=height), pitch=pitch)


@torch.no_grad()
def local_step(image: Tensor, before: Canvas, network: CascadeNetwork, part: LevelPart) -> Canvas:
    """Sharpen what some windows of a level have a share in; windows are blended where they overlap.

    Args:
        image: `(3, h, w)` float32, normalised: `part.area` on the level's grid.
        before: Outputs of the level before, of strides 4 and 1, over at least the same area.
        network: The cascade's network.
        part: The windows that are computed.

    Returns:
        The outputs of strides 4 and 1 over `part.box`, `(2, h, w)` float32, on the host: at each pixel the mean of the
        part's windows by their weights.
    """
    start = before.sample(part.area, part.level.pitch)
    changes = local_changes(image, start, network, part)
    box = part.box.shifted(x=-part.area.x, y=-part.area.y).slices
    found = changes[:, *box]
    rows, columns = (torch.from_numpy(share) for share in part.shares(part.box))
    # The weights of all windows of a level sum to one, and a quotient would only change the last digits.
    if part != LevelPart.whole(part.level, side=part.side):
        found = found / (rows[:, None] * columns)
    return Canvas(values=(start[:, *box] + found).clamp_(0, 1), box=part.box, pitch=part.level.pitch)


@torch.no_grad()
def local_changes(image: Tensor, start: Tensor, network: CascadeNetwork, part: LevelPart) -> Tensor:
    """Run two passes over each window that holds a border of the mask, and add up what windows change.

    Each window counts by its weights, which fall towards its rim and sum to one over all windows of the level. A
    window without a border changes nothing, so that it leaves no edge beside one that runs.

    Args:
        image: `(3, h, w)` float32, normalised: `part.area` on the level's grid.
        start: The outputs of strides 4 and 1 of the level before, enlarged, `(2, h, w)` float32 over the same area.
        network: The cascade's network.
        part: The windows.

    Returns:
        What is to be added to `start`, of the same shape, on the host.
    """
    area, changes = part.area, torch.zeros_like(start)
    # Sums of floating-point numbers depend on their order, so windows are always added in that of `windows`.
    for window in part.windows:
        rows, columns = window.box.shifted(x=-area.x, y=-area.y).slices
        if not holds_border(start[S1, rows, columns]):
            continue
        # The network takes masks from -1 to 1, as the published one does.
        s4, s1 = (_placed(start[None, channel, rows, columns] * 2 - 1, network) for channel in (S4, S1))
        found = network.two_levels(_placed(image[:, rows, columns], network), s1, s4)
        outputs = _joined(found, height=window.box.height, width=window.box.width)
        inner = window.kept.shifted(x=-window.box.x, y=-window.box.y).slices
        outer = window.kept.shifted(x=-area.x, y=-area.y).slices
        down, across = (torch.from_numpy(weights) for weights in part.weights(window))
        changes[:, *outer] += (outputs[:, *inner] - start[:, *outer]) * (down[:, None] * across)
    return changes


def holds_border(mask: Tensor) -> bool:
    """Return whether a mask of probabilities has pixels on both sides of one half; thin structures and specks count."""
    inside = mask > BORDER
    return bool(inside.any()) and not bool(inside.all())


def at_level(values: Tensor, level: CascadeLevel) -> Tensor:
    """Return the full-size values `(channels, h, w)` at a level: the mean of what each of its pixels covers."""
    if level.pitch == LEVEL0:
        return values
    rows = area_mean(values, dim=1, pitch=level.pitch.y, count=level.size.height)
    return area_mean(rows, dim=2, pitch=level.pitch.x, count=level.size.width)


def _enlarged_step(image: Tensor, mask: Tensor, network: CascadeNetwork, *, longest: int) -> Tensor:
    """Return the global step over a small region, enlarged as the published programs do."""
    height, width = mask.shape
    factor = longest / max(height, width)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    # Modes follow the published programs, on which the networks were trained: bicubic for images, bilinear for masks,
    # and area means on the way back.
    larger = functional.interpolate(image[None], size, mode="bicubic", align_corners=False)[0]
    mask = functional.interpolate(mask[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    found = global_step(larger, mask, network, pitch=LEVEL0)
    return functional.interpolate(found.values[None, S1:], (height, width), mode="area")[0, 0]


def _placed(values: Tensor, network: CascadeNetwork) -> Tensor:
    """Return `(channels, h, w)` as a batch on the network's device, padded by its edge to multiples of 8."""
    height, width = values.shape[-2:]
    return functional.pad(values[None].to(network.device), (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")


def _joined(found: tuple[Tensor, Tensor], *, height: int, width: int) -> Tensor:
    """Join both outputs of a chain of passes, `(2, height, width)` float32 on the host."""
    outputs = torch.cat(found, dim=1)[0, :, :height, :width].float().cpu()
    if not bool(torch.isfinite(outputs).all()):
        raise WeightsError(
            "the network gave values that are not finite numbers",
            advice="Check the weights with 'magnet weights verify', or use --precision float32",
        )
    return outputs

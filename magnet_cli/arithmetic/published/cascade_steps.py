"""The arithmetic of the published CascadePSP package, for its weights. docs/refine.md lists the differences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch.nn import functional

from magnet_cli.arithmetic.cascade.pyramid import local_windows
from magnet_cli.geometry import Size

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.arithmetic.cascade.network import CascadeNetwork

STRIDE = 8
INSIDE = 127
"""Stored values above this are inside."""
EMPTY, FULL = 0.1, 0.9
"""Windows whose share of inside pixels is below or above are left alone."""
OUTSIDE = -1.0

Mode = Literal["area", "bilinear", "bicubic"]


def published_mask(values: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return what the package takes for inside, in an 8-bit mask: more than 127, so that a mask of 0 and 1 is empty."""
    return values > INSIDE


def published_bytes(probabilities: Tensor) -> NDArray[np.uint8]:
    """Return what the package returns of probabilities `(h, w)`: 255 times them, without the fraction."""
    return (probabilities.numpy() * 255).astype(np.uint8)


def refine_published(image: Tensor, mask: Tensor, network: CascadeNetwork, *, side: int, fast: bool) -> Tensor:
    """Return a mask sharpened as the package does.

    Args:
        image: `(3, h, w)` float32, normalised.
        mask: `(h, w)` float32, 0 or 1.
        network: The cascade's network.
        side: The side L of the windows.
        fast: The global step alone.

    Returns:
        `(h, w)` float32, 0 to 1, on the host.
    """
    whole, masks = image[None], mask[None, None] * 2 - 1
    s4, s1 = _global(whole, masks, network, side=side)
    if fast:
        return _back(s1, height=mask.shape[0], width=mask.shape[1], side=side)[0, 0]
    return _local(whole, s4, s1, network, side=side)[0, 0]


def _global(image: Tensor, masks: Tensor, network: CascadeNetwork, *, side: int) -> tuple[Tensor, Tensor]:
    """Run three passes with the longer side at about `side`, shrunk by area and enlarged bicubically."""
    longest = max(image.shape[2:])
    if longest != side:
        ratio = side / longest
        image = _resized(image, ratio, "area" if ratio < 1 else "bicubic")
        masks = _resized(masks, ratio, "area" if ratio < 1 else "bilinear")
    return _padded(network, image, masks)


def _resized(values: Tensor, ratio: float, mode: Mode) -> Tensor:
    """Resize by a factor: the size is rounded down, after a product that may fall short of the intended side."""
    aligned = None if mode == "area" else False
    return functional.interpolate(values, scale_factor=ratio, mode=mode, align_corners=aligned)


def _back(s1: Tensor, *, height: int, width: int, side: int) -> Tensor:
    """Return the fast mode's result at the image's size."""
    if max(height, width) < side:
        return functional.interpolate(s1, (height, width), mode="area")
    if max(height, width) == side:
        return s1
    return functional.interpolate(s1, (height, width), mode="bilinear", align_corners=True)


def _local(image: Tensor, s4: Tensor, s1: Tensor, network: CascadeNetwork, *, side: int) -> Tensor:
    """Return two passes over each window at full size, from the global result cut at one half."""
    size = Size(width=image.shape[3], height=image.shape[2])
    # The package cuts the global result at one half before the local step. So one pixel near one half can change a
    # whole window.
    inside = (_enlarged(s1, size) > 0.5).float()  # noqa: PLR2004  one half
    masks, coarse = inside * 2 - 1, _enlarged(s4, size) * 2 - 1
    total, count = torch.zeros_like(inside), torch.zeros_like(inside)
    for window in local_windows(size, side=side):
        at = (..., *window.box.slices)
        if not EMPTY <= inside[at].mean() <= FULL:
            continue
        _, found = _padded(network, image[at], masks[at], coarse[at])
        kept = (..., *window.kept.slices)
        total[kept] += found[(..., *window.kept.shifted(x=-window.box.x, y=-window.box.y).slices)]
        count[kept] += 1
    return torch.where(count > 0, total / count.clamp_min(1), inside)


def _enlarged(values: Tensor, size: Size) -> Tensor:
    return functional.interpolate(values, (size.height, size.width), mode="bilinear", align_corners=False)


def _padded(network: CascadeNetwork, image: Tensor, *masks: Tensor) -> tuple[Tensor, Tensor]:
    """Run a step over sides that are padded to multiples of 8. If only one needs padding, the other one grows by 8."""
    height, width = image.shape[2:]
    if height % STRIDE or width % STRIDE:
        # The package pads both sides if one needs it, the aligned one by 8.
        grown = (0, STRIDE - width % STRIDE, 0, STRIDE - height % STRIDE)
    else:
        grown = (0, 0, 0, 0)
    placed = functional.pad(image, grown).to(network.device)
    first, *coarse = (functional.pad(mask, grown, value=OUTSIDE).to(network.device) for mask in masks)
    found = network.two_levels(placed, first, *coarse) if coarse else network.three_levels(placed, first)
    s4, s1 = (output[:, :, :height, :width].float().cpu() for output in found)
    return s4, s1

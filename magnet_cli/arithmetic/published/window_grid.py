"""Windows of the published programs: where they lie, what is cut out of a map for them, and how they are joined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from magnet_cli.errors import UsageError
from magnet_cli.geometry import Box

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.geometry import Size


def place_windows(stage: Size, *, crop: Size) -> tuple[Box, ...]:
    """Return the windows of a stage: columns from left to right, each from top to bottom.

    Neighbours overlap where the sides do not divide. The published step is rounded down, so the last window, moved to
    the edge, may lie a few pixels from the one before it: those pixels are in no window and are not refined.

    Args:
        stage: Size of the whole image resized for the stage.
        crop: Size of every window, in pixels of the stage.

    Raises:
        UsageError: If the crop is larger than the stage.
    """
    if crop.width > stage.width or crop.height > stage.height:
        raise UsageError(
            "no stage may be smaller than the window cut from it",
            value=f"windows of {crop} in a stage of {stage}",
            advice="Use scales no larger than the image, or the default method, which reflects what an image lacks",
        )
    return tuple(
        Box(x=x, y=y, width=crop.width, height=crop.height)
        # Columns come first in the published program. The order matters for equal uncertainties, of which the first
        # wins.
        for x in _starts(stage.width, crop.width)
        for y in _starts(stage.height, crop.height)
    )


def _starts(side: int, crop: int) -> tuple[int, ...]:
    """Return the first pixel of each window along one axis.

    The last window is moved to the edge, which its step may miss.
    """
    count = -(-side // crop)
    step = (side - crop) // max(count - 1, 1)
    return (*(k * step for k in range(count - 1)), side - crop)


def window_shares(boxes: Sequence[Box], *, size: Size) -> NDArray[np.float32]:
    """Return the boxes as shares of `size`: (n, 4) float32 of left, top, right, bottom, in 0..1."""
    edges = [
        (box.x / size.width, box.y / size.height, box.right / size.width, box.bottom / size.height) for box in boxes
    ]
    return np.array(edges, np.float32).reshape(-1, 4)


@dataclass(frozen=True, kw_only=True)
class PublishedCutOut:
    """Averages over the bins of a rectangle of a map, from bilinear samples ("RoIAlign").

    Each bin is sampled at `ceil(bin size)` points an axis.
    """

    size: Size
    """The size of the result, in bins."""
    shifted: bool
    """Whether pixel values are taken to lie at whole coordinates instead of at pixel centres: the content then moves by
    half a pixel to the top-left and is blurred. The published programs were trained and tested like this."""

    def many(self, maps: Tensor, regions: NDArray[np.float32]) -> Tensor:
        """Return the cut-outs of several regions: (n, channels, size.height, size.width); `one` describes the rest."""
        return torch.stack([self.one(maps, region) for region in regions])

    def one(self, maps: Tensor, region: NDArray[np.float32]) -> Tensor:
        """Return the cut-out of one region.

        Args:
            maps: (channels, H, W), float.
            region: Left, top, right, bottom in pixels of `maps`, float32.

        Returns:
            (channels, size.height, size.width), of the type and on the device of `maps`.
        """
        left, top, right, bottom = region
        down = self._samples(top, bottom, bins=self.size.height, side=maps.shape[1])
        across = self._samples(left, right, bins=self.size.width, side=maps.shape[2])
        part = maps[:, down.first : down.last + 1, across.first : across.last + 1].contiguous()
        rows = down.mean(part)
        return across.mean(rows.transpose(1, 2).contiguous()).transpose(1, 2)

    def _samples(self, first: np.float32, last: np.float32, *, bins: int, side: int) -> _Samples:
        """Return the positions at which the bins between two edges sample an axis of `side` pixels."""
        # The first version of RoIAlign, which the published program uses, makes a region at least one pixel wide and
        # takes values to lie at whole coordinates.
        extent = max(last - first, np.float32(1)) if self.shifted else last - first
        per_bin = extent / np.float32(bins)
        count = int(np.ceil(per_bin))
        start = first if self.shifted else first - np.float32(0.5)
        offset = (np.arange(count, dtype=np.float32) + np.float32(0.5)) * per_bin / np.float32(count)
        position = (start + np.arange(bins, dtype=np.float32)[:, None] * per_bin + offset).ravel()
        clipped = np.clip(position, 0, side - 1)
        low = clipped.astype(np.int64)
        return _Samples(
            bins=bins,
            low=low,
            high=np.minimum(low + 1, side - 1),
            weight=clipped - low.astype(np.float32),
            # RoIAlign reads 0 more than a pixel outside, and the border pixel nearer to it.
            inside=(position >= -1) & (position <= side),
        )


@dataclass(frozen=True, kw_only=True)
class _Samples:
    """Points along one axis, the same number in each bin; those more than a pixel outside count as 0."""

    bins: int
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    weight: NDArray[np.float32]
    inside: NDArray[np.bool_]

    @property
    def first(self) -> int:
        """The first pixel that is read."""
        return int(self.low[0])

    @property
    def last(self) -> int:
        """The last pixel that is read."""
        return int(self.high[-1])

    def mean(self, maps: Tensor) -> Tensor:
        """Return `(channels, bins, other)`: means of bins along the middle axis of maps cut to `first`..`last`."""
        low, high = (
            maps.index_select(1, torch.from_numpy(index - self.first).to(maps.device))
            for index in (self.low, self.high)
        )
        weight, inside = (
            torch.from_numpy(values).to(device=maps.device, dtype=maps.dtype)[:, None]
            for values in (self.weight, self.inside)
        )
        values = low.lerp_(high, weight).mul_(inside)
        return values.reshape(maps.shape[0], self.bins, -1, maps.shape[2]).mean(dim=2)


class OverlapMean:
    """Collects patches over a stage; where they overlap their mean counts, where there is none the value is 0."""

    def __init__(self, *, classes: int, size: Size, device: torch.device) -> None:
        self._sum = torch.zeros((classes, size.height, size.width), device=device)
        self._count = torch.zeros((size.height, size.width), device=device)

    def add(self, patch: Tensor, box: Box) -> None:
        """Add one patch, (classes, h, w) float32 of any size: it is resized to the box, bilinear."""
        rows, columns = box.slices
        self._sum[:, rows, columns] += resize_bilinear(patch, height=box.height, width=box.width)
        self._count[rows, columns] += 1

    @property
    def covered(self) -> Tensor:
        """(H, W) bool: the pixels that some patch reached."""
        return self._count > 0

    def mean(self) -> Tensor:
        """Return the mean of the patches on each pixel, (classes, H, W) float32; 0 where there is none."""
        return self._sum / self._count.clamp(min=1)


def resize_bilinear(maps: Tensor, *, height: int, width: int) -> Tensor:
    """Return (channels, height, width): maps (channels, h, w) resized, pixel centres aligned, without antialiasing."""
    if maps.shape[1:] == (height, width):
        return maps
    return functional.interpolate(maps[None], (height, width), mode="bilinear", align_corners=False)[0]

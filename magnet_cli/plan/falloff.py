"""The fall of a window's or a block's weight along one axis, at a border where it is blended with its neighbour."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.options.segment import Blend


def rising(start: int, count: int, *, border: int, fade: int, blend: Blend) -> NDArray[np.float64]:
    """Return the weights of what lies after a border: 0 before the blend, 1 after it, 1/2 at the border.

    What lies before the border has one minus these weights, so that both sum to one.

    Args:
        start: First pixel.
        count: The number of pixels.
        border: The pixel before which the border lies.
        fade: Pixels on either side of the border that are blended, one or more.
        blend: `linear`, or `spline`: the cubic whose slope is 0 at both ends.
    """
    # At the centres of pixels, so that the pixels on both sides of a border have weights that mirror each other.
    centres = start + np.arange(count) + 0.5
    share = np.clip((centres - (border - fade)) / (2 * fade), 0, 1)
    # The cubic 3t^2 - 2t^3 has slope 0 at 0 and 1, so a blend begins and ends without an edge in the probabilities.
    return share * share * (3 - 2 * share) if blend == "spline" else share


def lowered(distance: NDArray[np.float64], *, fade: int, fall: int) -> NDArray[np.float64]:
    """Return the factor by which a window's weight is lowered towards a neighbour that is not computed.

    With a linear blend the product of both is `t sqrt(t)`, where t falls in a straight line from 1 to 0, from `fall`
    pixels before the border to `fade` pixels behind it.

    Args:
        distance: Of pixels' centres from the border, negative on the window's side.
        fade: Pixels on either side of a border over which computed neighbours are blended, one or more.
        fall: Pixels before the border over which the weight falls, at least as many.
    """
    # A result that is surer than what was known wins at a low weight already: along a straight line half of the classes
    # that change would do so in its last third. The root makes low weights last longer, and so spreads the changes.
    root = np.sqrt(np.clip((fade - distance) / (fade + fall), 0, 1))
    # The weight of the window is 1 as far as `fade` pixels before the border, and is multiplied by a constant behind.
    return np.clip((fade - np.minimum(distance, -fade)) / (fade + fall), 0, 1) * root


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The pixels of a window along an axis."""

    start: int
    end: int
    fade: int
    blend: Blend
    rises: bool
    """Whether another window lies before it; without one its weight is 1 up to the first pixel."""
    falls: bool
    """Whether another window lies after it."""

    def weights(self, first: int, count: int) -> NDArray[np.float32]:
        """Return the weights of some pixels, `(count,)`."""
        # PyTorch warns of arrays that cannot be written, so the caller gets one of its own.
        return _interval_weights(self, first, count).copy()


@lru_cache(maxsize=256)
def _interval_weights(interval: Interval, first: int, count: int) -> NDArray[np.float32]:
    """Return what `Interval.weights` does. All windows of a row have equal rows, and all of a column columns."""
    found = np.ones(count)
    if interval.rises:
        found *= rising(first, count, border=interval.start, fade=interval.fade, blend=interval.blend)
    if interval.falls:
        found *= 1 - rising(first, count, border=interval.end, fade=interval.fade, blend=interval.blend)
    return found.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Every other block along an axis, from the first or from the second on."""

    parity: int
    """0 for the blocks 0, 2, 4, ...; 1 for the others."""
    period: int
    """Pixels from one border to the next."""
    count: int
    """The number of blocks along the axis."""
    fade: int
    blend: Blend

    def weights(self, first: int, count: int) -> NDArray[np.float32]:
        """Return the weights of some pixels, `(count,)`, read-only; 0 where no block of this parity has a share."""
        return _weights_of(self, first, count)

    def runs(self, first: int, count: int) -> tuple[slice, ...]:
        """Return the runs of some pixels in which a block of this parity has a share, counted from the first pixel."""
        return _runs_of(self, first, count)


@lru_cache(maxsize=256)
def _runs_of(blocks: Parity, first: int, count: int) -> tuple[slice, ...]:
    there = blocks.weights(first, count) > 0
    ends = np.flatnonzero(np.diff(there, prepend=False, append=False)).tolist()
    return tuple(slice(start, stop) for start, stop in zip(ends[::2], ends[1::2], strict=True))


@lru_cache(maxsize=256)
def _weights_of(blocks: Parity, first: int, count: int) -> NDArray[np.float32]:
    """Return what `Parity.weights` does. All blocks of a row ask for the same rows, and all of a column for columns."""
    pixels = first + np.arange(count)
    # The sides of the image are no borders between blocks, so pixels there are weighed by the nearest inner border.
    nearest = np.clip((pixels + blocks.period // 2) // blocks.period, 1, max(1, blocks.count - 1))
    after = np.zeros(count)
    for border in np.unique(nearest):
        mine = nearest == border
        there = np.flatnonzero(mine)
        part = rising(
            first + int(there[0]), len(there), border=int(border) * blocks.period, fade=blocks.fade, blend=blocks.blend
        )
        after[mine] = part if border % 2 == blocks.parity else 1 - part
    if blocks.count == 1:
        after[:] = 1 if blocks.parity == 0 else 0
    found = after.astype(np.float32)
    found.flags.writeable = False
    return found


def parities(*, period: int, count: int, fade: int, blend: Blend) -> tuple[Parity, ...]:
    """Return the blocks of an axis by parity; one where there is a single block."""
    return tuple(
        Parity(parity=parity, period=period, count=count, fade=fade, blend=blend) for parity in range(min(2, count))
    )

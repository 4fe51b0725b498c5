"""Canvases of probabilities, and resampling between the exact grids of two stages."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.geometry import Box, Pitch


MOST_PHASES = 8
"""Weights that output pixels may have in turn for those of one weight to be interpolated together: a stage twice as
fine has two. With more of them each is too small a piece of work."""


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """Probabilities over a box of a grid."""

    values: Tensor
    """`(classes, box.height, box.width)` float16 in [0, 1]; float32 between the levels of a cascade."""
    box: Box
    """The box on the canvas's own grid that the values cover."""
    pitch: Pitch
    """The size of a value, in level-0 pixels."""

    def sample(self, box: Box, pitch: Pitch) -> Tensor:
        """Return the canvas under a box of another grid: bilinear, pixel centres aligned, replicated at its border.

        Args:
            box: A box on the other grid.
            pitch: The pitch of the other grid.

        Returns:
            `(classes, box.height, box.width)` float32.
        """
        return self.resampled(box, pitch).float()

    def resampled(self, box: Box, pitch: Pitch) -> Tensor:
        """Return the values of `sample`; a view in the canvas's own type where nothing has to be interpolated."""
        rows, columns = self.taps(box, pitch)
        # Only pixels that taps read are converted to float32, because a canvas is much larger than a patch.
        needed = columns.narrowed(rows.narrowed(self.values, dim=1), dim=2)
        # Columns are enlarged first, while there are few rows.
        return rows.apply(columns.apply(needed, dim=2), dim=1)

    def spots(self, box: Box, pitch: Pitch, *, rows: slice, columns: slice) -> Tensor:
        """Sample some rows and columns of a box of another grid, as `sample` does for all of them.

        Args:
            box: A box on the other grid.
            pitch: The pitch of the other grid.
            rows: The few rows of the box that are wanted.
            columns: The few columns of the box that are wanted.

        Returns:
            `(classes, rows, columns)` float32.
        """
        down, across = (taps.only(part) for taps, part in zip(self.taps(box, pitch), (rows, columns), strict=True))
        # Rows are sampled first here, because few of them are left for the second step.
        some = down.apply(down.narrowed(self.values, dim=1), dim=1)
        return across.apply(across.narrowed(some, dim=2), dim=2).float()

    def taps(self, box: Box, pitch: Pitch) -> tuple[CanvasTaps, CanvasTaps]:
        """Return how rows and columns of a box of another grid are interpolated.

        Args:
            box: A box on the other grid.
            pitch: The pitch of the other grid.
        """
        rows = CanvasTaps.between(
            start=box.y, count=box.height, ratio=pitch.y / self.pitch.y, origin=self.box.y, length=self.box.height
        )
        columns = CanvasTaps.between(
            start=box.x, count=box.width, ratio=pitch.x / self.pitch.x, origin=self.box.x, length=self.box.width
        )
        return rows, columns

    def view(self, box: Box) -> Tensor:
        """Return the values in a box of the canvas's own grid, not copied; `(classes, box.height, box.width)`."""
        rows, columns = box.shifted(x=-self.box.x, y=-self.box.y).slices
        return self.values[:, rows, columns]


@dataclass(frozen=True, kw_only=True)
class CanvasTaps:
    """Linear interpolation along one axis: two neighbours and the weight of the second, for every output pixel."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    weight: NDArray[np.float32]
    ratio: Fraction
    """Input pixels from one output pixel to the next."""

    @classmethod
    def between(cls, *, start: int, count: int, ratio: Fraction, origin: int, length: int) -> CanvasTaps:
        """Return the taps of output pixels `start ... start + count`, whose pitch is `ratio` times the input's.

        Args:
            start: First output pixel, on its own grid.
            count: The number of output pixels.
            ratio: Input pixels that one output pixel covers, exact.
            origin: The input grid's pixel that the input array begins with.
            length: Input pixels in the array; positions beyond it are clamped.
        """
        up, down = ratio.numerator, ratio.denominator
        # The centre of output pixel j lies at (j + 1/2) * ratio - 1/2 in index terms: integers until the last division.
        place = (2 * start + 1) * up - down - 2 * origin * down
        return _taps(place, up, down, count=count, length=length)

    def only(self, part: slice) -> CanvasTaps:
        """Return the taps of some output pixels that are evenly spaced."""
        ratio = self.ratio * (part.step or 1)
        return CanvasTaps(first=self.first[part], second=self.second[part], weight=self.weight[part], ratio=ratio)

    @cached_property
    def reach(self) -> slice:
        """The input pixels that are read."""
        return slice(int(self.first[0]), int(self.second[-1]) + 1)

    @cached_property
    def is_slice(self) -> bool:
        """Whether the taps copy a run of neighbouring pixels."""
        # Where both grids coincide values are copied: an identity has to give its input back to the bit.
        return not self.weight.any() and bool((np.diff(self.first) == 1).all())

    def narrowed(self, values: Tensor, dim: int) -> Tensor:
        """Return a view of what the taps read along a dimension; `apply` takes it."""
        return values.narrow(dim, self.reach.start, self.reach.stop - self.reach.start)

    def apply(self, narrowed: Tensor, dim: int) -> Tensor:
        """Interpolate along a dimension; float32, or a view of `narrowed` where nothing has to be interpolated."""
        if self.is_slice:
            return narrowed.narrow(dim, 0, len(self.first))
        if self.ratio.denominator <= MOST_PHASES:
            return self._phase_by_phase(narrowed.float(), dim)
        shape = [1] * narrowed.dim()
        shape[dim] = -1
        device = narrowed.device
        weight = torch.from_numpy(self.weight).to(device).reshape(shape)
        first, second = (torch.from_numpy(index - self.first[0]).to(device) for index in (self.first, self.second))
        if dim == narrowed.dim() - 1:
            # `index_select` copies runs of memory: of single values it is ten times slower than `gather` on a CPU.
            wide = narrowed.float()
            near, far = (wide.gather(dim, index.expand(*wide.shape[:-1], -1)) for index in (first, second))
        else:
            near, far = (narrowed.index_select(dim, index).float() for index in (first, second))
        return near.lerp_(far, weight)

    def _phase_by_phase(self, narrowed: Tensor, dim: int) -> Tensor:
        """Interpolate the output pixels that have the same weight together: what they read lies evenly spaced."""
        begin, end = self._unclamped
        shape = list(narrowed.shape)
        shape[dim] = len(self.first)
        result = narrowed.new_empty(shape)
        last = narrowed.shape[dim] - 1
        # Outside the outermost pixel centres both taps are the same pixel, which a strided slice cannot express.
        for edge, source in ((slice(0, begin), 0), (slice(end, None), last)):
            _strided(result, dim, edge).copy_(narrowed.narrow(dim, source, 1))
        step, phases = self.ratio.numerator, self.ratio.denominator
        for start in range(begin, min(begin + phases, end)):
            near = int(self.first[start] - self.first[0])
            span = len(range(start, end, phases)) * step
            one, other = (_strided(narrowed, dim, slice(at, at + span, step)) for at in (near, near + 1))
            weight = float(self.weight[start])
            torch.lerp(one, other, weight, out=_strided(result, dim, slice(start, end, phases)))
        return result

    @cached_property
    def _unclamped(self) -> tuple[int, int]:
        """The run of output pixels that lie between two input pixels; those before and after it copy the outermost."""
        begin = int(np.searchsorted(self.second, self.first[0], side="right"))
        return begin, max(begin, int(np.searchsorted(self.first, self.second[-1])))


@lru_cache(maxsize=64)
def _taps(place: int, up: int, down: int, *, count: int, length: int) -> CanvasTaps:
    """Return what `CanvasTaps.between` does. Windows of one row or column, and blocks of one size, have equal taps.

    Args:
        place: The place of the first output pixel among the input pixels, times `2 * down`.
        up: Numerator of the ratio.
        down: Denominator of the ratio.
        count: The number of output pixels.
        length: Input pixels in the array.
    """
    index, rest = np.divmod(place + 2 * up * np.arange(count, dtype=np.int64), 2 * down)
    # The one division comes last. Positions in floating point would drift by a part of a pixel at 100,000 pixels a
    # side.
    weight = (rest / (2 * down)).astype(np.float32)
    # Clamped indices replicate the border pixel, whatever the weight is.
    first = np.clip(index, 0, length - 1)
    second = np.clip(index + 1, 0, length - 1)
    return CanvasTaps(first=first, second=second, weight=weight, ratio=Fraction(up, down))


def _strided(values: Tensor, dim: int, part: slice) -> Tensor:
    return values[(slice(None),) * dim + (part,)]


def reflected(length: int, count: int) -> NDArray[np.int64]:
    """Return the indices that continue `length` pixels to `count` by symmetric reflection, as often as needed."""
    # Symmetric reflection repeats the border pixel (cba|abc|cba), so it works for a single pixel too, where the other
    # kind of reflection is undefined.
    index = np.arange(count, dtype=np.int64) % (2 * length)
    return np.where(index < length, index, 2 * length - 1 - index)

"""The resolutions at which CascadePSP sharpens a region, and where its windows lie: exact fractions and integers."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Self

import numpy as np

from magnet_cli.errors import UsageError
from magnet_cli.geometry import LEVEL0, Box, Pitch, Size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

RIM = 16
"""Pixels of a window's output that are thrown away at each side that is not the region's border."""
SMALLEST_SIDE = 66
"""Smallest side of a window. Windows lie half a side less twice the rim apart, which must be at least one pixel."""


@dataclass(frozen=True, kw_only=True)
class CascadeLevel:
    """One resolution of a region."""

    pitch: Pitch
    """Size of the level's pixels, in pixels of the region at full size."""
    size: Size
    """Pixels that cover the region; the last ones may reach beyond it."""


@dataclass(frozen=True, kw_only=True)
class CascadeWindow:
    """A window of one pass of the local step."""

    box: Box
    """The box on the level's grid."""
    kept: Box
    """The part of the window whose output counts."""


@dataclass(frozen=True, kw_only=True)
class LevelPart:
    """Neighbouring windows of a level, which are computed together: a block of a large level, or all of its windows.

    Every window of a level belongs to one block. Where windows of several blocks overlap, the level is the mean of
    what the blocks say, weighted by `shares`.
    """

    level: CascadeLevel
    side: int
    """The side of the windows, in pixels of the level."""
    rows: range
    """Numbers of the rows of windows, in the order of `spans`."""
    columns: range
    """Numbers of the columns of windows."""

    @classmethod
    def whole(cls, level: CascadeLevel, *, side: int) -> Self:
        """Return all windows of a level.

        Args:
            level: The level.
            side: The side of the windows.
        """
        rows, columns = (len(spans(length, side=side)) for length in (level.size.height, level.size.width))
        return cls(level=level, side=side, rows=range(rows), columns=range(columns))

    @property
    def _spans(self) -> tuple[list[Span], list[Span]]:
        size = self.level.size
        rows, columns = spans(size.height, side=self.side), spans(size.width, side=self.side)
        return [rows[number] for number in self.rows], [columns[number] for number in self.columns]

    @property
    def windows(self) -> tuple[CascadeWindow, ...]:
        """The windows in the order in which they are added up: column by column, from the top of each."""
        rows, columns = self._spans
        return tuple(column.crossed(row) for column in columns for row in rows)

    @property
    def box(self) -> Box:
        """The pixels in which some window of the part has a share, on the level's grid."""
        rows, columns = self._spans
        return Box.between(
            left=columns[0].kept_begin,
            top=rows[0].kept_begin,
            right=columns[-1].kept_end,
            bottom=rows[-1].kept_end,
        )

    @property
    def area(self) -> Box:
        """The box around all windows, over which the image and the coarser masks are needed."""
        rows, columns = self._spans
        return Box.between(left=columns[0].begin, top=rows[0].begin, right=columns[-1].end, bottom=rows[-1].end)

    def weights(self, window: CascadeWindow) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the weights of the rows and of the columns of a window's kept part; their product is a pixel's."""
        size = self.level.size
        rows, columns = falloffs(size.height, side=self.side), falloffs(size.width, side=self.side)
        return rows[window.box.y], columns[window.box.x]

    def shares(self, box: Box) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the summed weights of the part's windows in the rows and in the columns of a box.

        Their product is the part's share in a pixel: 0 outside `box`, and one in all where no other part has one.

        Args:
            box: A box of the level.
        """
        size = self.level.size
        rows, columns = self._spans
        return (
            _summed(rows, falloffs(size.height, side=self.side), begin=box.y, count=box.height),
            _summed(columns, falloffs(size.width, side=self.side), begin=box.x, count=box.width),
        )


def level_parts(level: CascadeLevel, *, side: int, reach: int) -> list[list[LevelPart]]:
    """Divide the windows of a level into blocks, `[row][column]`.

    Args:
        level: The level.
        side: The side L of the windows.
        reach: The most L between the first pixel of a block's first window and that of its last.
    """
    count = 1 + reach * side // (side // 2 - 2 * RIM)
    rows, columns = (
        [range(start, min(start + count, total)) for start in range(0, total, count)]
        for total in (len(spans(length, side=side)) for length in (level.size.height, level.size.width))
    )
    return [[LevelPart(level=level, side=side, rows=down, columns=across) for across in columns] for down in rows]


def cascade_levels(size: Size, *, side: int) -> tuple[CascadeLevel, ...]:
    """Return the levels of a region, the global step's first, full size last.

    The global step sees the region with its longer side at `side`. The local steps end at full size and begin at the
    coarsest halving of it that is finer than the global step, so that none more than doubles the resolution.

    Args:
        size: The size of the region.
        side: The side L of the windows; a region whose longer side is below it has the global step alone, at full size.

    Raises:
        UsageError: The side is too small for windows.
    """
    check_side(side)
    longest = max(size.width, size.height)
    if longest < side:
        return (CascadeLevel(pitch=LEVEL0, size=size),)
    pitches = [Fraction(longest, side), Fraction(1)]
    # Levels halve from full size upward, so that all but the first lie on grids of whole pixels.
    while longest > side * pitches[1] * 2:
        pitches.insert(1, pitches[1] * 2)
    squares = [Pitch.square(pitch) for pitch in pitches]
    return tuple(CascadeLevel(pitch=pitch, size=pitch.cover(size)) for pitch in squares)


def check_side(side: int) -> None:
    """Accept a side that windows can have.

    Raises:
        UsageError: The side is too small.
    """
    if side < SMALLEST_SIDE:
        rule = f"windows have a side of at least {SMALLEST_SIDE} pixels"
        raise UsageError(rule, value=side, advice="Take a side of 900, as the published programs do")


def local_windows(size: Size, *, side: int) -> Iterator[CascadeWindow]:
    """Yield the windows of a level, column by column, from the top of each."""
    rows = spans(size.height, side=side)
    for column in spans(size.width, side=side):
        yield from (column.crossed(row) for row in rows)


@dataclass(frozen=True, kw_only=True)
class Span:
    """A window along one axis."""

    begin: int
    end: int
    kept_begin: int
    kept_end: int

    def crossed(self, rows: Span) -> CascadeWindow:
        """Return the window that this is the width of, and another the height."""
        box = Box.between(left=self.begin, right=self.end, top=rows.begin, bottom=rows.end)
        kept = Box.between(left=self.kept_begin, right=self.kept_end, top=rows.kept_begin, bottom=rows.kept_end)
        return CascadeWindow(box=box, kept=kept)


def spans(length: int, *, side: int) -> list[Span]:
    """Return the windows along one axis, `side // 2 - 32` apart, the last one moved back to the end.

    Every pixel is in the kept part of one. Where the axis is shorter than a window, one window is as long as the axis.
    """
    last = max(0, length - side)
    # Windows overlap by half: a pixel near one window's rim lies in the middle of another.
    starts = [*range(0, last, side // 2 - 2 * RIM), last]
    return [
        Span(
            begin=start,
            end=min(length, start + side),
            kept_begin=start + RIM if start else 0,
            kept_end=length if start == last else start + side - RIM,
        )
        for start in starts
    ]


@lru_cache(maxsize=64)
def falloffs(length: int, *, side: int) -> Mapping[int, NDArray[np.float32]]:
    """Return the weights of windows along one axis, by their first pixel: in (0, 1], and summing to one at each pixel.

    They fall from the middle of a window's kept part to its ends in a straight line, but not where it ends with the
    level, and are divided by their sum.

    Args:
        length: Pixels of the level along the axis.
        side: The side of the windows.
    """
    found, total = {}, np.zeros(length)
    for span in spans(length, side=side):
        centres = np.arange(span.kept_begin, span.kept_end) + 0.5
        half = (span.kept_end - span.kept_begin) / 2
        weights = np.ones(len(centres))
        if span.begin:
            weights = np.minimum(weights, (centres - span.kept_begin) / half)
        if span.end < length:
            weights = np.minimum(weights, (span.kept_end - centres) / half)
        total[span.kept_begin : span.kept_end] += weights
        found[span.begin] = (span, weights)
    return {
        begin: (weights / total[span.kept_begin : span.kept_end]).astype(np.float32)
        for begin, (span, weights) in found.items()
    }


def _summed(
    along: Sequence[Span], weights: Mapping[int, NDArray[np.float32]], *, begin: int, count: int
) -> NDArray[np.float32]:
    """Add up the weights of windows along an axis over some of its pixels, `(count,)`."""
    total = np.zeros(count, np.float32)
    for span in along:
        first, last = max(begin, span.kept_begin), min(begin + count, span.kept_end)
        if first < last:
            start = span.kept_begin
            total[first - begin : last - begin] += weights[span.begin][first - start : last - start]
    return total

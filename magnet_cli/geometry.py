"""Boxes, sizes and sampling grids: integers and exact fractions, no files and no tensors.

Every coordinate is continuous and starts at the top-left corner of level 0: pixel `i` of a grid with pitch `p` covers
`[i * p, (i + 1) * p)` level-0 pixels, so its centre lies at `(i + 1/2) * p`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import ceil, floor
from typing import Self


@dataclass(frozen=True, kw_only=True, order=True)
class Size:
    """A width and a height, in pixels; both at least one."""

    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            message = f"a size is at least 1 x 1 pixel, got {self.width} x {self.height}"
            raise ValueError(message)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def brief(self) -> str:
        """The side of a square, and both sides of another rectangle, as `--scales` takes them: `64`, `64x32`."""
        return str(self.width) if self.width == self.height else str(self)

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height


@dataclass(frozen=True, kw_only=True, order=True)
class Box:
    """A half-open rectangle of whole pixels on some grid: `[x, x + width) x [y, y + height)`; it may be empty."""

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 0 or self.height < 0:
            message = f"a box has no negative side, got {self.width} x {self.height}"
            raise ValueError(message)

    def __str__(self) -> str:
        return f"[{self.x}, {self.y}, {self.width}, {self.height}]"

    @classmethod
    def between(cls, *, left: int, top: int, right: int, bottom: int) -> Self:
        """Return the box with these edges; empty where right or bottom does not exceed left or top."""
        return cls(x=left, y=top, width=max(0, right - left), height=max(0, bottom - top))

    @classmethod
    def whole(cls, size: Size) -> Self:
        """Return the box that covers an image of this size."""
        return cls(x=0, y=0, width=size.width, height=size.height)

    @property
    def right(self) -> int:
        """The first column to the right of the box."""
        return self.x + self.width

    @property
    def bottom(self) -> int:
        """The first row below the box."""
        return self.y + self.height

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.width * self.height

    @property
    def size(self) -> Size:
        """Width and height."""
        return Size(width=self.width, height=self.height)

    @property
    def slices(self) -> tuple[slice, slice]:
        """`(rows, columns)`, to index an array whose first pixel is the grid's origin."""
        return slice(self.y, self.bottom), slice(self.x, self.right)

    def intersection(self, other: Box) -> Box:
        """Return the pixels that both boxes have; an empty box where there are none."""
        left, top = max(self.x, other.x), max(self.y, other.y)
        # A run intersects tens of thousands of boxes: properties would take as long as the rest.
        width = min(self.x + self.width, other.x + other.width) - left
        height = min(self.y + self.height, other.y + other.height) - top
        return Box(x=left, y=top, width=max(0, width), height=max(0, height))

    def contains(self, other: Box) -> bool:
        """Return whether every pixel of `other` is in this box."""
        return self.x <= other.x and self.y <= other.y and self.right >= other.right and self.bottom >= other.bottom

    def shifted(self, *, x: int, y: int) -> Box:
        """Return the same box moved by `(x, y)` pixels."""
        return Box(x=self.x + x, y=self.y + y, width=self.width, height=self.height)

    def grown(self, by: int) -> Box:
        """Return the box and as many pixels around it on every side."""
        return Box(x=self.x - by, y=self.y - by, width=self.width + 2 * by, height=self.height + 2 * by)


def grid_cells(size: Size, *, side: int) -> tuple[Box, ...]:
    """Return a size cut into `side` x `side` cells without overlap, row by row.

    The last row and column take the remainders.

    Raises:
        ValueError: The size has fewer pixels than cells on an axis.
    """
    if not 1 <= side <= min(size.width, size.height):
        message = f"{size} cannot be cut into {side} x {side} cells"
        raise ValueError(message)
    # The paper's GRNet cuts an image into cells of whole pixels, so the last ones are larger where a side is no
    # multiple.
    rows, columns = ([*range(0, side * (edge // side), edge // side), edge] for edge in (size.height, size.width))
    return tuple(
        Box.between(left=left, top=top, right=right, bottom=bottom)
        for top, bottom in pairwise(rows)
        for left, right in pairwise(columns)
    )


@dataclass(frozen=True, kw_only=True)
class Pitch:
    """The size of one pixel of a sampling grid, in level-0 pixels, exact."""

    x: Fraction
    y: Fraction

    def __post_init__(self) -> None:
        if self.x <= 0 or self.y <= 0:
            message = f"a pitch is positive, got {self.x} x {self.y}"
            raise ValueError(message)

    @classmethod
    def square(cls, value: Fraction | int) -> Self:
        """Return the same pitch on both axes."""
        return cls(x=Fraction(value), y=Fraction(value))

    def cover(self, size: Size) -> Size:
        """Return the pixels of this pitch needed to cover a level-0 size: the last one may reach beyond the edge."""
        return Size(width=ceil(size.width / self.x), height=ceil(size.height / self.y))

    def around(self, box: Box, pitch: Pitch) -> Box:
        """Return the smallest box of this grid around a box of another grid.

        Args:
            box: The box on the other grid.
            pitch: The pitch of the other grid.
        """
        across, down = pitch.x / self.x, pitch.y / self.y
        return Box.between(
            left=floor(box.x * across),
            top=floor(box.y * down),
            right=ceil(box.right * across),
            bottom=ceil(box.bottom * down),
        )

    def level0(self, box: Box) -> Box:
        """Return the smallest level-0 box around a box of this grid."""
        return LEVEL0.around(box, self)


LEVEL0 = Pitch.square(1)
"""The grid of level 0 itself."""

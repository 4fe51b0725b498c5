"""Cells, windows, blocks and passes of a run, on exact grids (terms of `docs/method.md`).

All boxes of a stage are whole pixels of its canvas grid, whose pixel is one pixel of the network's input. Cells tile
that grid from (0, 0); a window is its cell plus a margin, moved inside where it would cross the image's edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING

from magnet_cli.geometry import Box, Pitch, Size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PASS_SPAN = 8
"""Widest ratio between the scales of one pass; it bounds a block's canvas at `(8 * cell)^2` pixels."""


@dataclass(frozen=True, kw_only=True)
class Index:
    """Column and row of a cell or block in its grid."""

    column: int
    row: int

    def __str__(self) -> str:
        return f"({self.column}, {self.row})"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of the schedule: its window side and the grids that follow from it."""

    number: int
    """Number of the stage, 1 being the coarsest of the run."""
    scale: Size
    """Window side, in working-grid pixels."""
    input: Size
    """Size of the network's input, in canvas pixels."""
    margin: int
    """Rim of a patch that never reaches the output, in canvas pixels."""
    image: Size
    """Size of level 0 in pixels."""
    working: Pitch
    """Pitch of the working grid: level-0 pixels of one of its pixels."""

    @cached_property
    def pitch(self) -> Pitch:
        """Pitch of the canvas: level-0 pixels of one canvas pixel."""
        return Pitch(
            x=self.working.x * Fraction(self.scale.width, self.input.width),
            y=self.working.y * Fraction(self.scale.height, self.input.height),
        )

    @cached_property
    def extent(self) -> Size:
        """Canvas pixels that cover the image; the last may reach beyond it."""
        return self.pitch.cover(self.image)

    @cached_property
    def cell(self) -> Size:
        """Size of a cell, the part of a window that it decides, in canvas pixels."""
        return Size(width=self.input.width - 2 * self.margin, height=self.input.height - 2 * self.margin)

    @cached_property
    def cells(self) -> Size:
        """The number of cells along each axis."""
        return Size(width=ceil(self.extent.width / self.cell.width), height=ceil(self.extent.height / self.cell.height))

    def window(self, cell: Index) -> Box:
        """What the patch of a cell covers; it reaches beyond `extent` only where the image is smaller than a window."""
        return Box(
            # min before max: an image smaller than a window has a negative limit, and its window begins at 0 and
            # reaches beyond.
            x=max(0, min(cell.column * self.cell.width - self.margin, self.extent.width - self.input.width)),
            y=max(0, min(cell.row * self.cell.height - self.margin, self.extent.height - self.input.height)),
            width=self.input.width,
            height=self.input.height,
        )

    def own(self, cell: Index) -> Box:
        """The pixels that a cell decides."""
        box = Box(
            x=cell.column * self.cell.width,
            y=cell.row * self.cell.height,
            width=self.cell.width,
            height=self.cell.height,
        )
        return box.intersection(Box.whole(self.extent))


@dataclass(frozen=True, kw_only=True)
class Window:
    """One forward pass: a cell, the box its patch covers, and the canvas pixels its result is kept for."""

    cell: Index
    box: Box
    """Box of the patch on the stage's canvas grid."""
    own: Box
    """Box of the cell, cut to the image."""
    kept: Box
    """`own`, and at the block's rim all of the window beyond it: what later stages may read."""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Consecutive stages whose cells nest; its blocks are the cells of the coarsest."""

    number: int
    """Number of the pass, 0 being the first (coarsest) of the run."""
    stages: tuple[Stage, ...]
    """Stages of the pass, coarsest first."""

    @property
    def blocks(self) -> Size:
        """The number of blocks along each axis."""
        return self.stages[0].cells

    def block(self, index: int) -> Index:
        """Return the block with this row-major number."""
        row, column = divmod(index, self.blocks.width)
        return Index(column=column, row=row)

    def ratio(self, stage: Stage) -> Size:
        """Cells of a stage in one block, along each axis."""
        coarsest = self.stages[0].scale
        return Size(width=coarsest.width // stage.scale.width, height=coarsest.height // stage.scale.height)

    def cells(self, block: Index, stage: Stage) -> list[Index]:
        """Return the cells of a stage in a block, row-major, cut to the image."""
        ratio = self.ratio(stage)
        columns = range(block.column * ratio.width, min((block.column + 1) * ratio.width, stage.cells.width))
        rows = range(block.row * ratio.height, min((block.row + 1) * ratio.height, stage.cells.height))
        return [Index(column=column, row=row) for row in rows for column in columns]

    def own(self, block: Index, stage: Stage) -> Box:
        """Return the canvas pixels of a stage that a block decides."""
        ratio = self.ratio(stage)
        width, height = ratio.width * stage.cell.width, ratio.height * stage.cell.height
        box = Box(x=block.column * width, y=block.row * height, width=width, height=height)
        return box.intersection(Box.whole(stage.extent))

    def canvas(self, block: Index, stage: Stage) -> Box:
        """All that the block's windows of a stage cover, cut to the image: own pixels and rim."""
        cells = self.cells(block, stage)
        first, last = stage.window(cells[0]), stage.window(cells[-1])
        box = Box.between(left=first.x, top=first.y, right=last.right, bottom=last.bottom)
        return box.intersection(Box.whole(stage.extent))

    def windows(self, block: Index, stage: Stage) -> Iterator[Window]:
        """Return the windows of a stage in a block; their kept boxes tile the block's canvas."""
        canvas = self.canvas(block, stage)
        cells = self.cells(block, stage)
        first, last = cells[0], cells[-1]
        for cell in cells:
            own = stage.own(cell)
            kept = Box.between(
                # Windows at the block's rim keep all they cover: windows of the next stage read it, and the median
                # needs real neighbours. So a block never asks another one.
                left=canvas.x if cell.column == first.column else own.x,
                top=canvas.y if cell.row == first.row else own.y,
                right=canvas.right if cell.column == last.column else own.right,
                bottom=canvas.bottom if cell.row == last.row else own.bottom,
            )
            yield Window(cell=cell, box=stage.window(cell), own=own, kept=kept)

    def level0(self, block: Index) -> Box:
        """Return the level-0 pixels whose centre lies in the block."""
        stage = self.stages[0]
        left, right = _centres(block.column * stage.cell.width, stage.cell.width, stage.pitch.x)
        top, bottom = _centres(block.row * stage.cell.height, stage.cell.height, stage.pitch.y)
        return Box.between(left=left, top=top, right=right, bottom=bottom).intersection(Box.whole(stage.image))


def _centres(start: int, length: int, pitch: Fraction) -> tuple[int, int]:
    """First and last-plus-one level-0 pixel whose centre lies in `[start, start + length)` pixels of a pitch."""
    # A level-0 pixel belongs to the block that holds its centre, so each belongs to exactly one.
    half = Fraction(1, 2)
    return ceil(start * pitch - half), ceil((start + length) * pitch - half)


def nests(coarse: Size, fine: Size) -> bool:
    """Whether a scale holds a whole number, two or more, of a finer one along both axes."""
    return (
        coarse.width % fine.width == 0
        and coarse.height % fine.height == 0
        and coarse.width > fine.width
        and coarse.height > fine.height
    )


def group_scales(scales: Sequence[Size]) -> list[list[Size]]:
    """Scales, coarsest first, cut into passes from the finest upward: nested, and spanning at most `PASS_SPAN`."""
    groups: list[list[Size]] = []
    # From the finest scale upward, because the finest pass writes the mask and should span as much as it can: each pass
    # more costs a field on disk.
    for scale in reversed(scales):
        current = groups[-1] if groups else None
        if current and nests(scale, current[-1]) and _span(scale, current[0]) <= PASS_SPAN:
            current.append(scale)
        else:
            groups.append([scale])
    return [group[::-1] for group in reversed(groups)]


def _span(coarse: Size, fine: Size) -> Fraction:
    return max(Fraction(coarse.width, fine.width), Fraction(coarse.height, fine.height))


def needed_margin(scales: Sequence[Size], median: int) -> int:
    """The least margin with which blocks of one pass never ask their neighbours.

    A child's window reaches `margin / ratio` parent pixels beyond its cell; there the parent needs `median // 2` real
    neighbours and one more pixel for the bilinear step.

    Args:
        scales: The scales of one pass, coarsest first.
        median: Side of the median that smooths the score; 1 where no score is used.
    """
    rim = 1 + median // 2
    ratios = [
        min(Fraction(coarse.width, fine.width), Fraction(coarse.height, fine.height))
        for coarse, fine in pairwise(scales)
    ]
    # The margin m has to solve m >= m / ratio + rim.
    return max([rim, *(ceil(rim / (1 - 1 / ratio)) for ratio in ratios)])

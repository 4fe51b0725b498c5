"""Cells, windows, blocks and passes of a run, on exact grids (terms of `docs/method.md`).

All boxes of a stage are whole pixels of its canvas grid, whose pixel is one pixel of the network's input. Cells tile
that grid from (0, 0); a window is its cell plus a margin, moved inside where it would cross the image's edge. So
neighbouring windows overlap by twice the margin, and around the border of their cells the weight of one falls while
that of the other rises: weights sum to one everywhere. The results of neighbouring blocks are joined in the same way.

Windows of several cells may be moved inside to the same place. They are one window, whose own part is all of these
cells.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise, product
from math import ceil, floor
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.geometry import Box, Pitch, Size
from magnet_cli.plan.falloff import Interval, Parity, lowered, parities

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from magnet_cli.options.segment import Blend

PASS_SPAN = 8
"""Widest ratio between the scales of one pass; it bounds a block's canvas at `(8 * cell)^2` pixels."""

FALL = 4
"""How many times as far before a border as between computed windows a weight begins to fall towards a window that is
not computed, where nobody has counted how often the results on both sides disagree (docs/method.md, section 4)."""
RISE = 6
"""How many times further it begins to fall if they disagree everywhere than if they agree."""


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
    """Width of a patch's rim beyond its cell, in canvas pixels: half of the overlap of neighbouring windows."""
    image: Size
    """Size of level 0 in pixels."""
    working: Pitch
    """Pitch of the working grid: level-0 pixels of one of its pixels."""
    blend: Blend = "none"
    """Shape of the weights that join overlapping windows; with `none` a window alone decides its cell."""

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
        """Size of a cell, the part of a window in which it has the largest weight, in canvas pixels."""
        return Size(width=self.input.width - 2 * self.margin, height=self.input.height - 2 * self.margin)

    @cached_property
    def cells(self) -> Size:
        """The number of cells along each axis."""
        return Size(width=ceil(self.extent.width / self.cell.width), height=ceil(self.extent.height / self.cell.height))

    @cached_property
    def fade(self) -> int:
        """Canvas pixels on either side of a border over which weights fall and rise; 0 where nothing is blended.

        It is the margin, unless cells are so small that the weights at both of their borders would meet.
        """
        return 0 if self.blend == "none" else min(self.margin, self.cell.width // 2, self.cell.height // 2)

    @cached_property
    def fall(self) -> int:
        """Canvas pixels before a border over which a window's weight falls towards a neighbour that is not computed.

        This is for windows whose result is not compared with what was known before; see `Window.fall_for`.
        """
        return min(FALL * self.fade, self.widest_fall)

    @cached_property
    def widest_fall(self) -> int:
        """Most canvas pixels before a border over which a weight may fall: up to the middle of the cell."""
        return max(self.fade, min(self.cell.width, self.cell.height) // 2)

    def window(self, cell: Index) -> Box:
        """Return the box that the patch of a cell covers.

        It reaches beyond `extent` only where the image is smaller than a window.
        """
        return Box(
            # min before max: an image smaller than a window has a negative limit, and its window begins at 0 and
            # reaches beyond.
            x=max(0, min(cell.column * self.cell.width - self.margin, self.extent.width - self.input.width)),
            y=max(0, min(cell.row * self.cell.height - self.margin, self.extent.height - self.input.height)),
            width=self.input.width,
            height=self.input.height,
        )

    @cached_property
    def lefts(self) -> tuple[int, ...]:
        """The left side of the window of each column of cells."""
        return tuple(self.window(Index(column=column, row=0)).x for column in range(self.cells.width))

    @cached_property
    def tops(self) -> tuple[int, ...]:
        """The upper side of the window of each row of cells."""
        return tuple(self.window(Index(column=0, row=row)).y for row in range(self.cells.height))

    def own(self, cell: Index) -> Box:
        """Return the pixels of a cell. Near its borders, the windows of other cells may have a share in them."""
        box = Box(
            x=cell.column * self.cell.width,
            y=cell.row * self.cell.height,
            width=self.cell.width,
            height=self.cell.height,
        )
        return box.intersection(Box.whole(self.extent))


@dataclass(frozen=True, kw_only=True)
class Sides:
    """How far a window's weight falls at each side: canvas pixels before the border, 0 beside a computed window."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0

    def __bool__(self) -> bool:
        return any((self.left, self.right, self.top, self.bottom))

    @classmethod
    def of(cls, window: Window, is_left_out: Callable[[Index], bool], *, fall: int) -> Sides:
        """Ask on each side whether the next cell is left out, and let the weight fall over `fall` pixels there."""
        # Windows in a row have equal rows of cells, and those in a column have equal columns.
        column, row, last = window.cell.column, window.cell.row, window.cells[-1]
        return cls(
            left=fall * is_left_out(Index(column=column - 1, row=row)),
            right=fall * is_left_out(Index(column=last.column + 1, row=row)),
            top=fall * is_left_out(Index(column=column, row=row - 1)),
            bottom=fall * is_left_out(Index(column=column, row=last.row + 1)),
        )


@dataclass(frozen=True, kw_only=True)
class Window:
    """One forward pass: its cells, the box its patch covers, and the canvas pixels in which its result has a share."""

    cells: tuple[Index, ...]
    """The cells of the block whose patch has this box, row-major: one, or more near the image's edge."""
    box: Box
    """Box of the patch on the stage's canvas grid."""
    own: Box
    """Box of the cells, cut to the image."""
    kept: Box
    """`own`, and at the block's rim all of the window beyond it: later stages read that, too. Those of a block tile its
    canvas."""
    reach: Box
    """`kept`, and the pixels beyond borders to other cells of the block in which the window has a share."""
    fade: int
    """Canvas pixels on either side of such a border over which weights fall."""
    widest_fall: int
    """Most canvas pixels before a border over which they may fall where the neighbour is not computed."""
    blend: Blend
    """Shape of the weights."""

    @property
    def cell(self) -> Index:
        """The first of the cells, by which windows of a block are told apart."""
        return self.cells[0]

    @property
    def weights(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weights of the rows and of the columns of `reach`; their product is the weight of a pixel, in (0, 1].

        Over the windows of a block they sum to one at every pixel of its canvas.
        """
        down = self._interval(self.kept.y, self.kept.bottom, self.reach.y, self.reach.bottom)
        across = self._interval(self.kept.x, self.kept.right, self.reach.x, self.reach.right)
        return down.weights(self.reach.y, self.reach.height), across.weights(self.reach.x, self.reach.width)

    def weights_beside(self, sides: Sides) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the weights of a window beside neighbours that are not computed.

        Args:
            sides: Where these neighbours lie, and how far the weight falls towards them.
        """
        rows, columns = self.weights
        rows *= self._lowered(
            self.reach.y, len(rows), begin=self.own.y, end=self.own.bottom, falls=(sides.top, sides.bottom)
        )
        columns *= self._lowered(
            self.reach.x, len(columns), begin=self.own.x, end=self.own.right, falls=(sides.left, sides.right)
        )
        return rows, columns

    @property
    def strips(self) -> dict[str, Box]:
        """The pixels around each border of the cells over which weights fall between computed windows.

        They lie along the cells and inside of `box`, on the stage's grid.
        """
        own, fade = self.own, self.fade
        sides = {
            "left": Box(x=own.x - fade, y=own.y, width=2 * fade, height=own.height),
            "right": Box(x=own.right - fade, y=own.y, width=2 * fade, height=own.height),
            "top": Box(x=own.x, y=own.y - fade, width=own.width, height=2 * fade),
            "bottom": Box(x=own.x, y=own.bottom - fade, width=own.width, height=2 * fade),
        }
        return {name: strip.intersection(self.box) for name, strip in sides.items()}

    def fall_for(self, differing: int, pixels: int) -> int:
        """Return over how many pixels before a border the weight falls towards a neighbour that is not computed.

        Where the window's result and what was known have different classes, the class has to change somewhere in the
        fall. It is as wide as makes these changes few, and no wider, because a lowered weight refines less.

        Args:
            differing: The number of pixels of the border's strip with different classes.
            pixels: The number of pixels of the strip, one or more.
        """
        return min(self.widest_fall, self.fade + RISE * self.fade * differing // pixels)

    @property
    def is_sharp(self) -> bool:
        """Whether every weight is one if all neighbours are computed: the window shares no pixel with another."""
        return self.reach == self.kept

    def _lowered(self, first: int, count: int, *, begin: int, end: int, falls: tuple[int, int]) -> NDArray[np.float32]:
        """Return the factors by which weights along an axis are lowered at neither, one or both of its cell's sides."""
        centres, factors = first + np.arange(count, dtype=np.float64) + 0.5, np.ones(count)
        for fall, distance in zip(falls, (begin - centres, centres - end), strict=True):
            if fall:
                factors *= lowered(distance, fade=self.fade, fall=fall)
        return factors.astype(np.float32)

    def _interval(self, start: int, end: int, first: int, last: int) -> Interval:
        return Interval(start=start, end=end, fade=self.fade, blend=self.blend, rises=first < start, falls=last > end)


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Consecutive stages whose cells nest; its blocks are `span` by `span` cells of the coarsest."""

    number: int
    """Number of the pass, 0 being the first (coarsest) of the run."""
    stages: tuple[Stage, ...]
    """Stages of the pass, coarsest first."""
    span: int = 1
    """Cells of the coarsest stage along a block's side."""

    @property
    def blocks(self) -> Size:
        """The number of blocks along each axis."""
        cells = self.stages[0].cells
        return Size(width=ceil(cells.width / self.span), height=ceil(cells.height / self.span))

    def block(self, index: int) -> Index:
        """Return the block with this row-major number."""
        row, column = divmod(index, self.blocks.width)
        return Index(column=column, row=row)

    def alike(self) -> Iterator[tuple[Index, int]]:
        """Yield blocks that stand for all of the pass, nine at most, each with how many are like it.

        Blocks inside the image are alike, and so are those along one of its sides.
        """
        for row, rows in _alike(self.blocks.height):
            for column, columns in _alike(self.blocks.width):
                yield Index(column=column, row=row), rows * columns

    def ratio(self, stage: Stage) -> Size:
        """Return the cells of a stage in one block, along each axis."""
        coarsest = self.stages[0].scale
        across, down = coarsest.width // stage.scale.width, coarsest.height // stage.scale.height
        return Size(width=self.span * across, height=self.span * down)

    def cells(self, block: Index, stage: Stage) -> list[Index]:
        """Return the cells of a stage in a block, row-major, cut to the image."""
        ratio = self.ratio(stage)
        columns = range(block.column * ratio.width, min((block.column + 1) * ratio.width, stage.cells.width))
        rows = range(block.row * ratio.height, min((block.row + 1) * ratio.height, stage.cells.height))
        return [Index(column=column, row=row) for row in rows for column in columns]

    def windows_by_block(self, stage: Stage) -> Counter[int]:
        """Return how many blocks have how many windows of a stage."""
        ratio, found = self.ratio(stage), Counter[int]()
        for columns, many in _places_by_block(stage.lefts, ratio.width).items():
            for rows, count in _places_by_block(stage.tops, ratio.height).items():
                found[columns * rows] += many * count
        return found

    def window_count(self, stage: Stage) -> int:
        """Return the number of windows of a stage in all blocks."""
        return sum(windows * blocks for windows, blocks in self.windows_by_block(stage).items())

    def own(self, block: Index, stage: Stage) -> Box:
        """Return the canvas pixels of a block's cells of a stage. Near borders, neighbours may have a share in them."""
        ratio = self.ratio(stage)
        width, height = ratio.width * stage.cell.width, ratio.height * stage.cell.height
        box = Box(x=block.column * width, y=block.row * height, width=width, height=height)
        return box.intersection(Box.whole(stage.extent))

    def canvas(self, block: Index, stage: Stage) -> Box:
        """Return all that the block's windows of a stage cover, cut to the image: own pixels and rim."""
        cells = self.cells(block, stage)
        first, last = stage.window(cells[0]), stage.window(cells[-1])
        box = Box.between(left=first.x, top=first.y, right=last.right, bottom=last.bottom)
        return box.intersection(Box.whole(stage.extent))

    def windows(self, block: Index, stage: Stage) -> Iterator[Window]:
        """Return the windows of a stage in a block; their kept boxes tile its canvas, their weights sum to one."""
        canvas = self.canvas(block, stage)
        places: dict[Box, list[Index]] = {}
        for cell in self.cells(block, stage):
            places.setdefault(stage.window(cell), []).append(cell)
        for place, cells in places.items():
            one, other = stage.own(cells[0]), stage.own(cells[-1])
            own = Box.between(left=one.x, top=one.y, right=other.right, bottom=other.bottom)
            kept = Box.between(
                # Windows at the block's rim keep all they cover: windows of the next stage read it, and the median
                # needs real neighbours. So a block never depends on another one.
                left=canvas.x if place.x == canvas.x else own.x,
                top=canvas.y if place.y == canvas.y else own.y,
                right=canvas.right if place.right >= canvas.right else own.right,
                bottom=canvas.bottom if place.bottom >= canvas.bottom else own.bottom,
            )
            reach = Box.between(
                left=kept.x - stage.fade * (kept.x > canvas.x),
                top=kept.y - stage.fade * (kept.y > canvas.y),
                right=kept.right + stage.fade * (kept.right < canvas.right),
                bottom=kept.bottom + stage.fade * (kept.bottom < canvas.bottom),
            ).intersection(canvas)
            yield Window(
                cells=tuple(cells),
                box=place,
                own=own,
                kept=kept,
                reach=reach,
                fade=stage.fade,
                widest_fall=stage.widest_fall,
                blend=stage.blend,
            )

    def level0(self, block: Index) -> Box:
        """Return the level-0 pixels whose centre lies in the block."""
        stage = self.stages[0]
        width, height = self.span * stage.cell.width, self.span * stage.cell.height
        left, right = _centres(block.column * width, width, stage.pitch.x)
        top, bottom = _centres(block.row * height, height, stage.pitch.y)
        return Box.between(left=left, top=top, right=right, bottom=bottom).intersection(Box.whole(stage.image))

    @property
    def fade(self) -> int:
        """Pixels of the last canvas on either side of a border over which neighbouring blocks are blended."""
        return self.stages[-1].fade if self.blocks.pixels > 1 else 0

    def reach(self, block: Index) -> Box:
        """Return the pixels of the last canvas in which a block has a share: its own, and those of blended borders."""
        stage = self.stages[-1]
        return self.own(block, stage).grown(self.fade).intersection(Box.whole(stage.extent))

    def inner(self, block: Index, *, by: int = 0) -> Box:
        """Return the pixels of the last canvas that a block alone decides; the box may be empty.

        Args:
            block: A block of the pass.
            by: Pixels by which the box is made smaller beside each blended border.
        """
        own, cut = self.own(block, self.stages[-1]), self.fade + by if self.fade else 0
        box = Box.between(
            left=own.x + cut * (block.column > 0),
            top=own.y + cut * (block.row > 0),
            right=own.right - cut * (block.column < self.blocks.width - 1),
            bottom=own.bottom - cut * (block.row < self.blocks.height - 1),
        )
        return box if box.area else Box(x=own.x, y=own.y, width=0, height=0)

    def kept(self, block: Index) -> list[Box]:
        """Return the pixels of the last canvas of which a block keeps its values until its neighbours are done.

        These are all that it has a share in but those deep inside: labels are made by interpolation, which needs one
        pixel more than lies near the border. Where little lies deep inside, one box holds all of them.
        """
        if not self.fade:
            return []
        inner, reach = self.inner(block, by=1), self.reach(block)
        return [reach] if 2 * inner.area < reach.area else frame_boxes(inner, reach)

    def kept_area(self, block: Index) -> int:
        """Return the number of pixels in `kept`."""
        return sum(box.area for box in self.kept(block))

    def inner_level0(self, block: Index) -> Box:
        """Return the level-0 pixels of a block whose values are made of pixels in `inner` alone; it may be empty."""
        whole = self.level0(block)
        if not self.fade:
            return whole
        inner, pitch = self.inner(block), self.stages[-1].pitch
        if not inner.area:
            return Box(x=whole.x, y=whole.y, width=0, height=0)
        left, right = _between(inner.x, inner.right, pitch.x)
        top, bottom = _between(inner.y, inner.bottom, pitch.y)
        box = Box.between(
            left=left if block.column else whole.x,
            top=top if block.row else whole.y,
            right=right if block.column < self.blocks.width - 1 else whole.right,
            bottom=bottom if block.row < self.blocks.height - 1 else whole.bottom,
        ).intersection(whole)
        return box if box.area else Box(x=whole.x, y=whole.y, width=0, height=0)

    @cached_property
    def layers(self) -> tuple[BlockLayer, ...]:
        """Layers in which the values of neighbouring blocks are kept apart; one where no border is blended.

        Blocks of a layer have no pixel in common: it holds every other block of a row and of a column.
        """
        stage = self.stages[-1]
        if not self.fade:
            return (BlockLayer(name="", columns=None, rows=None),)
        width, height = self.ratio(stage).width * stage.cell.width, self.ratio(stage).height * stage.cell.height
        columns = parities(period=width, count=self.blocks.width, fade=self.fade, blend=stage.blend)
        rows = parities(period=height, count=self.blocks.height, fade=self.fade, blend=stage.blend)
        return tuple(
            BlockLayer(name=f"-{row.parity}{column.parity}", columns=column, rows=row)
            for row in rows
            for column in columns
        )

    def layer(self, block: Index) -> BlockLayer:
        """Return the layer that a block belongs to."""
        if len(self.layers) == 1:
            return self.layers[0]
        # Blocks of one parity lie a whole block apart and blends reach less far, so four arrays hold all values without
        # overlap.
        name = f"-{block.row % 2}{block.column % 2}"
        return next(layer for layer in self.layers if layer.name == name)


@dataclass(frozen=True, kw_only=True)
class BlockLayer:
    """Blocks of a pass that have no pixel in common, with the weight of each of their pixels."""

    name: str
    """Suffix of the name of the field that holds the layer; empty where there is one layer."""
    columns: Parity | None
    """Weights along rows; None where every weight is one."""
    rows: Parity | None

    def weights(self, box: Box) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the weights of the rows and of the columns of a box of the last canvas.

        Those of all layers sum to one.
        """
        ones = np.ones(box.height, np.float32), np.ones(box.width, np.float32)
        return (
            ones[0] if self.rows is None else self.rows.weights(box.y, box.height),
            ones[1] if self.columns is None else self.columns.weights(box.x, box.width),
        )

    def parts(self, box: Box) -> Iterator[tuple[slice, slice]]:
        """Yield the rows and the columns of parts of a box in which the layer has a share, counted from the box."""
        down = (slice(0, box.height),) if self.rows is None else self.rows.runs(box.y, box.height)
        across = (slice(0, box.width),) if self.columns is None else self.columns.runs(box.x, box.width)
        yield from product(down, across)


def field_box(step: Pass, before: Pass, need: Box) -> Box:
    """Return the box of a pass's field that a block of the next pass reads: one pixel more than its windows cover.

    Args:
        step: The pass that reads.
        before: The pass that has left the field.
        need: The box that the windows of the block's first stage cover, on the grid of that stage.
    """
    coarse = before.stages[-1]
    box = coarse.pitch.around(need, step.stages[0].pitch).grown(1)
    return box.intersection(Box.whole(coarse.extent))


def frame_boxes(inner: Box, outer: Box) -> list[Box]:
    """Cut the part of a box around another one inside it into up to four boxes; all of it if that one is empty."""
    if not inner.area:
        return [outer] if outer.area else []
    strips = [
        Box.between(left=outer.x, top=outer.y, right=outer.right, bottom=inner.y),
        Box.between(left=outer.x, top=inner.y, right=inner.x, bottom=inner.bottom),
        Box.between(left=inner.right, top=inner.y, right=outer.right, bottom=inner.bottom),
        Box.between(left=outer.x, top=inner.bottom, right=outer.right, bottom=outer.bottom),
    ]
    return [strip for strip in strips if strip.area]


def _alike(count: int) -> list[tuple[int, int]]:
    """Return the first, a middle and the last of some places in a row, each with how many there are of its kind."""
    kinds = {0: 1, count - 1: 1, **({1: count - 2} if count > 2 else {})}  # noqa: PLR2004 - the first and the last
    return list(kinds.items())


def _places_by_block(places: Sequence[int], ratio: int) -> Counter[int]:
    """Count the blocks along an axis by how many different places their windows have.

    Args:
        places: The place of the window of each cell along the axis.
        ratio: Cells of a whole block.
    """
    return Counter(len(set(places[start : start + ratio])) for start in range(0, len(places), ratio))


def _between(start: int, end: int, pitch: Fraction) -> tuple[int, int]:
    """Return the level-0 pixels `(first, last + 1)` between the centres of two pixels of a pitch."""
    half = Fraction(1, 2)
    return ceil((start + half) * pitch - half), floor((end - half) * pitch - half) + 1


def _centres(start: int, length: int, pitch: Fraction) -> tuple[int, int]:
    """Return the level-0 pixels `(first, last + 1)` with a centre in `[start, start + length)` pixels of a pitch."""
    # A level-0 pixel belongs to the block that holds its centre, so each belongs to exactly one.
    half = Fraction(1, 2)
    return ceil(start * pitch - half), ceil((start + length) * pitch - half)


def nests(coarse: Size, fine: Size) -> bool:
    """Return whether a scale holds a whole number, two or more, of a finer one along both axes."""
    return (
        coarse.width % fine.width == 0
        and coarse.height % fine.height == 0
        and coarse.width > fine.width
        and coarse.height > fine.height
    )


def group_scales(scales: Sequence[Size]) -> list[list[Size]]:
    """Cut scales, coarsest first, into passes from the finest upward, nested and within `PASS_SPAN`."""
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
    """Return the least margin with which blocks of one pass never ask their neighbours.

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

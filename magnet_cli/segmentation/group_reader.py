"""Decoded pixels of a group of blocks for all stages of a pass, and the windows that an area needs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import ceil, floor
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np
import torch

from magnet_cli.arithmetic.grnet_stages import REACH
from magnet_cli.errors import SourceError
from magnet_cli.geometry import LEVEL0
from magnet_cli.images.protocol import Request
from magnet_cli.images.validity import both
from magnet_cli.run.guards import naming_shortage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from magnet_cli.areas import Area
    from magnet_cli.geometry import Box
    from magnet_cli.images.protocol import Image
    from magnet_cli.plan import Plan
    from magnet_cli.plan.windows import Index, Pass, Stage
    from magnet_cli.segmentation.bound_pass import BoundPass


Cells = frozenset["Index"]


def needed_cells(bound: BoundPass, block: Index, area: Area) -> tuple[Cells, ...]:
    """Return the cells of each stage on which a label inside the area depends.

    A cell of the finest stage is needed if its result reaches a label inside the area. A cell of an earlier stage is
    needed if a needed window of the next stage reads its result, also where that stage belongs to the next pass. If all
    points and windows are taken, the labels inside the area are therefore those of a run without an area.

    Args:
        bound: The pass for which cells are wanted.
        block: A block of the pass.
        area: The area in which labels are wanted.

    Returns:
        One set of cells for each stage. All sets are empty if no label of the block lies inside the area.
    """
    step, rim = bound.step, _rim(bound.plan)
    finest = step.stages[-1]
    # Neighbours are blended with the block's values beyond its own pixels, and a label is made of two more.
    whole = finest.pitch.level0(step.reach(block).grown(1)) if step.fade else step.level0(block)
    wanted = Boxes() if bound.is_last else _read_by_next(bound, block, area)
    chosen: list[Cells] = []
    for stage in reversed(step.stages):
        taken = []
        around = rim + _beside(bound.plan, step, stage)
        for window in step.windows(block, stage):
            reached = stage.pitch.level0(window.reach.grown(around))
            if bound.is_last and stage is finest:
                is_needed = area.touches(reached.intersection(whole))
            else:
                is_needed = wanted.meet(reached)
            if is_needed:
                taken.append(window)
        chosen.append(frozenset(window.cell for window in taken))
        wanted = Boxes.of(stage.pitch.level0(window.box) for window in taken)
    return tuple(reversed(chosen))


@dataclass(frozen=True)
class Boxes:
    """Boxes of level 0, with which another one is compared at once."""

    ends: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 4), np.int64))
    """The left, top, right and bottom of each box."""

    @classmethod
    def of(cls, boxes: Iterable[Box]) -> Self:
        """Return boxes."""
        return cls(np.array([(box.x, box.y, box.right, box.bottom) for box in boxes], np.int64).reshape(-1, 4))

    def meet(self, box: Box) -> bool:
        """Return whether a box has a pixel in common with one of them."""
        left, top, right, bottom = self.ends.T
        return bool(((left < box.right) & (box.x < right) & (top < box.bottom) & (box.y < bottom)).any())


def _rim(plan: Plan) -> int:
    """Return how many canvas pixels around it a value depends on, for the median or fusion and bilinear sampling."""
    if plan.settings.method == "grnet":
        # Fusion may run at the coarser resolution, where one pixel is as wide as `ratio` pixels of the last stage.
        return 1 + (1 + REACH) * plan.passes[-1].ratio(plan.stages[-1]).width
    return 1 + plan.settings.score_side // 2


def _beside(plan: Plan, step: Pass, stage: Stage) -> int:
    """Return how many canvas pixels beyond its own share a window's result depends on whether it is left out.

    A window that is left out lowers the weights of those beside it, so whether it is has to be known.
    """
    return stage.widest_fall - stage.fade if plan.leaves_out(step, stage) else 0


def _read_by_next(bound: BoundPass, block: Index, area: Area) -> Boxes:
    """Return the boxes of level 0 in which needed windows of the next pass read the field near a block."""
    after, finest = bound.after, bound.step.stages[-1]
    # A label reads no further than one window of each later stage, so few blocks are asked which of theirs are needed.
    # What is read beside a canvas is made of values in it, too.
    own = finest.pitch.level0(bound.step.canvas(block, finest).grown(_rim(bound.plan)))
    if not area.touches(own.grown(_reach(bound))):
        return Boxes()
    near = map(after.step.block, _blocks_reading(after.step, own))
    return Boxes(np.concatenate([after.remembered(other, partial(_read_in, after, other, area)) for other in near]))


def _read_in(bound: BoundPass, block: Index, area: Area) -> NDArray[np.int64]:
    """Return the ends of the boxes of level 0 that needed windows of a block's first stage read."""
    first, cells = bound.step.stages[0], needed_cells(bound, block, area)[0]
    windows = bound.step.windows(block, first) if cells else ()
    return Boxes.of(first.pitch.level0(window.box) for window in windows if window.cell in cells).ends


def _blocks_reading(step: Pass, box: Box) -> Iterator[int]:
    """Yield the row-major numbers of a pass's blocks whose windows may read under a box of level 0."""
    # A window at the image's edge is moved inside by less than its side.
    first, blocks = step.stages[0], step.blocks
    near = box.grown(_side(first, 1))
    width, height = step.span * first.cell.width * first.pitch.x, step.span * first.cell.height * first.pitch.y
    columns = range(max(0, floor(near.x / width)), min(blocks.width, ceil(near.right / width)))
    rows = range(max(0, floor(near.y / height)), min(blocks.height, ceil(near.bottom / height)))
    return (row * blocks.width + column for row in rows for column in columns)


def _reach(bound: BoundPass) -> int:
    """Return how far from a label the later passes may read this pass's field, in level-0 pixels.

    Each stage reads at most one window and its rim further than the stage after it, and further again where a window
    that is left out lowers the weights of those beside it.
    """
    plan = bound.plan
    later = [(step, stage) for step in plan.passes[bound.number + 1 :] for stage in step.stages]
    return sum(_side(stage, _rim(plan) + _beside(plan, step, stage)) for step, stage in later)


def _side(stage: Stage, rim: int) -> int:
    across = (stage.input.width + rim) * stage.pitch.x
    down = (stage.input.height + rim) * stage.pitch.y
    return ceil(max(across, down))


T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, kw_only=True)
class BlockPixels:
    """The decoded pixels of a block."""

    block: Index
    stages: list[NDArray[np.generic]]
    """Stored values over the block's canvas of each stage of the pass, `(height, width, bands)`. Empty if not read."""
    valid: tuple[NDArray[np.bool_] | None, ...]
    """True for pixels of each stage that hold data, `(height, width)`. None where every pixel does."""
    level0_valid: NDArray[np.bool_] | None
    """True for the block's own level-0 pixels that hold data, `(height, width)`.

    None where all of them do. In the last pass only pixels inside the area hold data.
    """
    kept_valid: NDArray[np.bool_] | None
    """The same over the last stage's canvas, `(height, width)`, for probabilities and the map of uncertainty."""
    has_data: bool = True
    """Whether any of the block's own level-0 pixels holds data."""
    needed: tuple[Cells, ...] | None = None
    """Cells of each stage on which a label inside the area depends. None for a run without an area."""

    def pinned(self) -> BlockPixels:
        """Return the pixels in page-locked memory, from which CUDA copies asynchronously while the host goes on."""
        stages = [_pinned(pixels) for pixels in self.stages]
        return replace(self, stages=stages, valid=tuple(None if part is None else _pinned(part) for part in self.valid))

    def drop(self, number: int) -> None:
        """Let go of the stored values of a stage, by its number in the pass. The next stages do not read them."""
        self.stages[number] = self.stages[number][:0].copy()

    @cached_property
    def is_empty(self) -> bool:
        """Whether none of the block's own pixels holds data, or no label inside the area depends on the block."""
        return not self.has_data or (self.needed is not None and not self.needed[-1])


def _pinned(array: NDArray[T]) -> NDArray[T]:
    pinned: NDArray[T] = torch.from_numpy(array).pin_memory().numpy()
    return pinned


@dataclass(frozen=True, kw_only=True)
class GroupPixels:
    """The decoded pixels of all blocks of one group."""

    number: int
    blocks: tuple[BlockPixels, ...]


def read_group(image: Image, bound: BoundPass, number: int) -> GroupPixels:
    """Decode the pixels of all blocks of a group.

    Raises:
        SourceError: A part cannot be decoded. The message names the file and the block.
        MemoryShortageError: Memory ran out. The message names the block.
    """
    return GroupPixels(number=number, blocks=tuple(_read(image, bound, block) for block in bound.blocks(number)))


def _read(image: Image, bound: BoundPass, block: Index) -> BlockPixels:
    with naming_shortage(f"block {block} of pass {bound.number + 1} was read"):
        pixels = read_block(image, bound, block)
        # Page-locked memory cannot be swapped out, so only a device that copies from it while the host goes on gets it.
        return pixels.pinned() if bound.plan.machine.kind == "cuda" else pixels


def read_block(image: Image, bound: BoundPass, block: Index) -> BlockPixels:
    """Decode the pixels of one block for all stages of a pass in one request, so that each stored tile is decoded once.

    A block outside the area is not read. Of a block that the area touches, all pixels are read: those outside the area
    are context in the patches. A block that the budget leaves out is read only if the image may lack data somewhere,
    because pixels without data get no label.

    Args:
        image: The open image, which several threads may read.
        bound: The pass that is computed.
        block: A block of the pass.

    Raises:
        SourceError: A part cannot be decoded. The message names the file and the block.
    """
    plan, step, area = bound.plan, bound.step, bound.area
    needed = None if area is None else needed_cells(bound, block, area)
    if needed is not None and not needed[-1]:
        return _unread(step, block, needed)
    # With a budget each pass has one stage of one window a block, so a block's index is that of its cell.
    is_skipped = bound.budget is not None and not image.info.has_mask and not bound.budget.has(block)
    read_stages = () if is_skipped else step.stages
    requests = [
        Request(pitch=stage.pitch, box=step.canvas(block, stage), resample=plan.resample, bands=plan.bands)
        for stage in read_stages
    ]
    level0 = step.level0(block)
    wants_validity = image.info.has_mask and level0.area > 0
    if wants_validity:
        requests.append(Request(pitch=LEVEL0, box=level0, bands=plan.bands))
    try:
        regions = image.read(requests) if requests else []
    except SourceError as error:
        raise SourceError(
            f"block {block} of pass {step.number + 1} could not be read: {error.rule}",
            value=error.value,
            file=error.file or image.info.path,
            advice=error.advice,
        ) from error
    stages = regions[: len(read_stages)]
    level0_valid, kept_valid = regions[-1].valid if wants_validity else None, stages[-1].valid if stages else None
    has_data = level0_valid is None or bool(level0_valid.any())
    # Only the last pass cuts labels at the area's border: earlier passes are context for windows that reach across it.
    if area is not None and bound.is_last:
        finest = step.stages[-1]
        level0_valid = both(level0_valid, area.mask(level0, LEVEL0))
        kept_valid = both(kept_valid, area.mask(step.canvas(block, finest), finest.pitch))
    return BlockPixels(
        block=block,
        stages=[region.pixels for region in stages],
        valid=tuple(region.valid for region in stages) or (None,) * len(step.stages),
        level0_valid=level0_valid,
        kept_valid=kept_valid,
        has_data=has_data,
        needed=needed,
    )


def _unread(step: Pass, block: Index, needed: tuple[Cells, ...]) -> BlockPixels:
    """Return the pixels of a block outside the area, of which nothing was read."""
    level0, canvas = step.level0(block), step.canvas(block, step.stages[-1])
    return BlockPixels(
        block=block,
        stages=[],
        valid=(),
        level0_valid=np.zeros((level0.height, level0.width), bool),
        kept_valid=np.zeros((canvas.height, canvas.width), bool),
        needed=needed,
    )

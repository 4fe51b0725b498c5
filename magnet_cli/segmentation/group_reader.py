"""Reading groups of blocks ahead of the computation, at most as many as the plan allows."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

import numpy as np
import torch

from magnet_cli.arithmetic.grnet_stages import REACH
from magnet_cli.errors import MemoryShortageError, SourceError
from magnet_cli.geometry import LEVEL0
from magnet_cli.images.protocol import Request
from magnet_cli.images.validity import both

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from numpy.typing import NDArray

    from magnet_cli.areas import Area
    from magnet_cli.geometry import Box
    from magnet_cli.images.protocol import Image
    from magnet_cli.plan import Plan
    from magnet_cli.plan.windows import Index, Pass, Stage
    from magnet_cli.run.clock import Clock


Cells = frozenset["Index"]


def cells_to_look_at(plan: Plan, step: Pass, block: Index, area: Area) -> tuple[Cells, ...]:
    """The cells of each stage on which a label inside the area depends.

    The finest stage is asked where its result reaches a label inside; each stage before it, where the windows after it
    read it. So with every point and window taken, labels inside are those of a run without an area.

    Args:
        plan: Of the run.
        step: The pass.
        block: Of the pass.
        area: Where labels are wanted.

    Returns:
        One set a stage; all empty where nothing of the block is wanted.
    """
    finest = step.stages[-1]
    wanted: list[Box] = []
    chosen: list[Cells] = []
    for stage in reversed(step.stages):
        taken = []
        for window in step.windows(block, stage):
            reached = stage.pitch.level0(window.kept.grown(_rim(plan)))
            if _is_wanted(plan, step, block, area, reached) if stage is finest else _meets(reached, wanted):
                taken.append(window)
        chosen.append(frozenset(window.cell for window in taken))
        wanted = [stage.pitch.level0(window.box) for window in taken]
    return tuple(reversed(chosen))


def _is_wanted(plan: Plan, step: Pass, block: Index, area: Area, reached: Box) -> bool:
    """Whether a result of the finest stage of a pass matters that reaches so far."""
    if step is plan.passes[-1]:
        return area.touches(reached.intersection(step.level0(block)))
    return area.touches(reached.grown(_reach(plan, step)))


def _meets(box: Box, others: list[Box]) -> bool:
    return any(box.intersection(other).area for other in others)


def _rim(plan: Plan) -> int:
    """Canvas pixels beyond its own that a value is made of: those of the median or fusion, and a bilinear step's."""
    if plan.settings.method == "grnet":
        # A fused pixel depends on those around it, at the coarser resolution at most.
        return 1 + (1 + REACH) * plan.passes[-1].ratio(plan.stages[-1]).width
    return 1 + plan.settings.score_side // 2


def _reach(plan: Plan, step: Pass) -> int:
    """Level-0 pixels beyond a label that the passes after this one may read of it: a window a stage, and its rim."""
    later = [stage for after in plan.passes[step.number + 1 :] for stage in after.stages]
    return sum(_side(stage, _rim(plan)) for stage in later)


def _side(stage: Stage, rim: int) -> int:
    across = (stage.input.width + rim) * stage.pitch.x
    down = (stage.input.height + rim) * stage.pitch.y
    return ceil(max(across, down))


T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, kw_only=True)
class BlockPixels:
    """Everything that a block sees, decoded."""

    block: Index
    stages: tuple[NDArray[np.generic], ...]
    """For each stage of the pass, `(height, width, bands)` over the block's canvas of that stage; stored values."""
    valid: tuple[NDArray[np.bool_] | None, ...]
    """For each stage, `(height, width)`; None where every pixel holds data."""
    level0_valid: NDArray[np.bool_] | None
    """`(height, width)` over the block's own level-0 pixels: which get a label. None where every pixel holds data and
    lies in the area that is looked at."""
    kept_valid: NDArray[np.bool_] | None
    """The same over the last stage's canvas, for probabilities and the map of uncertainty."""
    looked: tuple[Cells, ...] | None = None
    """For each stage, the cells on which a label in the area depends; None where the run keeps to no area."""

    def pinned(self) -> BlockPixels:
        """The same in memory that a GPU copies from by itself while the host goes on."""
        stages = tuple(_pinned(pixels) for pixels in self.stages)
        return replace(self, stages=stages, valid=tuple(None if part is None else _pinned(part) for part in self.valid))

    @property
    def is_empty(self) -> bool:
        """Whether no pixel of the block holds data, or none is looked at."""
        if self.looked is not None and not self.looked[-1]:
            return True
        return self.level0_valid is not None and not self.level0_valid.any()


def _pinned(array: NDArray[T]) -> NDArray[T]:
    pinned: NDArray[T] = torch.from_numpy(array).pin_memory().numpy()
    return pinned


@dataclass(frozen=True, kw_only=True)
class GroupPixels:
    """The blocks of one group."""

    number: int
    blocks: tuple[BlockPixels, ...]


def read_block(
    image: Image,
    plan: Plan,
    step: Pass,
    block: Index,
    *,
    area: Area | None = None,
    selected: Callable[[Index], bool] | None = None,
) -> BlockPixels:
    """Decode what one block of a pass looks at, all stages in one go; nothing where none of it lies in the area.

    Args:
        image: Read from.
        plan: Of the run.
        step: The pass.
        block: Of the pass.
        area: Where labels are wanted. What lies outside and holds data stays context: patches show it.
        selected: Tells whether a budget has selected a block; the pixels of other blocks are read only where some
            lack data. None where no budget selects.

    Raises:
        SourceError: A part cannot be decoded; it names the file and the block.
    """
    looked = None if area is None else cells_to_look_at(plan, step, block, area)
    if looked is not None and not looked[-1]:
        return _unread(step, block, looked)
    passed_over = selected is not None and not image.info.has_mask and not selected(block)
    seen = () if passed_over else step.stages
    requests = [
        Request(pitch=stage.pitch, box=step.canvas(block, stage), resample=plan.resample, bands=plan.bands)
        for stage in seen
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
    stages = regions[: len(seen)]
    level0_valid, kept_valid = regions[-1].valid if wants_validity else None, stages[-1].valid if stages else None
    if area is not None and step is plan.passes[-1]:
        finest = step.stages[-1]
        level0_valid = both(level0_valid, area.mask(level0, LEVEL0))
        kept_valid = both(kept_valid, area.mask(step.canvas(block, finest), finest.pitch))
    return BlockPixels(
        block=block,
        stages=tuple(region.pixels for region in stages),
        valid=tuple(region.valid for region in stages) or (None,) * len(step.stages),
        level0_valid=level0_valid,
        kept_valid=kept_valid,
        looked=looked,
    )


def _unread(step: Pass, block: Index, looked: tuple[Cells, ...]) -> BlockPixels:
    """A block of which nothing is looked at."""
    level0, canvas = step.level0(block), step.canvas(block, step.stages[-1])
    return BlockPixels(
        block=block,
        stages=(),
        valid=(),
        level0_valid=np.zeros((level0.height, level0.width), bool),
        kept_valid=np.zeros((canvas.height, canvas.width), bool),
        looked=looked,
    )


class ReadFrom(Protocol):
    """What reading needs to know of a run."""

    @property
    def image(self) -> Image:
        """Read from by several threads."""

    @property
    def area(self) -> Area | None:
        """Where labels are wanted; None everywhere."""

    @property
    def workers(self) -> int:
        """Threads; 0 reads in the caller's thread."""

    @property
    def clock(self) -> Clock:
        """Told what reading took, and how long the caller waited."""


class ReadAhead:
    """Groups in the order asked for, read by threads while earlier ones are computed.

    Args:
        source: What is read, by several threads.
        plan: Says how many groups may wait.
        selected: Tells whether a budget has selected a block; None without a budget.
    """

    def __init__(self, source: ReadFrom, plan: Plan, *, selected: Callable[[Index], bool] | None = None) -> None:
        self._source = source
        self._plan = plan
        self._selected = selected
        self._clock = source.clock
        self._pool = ThreadPoolExecutor(source.workers, "read") if source.workers else None
        self._most = plan.memory.ahead + 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def groups(self, step: Pass, numbers: Iterable[int]) -> Iterator[GroupPixels]:
        """Read these groups of a pass, in this order."""
        if self._pool is None:
            for number in numbers:
                yield self._read(step, number)
            return
        waiting: deque[Future[GroupPixels]] = deque()
        remaining = iter(numbers)
        while True:
            while len(waiting) < self._most:
                following = next(remaining, None)
                if following is None:
                    break
                waiting.append(self._pool.submit(self._read, step, following))
            if waiting:
                with self._clock.measure("idle"):
                    group = waiting.popleft().result()
            elif (following := next(remaining, None)) is not None:
                group = self._read(step, following)
            else:
                return
            yield group

    def stop_ahead(self) -> None:
        """From now on read each group only when it is asked for, beside those that are being read already."""
        self._most = 0

    def _read(self, step: Pass, number: int) -> GroupPixels:
        with self._clock.measure("read"):
            blocks = tuple(self._read_block(step, block) for block in self._plan.blocks(step, number))
        return GroupPixels(number=number, blocks=blocks)

    def _read_block(self, step: Pass, block: Index) -> BlockPixels:
        try:
            pixels = read_block(
                self._source.image,
                self._plan,
                step,
                block,
                area=self._source.area,
                selected=self._selected,
            )
        except MemoryError as error:
            raise MemoryShortageError(
                f"out of memory while block {block} of pass {step.number + 1} was read",
                file=self._source.image.info.path,
                advice="Nothing that was finished is lost: run the same command with a larger --memory",
            ) from error
        return pixels.pinned() if self._plan.machine.kind == "cuda" else pixels

"""Small maps of the windows that each stage computed and of the uncertainty, for an image of any size."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from magnet_cli.geometry import Box, Size
from magnet_cli.masks import codec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from magnet_cli.plan import Plan
    from magnet_cli.plan.windows import Index, Pass, Stage

RECORDED = 512
"""Most values that the groups of a run record along an axis of an image."""
MOST = 96
"""Most pixels of a map along an axis. More cells than that share pixels. Four maps of noise then take less than 32 kB
of a report, which a folder of small images can bear beside its masks."""
FINEST = 32
"""Most pixels of the map of uncertainty along the side of one cell."""
STEPS = 254
"""A stored value v stands for v / STEPS."""
ROUNDED = 8
"""Values of a finished map are multiples of this (and `STEPS`): the bits below are noise that does not compress."""
NOTHING = 255
"""Value of a map's pixel where there is no data."""
FEW = 16
"""Most groups whose counts are held in memory while a report is made."""
LARGEST = 2048
"""Largest side of a map that is read back, because a report may be damaged or hostile."""

RUN, NO_DATA, OUTSIDE, UNSELECTED, UNPAID, SETTLED = "rnoubs"
"""Statuses of a window: computed, without data, outside the area of the run, or left out because it scored lower than
others or than a limit, because the budget was spent on others, or because no point of it could be taken."""


def subdivision(stage: Stage) -> int:
    """Return the pixels of the map of uncertainty along the side of a cell of the finest stage."""
    cells = max(stage.cells.width, stage.cells.height)
    return max(1, min(RECORDED // cells, FINEST, stage.cell.width, stage.cell.height))


@dataclass(frozen=True, kw_only=True)
class Map:
    """A map of values over an image."""

    values: NDArray[np.uint8]
    """`(height, width)`; v stands for v / 254, 255 for no data. The last row and column may reach beyond the image."""
    pixel: tuple[float, float]
    """Width and height of a value, in level-0 pixels."""
    cell: tuple[float, float]
    """Width and height of a window's own part, in level-0 pixels."""

    def describe(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        height, width = self.values.shape
        return {
            "size": {"width": width, "height": height},
            "pixel": {"width": self.pixel[0], "height": self.pixel[1]},
            "cell": {"width": self.cell[0], "height": self.cell[1]},
            "data": codec.packed_text(self.values.tobytes()),
        }

    @classmethod
    def parse(cls, section: Mapping[str, Any]) -> Self:
        """Return the map that `describe` has written.

        Raises:
            KeyError, TypeError, ValueError, zlib.error: It has another form.
        """
        width, height = int(section["size"]["width"]), int(section["size"]["height"])
        if not (1 <= width <= LARGEST and 1 <= height <= LARGEST):
            message = f"a map has at most {LARGEST} x {LARGEST} values, got {width} x {height}"
            raise ValueError(message)
        packed = base64.b64decode(section["data"], validate=True)
        # The bound keeps a hostile report from unpacking a few kilobytes into all of the memory.
        data = zlib.decompressobj().decompress(packed, width * height)
        return cls(
            values=np.frombuffer(data, np.uint8).reshape(height, width),
            pixel=_pair(section["pixel"]),
            cell=_pair(section["cell"]),
        )


def _pair(section: Mapping[str, Any]) -> tuple[float, float]:
    width, height = float(section["width"]), float(section["height"])
    if not (0 < width < float("inf") and 0 < height < float("inf")):
        message = f"a size is positive, got {width} x {height}"
        raise ValueError(message)
    return width, height


def describe_maps(plan: Plan, finished: Callable[[int], Mapping[int, Mapping[str, Any]]]) -> dict[str, object]:
    """Return the maps of a finished run, as JSON values; memory does not grow with the image.

    Args:
        plan: The plan of the run.
        finished: The counts of each group of a pass.

    Returns:
        `stages`, coarsest first: for each its number and the share of computed windows among those that hold
        data. `changes`, for those that had something to change: the share of pixels that got another class, of
        those in computed windows. `uncertainty`: its mean, None without probabilities.
    """
    groups = [_in_memory(finished(step.number)) for step in plan.passes]
    stages = [
        {"stage": stage.number, **found.describe()}
        for step, counts in zip(plan.passes, groups, strict=True)
        for stage in step.stages
        if (found := stage_map(plan, step, stage, counts)) is not None
    ]
    changes = [
        {"stage": stage.number, **found.describe()}
        for step, counts in zip(plan.passes, groups, strict=True)
        for stage in step.stages
        if (found := change_map(plan, step, stage, counts)) is not None
    ]
    unsure = uncertainty_map(plan, groups[-1])
    return {"stages": stages, "changes": changes, "uncertainty": None if unsure is None else unsure.describe()}


def _in_memory(groups: Mapping[int, Mapping[str, Any]]) -> Mapping[int, Mapping[str, Any]]:
    """Return the counts of few groups as they are after one reading. Those of many are read again for each map."""
    return dict(groups) if len(groups) <= FEW else groups


def stage_map(plan: Plan, step: Pass, stage: Stage, groups: Mapping[int, Mapping[str, Any]]) -> Map | None:
    """Return the share of windows with data that a stage computed; None where the groups do not note it."""
    if not groups:
        return None
    grid = _Means(stage.cells)
    for number, counts in groups.items():
        if "statuses" not in counts:
            return None
        statuses = iter(counts["statuses"][str(stage.number)])
        for block in plan.blocks(step, number):
            rows, columns, shape = _place(step.cells(block, stage))
            codes = np.array([next(statuses) for _ in range(shape[0] * shape[1])]).reshape(shape)
            grid.add(rows, columns, (codes == RUN).astype(np.float64), (codes != NO_DATA) & (codes != OUTSIDE))
    return grid.map(stage, parts=1)


def uncertainty_map(plan: Plan, groups: Mapping[int, Mapping[str, Any]]) -> Map | None:
    """Return the mean uncertainty of the result; None where the groups do not hold it."""
    step = plan.passes[-1]
    packed = {number: counts.get("unsure") for number, counts in groups.items()}
    return _parts_map(plan, step, step.stages[-1], packed)


def change_map(plan: Plan, step: Pass, stage: Stage, groups: Mapping[int, Mapping[str, Any]]) -> Map | None:
    """Return the share of pixels to which a stage gave another class, of those in its computed windows.

    The result is None where there was nothing to change, or the groups do not hold it.
    """
    packed = {number: counts.get("changes", {}).get(str(stage.number)) for number, counts in groups.items()}
    return _parts_map(plan, step, stage, packed)


def _parts_map(plan: Plan, step: Pass, stage: Stage, groups: Mapping[int, str | None]) -> Map | None:
    """Return the means of the packed values of a pass: each group has one value for each part of each cell."""
    if not groups:
        return None
    parts = subdivision(stage)
    grid = _Means(Size(width=stage.cells.width * parts, height=stage.cells.height * parts))
    for number, packed in groups.items():
        if packed is None:
            return None
        values = codec.decode_text(packed, dtype="u1")
        for place, size in _areas(plan.blocks(step, number), step, stage, parts):
            own, values = values[: size.pixels].reshape(size.height, size.width), values[size.pixels :]
            rows, columns = place.slices
            grid.add(rows.start, columns.start, own / STEPS, own != NOTHING)
    return grid.map(stage, parts=parts)


def _areas(blocks: list[Index], step: Pass, stage: Stage, parts: int) -> Iterator[tuple[Box, Size]]:
    for block in blocks:
        row, column, (height, width) = _place(step.cells(block, stage))
        size = Size(width=width * parts, height=height * parts)
        yield Box(x=column * parts, y=row * parts, width=size.width, height=size.height), size


def _place(cells: list[Index]) -> tuple[int, int, tuple[int, int]]:
    """Return the first row and column of row-major cells, and how many rows and columns they have."""
    first, last = cells[0], cells[-1]
    return first.row, first.column, (last.row - first.row + 1, last.column - first.column + 1)


class _Means:
    """Means over squares of a grid that is filled piece by piece.

    Args:
        size: The size of the grid. A square has so many pixels that at most `MOST` squares lie along an axis.
    """

    def __init__(self, size: Size) -> None:
        # A map has at most MOST pixels along an axis whatever the image's size, so that a report stays small.
        self._side = ceil(max(size.width, size.height) / MOST)
        shape = (ceil(size.height / self._side), ceil(size.width / self._side))
        self._sums = np.zeros(shape)
        self._counts = np.zeros(shape, np.int64)

    def add(self, row: int, column: int, values: NDArray[np.floating], known: NDArray[np.bool_]) -> None:
        """Add a piece whose first pixel lies at `(row, column)`. Only known values count."""
        rows = (row + np.arange(values.shape[0]))[:, None] // self._side
        columns = (column + np.arange(values.shape[1]))[None] // self._side
        places = (rows * self._sums.shape[1] + columns).reshape(-1)
        # np.add.at adds repeated indices up; plain indexing would keep the last of them. With one axis it is ten times
        # as fast as with two, and adds in the same order.
        np.add.at(self._sums.reshape(-1), places, np.where(known, values, 0.0).reshape(-1))
        self._counts += np.bincount(places[known.reshape(-1)], minlength=self._counts.size).reshape(self._counts.shape)

    def map(self, stage: Stage, *, parts: int) -> Map:
        """Return the means, once every piece was added; the grid divides each side of a stage's cell into `parts`."""
        means = self._sums / np.maximum(self._counts, 1) * STEPS
        means = np.minimum(STEPS, np.rint(means / ROUNDED) * ROUNDED)
        width, height = float(stage.cell.width * stage.pitch.x), float(stage.cell.height * stage.pitch.y)
        return Map(
            values=np.where(self._counts > 0, means, NOTHING).astype(np.uint8),
            pixel=(width * self._side / parts, height * self._side / parts),
            cell=(width, height),
        )

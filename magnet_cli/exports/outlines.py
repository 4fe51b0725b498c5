"""The borders of equal labels inside one tile: directed paths from corner to corner, cut where they leave the tile.

A border is walked with its own pixels on the right-hand side as the image is shown, y downward. At each lattice point
the four pixels around it are called a b (above) and c d (below). Two pixels that touch at a corner alone are not
connected (connectivity 4), so a path turns round its own pixel there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.images.protocol import NODATA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from magnet_cli.geometry import Box

RIGHT, DOWN, LEFT, UP = range(4)
LINE_BITS = 30
"""Number of bits that hold the row or column of a port. Images have fewer rows and columns than these can count."""
OUTSIDE = NODATA
"""Label without an outline. Pixels beyond the image have it as well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Path:
    """A part of an outline inside a tile."""

    points: NDArray[np.int32]
    """`(n, 2)` corners as x, y, in the order of the walk; none where it runs straight through the tile."""
    component: int
    """The component that the pixels on the right-hand side belong to."""
    entry: int
    """The port where it comes in; -1 for a closed ring."""
    exit: int
    """The port where it goes out; -1 for a closed ring."""


@dataclass(frozen=True, kw_only=True)
class _Runs:
    """The straight runs of one direction: where each begins, and where it ends."""

    direction: int
    starts: tuple[NDArray[np.intp], NDArray[np.intp]]
    """Row and column of the lattice point where each run begins.

    Of a run that enters the tile through its border, the coordinate along the run is -1.
    """
    ends: tuple[NDArray[np.intp], NDArray[np.intp]]
    """Row and column of the lattice point where each run ends.

    Of a run that leaves the tile through its border, the coordinate along the run is -1.
    """

    @property
    def along(self) -> int:
        """The axis of movement: 0 for rows, 1 for columns."""
        return 1 if self.direction in (RIGHT, LEFT) else 0

    def ports(self, line: NDArray[np.intp], tile: Box, *, leaving: bool) -> NDArray[np.int64]:
        """Number the places where runs on these lines cross the tile's border: border, line, direction."""
        near, far = (tile.x, tile.right) if self.along else (tile.y, tile.bottom)
        border = far if leaving == (self.direction in (RIGHT, DOWN)) else near
        first = tile.y if self.along else tile.x
        return (np.int64(border << LINE_BITS) + line + first) * 4 + self.direction


class _Around:
    """The four pixels around each lattice point of a tile, and which of them differ."""

    def __init__(self, values: NDArray[np.uint8]) -> None:
        self.a, self.b = values[:-1, :-1], values[:-1, 1:]
        self.c, self.d = values[1:, :-1], values[1:, 1:]
        self.ab, self.cd = self.a != self.b, self.c != self.d
        self.ac, self.bd = self.a != self.c, self.b != self.d

    def runs(self) -> list[_Runs]:
        """Return the runs of all directions, in the order of the directions' numbers.

        A run begins where an edge of its own pixels has no edge in line before it: there the path turns.
        """
        a, b, c, d = (pixels != OUTSIDE for pixels in (self.a, self.b, self.c, self.d))
        ab, cd, ac, bd = self.ab, self.cd, self.ac, self.bd
        right = _paired(bd & (cd | ~ac) & d, ac & (cd | ~bd) & c, come=(ac & c)[:, 0], go=(bd & d)[:, -1])
        left = _paired(ac & (ab | ~bd) & a, bd & (ab | ~ac) & b, come=(bd & b)[:, -1], go=(ac & a)[:, 0], back=True)
        down = _paired((cd & (ac | ~ab) & c).T, (ab & (ac | ~cd) & a).T, come=(ab & a)[0], go=(cd & c)[-1])
        up = _paired((ab & (bd | ~cd) & b).T, (cd & (bd | ~ab) & d).T, come=(cd & d)[-1], go=(ab & b)[0], back=True)
        return [
            _Runs(direction=RIGHT, starts=right[0], ends=right[1]),
            _Runs(direction=DOWN, starts=down[0][::-1], ends=down[1][::-1]),
            _Runs(direction=LEFT, starts=left[0], ends=left[1]),
            _Runs(direction=UP, starts=up[0][::-1], ends=up[1][::-1]),
        ]

    def turns(self, direction: int) -> tuple[NDArray[np.bool_], int, int]:
        """Return how a path turns where a run of a direction ends.

        Returns:
            The lattice points at which it turns to one side, the direction to that side, and the direction to the other
            side, to which it turns at all other points.
        """
        return (
            (self.cd, DOWN, UP),
            (self.ac, LEFT, RIGHT),
            (self.ab, UP, DOWN),
            (self.bd, RIGHT, LEFT),
        )[direction]


def trace(values: NDArray[np.uint8], *, components: NDArray[np.int64], tile: Box) -> Iterator[Path]:
    """Yield the paths of a tile: those that come in through its border, then the rings that stay inside.

    Args:
        values: `(height + 1, width + 1)` labels: the tile, with the row above it and the column to its left.
        components: The number of each pixel's connected component, of the same shape.
        tile: The tile's box in the image, on whose lattice the paths are given.
    """
    around = _Around(values)
    runs = around.runs()
    points = np.concatenate([np.column_stack((each.starts[1], each.starts[0])) for each in runs])
    # Whole arrays find the runs and their successors. Only the walk over them is a loop of Python, a step for each
    # corner.
    following = _following(around, runs, tile)
    owners = np.concatenate([_owners(each, components) for each in runs])
    ports = np.concatenate([_entry_ports(each, tile) for each in runs])
    moved = (points + np.array((tile.x, tile.y))).astype(np.int32)
    for order, leaves in _walks(following.tolist(), entries=np.flatnonzero(ports >= 0).tolist()):
        first = order[0]
        entry = int(ports[first])
        yield Path(points=moved[order[entry >= 0 :]], component=int(owners[first]), entry=entry, exit=leaves)


def _paired(
    starts: NDArray[np.bool_],
    ends: NDArray[np.bool_],
    *,
    come: NDArray[np.bool_],
    go: NDArray[np.bool_],
    back: bool = False,
) -> tuple[tuple[NDArray[np.intp], NDArray[np.intp]], tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Return the starts and ends of runs as (line, position), the i-th start belonging to the i-th end.

    The runs of one direction on one line follow each other without overlap, so that order alone pairs them.

    Args:
        starts: The starts of runs, `(lines, positions)`.
        ends: The ends of runs, `(lines, positions)`.
        come: For each line, whether a run enters through the border.
        go: For each line, whether a run leaves through the border.
        back: Whether the runs go against the order of positions.
    """
    lines, length = starts.shape
    first, last = np.zeros((2, lines, length + 1), dtype=bool)
    shift = int(back)
    first[:, 1 - shift : length + 1 - shift], first[:, length * shift] = starts, come
    last[:, shift : length + shift], last[:, length * (1 - shift)] = ends, go
    (line, begin), (_, end) = np.nonzero(first), np.nonzero(last)
    begin = np.where(begin == length, -1, begin) if back else begin - 1
    end = end - 1 if back else np.where(end == length, -1, end)
    return (line, begin), (line, end)


def _following(around: _Around, runs: list[_Runs], tile: Box) -> NDArray[np.int64]:
    """Return for each start of a run the start that follows it, or -1 minus the port where the run leaves the tile."""
    slots = np.empty((4, *around.ab.shape), dtype=np.int32)
    first = 0
    for each in runs:
        rows, columns = each.starts
        inside = each.starts[each.along] >= 0
        numbers = np.arange(first, first + len(rows), dtype=np.int32)
        slots[each.direction, rows[inside], columns[inside]] = numbers[inside]
        first += len(rows)
    found = []
    for each in runs:
        rows, columns = each.ends
        turns, one, other = around.turns(each.direction)
        leaving = each.ends[each.along] < 0
        # -1 marks an end at the border. It would index the last row, so it is replaced before the look-up and masked
        # after it.
        safe = np.where(leaving, 0, rows), np.where(leaving, 0, columns)
        turned = np.where(turns[safe], one, other)
        inward = slots[turned, *safe].astype(np.int64)
        ports = each.ports(each.ends[1 - each.along], tile, leaving=True)
        found.append(np.where(leaving, -1 - ports, inward))
    return np.concatenate(found)


def _owners(runs: _Runs, components: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the component of the pixels on the right-hand side of each run, read at the beginning of the run."""
    rows, columns = runs.starts
    height, width = components.shape
    own = {RIGHT: (1, 1), DOWN: (1, 0), LEFT: (0, 0), UP: (0, 1)}[runs.direction]
    entered = {RIGHT: (1, 0), DOWN: (0, 0), LEFT: (0, width - 1), UP: (height - 1, 1)}[runs.direction]
    outside = runs.starts[runs.along] < 0
    if runs.along:
        return components[rows + own[0], np.where(outside, entered[1], columns + own[1])]
    return components[np.where(outside, entered[0], rows + own[0]), columns + own[1]]


def _entry_ports(runs: _Runs, tile: Box) -> NDArray[np.int64]:
    """Return the port of each run that comes in, -1 for the others."""
    return np.where(runs.starts[runs.along] < 0, runs.ports(runs.starts[1 - runs.along], tile, leaving=False), -1)


def _walks(following: list[int], *, entries: list[int]) -> Iterator[tuple[list[int], int]]:
    """Yield the nodes of each walk in order, and the port where it leaves, -1 for a ring."""
    seen = bytearray(len(following))
    for first in entries:
        order, node = [], first
        while node >= 0:
            seen[node] = 1
            order.append(node)
            node = following[node]
        yield order, -1 - node
    # What no walk from the border has visited lies on closed rings.
    for first in range(len(following)):
        order, node = [], first
        while not seen[node]:
            seen[node] = 1
            order.append(node)
            node = following[node]
        if order:
            yield order, -1

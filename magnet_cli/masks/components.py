"""Connected components that may go on below: which numbers are one component, and what is known of it so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

import numpy as np

from magnet_cli.images.protocol import NODATA

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray


class Growing(Protocol):
    """Facts about a component that may still grow."""

    @property
    def weight(self) -> int:
        """The cost of moving the facts into another component."""

    def absorb(self, other: Any) -> None:
        """Take in what is known of a component that turned out to be the same one."""


T = TypeVar("T", bound=Growing)


@dataclass(frozen=True, kw_only=True)
class SweptEdge:
    """A row or column of pixels at the border of what a sweep has read, to which later tiles are joined."""

    labels: NDArray[np.uint8]
    numbers: NDArray[np.int64]
    """Numbers of the pixels' components; 0 where there is none."""

    @classmethod
    def empty(cls, length: int) -> Self:
        """Return the edge where nothing was read: no pixel has a label or a component."""
        return cls(labels=np.full(length, NODATA, dtype=np.uint8), numbers=np.zeros(length, dtype=np.int64))

    def part(self, reach: slice) -> Self:
        """Return a part of the edge, on the same arrays."""
        return type(self)(labels=self.labels[reach], numbers=self.numbers[reach])


class Components(Generic[T]):
    """Numbers of components, joined as a sweep finds that they touch."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}
        self._known: dict[int, T] = {}
        self.most_on_edge = 0
        """The most components that reached beyond a row of tiles; the memory of a sweep grows with them."""

    def __len__(self) -> int:
        """Return the number of component numbers that are remembered."""
        return len(self._parent)

    def add(self, number: int, component: T) -> None:
        """Add a component that may go on beyond its tile."""
        self._parent[number] = number
        self._known[number] = component

    def at(self, number: int) -> T:
        """Return the facts about the component that a number belongs to."""
        return self._known[self.root(number)]

    def root(self, number: int) -> int:
        """Return the number that stands for the whole component."""
        top = number
        while self._parent[top] != top:
            top = self._parent[top]
        # This is path compression: each number on the way then points to the root, which keeps later look-ups short.
        while self._parent[number] != top:
            self._parent[number], number = top, self._parent[number]
        return top

    def join(self, one: int, other: int) -> None:
        """Note that two numbers are one component; the lighter one moves."""
        kept, moved = self.root(one), self.root(other)
        if kept == moved:
            return
        # Moving the lighter one bounds the work of all joins at n log n.
        if self._known[kept].weight < self._known[moved].weight:
            kept, moved = moved, kept
        self._parent[moved] = kept
        self._known[kept].absorb(self._known.pop(moved))

    def join_pairs(self, ones: NDArray[np.int64], others: NDArray[np.int64], touching: NDArray[np.bool_]) -> None:
        """Note which numbers are one component.

        Args:
            ones: Numbers of pixels.
            others: Numbers of their neighbours, in the same order.
            touching: True for pairs that belong together. Both pixels of such a pair have a number.
        """
        for one, other in np.unique(np.column_stack((ones, others))[touching], axis=0).tolist():
            self.join(one, other)

    def passed(self, edge: SweptEdge) -> SweptEdge:
        """Return an edge with the number of each component replaced by its root.

        Call it for the lower edge of a row of tiles, when all components of the row are joined.
        """
        numbers, places = np.unique(edge.numbers, return_inverse=True)
        roots = np.array([self.root(number) if number else 0 for number in numbers.tolist()], dtype=np.int64)
        self.most_on_edge = max(self.most_on_edge, len(set(roots.tolist()) - {0}))
        return SweptEdge(labels=edge.labels, numbers=roots[places])

    def finish(self, reaching: Iterable[int]) -> Iterator[T]:
        """Yield the facts about each component that is complete, and remove it.

        Args:
            reaching: The root numbers of all components that may still grow.
        """
        alive = set(reaching)
        for number in [number for number in self._known if number not in alive]:
            yield self._known.pop(number)
        # Only roots can be named from now on, so the memory of all other numbers is released.
        self._parent = {number: number for number in self._known}

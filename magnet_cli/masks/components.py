"""Connected components that may go on below: which numbers are one component, and what is known of it so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Growing(Protocol):
    """Facts about a component that may still grow."""

    @property
    def weight(self) -> int:
        """The cost of moving the facts into another component."""

    def absorb(self, other: Any) -> None:
        """Take in what is known of a component that turned out to be the same one."""


T = TypeVar("T", bound=Growing)


class Components(Generic[T]):
    """Numbers of components, joined as a sweep finds that they touch."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}
        self._known: dict[int, T] = {}

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
        # Path compression: each number on the way points to the root afterwards, which keeps later look-ups short.
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

    def finish(self, reaching: Iterable[int]) -> Iterator[T]:
        """Give out, and forget, every component that none of these root numbers stands for."""
        alive = set(reaching)
        for number in [number for number in self._known if number not in alive]:
            yield self._known.pop(number)
        # Only roots can be named from now on, so the memory of all other numbers is released.
        self._parent = {number: number for number in self._known}

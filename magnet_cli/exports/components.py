"""Connected components that may go on below: which numbers are one component, its label, its closed rings."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(kw_only=True, slots=True)
class Component:
    """What is known of a component so far."""

    label: int
    rings: array[int] = field(default_factory=lambda: array("Q"))
    """Numbers of its closed rings in the spool."""


class Components:
    """Numbers of components, joined as the sweep finds that they touch."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}
        self._known: dict[int, Component] = {}

    def __len__(self) -> int:
        """Numbers that are remembered."""
        return len(self._parent)

    def add(self, number: int, label: int) -> None:
        """A component that may go on beyond its tile."""
        self._parent[number] = number
        self._known[number] = Component(label=label)

    def root(self, number: int) -> int:
        """The number that stands for the whole component."""
        top = number
        while self._parent[top] != top:
            top = self._parent[top]
        while self._parent[number] != top:
            self._parent[number], number = top, self._parent[number]
        return top

    def join(self, one: int, other: int) -> None:
        """Two numbers are one component; the one with fewer rings moves."""
        kept, moved = self.root(one), self.root(other)
        if kept == moved:
            return
        if len(self._known[kept].rings) < len(self._known[moved].rings):
            kept, moved = moved, kept
        self._parent[moved] = kept
        self._known[kept].rings.extend(self._known.pop(moved).rings)

    def add_ring(self, number: int, ring: int) -> None:
        """Note a closed ring of a component."""
        self._known[self.root(number)].rings.append(ring)

    def finish(self, reaching: Iterable[int]) -> Iterator[Component]:
        """Give out, and forget, every component that none of these root numbers stands for."""
        alive = set(reaching)
        for number in [number for number in self._known if number not in alive]:
            yield self._known.pop(number)
        self._parent = {number: number for number in self._known}

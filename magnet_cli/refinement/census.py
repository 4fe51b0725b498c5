"""The objects of a mask by how they are refined: one by one, together level by level, or not at all."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING

from magnet_cli.geometry import Box, Size
from magnet_cli.images.reader import around
from magnet_cli.refinement.survey import MaskObject

if TYPE_CHECKING:
    from collections.abc import Iterable
    from fractions import Fraction

COLUMNS = 8
"""Numbers that are kept of an object. They lie in one array of integers, 64 bytes an object, because a mask may have
millions of objects."""


@dataclass(frozen=True, kw_only=True)
class LargeObject:
    """All objects of a class that are too large to be held as a whole. They are refined together, level by level."""

    label: int
    objects: int
    area: int
    """Pixels of the objects."""
    box: Box
    """The box around all of them."""


@dataclass(kw_only=True)
class Census:
    """The objects of a mask, counted and sorted by how they are refined."""

    size: Size
    padding: Fraction
    min_area: int
    unit: int
    """Most pixels of a region that is held as a whole."""
    large: dict[int, LargeObject] = field(default_factory=dict)
    """The large objects of each class."""
    found: int = 0
    left: int = 0
    """Objects that are smaller than `min_area`."""
    _small: array[int] = field(default_factory=lambda: array("q"))
    _labels: set[int] = field(default_factory=set)

    def take(self, objects: Iterable[MaskObject]) -> None:
        """Add objects to the census."""
        for each in objects:
            self.found += 1
            if each.area < self.min_area:
                self.left += 1
                continue
            self._labels.add(each.label)
            if self.region(each.box).area <= self.unit:
                box = each.box
                self._small.extend((each.label, each.area, box.x, box.y, box.width, box.height, *each.seed))
            else:
                self._add_large(each)

    @property
    def small(self) -> int:
        """The number of objects that are refined one by one."""
        return len(self._small) // COLUMNS

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the list of objects takes."""
        return self._small.itemsize * len(self._small)

    @property
    def labels(self) -> tuple[int, ...]:
        """The classes of which at least one object is refined, in rising order."""
        return tuple(sorted(self._labels))

    def at(self, number: int) -> MaskObject:
        """Return a small object by its number."""
        label, area, x, y, width, height, row, col = self._small[number * COLUMNS : (number + 1) * COLUMNS]
        return MaskObject(label=label, area=area, box=Box(x=x, y=y, width=width, height=height), seed=(row, col))

    def region(self, box: Box) -> Box:
        """Return the region in which an object is refined: its box and padding around it, inside the image."""
        # The padding is rounded up, so that even a small object has a pixel of it.
        across, down = ceil(box.width * self.padding), ceil(box.height * self.padding)
        return Box(
            x=box.x - across, y=box.y - down, width=box.width + 2 * across, height=box.height + 2 * down
        ).intersection(Box.whole(self.size))

    def _add_large(self, each: MaskObject) -> None:
        before = self.large.get(each.label)
        self.large[each.label] = LargeObject(
            label=each.label,
            objects=1 + (before.objects if before else 0),
            area=each.area + (before.area if before else 0),
            box=around(each.box, before.box) if before else each.box,
        )

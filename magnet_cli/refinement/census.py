"""Which objects of a mask are refined one by one, which together, and which are left as they are."""

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
"""Numbers that are kept of an object."""


@dataclass(frozen=True, kw_only=True)
class LargeObject:
    """All objects of a class that are too large to be held, refined together level by level."""

    label: int
    objects: int
    area: int
    """Pixels."""
    box: Box
    """Around them."""


@dataclass(kw_only=True)
class Census:
    """The objects of a mask."""

    size: Size
    padding: Fraction
    min_area: int
    unit: int
    """Pixels of a region that can be held."""
    large: dict[int, LargeObject] = field(default_factory=dict)
    """By class."""
    found: int = 0
    left: int = 0
    """Objects that are smaller than `min_area`."""
    _small: array[int] = field(default_factory=lambda: array("q"))
    _labels: set[int] = field(default_factory=set)

    def take(self, objects: Iterable[MaskObject]) -> None:
        """Count objects in."""
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
        """Objects that are refined one by one."""
        return len(self._small) // COLUMNS

    @property
    def nbytes(self) -> int:
        """Memory that the list of objects holds."""
        return self._small.itemsize * len(self._small)

    @property
    def labels(self) -> tuple[int, ...]:
        """Classes of which something is refined, rising."""
        return tuple(sorted(self._labels))

    def at(self, number: int) -> MaskObject:
        """One of the small objects."""
        label, area, x, y, width, height, row, col = self._small[number * COLUMNS : (number + 1) * COLUMNS]
        return MaskObject(label=label, area=area, box=Box(x=x, y=y, width=width, height=height), seed=(row, col))

    def region(self, box: Box) -> Box:
        """What is looked at of an object: its box and the padding around it, inside the image."""
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

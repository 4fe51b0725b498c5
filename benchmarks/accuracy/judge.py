"""Scores of many masks of one picture: distances to the borders of its truth are computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.accuracy.cells import IGNORE, REFINED, Boundary, Cell, count
from benchmarks.accuracy.parts import only
from magnet_cli.evaluation.boundary import boundary_radii, squared_distance_to_other
from magnet_cli.geometry import Box, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.accuracy.parts import Part
    from magnet_cli.evaluation.boundary import RadiusRule

EVERY = "every"
"""The table of all classes together; others are named like the class that they score alone."""


class Judge:
    """A truth and how far each of its pixels is from another label.

    Args:
        truth: `(rows, columns)`; 255 is unknown.
        classes: How many labels there are.
        rule: Of the radii of boundary accuracy.
    """

    def __init__(self, truth: NDArray[np.uint8], *, classes: int, rule: RadiusRule = "fixed") -> None:
        self._truth = truth
        self._classes = classes
        size = Size(width=truth.shape[1], height=truth.shape[0])
        self._radii = boundary_radii(size, rule)
        known = truth != IGNORE
        reach = int(max(self._radii))
        squared = squared_distance_to_other(truth, labelled=known, inner=Box.whole(size), reach=reach)
        self._bands = [np.flatnonzero((squared <= radius * radius) & known) for radius in self._radii]

    def score(self, mask: NDArray[np.uint8]) -> dict[str, Any]:
        """Counts of a mask of the truth's shape, as `Cell` takes them."""
        right = (mask == self._truth).ravel()
        boundary = Boundary(
            radii=self._radii,
            near=tuple(band.size for band in self._bands),
            right=tuple(int(np.count_nonzero(right[band])) for band in self._bands),
        )
        return {**count(mask, self._truth, classes=self._classes), "boundary": boundary}


@dataclass(frozen=True)
class Scored:
    """A part, and the cells of its masks."""

    part: Part

    @cached_property
    def judges(self) -> dict[str, Judge]:
        """By table; of a retina's two classes, both together and one alone are the same."""
        truth, names = self.part.labels(), self.part.classes
        alone = Judge(only(truth, self.part.alone), classes=2)
        every = {} if self.part.is_fundus else {EVERY: Judge(truth, classes=len(names))}
        return {**every, names[self.part.alone]: alone}

    def has(self, row: str) -> bool:
        """Whether its tables have a row."""
        return all(Cell.load(table, self.part.name, row, REFINED) for table in self.judges)

    def save(self, row: str, labels: NDArray[np.uint8], **more: Any) -> None:
        """A cell of each table, of labels of all classes."""
        for table, judge in self.judges.items():
            mask = labels if table == EVERY else only(labels, self.part.alone)
            save_cell(self.part, table, row, {**judge.score(mask), **more})


def save_cell(part: Part, table: str, row: str, values: dict[str, Any]) -> None:
    """Write a cell and say so."""
    Cell(table=table, row=row, scene=part.name, **values).save(REFINED)
    print(part.name, table, row, f"{values.get('seconds') or 0:.1f} s", flush=True)

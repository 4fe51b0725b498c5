"""The pass that reads the mask of a large object once, and stores which share of each coarser pixel it covers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import override

from magnet_cli.arithmetic.cascade.fusion import as_claim
from magnet_cli.geometry import Box
from magnet_cli.run.job import Runner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from magnet_cli.masks.spec import GroupId
    from magnet_cli.refinement.pass_context import RefineWork
    from magnet_cli.refinement.refinement_plan import SharesPass


@dataclass(frozen=True, kw_only=True)
class Shares:
    """The shares that an object covers of the pixels of a square, at several pitches."""

    box: Box
    """The square on level 0, counted from the region's corner, which lies on every grid."""
    values: dict[int, NDArray[np.float32]]
    """Shares by pitch, `(height, width)` in [0, 1]."""


class Sharing(Runner):
    """The pass that reads the mask of a large object for its levels but the last."""

    def __init__(self, work: RefineWork, step: SharesPass) -> None:
        self._work = work
        self._step = step
        self._blocks = step.blocks

    @override
    def read(self, group: int) -> tuple[Box, NDArray[np.bool_]]:
        box, region = self._blocks[group], self._step.region
        return box, self._work.mask.read(box.shifted(x=region.x, y=region.y)) == self._step.label

    @override
    def compute(self, given: tuple[Box, NDArray[np.bool_]], known: None) -> Shares:
        del known
        box, inside = given
        return Shares(box=box, values=shares_of(inside, self._step.pitches))

    @override
    def store(self, group: GroupId, found: Shares) -> dict[str, object]:
        for pitch, values in found.values.items():
            height, width = values.shape
            box = Box(x=found.box.x // pitch, y=found.box.y // pitch, width=width, height=height)
            claims = as_claim(values)[None]
            self._work.resources.sink.put_field(group, name=self._step.field(pitch), box=box, values=claims)
        return {}


def shares_of(inside: NDArray[np.bool_], pitches: Sequence[int]) -> dict[int, NDArray[np.float32]]:
    """Return the share of each pixel of coarser grids that an object covers.

    Args:
        inside: `(height, width)`, True for pixels of the object. The upper left corner lies on all grids. Coarser
            pixels that the other edges cut count only what is inside.
        pitches: Pitches of the grids, powers of two.

    Returns:
        Shares by pitch, `(height, width)` float32 in [0, 1].
    """
    # Whole numbers are summed from grid to grid, and divided at the end: sums of float32 shares would depend on the
    # order of the additions.
    counts, done = inside.astype(np.int32), 1
    found = {}
    for pitch in sorted(pitches):
        for axis in (0, 1):
            counts = np.add.reduceat(counts, np.arange(0, counts.shape[axis], pitch // done), axis=axis)
        done = pitch
        heights, widths = (np.minimum(length - np.arange(0, length, pitch), pitch) for length in inside.shape)
        found[pitch] = (counts / (heights[:, None] * widths)).astype(np.float32)
    return found

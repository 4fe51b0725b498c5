"""The two classical refinements over pictures of any size, tile by tile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.accuracy.inputs import most_probable
from magnet_cli.arithmetic.classical import DenseCrf, GuidedFilter
from magnet_cli.geometry import Box, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASSICAL: dict[str, GuidedFilter | DenseCrf] = {
    "guided": GuidedFilter(),
    "guided4": GuidedFilter(radius=4),
    "crf": DenseCrf(),
}
"""By row; the second for structures that are thinner than the windows of the first."""
TILE = 1024
"""Side of what a classical refinement gives at a time; it sees its reach beyond it on each side."""


def classically(
    method: GuidedFilter | DenseCrf, probs: NDArray[np.float32], pixels: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Labels after a classical refinement, tile by tile.

    Args:
        method: Which.
        probs: `(classes, rows, columns)`, summing to 1.
        pixels: `(rows, columns, 3)`.

    Returns:
        `(rows, columns)`.
    """
    rows, columns = probs.shape[1:]
    whole = Box.whole(Size(width=columns, height=rows))
    labels = np.empty((rows, columns), np.uint8)
    for y in range(0, rows, TILE):
        for x in range(0, columns, TILE):
            own = Box(x=x, y=y, width=TILE, height=TILE).intersection(whole)
            seen = grown(own, method.reach).intersection(whole)
            found = method.apply(np.ascontiguousarray(probs[:, *seen.slices]), pixels[seen.slices])
            labels[own.slices] = most_probable(found[:, *own.shifted(x=-seen.x, y=-seen.y).slices])
    return labels


def grown(box: Box, rim: int) -> Box:
    """A box with a rim on each side."""
    return Box(x=box.x - rim, y=box.y - rim, width=box.width + 2 * rim, height=box.height + 2 * rim)

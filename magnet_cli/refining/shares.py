"""The mask of one class on a coarser grid: which share of each pixel it covers, read in squares of bounded size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.geometry import Box, Size

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SIDE = 2048
"""Of the squares of level 0 that are held."""


def share_of(
    read: Callable[[Box], NDArray[np.uint8]], label: int, box: Box, *, pitch: int, size: Size
) -> NDArray[np.float32]:
    """The share of each pixel of a grid that a class covers.

    Args:
        read: Labels of a box of level 0, `(height, width)` uint8.
        label: The class.
        box: On the grid, whose first pixel begins at the corner of level 0.
        pitch: Of the grid.
        size: Of level 0; a pixel that reaches beyond it counts what is inside.

    Returns:
        `(box.height, box.width)` float32, 0 to 1.
    """
    found = np.empty((box.height, box.width), dtype=np.float32)
    step = max(1, SIDE // pitch)
    for y in range(box.y, box.bottom, step):
        for x in range(box.x, box.right, step):
            part = Box(x=x, y=y, width=step, height=step).intersection(box)
            found[part.shifted(x=-box.x, y=-box.y).slices] = _square(read, label, part, pitch=pitch, size=size)
    return found


def _square(
    read: Callable[[Box], NDArray[np.uint8]], label: int, part: Box, *, pitch: int, size: Size
) -> NDArray[np.float32]:
    covered = Box(
        x=part.x * pitch, y=part.y * pitch, width=part.width * pitch, height=part.height * pitch
    ).intersection(Box.whole(size))
    inside = read(covered) == label
    if pitch == 1:
        return np.asarray(inside, dtype=np.float32)
    rows, cols = np.arange(0, covered.height, pitch), np.arange(0, covered.width, pitch)
    counts = np.add.reduceat(np.add.reduceat(inside.astype(np.int32), rows, axis=0), cols, axis=1)
    heights = np.minimum(covered.height - rows, pitch)[:, None]
    widths = np.minimum(covered.width - cols, pitch)[None]
    shares: NDArray[np.float32] = (counts / (heights * widths)).astype(np.float32)
    return shares

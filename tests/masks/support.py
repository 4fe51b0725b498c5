"""Whole label maps of masks that are read tile by tile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.masks.journal import Journal
    from magnet_cli.masks.unfinished_mask import UnfinishedMask


def joined(mask: Journal | UnfinishedMask) -> NDArray[np.uint8]:
    """Return the labels of level 0, `(height, width)`."""
    spec = mask.spec
    rows = [
        np.concatenate([mask.tile(row, col) for col in range(spec.tiles.width)], axis=1)
        for row in range(spec.tiles.height)
    ]
    return np.concatenate(rows)[: spec.size.height, : spec.size.width]

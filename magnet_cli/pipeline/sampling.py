"""A sample of a block's pixels, spread evenly over its cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLES = 16
"""Pixels along the side of a cell: means over all of them would cost as much as labels."""


def sampled(length: int, cell: int, parts: int) -> tuple[slice, NDArray[np.int64]]:
    """Which pixels of a block's side are sampled, and the part that each lies in.

    Args:
        length: Of the side, in pixels.
        cell: The side of a cell.
        parts: That a cell's side is divided into.
    """
    step = max(1, cell // max(SAMPLES, 2 * parts))
    places = slice(min(step // 2, length - 1), length, step)
    return places, np.arange(length)[places] * parts // cell


def means(
    values: NDArray[np.generic],
    known: NDArray[np.bool_],
    row_of: NDArray[np.int64],
    column_of: NDArray[np.int64],
    *,
    shape: tuple[int, int],
) -> NDArray[np.float32]:
    """Means over parts; NaN for those of which nothing is known.

    Args:
        values: `(rows, columns)`, sampled.
        known: Which of them count.
        row_of: The part that each row lies in.
        column_of: Likewise.
        shape: Rows and columns of parts.
    """
    sums, counts = np.zeros(shape, np.float32), np.zeros(shape, np.int32)
    np.add.at(sums, (row_of[:, None], column_of[None]), np.where(known, values, 0))
    np.add.at(counts, (row_of[:, None], column_of[None]), known)
    found: NDArray[np.float32] = np.where(counts > 0, sums / np.maximum(counts, 1), np.float32("nan"))
    return found

"""The judge of borders of selected windows and of blocks finds what the slope of the weights changes, only that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.selected_seams import FARTHEST, Joint, Mixed
from magnet_cli.geometry import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEIGHT, BORDER = 12, 150


def mixed(known: NDArray[np.float64], result: NDArray[np.float64], weight: NDArray[np.float64]) -> Mixed:
    """Return two cells beside each other, of which the left one was computed; all values are those of one row."""
    before, after, weights = (
        np.repeat(row[..., None, :], HEIGHT, axis=-2).astype(np.float32)
        for row in (known, known + weight * (result - known), weight)
    )
    cells = {(0, column): Box(x=column * BORDER, y=0, width=BORDER, height=HEIGHT) for column in (0, 1)}
    return Mixed(before=before, after=after, weight=weights, cells=cells, computed=frozenset({(0, 0)}))


@pytest.mark.parametrize("width", [8, 64])
def test_a_field_that_ends_in_the_fall_is_a_change_that_no_level_weight_has(width: int) -> None:
    weight = np.clip((BORDER + 16 - np.arange(2 * BORDER)) / width, 0, 1)
    known, result = (np.repeat([[one], [1 - one]], 2 * BORDER, axis=1) for one in (0.6, 0.1))
    slope = mixed(known, result, weight).slope()
    # The result wins where the weight is above 0.2.
    assert np.flatnonzero(slope.found) == FARTHEST + 16 - width // 5
    assert slope.found.sum() == HEIGHT
    assert slope.level.sum() == 0


def test_content_that_changes_everywhere_is_no_seam() -> None:
    weight = np.clip((BORDER + 16 - np.arange(2 * BORDER)) / 64, 0, 1)
    first = 0.5 + 0.4 * np.sign(np.sin(np.arange(2 * BORDER) / 3))
    stripes = np.stack((first, 1 - first))
    slope = mixed(stripes, 0.9 * stripes + 0.05, weight).slope()
    assert slope.found.sum() > 20 * HEIGHT
    assert np.array_equal(slope.found, slope.level)
    assert slope.fall == 1


def joint(left: float, right: float, *, reach: int, texture: float = 0) -> Joint:
    """Return a border between two blocks, each of which has one probability of class 0 but for a common texture."""
    places = np.arange(2 * reach)
    rising = np.clip((places + 0.5 - reach) / (2 * reach - 2) + 0.5, 0, 1)
    first = np.stack([np.full(2 * reach, value) for value in (left, right)]) + texture * np.sign(np.sin(places / 2))
    values = np.stack((first, 1 - first), axis=1)[:, :, None, :].repeat(HEIGHT, axis=2).astype(np.float32)
    # A block holds nothing of the last pixel beyond what is blended.
    values[0, ..., -1] = values[1, ..., 0] = np.nan
    weights = np.stack((1 - rising, rising))[:, None].repeat(HEIGHT, axis=1).astype(np.float32)
    return Joint(cells=((0, 0), (0, 1)), values=values, weights=weights)


def test_blocks_that_disagree_change_in_the_blend_and_at_no_level_weight() -> None:
    slope = joint(0.9, 0.4, reach=17).slope()
    # The right block wins where its weight is above 0.8.
    (at,) = np.flatnonzero(slope.found)
    assert FARTHEST + 9 <= at <= FARTHEST + 11
    assert slope.found.sum() == HEIGHT
    assert slope.level.sum() == 0
    assert np.flatnonzero(slope.falls).tolist() == list(range(FARTHEST - 16, FARTHEST + 17))


def test_blocks_that_agree_have_no_seam() -> None:
    slope = joint(0.5, 0.5, reach=17, texture=0.2).slope()
    assert slope.found.sum() >= 5 * HEIGHT
    assert np.array_equal(slope.found, slope.level)

"""Reading a level of a large object out of the journal: the mean of the blocks that have a share in each pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from magnet_cli.arithmetic.cascade.fusion import HALF, STEPS, UNKNOWN, as_claim

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from magnet_cli.geometry import Box
    from magnet_cli.refinement.refinement_plan import LevelPass
    from magnet_cli.run.results import Results

ROUNDING = 1e-3
"""Upper bound of the error of sums of float32 products of shares and claims, in steps of a claim."""


def joined_level(results: Results, step: LevelPass, box: Box) -> NDArray[np.float32]:
    """Return the values of a level in a box of its grid, all of whose blocks are finished.

    Args:
        results: The results of the run.
        step: The level.
        box: Inside the level.

    Returns:
        `(LevelPass.channels, height, width)` in [0, 1]; NaN where a block holds no claim.
    """
    found: NDArray[np.float32] = np.zeros((step.channels, box.height, box.width), np.float32)
    silent = np.zeros(found.shape, np.bool_)
    for layer in step.layers:
        rows, columns = step.shares(layer, box)
        # A layer without a share in the box need not be read.
        if not (rows.any() and columns.any()):
            continue
        share = rows[:, None] * columns
        values = results.read_stored_field(layer, box)
        known = values != UNKNOWN
        found += np.where(known, values, 0) * share
        silent |= ~known & (share > 0)
    # No block puts a pixel on the other side of one half than its own windows did, and neither may the rounding of
    # their mean.
    outside = found <= HALF + ROUNDING
    found[outside] = np.minimum(found[outside], HALF)
    found /= STEPS
    found[silent] = np.nan
    return found


def level_claims(results: Results, step: LevelPass, box: Box) -> NDArray[np.uint8]:
    """Return what the last level of a class's large objects claims in a box of level 0 of the image.

    Returns:
        `(height, width)` uint8 0..254; 255 where nothing is claimed.
    """
    claims = np.full((box.height, box.width), UNKNOWN, np.uint8)
    common = box.intersection(step.region)
    if common.area:
        inside = common.shifted(x=-step.region.x, y=-step.region.y)
        (values,) = joined_level(results, step, inside)
        known = ~np.isnan(values)
        target = claims[common.shifted(x=-box.x, y=-box.y).slices]
        target[known] = as_claim(values[known])
    return claims

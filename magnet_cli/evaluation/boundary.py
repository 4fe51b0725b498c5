"""Mean boundary accuracy (CascadePSP): the share of the pixels near the true class borders that are right."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import distance_transform_edt

from magnet_cli.geometry import Box, Size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from magnet_cli.options.evaluate import RadiusRule

RADII = 5
SMALLEST = 3.0
"""The smallest radius in pixels, as in the paper."""
LARGEST = 13.65
"""The paper's largest radius in pixels for a square image of 2,048 pixels. `fixed` uses it for every size, so that
images of different sizes can be pooled and the cost of a pixel stays the same."""
SHARE = 300
"""The paper's largest radius is the sum of width and height divided by this."""


def boundary_radii(size: Size, rule: RadiusRule = "fixed") -> tuple[float, ...]:
    """Return five radii in level-0 pixels, the smallest first.

    `fixed`: equally spaced from 3 to 13.65, both included, whatever the size.
    `paper`: equally spaced from 3 to (width + height) / 300, both included; where that is less than 3, all are 3
    (CascadePSP, section 3.1).
    `published`: the published program's whole numbers, which begin at 1: `1 + int((R - 1) / 5 * i)`, R the same end.
    """
    end = LARGEST if rule == "fixed" else (size.width + size.height) / SHARE
    if rule == "published":
        return tuple(float(1 + int((end - 1) / RADII * step)) for step in range(RADII))
    return tuple(float(radius) for radius in np.linspace(SMALLEST, max(SMALLEST, end), RADII))


@dataclass(kw_only=True, eq=False)
class BoundaryCounts:
    """Pixels near a border of the truth, and how many of them are right, by radius.

    A border lies between two labelled pixels of different labels. Between a labelled and an ignored pixel there is
    none, so that no band runs along ignored pixels.
    """

    radii: tuple[float, ...]
    rule: RadiusRule = "fixed"
    near: NDArray[np.int64] = field(default_factory=lambda: np.zeros(RADII, np.int64))
    right: NDArray[np.int64] = field(default_factory=lambda: np.zeros(RADII, np.int64))

    @property
    def reach(self) -> int:
        """The rim in pixels that a block of the truth needs on each side."""
        return int(max(self.radii))

    @property
    def accuracies(self) -> tuple[float, ...] | None:
        """The accuracy by radius; None where a band is empty, as where the truth has no border."""
        # A mean over the radii that have pixels would compare images by different measures.
        if not self.near.all():
            return None
        return tuple(float(value) for value in self.right / self.near)

    @property
    def mba(self) -> float | None:
        """Mean boundary accuracy: the mean over the radii; None where the truth has no border."""
        accuracies = self.accuracies
        return None if accuracies is None else float(np.mean(accuracies))

    def pool(self, other: BoundaryCounts) -> None:
        """Add the counts of another image, of the same radii."""
        self.near += other.near
        self.right += other.right

    def describe(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return {
            "radii": list(self.radii),
            "pixels": self.near.tolist(),
            "right": self.right.tolist(),
            "accuracies": self.accuracies and list(self.accuracies),
        }


def add_block(
    several: Sequence[BoundaryCounts],
    truth: NDArray[np.uint8],
    *,
    labelled: NDArray[np.bool_],
    inner: Box,
    right: NDArray[np.bool_],
    counted: NDArray[np.bool_],
) -> None:
    """Count a block within the radii of each, its distances computed once.

    Args:
        several: One at least.
        truth: `(height, width)` of the block and its rim.
        labelled: The same shape, where the truth is known.
        inner: The block within it.
        right: `(inner.height, inner.width)`, where the mask agrees with the truth.
        counted: The same shape, pixels that count.
    """
    reach = max(counts.reach for counts in several)
    # The distances are the costly part and hold for all radii, so several rules share them.
    squared = squared_distance_to_other(truth, labelled=labelled, inner=inner, reach=reach)
    for counts in several:
        for index, radius in enumerate(counts.radii):
            # Squared distances of pixels are whole numbers, which float32 holds exactly. A root could round across the
            # radius.
            near = (squared <= radius * radius) & counted
            counts.near[index] += np.count_nonzero(near)
            counts.right[index] += np.count_nonzero(near & right)


def squared_distance_to_other(
    labels: NDArray[np.uint8], *, labelled: NDArray[np.bool_], inner: Box, reach: int
) -> NDArray[np.float32]:
    """Return the squared distance of each pixel from the nearest pixel of another label, between their centres.

    Args:
        labels: The label map, `(height, width)`.
        labelled: The same shape; other pixels are no label and have no border.
        inner: The part whose distances are returned.
        reach: Distances above this may be wrong.

    Returns:
        `(inner.height, inner.width)` float32, exact up to 2 ** 24. It is infinite where there is no such pixel, or the
        pixel itself has no label.
    """
    whole = Box(x=0, y=0, width=labels.shape[1], height=labels.shape[0])
    found = np.full((inner.height, inner.width), np.inf, np.float32)
    own_labels, own_known = labels[inner.slices], labelled[inner.slices]
    for label in np.unique(own_labels[own_known]):
        own = own_known & (own_labels == label)
        bounds = _bounds(own)
        # Pixels farther than `reach` from a label's own pixels cannot count, so the transform runs on the label's
        # surroundings.
        seen = bounds.shifted(x=inner.x - reach, y=inner.y - reach)
        seen = Box(x=seen.x, y=seen.y, width=seen.width + 2 * reach, height=seen.height + 2 * reach)
        seen = seen.intersection(whole)
        other = labelled[seen.slices] & (labels[seen.slices] != label)
        if other.any():
            part = bounds.shifted(x=inner.x - seen.x, y=inner.y - seen.y)
            squared = _squared_distance(other)[part.slices]
            where = own[bounds.slices]
            found[bounds.slices][where] = squared[where]
    return found


def _bounds(where: NDArray[np.bool_]) -> Box:
    """Return the smallest box around all True pixels, of which there is at least one."""
    rows, columns = np.flatnonzero(where.any(axis=1)), np.flatnonzero(where.any(axis=0))
    return Box.between(left=int(columns[0]), top=int(rows[0]), right=int(columns[-1]) + 1, bottom=int(rows[-1]) + 1)


def _squared_distance(other: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the squared distance of every pixel to the nearest True one, `(height, width)` float32.

    It is computed from scipy's indices, which take half the memory of scipy's distances.
    """
    nearest: NDArray[np.int32] = distance_transform_edt(~other, return_distances=False, return_indices=True)
    height, width = other.shape
    down = (nearest[0] - np.arange(height, dtype=np.int32)[:, None]).astype(np.float32)
    across = (nearest[1] - np.arange(width, dtype=np.int32)[None]).astype(np.float32)
    squared: NDArray[np.float32] = down * down + across * across
    return squared

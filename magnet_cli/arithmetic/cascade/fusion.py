"""Joining the claims of single objects: the modified argmax of CascadePSP's section 4.4, on integers, in any order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

UNKNOWN = 255
"""Value of a claim that does not count, and of a label that was not computed."""
STEPS = 254
"""A claim v stands for the probability v / STEPS."""
HALF = STEPS // 2
FULL, STUFF = 100, 51
"""Weights of classes in per cent; the published script multiplies what it calls background by 0.51."""


def as_claim(inside: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return probabilities as claims 0..254. Rounding carries none over one half."""
    steps = np.rint(inside * STEPS)
    return np.where(inside > 0.5, np.maximum(steps, HALF + 1), np.minimum(steps, HALF)).astype(np.uint8)  # noqa: PLR2004


def fuse(
    labels: NDArray[np.uint8],
    claims: Mapping[int, NDArray[np.uint8]],
    *,
    stuff: Collection[int] = (),
    binary: bool = False,
) -> NDArray[np.uint8]:
    """Return the labels of a box: the class that is claimed most surely, where that is over one half.

    Elsewhere the old label stays.

    Args:
        labels: `(height, width)` uint8, of the input; 255 stays.
        claims: The largest claim of each class, `(height, width)` uint8 0..254, 255 where there is none.
        stuff: Classes that must be nearly certain to win: their claims count 0.51 times.
        binary: Whether the mask has one object class, 1, whose absence is background: then its claims alone decide,
            where there are any.

    Returns:
        `(height, width)` uint8. Equal claims go to the lowest class.
    """
    if binary:
        return _fuse_binary(labels, claims)
    found = labels.copy()
    # A claim has to exceed one half, so that is where every pixel begins. Integers make the result independent of the
    # order of classes and of rounding.
    surest = np.full(labels.shape, HALF * FULL, dtype=np.int32)
    # With a strict comparison the lowest class keeps a tie.
    for label in sorted(claims):
        claim = claims[label].astype(np.int32) * (STUFF if label in stuff else FULL)
        claim[claims[label] == UNKNOWN] = 0
        wins = claim > surest
        found[wins] = label
        surest[wins] = claim[wins]
    found[labels == UNKNOWN] = UNKNOWN
    return found


def pass_on(
    found: NDArray[np.uint8],
    claims: Mapping[int, NDArray[np.uint8]],
    *,
    labels: Sequence[int],
    probs: NDArray[np.float32],
    known: NDArray[np.bool_],
) -> NDArray[np.uint8]:
    """Give each pixel that its own class has released to the most probable class that has not released it.

    The paper leaves such a pixel to the class that released it, because a mask of labels names no other class.

    Args:
        found: `(height, width)` uint8, of `fuse`; 255 stays.
        claims: The claims of each class, in the form that `fuse` takes.
        labels: Classes that may be next.
        probs: Probabilities of these classes before refinement, `(len(labels), height, width)`.
        known: `(height, width)`, True where these probabilities are known.

    Returns:
        `(height, width)` uint8. Where no class is left that was more probable than 0 the class is the same.
    """
    passed = found.copy()
    given_up = {label: claim <= HALF for label, claim in claims.items()}
    where = is_given_up(found, claims) & known
    if not labels or not where.any():
        return passed
    left = probs[:, where]
    for row, label in enumerate(labels):
        # A class that has released the pixel itself cannot be its next one.
        if label in given_up:
            left[row, given_up[label][where]] = 0
    others = np.array(labels, np.uint8)[left.argmax(axis=0)]
    passed[where] = np.where(left.max(axis=0) > 0, others, found[where])
    return passed


def is_given_up(labels: NDArray[np.uint8], claims: Mapping[int, NDArray[np.uint8]]) -> NDArray[np.bool_]:
    """Return `(height, width)`: where the class of a pixel is claimed, and not over one half."""
    found = np.zeros(labels.shape, dtype=np.bool_)
    for label, claim in claims.items():
        found |= (claim <= HALF) & (labels == label)
    return found


def _fuse_binary(labels: NDArray[np.uint8], claims: Mapping[int, NDArray[np.uint8]]) -> NDArray[np.uint8]:
    found = labels.copy()
    for claim in claims.values():
        known = (claim != UNKNOWN) & (labels != UNKNOWN)
        found[known] = claim[known] > HALF
    return found

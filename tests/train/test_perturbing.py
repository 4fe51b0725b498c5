"""Objects are found in label maps, and wrong masks are drawn from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from magnet_cli.train.binary_objects import BinaryObjects, Drawn
from magnet_cli.train.perturbation import (
    Perturbation,
    border,
    closed,
    fill_polygons,
    iou,
    shrunk_and_enlarged,
    subsampled,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]

SIDE = 64
Y, X = np.mgrid[:SIDE, :SIDE]


def disc(y: float, x: float, radius: float) -> Mask:
    found: Mask = (Y - y) ** 2 + (X - x) ** 2 <= radius**2
    return found


RING = disc(30, 32, 22) & ~disc(30, 32, 10)
CUT = disc(0, 20, 30)
VESSEL = np.abs(Y - 32 - 8 * np.sin(X / 8)) < 2
SHAPES = {"ring": RING, "at the edge": CUT, "thin": VESSEL}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("coarse", [0.0, 1.0])
def test_wrong_masks_overlap_as_much_as_asked_for_and_lie_near_the_truth(name: str, coarse: float) -> None:
    truth = SHAPES[name]
    perturb = Perturbation(iou=(0.8, 1.0), coarse=coarse, shrink=8.0)
    found = [perturb(truth, np.random.default_rng(seed)) for seed in range(20)]
    overlaps = [iou(mask, truth) for mask in found]
    assert min(overlaps) >= 0.8
    assert max(overlaps) <= 1
    assert 0.82 < np.mean(overlaps) < 0.97
    assert len({mask.tobytes() for mask in found}) > 15
    again = perturb(truth, np.random.default_rng(3))
    assert np.array_equal(again, found[3])
    wrong = sum(mask != truth for mask in found)
    assert (wrong * ~near(truth)).sum() < 0.1 * wrong.sum()


def near(mask: Mask) -> Mask:
    """Return a map that is True within 14 pixels of the border."""
    edge = np.argwhere(border(mask))
    places = np.stack((Y, X), axis=-1)
    squared: Mask = np.min(((places[:, :, None] - edge) ** 2).sum(axis=-1), axis=-1) <= 14**2
    return squared


def test_a_lower_range_gives_worse_masks() -> None:
    worse = Perturbation(iou=(0.5, 0.6), coarse=0.0, shrink=8.0)
    overlaps = [iou(worse(RING, np.random.default_rng(seed)), RING) for seed in range(8)]
    assert all(0.5 <= overlap < 0.65 for overlap in overlaps)


def test_all_vertices_give_the_mask_back_holes_and_islands_too() -> None:
    mask = RING | disc(30, 32, 4)
    wide = np.pad(mask, 1)
    contours = sorted(closed(wide), key=len, reverse=True)
    assert len(contours) == 3
    assert np.array_equal(fill_polygons(contours, shape=wide.shape)[1:-1, 1:-1], mask)


def test_few_vertices_give_a_polygon() -> None:
    corners = [np.count_nonzero(subsampled(RING, np.random.default_rng(seed), least=0.0) ^ RING) for seed in range(6)]
    assert max(corners) > 20
    # The window's edge is no contour: where an object goes on beyond it, nothing is cut off.
    kept = [subsampled(CUT, np.random.default_rng(seed), least=0.9)[0, 8:32].all() for seed in range(6)]
    assert all(kept)


def test_a_smaller_mask_enlarged_is_the_mask_of_blocks() -> None:
    blocks = np.kron(np.eye(2, dtype=bool), np.ones((32, 32), bool))
    found = shrunk_and_enlarged(blocks, factor=8)
    assert found is not None
    assert np.array_equal(found[:24, :24], blocks[:24, :24])
    assert shrunk_and_enlarged(blocks, factor=1) is None


def labels() -> NDArray[np.uint8]:
    """Return two discs of class 1 on class 0, a speck of class 2, and unknown pixels."""
    found = np.zeros((SIDE, SIDE), np.uint8)
    found[disc(16, 16, 9) | disc(46, 46, 12)] = 1
    found[:2, :2] = 2
    found[60:] = 255
    return found


def test_objects_are_classes_or_pieces_of_them() -> None:
    found = labels()
    wholes = {mask.tobytes() for seed in range(20) if (mask := inside(found, pieces=0.0, seed=seed)) is not None}
    assert wholes == {(found == 0).tobytes(), (found == 1).tobytes()}
    pieces = [inside(found, pieces=1.0, seed=seed) for seed in range(20)]
    assert {mask.tobytes() for mask in pieces if mask is not None} == {
        (found == 0).tobytes(),
        disc(16, 16, 9).tobytes(),
        disc(46, 46, 12).tobytes(),
    }


def inside(found: NDArray[np.uint8], *, pieces: float, seed: int) -> Mask | None:
    drawn = BinaryObjects(ignore=255, pieces=pieces, smallest=64).drawn(found, np.random.default_rng(seed))
    return None if drawn is None else drawn.inside


def test_objects_may_be_of_some_classes_alone() -> None:
    only = BinaryObjects(ignore=255, pieces=0.0, smallest=4, only=(2,))
    found = only.drawn(labels(), np.random.default_rng(0))
    assert found is not None
    assert (found.label, int(found.inside.sum())) == (2, 4)
    assert only.drawn(np.where(labels() == 2, 0, labels()), np.random.default_rng(0)) is None


def test_a_mask_has_a_class_or_what_overlaps_the_piece() -> None:
    other = np.where(disc(16, 19, 9) | disc(46, 46, 3) | disc(46, 10, 4), np.uint8(1), np.uint8(0))
    whole = Drawn(label=1, inside=labels() == 1, whole=True)
    assert np.array_equal(whole.in_mask(other), other == 1)
    piece = Drawn(label=1, inside=disc(16, 16, 9), whole=False)
    assert np.array_equal(piece.in_mask(other), disc(16, 19, 9))
    assert not Drawn(label=2, inside=labels() == 2, whole=True).in_mask(other).any()


def test_a_window_without_a_border_has_no_object() -> None:
    for value in (0, 255):
        assert inside(np.full((SIDE, SIDE), value, np.uint8), pieces=0.5, seed=0) is None
    speck = np.zeros((SIDE, SIDE), np.uint8)
    speck[:3, :3] = 1
    assert inside(speck, pieces=0.5, seed=0) is None

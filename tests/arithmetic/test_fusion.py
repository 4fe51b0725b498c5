"""Claims become labels by the modified argmax, whatever the order in which they were made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from magnet_cli.arithmetic.cascade.fusion import as_claim, fuse, pass_on

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHAPE = (3, 4)
claim = arrays(np.uint8, SHAPE, elements=st.sampled_from([0, 100, 127, 128, 250, 253, 254, 255]))
label = arrays(np.uint8, SHAPE, elements=st.sampled_from([0, 1, 2, 255]))


def slowly(labels: NDArray[np.uint8], claims: dict[int, NDArray[np.uint8]], stuff: set[int]) -> NDArray[np.uint8]:
    """Fuse pixel by pixel as the paper describes it: the input's label counts as one half."""
    found = labels.copy()
    for place in np.ndindex(SHAPE):
        if labels[place] == 255:
            continue
        surest = 0.5
        for number in sorted(claims):
            value = claims[number][place]
            sure = 0.0 if value == 255 else float(value) / 254 * (0.51 if number in stuff else 1)
            if sure > surest + 1e-9:
                surest, found[place] = sure, number
    return found


@given(labels=label, claims=st.lists(claim, max_size=3), stuff=st.sets(st.integers(0, 2)))
def test_the_surest_class_over_one_half_wins_else_the_input(
    labels: NDArray[np.uint8], claims: list[NDArray[np.uint8]], stuff: set[int]
) -> None:
    by_class = dict(enumerate(claims))
    backwards = dict(reversed(list(by_class.items())))
    expected = slowly(labels, by_class, stuff)
    assert np.array_equal(fuse(labels, by_class, stuff=stuff), expected)
    assert np.array_equal(fuse(labels, backwards, stuff=stuff), expected)


@given(
    labels=label,
    claims=st.dictionaries(st.integers(0, 2), claim),
    present=st.sets(st.integers(0, 2)),
    probs=arrays(np.float32, (3, *SHAPE), elements=st.sampled_from([0, 0.125, 0.25, 0.5])),
    known=arrays(np.bool_, SHAPE),
)
def test_what_a_class_gives_up_goes_to_the_most_probable_that_has_not(
    labels: NDArray[np.uint8],
    claims: dict[int, NDArray[np.uint8]],
    present: set[int],
    probs: NDArray[np.float32],
    known: NDArray[np.bool_],
) -> None:
    fused = fuse(labels, claims)
    expected = fused.copy()
    for place in np.ndindex(SHAPE):
        gave_up = {number for number, values in claims.items() if values[place] <= 127}
        shares = {number: float(probs[(number, *place)]) for number in sorted(present)}
        left = {number: share for number, share in shares.items() if share > 0 and number not in gave_up}
        if fused[place] in gave_up and left and known[place]:
            expected[place] = max(left, key=lambda number: left[number])
    before = probs.copy()
    rows = sorted(present)
    assert np.array_equal(pass_on(fused, claims, labels=rows, probs=probs[rows], known=known), expected)
    assert np.array_equal(probs, before)


def test_stuff_wins_from_98_per_cent_on() -> None:
    values = np.array([[248, 249, 250, 254]], np.uint8)
    assert fuse(np.zeros((1, 4), np.uint8), {1: values}, stuff=[1]).tolist() == [[0, 0, 1, 1]]


def test_one_object_class_is_where_it_is_claimed_and_the_input_where_it_is_not() -> None:
    labels = np.array([[0, 1, 0, 1, 0, 1, 255]], np.uint8)
    values = np.array([[255, 255, 127, 127, 128, 128, 254]], np.uint8)
    assert fuse(labels, {1: values}, binary=True).tolist() == [[0, 1, 0, 0, 1, 1, 255]]


@given(value=st.floats(0, 1, width=32))
def test_rounding_moves_no_probability_over_one_half(value: float) -> None:
    (found,) = as_claim(np.array([value], np.float32))
    assert (found > 127) == (value > 0.5)
    assert abs(found / 254 - value) <= 1 / 254

"""Boxes are converted from one grid to another without drift."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from magnet_cli.geometry import LEVEL0, Box, Pitch

SIDES = st.fractions(Fraction(1, 4), 4, max_denominator=6)


def edges(box: Box, pitch: Pitch) -> tuple[Fraction, Fraction, Fraction, Fraction]:
    """Return the left, top, right and bottom edge of a box in level-0 pixels."""
    return box.x * pitch.x, box.y * pitch.y, box.right * pitch.x, box.bottom * pitch.y


@given(data=st.data(), sides=st.tuples(SIDES, SIDES, SIDES, SIDES))
def test_the_box_around_another_is_the_smallest(
    data: st.DataObject, sides: tuple[Fraction, Fraction, Fraction, Fraction]
) -> None:
    own, other = Pitch(x=sides[0], y=sides[1]), Pitch(x=sides[2], y=sides[3])
    x, y, width, height = (data.draw(st.integers(low, 40)) for low in (-40, -40, 1, 1))
    box = Box(x=x, y=y, width=width, height=height)
    left, top, right, bottom = edges(box, other)
    around = own.around(box, other)
    outer = edges(around, own)
    assert outer[0] <= left < outer[0] + own.x
    assert outer[1] <= top < outer[1] + own.y
    assert outer[2] - own.x < right <= outer[2]
    assert outer[3] - own.y < bottom <= outer[3]
    assert own.around(around, own) == around
    assert own.level0(box) == LEVEL0.around(box, own)

"""Resampling between exact grids moves nothing, whatever their ratio."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from magnet_cli.arithmetic.canvas import Canvas, CanvasTaps, reflected
from magnet_cli.geometry import Box, Pitch

ratios = st.sampled_from([Fraction(1), Fraction(1, 2), Fraction(1, 3), Fraction(625, 1250), Fraction(997, 1000)]) | (
    st.fractions(Fraction(1, 9), Fraction(3), max_denominator=50)
)


@given(ratio=ratios, start=st.integers(0, 100_000), origin=st.integers(-3, 3))
@settings(max_examples=200)
def test_taps_read_a_ramp_at_exact_pixel_centres(ratio: Fraction, start: int, origin: int) -> None:
    first = int((start + Fraction(1, 2)) * ratio) - 3 + origin
    taps = CanvasTaps.between(start=start, count=20, ratio=ratio, origin=first, length=80)
    positions = taps.first + taps.weight + first
    inside = (taps.first > 0) & (taps.second < 79) & (taps.second > taps.first)
    expected = np.array([float((start + n + Fraction(1, 2)) * ratio - Fraction(1, 2)) for n in range(20)])
    np.testing.assert_allclose(positions[inside], expected[inside], atol=1e-6 * max(1, first))


@given(ratio=ratios, start=st.integers(0, 1000), count=st.integers(1, 40), dim=st.integers(0, 2), data=st.data())
@settings(max_examples=300)
def test_interpolation_is_that_of_each_pixel_by_itself(
    ratio: Fraction, start: int, count: int, dim: int, data: st.DataObject
) -> None:
    length = data.draw(st.integers(1, 60) | st.integers(1, 4))
    origin = int(start * ratio) + data.draw(st.integers(-8, 8))
    values = torch.rand((3, 4, 5), generator=torch.Generator().manual_seed(start)).half()
    values = values.repeat_interleave(length, dim=dim).narrow(dim, 0, length)
    values = (values + torch.linspace(0, 0.5, length).reshape([-1 if axis == dim else 1 for axis in range(3)])).half()
    taps = CanvasTaps.between(start=start, count=count, ratio=ratio, origin=origin, length=length)
    found = taps.apply(taps.narrowed(values, dim), dim).float()
    assert found.shape[dim] == count
    for n in range(count):
        near, far = (values.select(dim, int(index[n])).float() for index in (taps.first, taps.second))
        assert torch.equal(found.select(dim, n), torch.lerp(near, far, torch.tensor(taps.weight[n])))


@given(
    ratio=st.sampled_from(
        [Fraction(1), Fraction(1, 2), Fraction(1, 4), Fraction(1, 3), Fraction(3, 2), Fraction(97, 100)]
    ),
    step=st.integers(1, 5),
    begin=st.integers(0, 3),
)
def test_spots_are_those_of_the_whole(ratio: Fraction, step: int, begin: int) -> None:
    values = torch.rand((2, 12, 13), generator=torch.Generator().manual_seed(step)).half()
    canvas = Canvas(values=values, box=Box(x=3, y=2, width=13, height=12), pitch=Pitch.square(1))
    box = Box(x=int(3 / ratio) + 1, y=int(2 / ratio) + 1, width=int(9 / ratio), height=int(8 / ratio))
    rows, columns = slice(begin, box.height, step), slice(begin, box.width, step + 1)
    found = canvas.spots(box, Pitch.square(ratio), rows=rows, columns=columns)
    whole = canvas.sample(box, Pitch.square(ratio))[:, rows, columns]
    torch.testing.assert_close(found, whole, atol=1e-6, rtol=0)


def test_the_same_grid_is_a_view() -> None:
    values = torch.rand(3, 8, 9).half()
    canvas = Canvas(values=values, box=Box(x=4, y=5, width=9, height=8), pitch=Pitch.square(2))
    part = canvas.sample(Box(x=6, y=5, width=3, height=4), Pitch.square(2))
    torch.testing.assert_close(part, values[:, :4, 2:5].float())


@pytest.mark.parametrize("ratio", [2, 4])
def test_doubling_agrees_with_torch(ratio: int) -> None:
    values = torch.rand(2, 6, 7).half()
    canvas = Canvas(values=values, box=Box(x=0, y=0, width=7, height=6), pitch=Pitch.square(ratio))
    ours = canvas.sample(Box(x=0, y=0, width=7 * ratio, height=6 * ratio), Pitch.square(1))
    theirs = torch.nn.functional.interpolate(values[None].float(), scale_factor=ratio, mode="bilinear")[0]
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@given(st.integers(1, 9), st.integers(1, 40))
def test_reflection_is_numpys_symmetric_padding(length: int, count: int) -> None:
    expected = np.pad(np.arange(length), (0, max(0, count - length)), mode="symmetric")[:count]
    np.testing.assert_array_equal(reflected(length, count), expected)

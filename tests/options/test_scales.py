"""Scales are parsed, sorted and checked."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magnet_cli.errors import UsageError
from magnet_cli.geometry import Size
from magnet_cli.options.lengths import PhysicalScales
from magnet_cli.options.scales import parse_scales

whole = st.integers(1, 10**6)


@given(sides=st.lists(st.integers(1, 10**6), min_size=1, max_size=6, unique=True), data=st.data())
def test_scales_come_in_any_order(sides: list[int], data: st.DataObject) -> None:
    text = ",".join(map(str, data.draw(st.permutations(sides))))
    assert parse_scales(text) == tuple(Size(width=side, height=side) for side in sorted(sides, reverse=True))


@given(width=whole, height=whole, factors=st.lists(st.integers(2, 5), max_size=3))
def test_scales_may_be_pairs(width: int, height: int, factors: list[int]) -> None:
    sizes = [Size(width=width, height=height)]
    for factor in factors:
        sizes.insert(0, Size(width=sizes[0].width * factor, height=sizes[0].height * factor))
    assert parse_scales(" , ".join(f"{size.width}X{size.height}" for size in sizes)) == tuple(sizes)


def test_scales_that_are_words() -> None:
    assert parse_scales(" Auto ") == "auto"
    assert parse_scales("full") == "full"


@pytest.mark.parametrize(
    "text",
    [
        *("", ",", "a", "64,", "0", "0.9", "1.5", "-64", "64x", "64x64x64", "1e3", "64;32", "64 32", "\u00b2"),
        "9" * 5000,
        *("0um", "64px", "um", "1umx1um", "1e3um", "64,64um", "64um,64", "1mm,1000um", "-1um", "1 u m", "64umx"),
    ],
)
def test_scales_that_mean_nothing(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_scales(text)
    assert caught.value.value is not None
    assert caught.value.advice


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("320um,640um", [(640, 640), (320, 320)]),
        ("0.5mm", [(500, 500)]),
        (" 500M , 0.25 km", [(500_000_000, 500_000_000), (250_000_000, 250_000_000)]),
        ("320x160\u00b5m,64x32\u03bcm", [(320, 160), (64, 32)]),
        ("1500nm,1.5cm", [(15_000, 15_000), (Fraction(3, 2), Fraction(3, 2))]),
    ],
)
def test_scales_may_have_a_unit(text: str, sides: list[tuple[Fraction, Fraction]]) -> None:
    found = parse_scales(text)
    assert isinstance(found, PhysicalScales)
    assert [(size.width, size.height) for size in found.sizes] == sides


def test_scales_are_told_in_their_own_unit() -> None:
    found = parse_scales("0.25km,20x10\u00b5m")
    assert isinstance(found, PhysicalScales)
    assert [str(size) for size in found.sizes] == ["0.25km", "20x10um"]


@given(text=st.text(max_size=20))
def test_any_text_is_understood_or_refused(text: str) -> None:
    with suppress(UsageError):
        parse_scales(text)

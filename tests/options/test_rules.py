"""Rules that choose points and windows are parsed, and mistakes in them are named."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magnet_cli.errors import UsageError
from magnet_cli.options.rules import Rule, parse_patches, parse_points

whole = st.integers(1, 10**6)
decimals = st.decimals(min_value="0.0001", max_value="0.9999", places=4)


@given(text=st.text(max_size=20))
def test_any_text_is_understood_or_refused(text: str) -> None:
    for parse in (parse_points, parse_patches):
        with suppress(UsageError):
            parse(text)


@given(count=st.integers(1, 10**12))
def test_points_that_are_counts(count: int) -> None:
    assert parse_points(str(count)) == Rule(kind="count", values=(Fraction(count),))


@given(value=decimals)
def test_points_that_are_shares(value: Any) -> None:
    share = Rule(kind="share", values=(Fraction(value),))
    assert parse_points(str(value)) == share
    assert parse_points(f"{value * 100}%") == share
    assert parse_patches(f"{value * 100} %") == share


@given(value=decimals)
def test_thresholds_have_a_letter(value: Any) -> None:
    threshold = Rule(kind="threshold", values=(Fraction(value),))
    assert parse_points(f"q > {value}") == threshold
    assert parse_patches(f"U>{value}") == parse_patches(f"w > {value}") == threshold
    for parse, letter in ((parse_points, "u"), (parse_patches, "q")):
        with pytest.raises(UsageError):
            parse(f"{letter}>{value}")


@given(counts=st.lists(whole, min_size=1, max_size=5))
def test_patches_that_are_counts(counts: list[int]) -> None:
    rule = parse_patches(",".join(map(str, counts)))
    assert rule.kind == "count"
    assert [rule.value(step) for step in range(7)] == (counts + [counts[-1]] * 7)[:7]


@pytest.mark.parametrize("text", ["", "0", "0%", "101%", "1.5", "-1", "q>1", "q>", "3,4", "1/2", "1e-9", "nan", "inf"])
def test_points_that_mean_nothing(text: str) -> None:
    with pytest.raises(UsageError, match=r"--points is one of all, 32768, 75%, 0\.75 or q>0\.2"):
        parse_points(text)


@pytest.mark.parametrize("text", ["all", "32768", "75%", "q>0.2", "100%"])
def test_points_are_told_as_they_are_spelled(text: str) -> None:
    assert parse_points(text).spelled("q") == text

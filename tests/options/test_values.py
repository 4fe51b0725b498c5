"""Texts for bands and ranges of values are parsed."""

from __future__ import annotations

from fractions import Fraction

import pytest

from magnet_cli.errors import UsageError
from magnet_cli.options.values import ValueRange, parse_bands, parse_value_range


def test_bands_are_numbers_or_names_in_order() -> None:
    assert parse_bands("4,3,2") == ("4", "3", "2")
    assert parse_bands(" red, B8A ,1") == ("red", "B8A", "1")
    assert parse_bands("1,1,1") == ("1", "1", "1")


@pytest.mark.parametrize("text", ["", ",", "4,,2", "4,3,", " "])
def test_a_missing_band_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--bands are .*by number \(the first is 1\) or by name"):
        parse_bands(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0,10000", ValueRange(kind="values", low=Fraction(0), high=Fraction(10000))),
        ("-0.1, 0.45", ValueRange(kind="values", low=Fraction("-0.1"), high=Fraction("0.45"))),
        ("2%,98%", ValueRange(kind="percentiles", low=Fraction(2), high=Fraction(98))),
        ("0%,99.9%", ValueRange(kind="percentiles", low=Fraction(0), high=Fraction("99.9"))),
        ("DTYPE", ValueRange(kind="dtype")),
    ],
)
def test_ranges(text: str, expected: ValueRange) -> None:
    found = parse_value_range(text)
    assert found == expected
    assert parse_value_range(str(found)) == expected


@pytest.mark.parametrize(
    "text",
    ["", "5", "1,2,3", "10,10", "10,0", "2%,98", "-1%,50%", "5%,101%", "1e3,1e4", "nan,1", "auto", f"0,{10**13}"],
)
def test_what_is_no_rising_range_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--value-range is LOW,HIGH in stored values, LOW%,HIGH%"):
        parse_value_range(text)

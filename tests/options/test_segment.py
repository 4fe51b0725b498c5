"""Options of `segment` that are out of range or exclude each other are refused."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from typing import Any

import pytest

from magnet_cli.errors import UsageError
from magnet_cli.options.segment import SegmentOptions


@pytest.mark.parametrize(
    ("option", "value", "match"),
    [
        ("batch_size", 0, "--batch-size is at least 1"),
        ("num_workers", -1, "--num-workers is at least 0"),
        ("overlap", -1, "--overlap is a share of the window or a number"),
        ("median", 0, "--median is at least 1"),
        ("median", 4, "--median is odd"),
        ("mpp", Fraction(0), "--mpp is a positive size in um"),
        ("gsd", Fraction(10**6), "--gsd is a positive size in m"),
        ("level", -1, "--level is at least 0"),
        ("mag", Fraction(0), "--mag is a positive magnification"),
        ("mag", Fraction(1001), "--mag is a positive magnification"),
        ("slide_mpp", Fraction(10**6), "--slide-mpp is a positive size"),
    ],
)
def test_options_out_of_range(option: str, value: Any, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        SegmentOptions(**{option: value})


@pytest.mark.parametrize(("one", "other"), list(combinations(("mpp", "gsd", "level", "mag"), 2)))
def test_one_option_at_most_says_at_which_size_to_read(one: str, other: str) -> None:
    with pytest.raises(UsageError, match=rf"\(got --{one} 1 and --{other} 1\)\. Give only one of --mpp"):
        SegmentOptions(**{one: 1, other: 1})  # type: ignore[arg-type]
    assert SegmentOptions(**{one: 1}).reading == f"--{one} 1"  # type: ignore[arg-type]


def test_of_several_methods_each_takes_the_options_that_concern_it() -> None:
    options = SegmentOptions(points="50%", merge="mean", median=3, patches="2", overlap=0)
    patch = options.of_method("patch", among=("magnet-fast", "patch"))
    assert patch == SegmentOptions(method="patch", overlap=0)
    magnet = options.of_method("magnet", among=("magnet-fast", "magnet"))
    assert magnet == SegmentOptions(method="magnet", points="50%", merge="mean", median=3, overlap=0)
    # What concerns none of them stays, so that the run refuses it.
    assert options.of_method("patch", among=("patch", "magnet")).patches == options.patches
    assert options.of_method("patch", among=("patch",)) == replace(options, method="patch")

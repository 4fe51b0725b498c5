"""What the words of the options mean."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magnet_cli.errors import UsageError
from magnet_cli.geometry import Size
from magnet_cli.options.lengths import PhysicalScales
from magnet_cli.options.segment import (
    ALL,
    BundleDefaults,
    MethodSettings,
    Rule,
    SegmentOptions,
    parse_patches,
    parse_points,
    parse_scales,
)

whole = st.integers(1, 10**6)
decimals = st.decimals(min_value="0.0001", max_value="0.9999", places=4)


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
    for parse in (parse_scales, parse_points, parse_patches):
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


@pytest.mark.parametrize("text", ["all", "3", "4,4,8", "25%", "u>0.1", "selector"])
def test_patches_are_told_as_they_are_spelled(text: str) -> None:
    settings = MethodSettings(
        method="magnet-fast", merge="mean", points=ALL, patches=parse_patches(text), median=11, margin=0
    )
    assert settings.describe()["patches"] == text


@pytest.mark.parametrize("letter", ["u", "w"])
@pytest.mark.parametrize(("select", "told"), [("uncertainty", "u"), ("change", "w"), ("both", "w"), ("ppn", "w")])
def test_a_limit_on_windows_is_told_as_one_of_what_they_are_compared_by(letter: str, select: Any, told: str) -> None:
    patches = parse_patches(f"{letter}>0.1")
    settings = MethodSettings(
        method="magnet-fast", merge="mean", points=ALL, patches=patches, median=11, margin=0, select=select
    )
    assert settings.describe()["patches"] == f"{told}>0.1"


@pytest.mark.parametrize(
    ("option", "value", "match"),
    [
        ("batch_size", 0, "--batch-size is at least 1"),
        ("num_workers", -1, "--num-workers is at least 0"),
        ("margin", -1, "--margin is at least 0"),
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
    with pytest.raises(UsageError, match=rf"\(got --{one} 1 and --{other} 1\)\. Give one of them"):
        SegmentOptions(**{one: 1, other: 1})  # type: ignore[arg-type]
    assert SegmentOptions(**{one: 1}).reading == f"--{one} 1"  # type: ignore[arg-type]


def test_settings_know_what_they_rank() -> None:
    def settings(**changed: Any) -> MethodSettings:
        usual: dict[str, Any] = {
            "method": "magnet",
            "merge": "mean",
            "points": ALL,
            "patches": ALL,
            "median": 11,
            "margin": 0,
        }
        return MethodSettings(**{**usual, **changed})

    assert (settings().ranks, settings().score_side, settings().refines) == (False, 1, True)
    assert (settings(points=parse_points("q>0.2")).ranks, settings(points=parse_points("q>0.2")).score_side) == (
        False,
        11,
    )
    assert settings(points=parse_points("75%")).ranks
    assert settings(patches=parse_patches("3")).ranks
    assert not settings(method="patch").refines


def test_a_bundle_gives_defaults() -> None:
    scales = parse_scales("64,32")
    assert isinstance(scales, tuple)
    found = BundleDefaults.parse(scales=scales, magnet={"merge": "refiner", "points": "75%", "patches": "4,4"})
    assert found == BundleDefaults(
        scales=scales, merge="refiner", points=parse_points("75%"), patches=parse_patches("4,4"), median=11, margin=0
    )

"""The settings of a method join its options with the defaults of a bundle."""

from __future__ import annotations

from typing import Any

import pytest

from magnet_cli.options.method_settings import BundleDefaults, MethodSettings
from magnet_cli.options.rules import ALL, parse_patches, parse_points
from magnet_cli.options.scales import parse_scales


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


def test_settings_know_the_median_that_they_need() -> None:
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

    assert (settings().score_side, settings().refines) == (1, True)
    assert settings(points=parse_points("q>0.2")).score_side == 11
    assert not settings(method="patch").refines


def test_a_bundle_gives_defaults() -> None:
    scales = parse_scales("64,32")
    assert isinstance(scales, tuple)
    found = BundleDefaults.parse(scales=scales, magnet={"merge": "refiner", "points": "75%", "patches": "4,4"})
    assert found == BundleDefaults(
        scales=scales, merge="refiner", points=parse_points("75%"), patches=parse_patches("4,4"), median=11, margin=0
    )

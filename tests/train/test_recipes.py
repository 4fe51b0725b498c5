"""The recipes of the papers beside the bundles name the source of each of their settings."""

from __future__ import annotations

from pathlib import Path

import pytest


def recipe(name: str) -> Path:
    return Path(__file__).parents[2] / "weights" / f"{name}.toml"


@pytest.mark.parametrize(("name", "least"), [("paper-cascade", 25), ("paper-refiner", 20)])
def test_every_setting_says_whose_it_is(name: str, least: int) -> None:
    lines = recipe(name).read_text(encoding="utf-8").splitlines()
    settings = [line for line in lines if "=" in line and line[0] != "#"]
    assert len(settings) > least
    for line in settings:
        assert line.partition("#")[2].strip().startswith(("paper", "published program", "ours")), line

from __future__ import annotations

from typing import TYPE_CHECKING

import tifffile

from tests.cli.support import invoke

if TYPE_CHECKING:
    from pathlib import Path


def test_a_landscape_is_chosen_by_name(tmp_path: Path) -> None:
    for landscape in ("countryside", "desert"):
        result = invoke("scene", tmp_path / f"{landscape}.tif", "--size", "96x64", "--landscape", landscape)
        assert result.exit_code == 0, result.output
    pictures = [tifffile.imread(tmp_path / f"{name}.tif", key=0) for name in ("countryside", "desert")]
    assert pictures[1].mean() > pictures[0].mean() + 20


def test_an_unknown_landscape_is_refused(tmp_path: Path) -> None:
    result = invoke("scene", tmp_path / "city.tif", "--landscape", "moon")
    assert result.exit_code == 2
    assert "desert" in result.output

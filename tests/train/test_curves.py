"""The log of a training becomes a picture."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest

from magnet_cli.train.curves import curve, draw_curves, picture

if TYPE_CHECKING:
    from pathlib import Path


def log(*, validates: bool) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for iteration in range(10, 60, 10):
        lines.append({"iteration": iteration, "loss": 2 / iteration, "rate": 0.01, "seconds": 1.0})
        if validates:
            lines.append(
                {"iteration": iteration, "validation_miou": iteration / 100, "validation_cross_entropy": 1 / iteration}
            )
    return lines


def test_the_last_line_of_an_iteration_counts() -> None:
    lines = [*log(validates=True), {"iteration": 20, "loss": 7.0}, {"iteration": 60, "loss": 0.5}]
    assert curve(lines, "loss") == ([10, 20, 30, 40, 50, 60], [0.2, 7.0, 2 / 30, 0.05, 0.04, 0.5])
    assert curve(lines, "validation_miou")[0] == [10, 20, 30, 40, 50]


@pytest.mark.parametrize("validates", [False, True])
def test_it_is_a_picture_with_something_on_it(tmp_path: Path, *, validates: bool) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in log(validates=validates)))
    draw_curves(path, tmp_path / "curves.png")
    pixels = imagecodecs.imread(tmp_path / "curves.png")
    colours = {tuple(colour) for colour in np.unique(pixels[..., :3].reshape(-1, 3), axis=0).tolist()}
    assert (0x1F, 0x5A, 0x94) in colours
    assert ((0xC2, 0x57, 0x1A) in colours) == validates


@pytest.mark.parametrize("lines", [[], log(validates=False)[:1], [{"iteration": 5, "loss": 0.0, "rate": 0.0}]])
def test_little_and_zero_can_be_drawn(lines: list[dict[str, Any]]) -> None:
    assert picture(lines).startswith(b"\x89PNG")

"""Small images and a small bundle, and two ways to run the program: in this process, or as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
import torch
from typer.testing import CliRunner

from magnet_cli.cli.app import app
from magnet_cli.models.bundle_writer import describe, write_bundle
from magnet_cli.models.registry import build_backbone

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typer.testing import Result

ROOT = Path(__file__).parents[2]
SIZE = (110, 150)
"""Height and width of an image."""


def write_image(path: Path, *, bands: int = 3, seed: int = 0, size: tuple[int, int] = SIZE) -> Path:
    """Write a tiled TIFF: red on the left, green in the middle, blue on the right, with a little noise."""
    height, width = size
    values = np.random.default_rng(seed).integers(0, 20, (height, width, bands), dtype=np.uint8)
    for column in range(width):
        values[:, column, min(bands - 1, column * 3 // width)] += 200
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path,
        values if bands > 1 else values[..., 0],
        photometric="rgb" if bands == 3 else "minisblack",
        planarconfig="contig" if bands > 1 else None,
        tile=(64, 64),
    )
    return path


def expected_labels(size: tuple[int, int] = SIZE) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the labels that the bundle gives to `write_image`: red is 0, green 1, blue 2."""
    height, width = size
    return np.tile((np.arange(width) * 3 // width).astype(np.uint8), (height, 1))


def write_colours_bundle(folder: Path, *, side: int = 32) -> Path:
    """Write a bundle whose class is the brightest of red, green and blue. Its network sees squares of `side` pixels."""
    network = build_backbone("conv", classes=3, bands=3, options={})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(20 * torch.eye(3)[..., None, None] if parameter.ndim == 4 else torch.zeros(3))
    described = describe(
        name="colours",
        classes=[{"name": n, "color": c} for n, c in zip("rgb", ("#FF0000", "#00FF00", "#0000FF"), strict=True)],
        size=side,
        scales=(side, 2 * side, 4 * side),
    )
    write_bundle(folder, described, {"backbone.safetensors": network})
    return folder


def invoke(*arguments: str | Path, env: Mapping[str, str] | None = None) -> Result:
    """Run the program in this process. Any exception is raised again, because it would be a bug."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def invoke_json(*arguments: str | Path, code: int = 0) -> dict[str, Any]:
    """Return the JSON object that a command prints with --json."""
    result = invoke(*arguments, "--json")
    assert result.exit_code == code, result.stderr
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a program run by `python -m` from any folder; its streams are buffered."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return {**own, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def command(*arguments: str | Path) -> list[str]:
    """Return the words that start the program with arguments as a process of its own."""
    return [sys.executable, "-m", "magnet_cli.cli.program", *map(str, arguments)]


def run(*arguments: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the program as its own process."""
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment(**env), check=False, capture_output=True, text=True, timeout=300
    )


def one_failure(result: Result) -> str:
    """Return the only failure on standard error, which is one line, or a second one with why; nothing was printed."""
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) in (1, 2), result.stderr
    assert lines[0].startswith("magnet: ")
    assert [line for line in lines[1:] if not line.startswith("  Why: ")] == []
    return "\n".join(lines)

"""Help and wrong words answer before anything heavy is loaded."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import typer

from magnet_cli.cli.app import app
from tests.cli.support import environment

HEAVY = {"numpy", "torch", "tifffile", "zarr", "pyvips", "openslide", "skimage", "scipy", "imagecodecs", "safetensors"}

WITH_ARGUMENTS = """
import sys
from magnet_cli.cli.app import main
sys.argv = ["magnet", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    print("\\nLOADED", end.code, *sys.modules)
"""


CALLS: list[tuple[list[str], int]] = [
    (["--help"], 0),
    (["--version"], 0),
    (["segment", "--help"], 0),
    (["refine", "--help"], 0),
    (["refine", "x.tif", "y.tif", "--padding", "wide"], 2),
    (["plan", "--help"], 0),
    (["info", "--help"], 0),
    (["verify", "--help"], 0),
    (["report", "--help"], 0),
    (["evaluate", "--help"], 0),
    (["export", "--help"], 0),
    (["export", "x.tif", "--format", "png"], 2),
    (["evaluate", "--data", "x.csv", "--scales", "0.5"], 2),
    (["scene", "--help"], 0),
    (["train", "backbone", "--help"], 0),
    (["bench", "--help"], 0),
    (["bench", "--sizes", "0"], 2),
    (["segment"], 2),
    (["segment", "x.tif", "--scales", "0.5"], 2),
    (["segment", "x.tif", "--memory", "4"], 2),
]


@pytest.mark.parametrize(("words", "code"), CALLS, ids=[" ".join(words) for words, _ in CALLS])
def test_nothing_heavy_is_loaded(words: list[str], code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITH_ARGUMENTS, *words],
        check=True,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )
    loaded = done.stdout.rpartition("LOADED ")[2].split()
    assert loaded[0] == str(code)
    assert HEAVY & set(loaded) == set()


# Newer versions of typer bring a click of their own.
ROOT: Any = typer.main.get_command(app)
GROUPS = ("train", "weights")
FOR_FILES = sorted(set(ROOT.commands) - set(GROUPS))


def variable(entry: Any, option: str) -> str | None:
    """The environment variable of an option."""
    return next(str(each.envvar) for each in entry.params if option in each.opts)


@pytest.mark.parametrize("name", FOR_FILES)
def test_what_a_loop_passes_to_every_command_is_taken(name: str) -> None:
    assert variable(ROOT.commands[name], "--json") == "MAGNET_JSON"
    assert variable(ROOT.commands[name], "--no-progress") == "MAGNET_NO_PROGRESS"


def test_trainings_show_progress_unless_told_otherwise() -> None:
    for entry in ROOT.commands["train"].commands.values():
        assert variable(entry, "--no-progress") == "MAGNET_NO_PROGRESS"

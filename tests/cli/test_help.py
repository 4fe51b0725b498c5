"""Help and wrong words answer before anything heavy is loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

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

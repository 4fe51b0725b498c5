"""Help and refusals of wrong options come before heavy libraries are loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import typer

from magnet_cli.cli.app import app
from tests.cli.support import environment, invoke

HEAVY = {"numpy", "torch", "tifffile", "zarr", "pyvips", "openslide", "skimage", "scipy", "imagecodecs", "safetensors"}

ONE_AFTER_ANOTHER = """
import json, sys
from magnet_cli.cli.app import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["magnet", *words]
    try:
        main()
    except SystemExit as end:
        print("\\nLOADED", end.code, *sys.modules)
"""
"""A script that runs commands in one process. After each it prints the exit code and all loaded modules."""


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
    (["view", "--help"], 0),
    (["view", "x.tif", "--port", "70000"], 2),
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


def test_nothing_heavy_is_loaded() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_ANOTHER, json.dumps([words for words, _ in CALLS])],
        check=True,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )
    answers = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("LOADED ")]
    for (words, code), (ended, *loaded) in zip(CALLS, answers, strict=True):
        assert (words, ended) == (words, str(code))
        assert (words, HEAVY & set(loaded)) == (words, set())


# Newer versions of typer bring a click of their own.
ROOT: Any = typer.main.get_command(app)
GROUPS = ("train", "weights")
FOR_FILES = sorted(set(ROOT.commands) - set(GROUPS))


def variable(entry: Any, option: str) -> str | None:
    """Return the name of an option's environment variable."""
    return next(str(each.envvar) for each in entry.params if option in each.opts)


@pytest.mark.parametrize("name", FOR_FILES)
def test_what_a_loop_passes_to_every_command_is_taken(name: str) -> None:
    assert variable(ROOT.commands[name], "--json") == "MAGNET_JSON"
    assert variable(ROOT.commands[name], "--no-progress") == "MAGNET_NO_PROGRESS"


def test_trainings_show_progress_unless_told_otherwise() -> None:
    for entry in ROOT.commands["train"].commands.values():
        assert variable(entry, "--no-progress") == "MAGNET_NO_PROGRESS"


PANELS = ["Arguments", "Most used", "What to read", "Method", "Network from elsewhere", "How that network is called"]
PANELS += ["Where to look", "Outputs", "Machine", "Several jobs or devices", "More"]
MOST_USED = ["--output", "--weights", "--scales", "--method", "--slide-mpp", "--roi", "--gpu", "--gpu-memory", "--html"]


def panels(*words: str) -> dict[str, list[str]]:
    """Return the sections of a command's help, with the longest spelling of each option."""
    found: dict[str, list[str]] = {}
    for line in invoke(*words, "--help").stdout.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            found[line[:-1]] = []
        elif line.startswith("  -"):
            option = next(word for word in line.replace(",", " ").split() if word.startswith("--"))
            found[list(found)[-1]].append(option)
    return found


def test_options_of_segment_stand_in_panels_the_most_used_first() -> None:
    found = panels("segment")
    assert list(found) == PANELS
    assert found["Most used"] == [*MOST_USED, "--format"]
    read = ["--series", "--domain", "--alpha", "--bands", "--value-range", "--mpp", "--gsd", "--level", "--mag"]
    assert found["What to read"] == read
    assert found["Machine"] == ["--device", "--precision", "--num-workers", "--memory", "--engine", "--batch-size"]
    shown = [option for options in found.values() for option in options]
    assert len(shown) == len(set(shown))
    params = [max(entry.opts, key=len) for entry in ROOT.commands["segment"].params if entry.opts[0].startswith("-")]
    assert sorted(shown) == sorted([*params, "--help"])


@pytest.mark.parametrize("name", FOR_FILES)
def test_no_panel_is_too_long_to_scan(name: str) -> None:
    for panel, options in panels(name).items():
        assert len(options) <= 12, panel
    assert set(panels(name)) <= {*PANELS, "Options", "What to compare", "What to measure"}


def test_variables_of_the_environment_are_named_in_one_sentence() -> None:
    text = " ".join(invoke("refine", "--help").stdout.split())
    assert "MAGNET_REFINE_METHOD for --method" in text
    none = text.partition("but none for ")[2]
    assert none == "--overwrite, --resume, --evidence, --min-area, --dry-run."
    assert text.count("MAGNET_") == 2


def test_a_number_that_is_too_small_names_its_option() -> None:
    for words in (["--level", "-1"], ["--min-area", "-1"], ["--num-workers", "-1"]):
        result = invoke("segment", "x.tif", *words)
        assert result.exit_code == 2
        assert f"{words[0]} is at least 0 (got -1)" in result.stderr

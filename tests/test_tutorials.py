"""Each tutorial works from its own text: its scripts are saved and run, and its commands are run in its order."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from magnet_cli.masks.report_file import read_report
from tests.cli.support import environment
from tests.forked import run_forked

ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT / "docs" / "tutorials"
SMALL = {r"\d+x\d+": "700x500", r"\d+,\d+,512,384": "0,0,512,384"}
"""Words that make the pages' scenes smaller, so that the tests end soon, and put a region into them."""
MOST_BYTES = 150_000
"""Largest size of a picture in the documents."""
BLOCK = re.compile(r"```(python|sh)\n(.*?)```", re.DOTALL)


def smaller(word: str) -> str:
    """Return what a word of a command is replaced by where scenes are small."""
    return next((small for pattern, small in SMALL.items() if re.fullmatch(pattern, word)), word)


def follow(name: str, folder: Path, *, small: bool = True) -> list[str]:
    """Do what a tutorial says, and return its commands. Scenes are small (`SMALL`), or else the page's own."""
    text = (TUTORIALS / f"{name}.md").read_text(encoding="utf-8")
    commands = []
    for kind, block in BLOCK.findall(text):
        if kind == "python":
            named = re.match(r"# (\w+\.py)\n", block)
            assert named, "a script begins with the name under which it is saved"
            assert f"`{named[1]}`" in text
            (folder / named[1]).write_text(block, encoding="utf-8")
            continue
        for line in block.splitlines():
            words = [smaller(word) if small else word for word in shlex.split(line)]
            if words[0] == "python":
                script = [sys.executable, *words[1:]]
                done = subprocess.run(
                    script, cwd=folder, env=environment(), check=False, capture_output=True, text=True
                )
                assert done.returncode == 0, done.stderr
            else:
                assert words[0] == "magnet"
                ended = run_forked(words[1:], folder)
                assert ended.code == 0, f"{line}\n{ended.stderr}"
            commands.append(line)
    return commands


def shares(report: Path) -> dict[str, float]:
    """Return the share of each class in a mask."""
    classes = read_report(report)["classes"]
    assert isinstance(classes, list)
    return {entry["name"]: entry["share"] for entry in classes}


@cache
def pictures() -> Any:
    """The module that draws the pictures of the tutorials."""
    place = ROOT / "docs" / "images" / "tutorial_pictures.py"
    found = importlib.util.spec_from_file_location("tutorial_pictures", place)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def picture_of(name: str, folder: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The picture that the files of a tutorial give, as it would be saved, and the one of the documents."""
    pictures().save(pictures().PICTURES[name](folder), folder / "picture.png")
    with Image.open(folder / "picture.png") as drawn, Image.open(kept(name)) as stored:
        assert (drawn.size, drawn.mode, drawn.format) == (stored.size, stored.mode, stored.format)
        return np.asarray(drawn.convert("RGB"), np.int16), np.asarray(stored.convert("RGB"), np.int16)


def kept(name: str) -> Path:
    """The picture of a tutorial in the documents."""
    return ROOT / "docs" / "images" / f"tutorial-{name}.png"


def test_every_tutorial_shows_a_small_picture_that_is_drawn_from_its_files() -> None:
    names = {path.stem for path in TUTORIALS.glob("*.md")}
    assert set(pictures().PICTURES) == names
    for name in names:
        assert f"](../images/{kept(name).name})" in (TUTORIALS / f"{name}.md").read_text(encoding="utf-8")
        assert kept(name).stat().st_size <= MOST_BYTES


def test_every_tutorial_has_its_test() -> None:
    tests = {name.removeprefix("test_the_tutorial_on_a_") for name in globals() if name.startswith("test_the_tutorial")}
    assert {path.stem for path in TUTORIALS.glob("*.md")} == tests


@pytest.mark.full
def test_the_tutorial_on_a_slide(tmp_path: Path) -> None:
    assert len(follow("slide", tmp_path)) == 7
    found = shares(tmp_path / "masks" / "slide.json")
    # The drawn ellipse is half of the slide, and nuclei of 9 pixels radius are some tenth of it.
    assert found["nuclei"] > 0.05
    assert found["tissue"] > found["nuclei"]
    assert (tmp_path / "masks" / "slide.html").is_file()
    assert '"nuclei"' in (tmp_path / "masks" / "slide.geojson").read_text(encoding="utf-8")
    # The slide of the page is small, so the test has made the very picture of the page.
    drawn, stored = picture_of("slide", tmp_path)
    assert np.abs(drawn - stored).mean() < 2


@pytest.mark.full
def test_the_tutorial_on_a_mosaic(tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    assert len(follow("mosaic", tmp_path)) == 8
    report = read_report(tmp_path / "masks" / "town.json")
    assert report["input"]["crs"]  # type: ignore[index]  # the report is JSON
    names = {path.name for path in (tmp_path / "masks").iterdir()}
    assert {"town.tif", "town.html", "town.cog.tif", "town.geojson"} <= names
    assert len([name for name in names if name.endswith(".geojson")]) == 2
    picture_of("mosaic", tmp_path)


@pytest.mark.full
def test_the_tutorial_on_a_network(tmp_path: Path) -> None:
    assert len(follow("network", tmp_path)) == 8
    assert sum(shares(tmp_path / "masks" / "other.json").values()) == pytest.approx(1, abs=1e-3)
    picture_of("network", tmp_path)


@pytest.mark.full
def test_the_tutorial_on_a_cluster(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    assert len(follow("cluster", tmp_path)) == 8
    assert read_report(tmp_path / "masks" / "run.json")["counts"] == {
        "done": 0,
        "already done": 3,
        "failed": 0,
        "waiting": 0,
    }
    assert "begins" in (tmp_path / "part-0.log").read_text(encoding="utf-8")
    picture_of("cluster", tmp_path)


def make_pictures(folder: Path) -> None:
    """Do every tutorial as its page says, and draw the pictures of the pages."""
    for name, draw in pictures().PICTURES.items():
        with tempfile.TemporaryDirectory() as work:
            (Path(work) / "images").mkdir()
            follow(name, Path(work), small=False)
            pictures().save(draw(Path(work)), folder / kept(name).name)


if __name__ == "__main__":
    make_pictures(Path(sys.argv[1]))

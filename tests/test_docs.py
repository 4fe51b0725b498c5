"""The documents keep their promises: every command runs, every table is the measured one, every named test exists."""

from __future__ import annotations

import re
import shlex
import shutil
from itertools import pairwise
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch

import magnet_cli
from magnet_cli.geometry import Box, Size
from magnet_cli.models.architectures.efficientnet import efficientnet_lite0
from magnet_cli.models.registry import build_backbone, build_cascade, build_refiner
from magnet_cli.report.viewer.exhibit import open_exhibit
from magnet_cli.scene import Scene, write_scene
from tests.forked import run_forked
from tests.laws.support import blurry_bundle
from tests.report.viewer.support import draw

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = "700x500"
"""Commands run on a smaller scene than the README names, and benches on a smaller image and once."""


def fenced(text: str) -> list[str]:
    """Return the lines of all shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def under(heading: str) -> list[str]:
    """Return the lines of the first block right under a heading."""
    found = re.search(rf"## {heading}\n\n```sh\n(.*?)```", README, flags=re.DOTALL)
    assert found, heading
    return found[1].splitlines()


def run_magnet(words: list[str], folder: Path) -> None:
    """Run one command."""
    words = [SMALL if re.fullmatch(r"\d+x\d+", word) else word for word in words]
    if words[1] == "bench":
        words = ["300" if before == "--sizes" else word for before, word in pairwise(["", *words])]
        words += ["--repeats", "1"]
    ended = run_forked(words[1:], folder)
    assert ended.code == 0, f"{words}\n{ended.stderr}"


def test_try_and_test_are_one_line_each() -> None:
    assert len(under("Try it")) == 1
    assert len(under("Test it")) == 1


def test_the_try_line_segments_a_scene_with_the_shipped_bundle(tmp_path: Path) -> None:
    steps = [shlex.split(step) for step in under("Try it")[0].split("&&")]
    assert [step[0] for step in steps] == ["python3", ".venv/bin/pip", ".venv/bin/magnet", ".venv/bin/magnet"]
    for step in steps[2:]:
        run_magnet(step, tmp_path)
    assert (tmp_path / "masks" / "city.tif").is_file()
    assert (tmp_path / "masks" / "city.json").is_file()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the folder in which the README's commands run, with the files that they name."""
    place = tmp_path_factory.mktemp("readme")
    run_magnet(["magnet", "scene", "city.tif", "--size", SMALL, "--labels", "city-truth.tif"], place)
    (place / "slides").mkdir()
    shutil.copy(place / "city.tif", place / "slides" / "one.tif")
    write_training_data(place)
    (place / "test.csv").write_text("image,label\ncity.tif,city-truth.tif\n")
    torch.save(build_backbone("fpn-resnet50", classes=7, bands=3, options={}).state_dict(), place / "deepglobe_fpn.pth")
    torch.save(build_refiner("magnet", classes=7, options={}).state_dict(), place / "deepglobe_refine.pth")
    cascade = build_cascade("cascadepsp-resnet50", options={}).state_dict()
    torch.save({f"module.{key}": value for key, value in cascade.items()}, place / "cascadepsp.pth")
    return place


def write_training_data(place: Path) -> None:
    """Two small scenes, and the shipped configurations with two iterations and a smaller network."""
    for kind in ("images", "labels"):
        (place / "data" / kind).mkdir(parents=True)
    for name, seed in (("a", 1), ("b", 2)):
        scene = Scene(size=Size(width=300, height=280), seed=seed)
        box = Box.whole(scene.size)
        imagecodecs.imwrite(place / "data" / "images" / f"{name}.png", scene.pixels(box))
        imagecodecs.imwrite(place / "data" / "labels" / f"{name}.png", scene.labels(box))
    torch.save(efficientnet_lite0().state_dict(), place / "lite.pth")
    for source, target in (
        ("weights/aerial/train", "train"),
        ("weights/refiner", "refiner"),
        ("weights/paper-cascade", "cascade"),
    ):
        text = (ROOT / f"{source}.toml").read_text(encoding="utf-8")
        for pattern, value in (
            (r"^(scenes|grid) = .*$", ""),
            (r"^iterations = .*$", "iterations = 2"),
            (r"^encoder_weights = .*$", 'encoder_weights = "lite.pth"'),
            (r"^batch = .*$", "batch = 2"),
            (r"^options = \{ width = 40.*$", "options = { width = 8, lateral = 8, head = 8 }"),
            (r"^held_out = .*$", 'held_out = [["a"], ["b"]]'),
            (
                r'^architecture = "cascadepsp-.*$',
                'architecture = "cascadepsp-light"\noptions = { width = 8, pooled = 8 }',
            ),
            (r"^crop = .*$", "crop = 64"),
        ):
            text = re.sub(pattern, value, text, flags=re.MULTILINE)
        (place / f"{target}.toml").write_text(text, encoding="utf-8")


@pytest.mark.full
def test_every_command_of_the_readme_and_of_the_pages_on_usage_runs(folder: Path) -> None:
    pages = [README, *((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("usage.md", "choices.md"))]
    lines = [line for page in pages for line in fenced(page) if line.startswith("magnet ")]
    assert len(lines) >= 15
    for line in lines:
        words = shlex.split(line)
        if words[2:3] in (["slides"], ["slides/*.tif"]) or words[1] == "scene":
            words.append("--overwrite")
        run_magnet(words, folder)
    assert (folder / "my-bundle" / "refiner.safetensors").is_file()
    assert (folder / "my-cascade" / "cascade.safetensors").is_file()


@pytest.mark.full
def test_every_command_of_the_page_on_selection_runs(folder: Path) -> None:
    page = (ROOT / "docs" / "selection.md").read_text(encoding="utf-8")
    blurry_bundle(folder / "selection" / "my-bundle", scales=(128, 64), selector=True)
    shutil.copy(folder / "city.tif", folder / "selection")
    for line in fenced(page):
        run_magnet(shlex.split(line), folder / "selection")


def run_python(*, measuring: bool) -> None:
    """Run code of docs/python.md in the current folder: the part that measures, the long part, or the rest."""
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    chosen = [block for block in blocks if ("run_bench" in block) is measuring]
    assert len(chosen) >= (1 if measuring else 10)
    names: dict[str, object] = {"magnet_cli": magnet_cli, "SegmentOptions": magnet_cli.SegmentOptions, "Path": Path}
    for block in chosen:
        exec(compile(block, "python.md", "exec"), names)  # noqa: S102 - the page's own code


def test_the_code_of_the_page_on_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(size=Size(width=400, height=300), seed=0)
    write_scene(tmp_path / "city.tif", scene, labels_path=tmp_path / "city-truth.tif")
    monkeypatch.chdir(tmp_path)
    run_python(measuring=False)
    for path in ("masks/city.tif", "masks/city.geojson", "masks/city.html", "own/city.tif", "sharper.tif"):
        assert Path(path).is_file(), path


@pytest.mark.full
def test_the_code_of_the_page_on_python_that_measures_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAGNET_STATE", str(tmp_path / "state"))
    run_python(measuring=True)
    assert "of the ceiling" in Path("bench.html").read_text(encoding="utf-8")


def test_the_page_on_python_names_every_function() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    functions = [name for name in magnet_cli.__all__ if name.islower()]
    assert [name for name in functions if f"`{name}(" not in page] == []
    errors = [name for name in magnet_cli.__all__ if name.endswith("Error")]
    assert [name for name in errors if f"`{name}`" not in page] == []


@pytest.mark.full
def test_the_commands_that_sharpen_masks_run(tmp_path: Path) -> None:
    y, x = np.mgrid[:160, :192]
    retina = np.where((np.abs(y - x) < 4) | (np.abs(y + x - 200) < 3), 90, 190)[..., None] * np.array([1, 0.4, 0.25])
    imagecodecs.imwrite(tmp_path / "retina.jpg", retina.astype(np.uint8))
    write_scene(tmp_path / "town.tif", Scene(size=Size(width=320, height=256), seed=1))
    lines = fenced((ROOT / "docs" / "refine.md").read_text(encoding="utf-8"))
    assert [shlex.split(line)[1] for line in lines] == [*["segment", "refine"] * 2, "segment"]
    for line in lines:
        run_magnet(shlex.split(line), tmp_path)
    assert (tmp_path / "sharp" / "retina.tif").is_file()
    roofs = tifffile.imread(tmp_path / "roofs" / "town.tif")
    assert set(np.unique(roofs)) <= {0, 1}, "a drawn roof is none that the bundle knows"


@pytest.mark.parametrize(
    "page", ["CONTRIBUTING.md", "README.md", *(f"docs/{name}.md" for name in ("architecture", "release", "usage"))]
)
def test_paths_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:magnet_cli|tests|docs|scripts|benchmarks|weights|\.ci)/[\w/.-]*\w)`", text)
    missing = [path for path in named if not (ROOT / path).exists()]
    assert missing == []


@pytest.mark.parametrize("page", ["bench.md", "method.md", "refine.md"])
def test_tests_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert named
    for file, function in named:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert not function or f"def {function}(" in source, (file, function)


def test_links_between_documents_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            # The source distribution has no benchmarks.
            if "benchmarks/" in target and not (ROOT / "benchmarks").is_dir():
                continue
            assert (page.parent / target).exists(), (page.name, target)


@pytest.mark.full
def test_the_guide_on_training_leads_to_a_mask(folder: Path) -> None:
    """The guide's own configuration and commands run with two iterations and small scenes."""
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    place = folder / "training"
    place.mkdir()
    write_training_data(place)
    for kind in ("images", "labels"):
        for name, tile in (("a", "tile19"), ("b", "tile20")):
            shutil.copy(place / "data" / kind / f"{name}.png", place / "data" / kind / f"{tile}.png")
    for name in ("city.tif", "city-truth.tif", "test.csv"):
        shutil.copy(folder / name, place)
    (text,) = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    for pattern, value in (
        (r"^iterations = .*$", "iterations = 2"),
        (r"^batch = .*$", "batch = 2"),
        (r"^validate_every = .*$", "validate_every = 2"),
        (r"^encoder_weights = .*$", 'encoder_weights = "lite.pth"'),
    ):
        text, count = re.subn(pattern, value, text, flags=re.MULTILINE)
        assert count == 1, pattern
    (place / "train.toml").write_text(text, encoding="utf-8")
    (listed,) = re.findall(r"```csv\n(.*?)```", page, flags=re.DOTALL)
    (place / "scenes.csv").write_text(listed, encoding="utf-8")
    # After two iterations the mask may have a single class, from which no network learns.
    rings = {label: [[x, 100], [x + 200, 100], [x + 200, 250], [x, 250]] for label, x in ((0, 300), (1, 100))}
    for line in fenced(page):
        words = shlex.split(line)
        if words[1] == "view":
            # The page is served until it is interrupted, so what a person draws there is sent as the page sends it.
            image, *masks = (place / word for word in words[2:])
            if not list(place.glob("masks/*.geojson")):
                draw(image, masks[0], [{"label": label, "polygons": [[ring]]} for label, ring in rings.items()])
            open_exhibit(str(image), masks).close()
        else:
            run_magnet(words, place)
    assert (place / "masks" / "city.corrections.geojson").is_file()
    assert "tile19" in (place / "my-bundle.training" / "evaluation.html").read_text(encoding="utf-8")
    assert (place / "masks" / "city.overlay.png").is_file()

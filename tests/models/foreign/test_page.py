"""The commands of docs/networks.md, docs/usage.md and README work on small networks of the same names."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from magnet_cli.cli.app import app
from magnet_cli.models.foreign.kinds import KINDS
from tests.models.foreign.makers import (
    BANDS,
    onnx_graph,
    openvino_saved,
    smp_saved,
    tiatoolbox_saved,
    torchscript_saved,
    torchvision_saved,
    transformers_saved,
)
from tests.models.foreign.test_bioimageio import newer, weights_of, written

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
USAGE = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
TABLES = [page.partition("| you have | you type |")[2].partition("\n\n")[0] for page in (USAGE, README)]
"""Tables of the page on usage and of README, whose rows are the same."""


@pytest.fixture
def folder(here: Path) -> Path:
    shutil.move(smp_saved(here).path, "unet")
    shutil.move(torchscript_saved(here).path, "network.pt")
    openvino_saved(here)
    (here / "nuclei").mkdir()
    written(here / "nuclei", newer(weights_of(here / "nuclei")))
    transformers_saved(here)
    torchvision_saved(here)
    tiatoolbox_saved(here)
    save_zoo_network(here / "roads.onnx")
    pixels = np.random.default_rng(0).integers(0, 255, (20, 24, BANDS), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    for name in ("city.tif", "mosaic.tif", "slide.svs"):
        tifffile.imwrite(here / name, pixels, tile=(64, 64), photometric="rgb")
    return here


def save_zoo_network(path: Path) -> None:
    """Write an ONNX file as those of Deepness's model zoo are: it gives probabilities, and metadata describe it."""
    onnx: Any = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    model = onnx_graph(
        model_type="Segmentor", class_names={"0": "rest", "1": "road", "2": "roof"}, resolution=10, tile_size=64,
        standardization_mean=[0.5, 0.5, 0.5], standardization_std=[0.2, 0.2, 0.2],
    )  # fmt: skip
    model.graph.node.append(onnx.helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1))
    model.graph.output[0].name = "probabilities"
    onnx.save(model, path)


def run(commands: list[str]) -> None:
    for command in commands:
        words = shlex.split(command)
        assert words[0] == "magnet"
        done = CliRunner().invoke(app, words[1:])
        assert done.exit_code == 0, (command, done.output, done.exception)


# Each command loads a library of networks.
@pytest.mark.full
@pytest.mark.usefixtures("folder")
def test_every_command_of_the_page_runs() -> None:
    commands = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    assert len(commands) >= 8
    run(commands)


@pytest.mark.full
@pytest.mark.usefixtures("folder")
def test_two_commands_lead_from_a_model_zoo_to_a_mask() -> None:
    section = PAGE.partition("## From a model zoo to a mask")[2].partition("\n## ")[0]
    commands = re.findall(r"^    (magnet .*)$", section, re.MULTILINE)
    assert [command.split()[1] for command in commands] == ["weights", "segment"] * 2
    run(commands)
    for name in ("mosaic", "slide"):
        assert tifffile.imread(f"masks/{name}.tif").shape == (160, 192)
    names = [each["name"] for each in json.loads(Path("roads/bundle.json").read_text())["classes"]]
    assert names == ["rest", "road", "roof"]


@pytest.mark.full
@pytest.mark.usefixtures("folder")
def test_every_command_of_the_tables_of_usage_and_of_readme_runs() -> None:
    commands = re.findall(r"`(magnet [^`]*)`", TABLES[0])
    assert len(commands) >= 9
    assert set(re.findall(r"`(magnet [^`]*)`", TABLES[1])) <= set(commands)
    assert TABLES[1].count("\n| ") == TABLES[0].count("\n| ")
    run(commands)


def test_the_page_names_every_kind_and_every_option() -> None:
    for name in KINDS:
        assert f"| `{name}` |" in PAGE
    for option in ("--classes", "--network-bands", "--input", "--range", "--values", "--mean", "--std", "--pixel",
                   "--activation", "--output-name", "--multiple", "--trim", "--layout"):  # fmt: skip
        assert f"`{option}`" in PAGE

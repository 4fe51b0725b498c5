"""A training owns its output, and replaces nothing that belongs to no bundle."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest

from magnet_cli.errors import OutputError, SourceError, UsageError, WeightsError
from magnet_cli.models.bundle_writer import read_description, write_bundle
from magnet_cli.models.registry import build_refiner
from magnet_cli.train.backbone_training import train_backbone
from magnet_cli.train.cascade_training import train_cascade
from magnet_cli.train.config import TrainConfig
from magnet_cli.train.destination import CHECKPOINT, training_folder
from tests.train.support import CONFIG, make_data


def test_two_trainings_cannot_write_one_output(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    with training_folder(tmp_path / "tiny", ".training", ()), pytest.raises(OutputError, match="another training"):
        train_backbone(data, tmp_path / "tiny", TrainConfig.parse(CONFIG))
    assert not (tmp_path / "tiny.training").exists()
    assert train_backbone(data, tmp_path / "tiny", TrainConfig.parse(CONFIG), until=1) is None


def test_a_training_that_is_refused_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        train_backbone(tmp_path / "none", tmp_path / "tiny", TrainConfig.parse(CONFIG))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["tiny", "tiny/backbone.safetensors"])
def test_files_of_somebody_else_are_not_replaced(tmp_path: Path, there: str) -> None:
    data, precious = make_data(tmp_path / "data"), tmp_path / there
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("mine")
    with pytest.raises(OutputError, match=r"a bundle is a folder|would be replaced"):
        train_backbone(data, tmp_path / "tiny", TrainConfig.parse(CONFIG))
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("replaced", ["tiny.training/curves.png", "tiny/README.md", "tiny/backbone.safetensors"])
def test_files_of_scenes_are_not_replaced(tmp_path: Path, replaced: str) -> None:
    """The file that the training would replace is a picture of the scene, by a second name."""
    data, other_name = make_data(tmp_path / "data"), tmp_path / replaced
    picture = next((data / "images").iterdir())
    other_name.parent.mkdir()
    (other_name.parent / "bundle.json").write_text('{"networks": {}}')
    other_name.hardlink_to(picture)
    before = picture.read_bytes()
    with pytest.raises(UsageError, match="may not replace an input"):
        train_backbone(data, tmp_path / "tiny", TrainConfig.parse(CONFIG))
    assert picture.read_bytes() == before


def test_a_training_that_was_killed_while_it_wrote_its_bundle_writes_it_again(tmp_path: Path) -> None:
    data, config = make_data(tmp_path / "data"), TrainConfig.parse(CONFIG.replace("iterations = 40", "iterations = 2"))
    assert train_backbone(data, tmp_path / "tiny", config) is not None
    whole = (tmp_path / "tiny" / "backbone.safetensors").read_bytes()
    (tmp_path / "tiny" / "bundle.json").unlink()
    (tmp_path / "tiny" / "backbone.safetensors").write_bytes(whole[:100])
    assert train_backbone(data, tmp_path / "tiny", config) is not None
    assert (tmp_path / "tiny" / "backbone.safetensors").read_bytes() == whole


def test_a_training_may_read_the_configuration_of_the_bundle_that_it_makes_again(tmp_path: Path) -> None:
    data, config = make_data(tmp_path / "data"), tmp_path / "tiny" / "train.toml"
    config.parent.mkdir()
    config.write_text(CONFIG.replace("iterations = 40", "iterations = 1"))
    before = config.stat()
    assert train_backbone(data, config.parent, TrainConfig.read(config)) is not None
    after = config.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def short(text: str = CONFIG) -> TrainConfig:
    return TrainConfig.parse(text.replace("iterations = 40", "iterations = 2"))


def with_refiner(folder: Path) -> dict[str, Any]:
    """Add to a bundle what a training of a refiner adds, and return the description."""
    description = read_description(folder)
    entry: dict[str, Any] = {
        "scale": None,
        "architecture": "conv",
        "options": {},
        "input": "own-first",
        "temperature": 1.0,
    }
    description["networks"]["refiners"] = [{**entry, "file": "refiner.safetensors"}]
    description["networks"]["backbone"]["temperature"] = {"16x16": 1.5, "32x32": 2.0}
    description["metrics"] = {"own_scenes": {"miou": 50.0}}
    description["magnet"]["merge"] = "refiner"
    write_bundle(folder, description, {"refiner.safetensors": build_refiner("conv", classes=2, options={})})
    return read_description(folder)


def test_a_training_that_is_done_leaves_what_was_added_to_its_bundle(tmp_path: Path) -> None:
    data, output = make_data(tmp_path / "data"), tmp_path / "tiny"
    train_backbone(data, output, short())
    added = with_refiner(output)
    assert train_backbone(data, output, short()) is not None
    assert read_description(output) == added
    messages: list[str] = []
    other = short(CONFIG.replace('"tiny"', '"small"'))
    bundle = train_backbone(data, output, other, message=messages.append)
    assert bundle is not None
    assert (bundle.name, len(bundle.refiners), bundle.magnet.merge) == ("small", 1, "mean")
    assert read_description(output)["networks"] == added["networks"]
    assert read_description(output)["metrics"] == added["metrics"]
    assert [f"{output / 'README.md'} is kept" in line for line in messages] == [True]


def test_a_bundle_does_not_lose_networks_to_another_training(tmp_path: Path) -> None:
    data, output = make_data(tmp_path / "data"), tmp_path / "tiny"
    train_backbone(data, output, short())
    added = with_refiner(output)
    shutil.rmtree(tmp_path / "tiny.training")
    with pytest.raises(OutputError, match=r"networks that this training does not make \(got refiner\.safetensors"):
        train_backbone(data, output, short(CONFIG.replace("rate = 0.2", "rate = 0.1")))
    assert not (tmp_path / "tiny.training").exists()
    cascade = TrainConfig.parse((Path(__file__).parents[2] / "weights/paper-cascade.toml").read_text(encoding="utf-8"))
    with pytest.raises(OutputError, match=r"got backbone\.safetensors, refiner\.safetensors"):
        train_cascade(data, output, cascade)
    assert read_description(output) == added


@pytest.mark.parametrize("text", [b'{"networks": {', b"[" * 100_000, b"\xff", b'{"networks": []}'])
def test_a_damaged_bundle_is_refused_before_it_is_trained_anew(tmp_path: Path, text: bytes) -> None:
    data, output = make_data(tmp_path / "data"), tmp_path / "tiny"
    output.mkdir()
    (output / "bundle.json").write_bytes(text)
    (output / "backbone.safetensors").write_bytes(b"weights")
    with pytest.raises(WeightsError, match=r"Correct bundle\.json, or move it away"):
        train_backbone(data, output, short())
    assert not (tmp_path / "tiny.training").exists()
    # A training that goes on from its checkpoint is refused as well.
    (tmp_path / "tiny.training").mkdir()
    (tmp_path / "tiny.training" / CHECKPOINT).write_bytes(b"learnt")
    with pytest.raises(WeightsError, match=r"Correct bundle\.json, or move it away"):
        train_backbone(data, output, short())


def test_scenes_of_one_class_teach_nothing(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    for path in (data / "labels").iterdir():
        imagecodecs.imwrite(path, np.where(imagecodecs.imread(path) == 1, np.uint8(255), np.uint8(0)))
    with pytest.raises(SourceError, match=r"a, b: .*two classes or more \(got dark alone\).*255 = 1"):
        train_backbone(data, tmp_path / "tiny", short())
    mapped = short(CONFIG.replace("colour = 0.0", "colour = 0.0\nlabel_values = { 255 = 1 }"))
    assert train_backbone(data, tmp_path / "tiny", mapped, until=1) is None
    for path in (data / "labels").iterdir():
        imagecodecs.imwrite(path, np.full_like(imagecodecs.imread(path), 255))
    with pytest.raises(SourceError, match="got no labelled pixel"):
        train_backbone(data, tmp_path / "other", short())


def test_a_class_that_no_scene_has_is_named(tmp_path: Path) -> None:
    data, messages = make_data(tmp_path / "data"), list[str]()
    text = CONFIG.replace('"#FFFFFF" }', '"#FFFFFF" }, { name = "red", color = "#FF0000" }')
    assert train_backbone(data, tmp_path / "tiny", short(text), message=messages.append, until=1) is None
    assert messages == [
        "No pixel of the scenes to train on has the class red, so that the bundle will hardly ever find any."
    ]

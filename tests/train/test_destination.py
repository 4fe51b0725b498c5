"""A training owns its output, and replaces nothing that belongs to no bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from magnet_cli.errors import OutputError, SourceError, UsageError
from magnet_cli.train.backbone_training import train_backbone
from magnet_cli.train.config import TrainConfig
from magnet_cli.train.destination import training_folder
from tests.train.support import CONFIG, make_data

if TYPE_CHECKING:
    from pathlib import Path


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
    (other_name.parent / "bundle.json").write_text("{}")
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

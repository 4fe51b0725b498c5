"""Inputs that change while a training learns from them make no bundle, and no later training goes on from the work."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest

from magnet_cli.errors import SourceError
from magnet_cli.train.backbone_training import train_backbone
from magnet_cli.train.cascade_training import train_cascade
from magnet_cli.train.config import TrainConfig
from magnet_cli.train.grnet_training import train_grnet
from magnet_cli.train.refiner_training import train_refiner
from magnet_cli.train.selector_training import train_selector
from tests.train import fields
from tests.train.grnet import GRNET, SELECTOR
from tests.train.support import CONFIG, make_data, validating
from tests.train.test_cascade import CONFIG as CASCADE
from tests.train.test_refiner import CONFIG as REFINER

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from magnet_cli.train.loop import Tick

BACKBONE = CONFIG.replace("iterations = 40", "iterations = 3").replace("save_every = 3", "save_every = 1")


def redrawn(picture: Path) -> None:
    """Write another picture of the same size under the name of a picture."""
    imagecodecs.imwrite(picture, np.asarray(imagecodecs.imread(picture)) + np.uint8(1))


def existing_files(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder; empty where there is no folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("memory", ["2GiB", "1KiB"])
@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_scene_that_changes_after_it_was_loaded_makes_no_bundle(tmp_path: Path, kind: str, memory: str) -> None:
    data, output = make_data(tmp_path / "data"), tmp_path / "tiny"
    text = BACKBONE.replace("colour = 0.0", f'colour = 0.0\nmemory = "{memory}"')
    picture = data / kind / "b.png"
    before = picture.read_bytes()

    def change(tick: Tick) -> None:
        if tick.iteration == 2:
            redrawn(picture)

    with pytest.raises(SourceError, match="changed while it was read") as caught:
        train_backbone(data, output, TrainConfig.parse(text), each=change)
    assert caught.value.exit_code == 3
    assert caught.value.file == str(picture)
    kept = tmp_path / "tiny.training.changed"
    assert str(kept) in str(caught.value)
    assert (kept / "checkpoint.pt").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "tiny.training.changed"]
    picture.write_bytes(before)
    assert train_backbone(data, output, TrainConfig.parse(text)) is not None
    assert (kept / "checkpoint.pt").is_file()


def test_a_second_change_keeps_the_work_of_the_first(tmp_path: Path) -> None:
    data, output = make_data(tmp_path / "data"), tmp_path / "tiny"
    for _ in range(2):
        with pytest.raises(SourceError, match="changed while it was read"):
            train_backbone(data, output, TrainConfig.parse(BACKBONE), each=lambda _: redrawn(data / "images" / "a.png"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "data",
        "tiny.training.changed",
        "tiny.training.changed2",
    ]


def test_a_scene_that_is_touched_has_not_changed(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    found = train_backbone(
        data, tmp_path / "tiny", TrainConfig.parse(BACKBONE), each=lambda _: os.utime(data / "images" / "a.png", (1, 1))
    )
    assert found is not None


def test_a_held_out_scene_that_changes_makes_no_bundle(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    with pytest.raises(SourceError, match="changed while it was read") as caught:
        train_backbone(
            data,
            tmp_path / "tiny",
            TrainConfig.parse(validating(BACKBONE)),
            each=lambda _: redrawn(data / "images" / "b.png"),
        )
    assert caught.value.file == str(data / "images" / "b.png")
    assert not (tmp_path / "tiny").exists()


def test_an_interrupted_training_of_a_changed_scene_is_not_gone_on_with(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")

    def interrupt(tick: Tick) -> None:
        if tick.iteration == 2:
            (data / "images" / "a.png").write_bytes(b"shorter")
            raise KeyboardInterrupt

    with pytest.raises(
        KeyboardInterrupt, match=r"a\.png: the input changed while it was read.*tiny\.training\.changed"
    ):
        train_backbone(data, tmp_path / "tiny", TrainConfig.parse(BACKBONE), each=interrupt)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "tiny.training.changed"]


def test_a_failure_beside_a_change_is_that_of_the_change(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")

    def fail(_: Tick) -> None:
        (data / "images" / "a.png").unlink()
        raise RuntimeError("a reader that meets half a file")

    with pytest.raises(SourceError, match=r"changed while it was read \(got a\.png was removed\)"):
        train_backbone(data, tmp_path / "tiny", TrainConfig.parse(BACKBONE), each=fail)


@pytest.mark.parametrize(
    ("train", "text"),
    [
        (train_cascade, CASCADE.replace("iterations = 30", "iterations = 2")),
        pytest.param(train_grnet, GRNET, marks=pytest.mark.full),
        (train_selector, SELECTOR),
        pytest.param(train_refiner, REFINER, marks=pytest.mark.full),
    ],
    ids=["cascade", "grnet", "selector", "refiner"],
)
def test_every_training_looks_at_its_scenes_again(tmp_path: Path, train: Callable[..., Any], text: str) -> None:
    output = tmp_path / "tiny"
    if train is train_refiner:
        data = fields.make_data(tmp_path / "data")
        fields.make_bundle(output)
    else:
        data = make_data(tmp_path / "data")
    if train is train_selector:
        train_backbone(data, output, TrainConfig.parse(BACKBONE))
    before = existing_files(output)
    with pytest.raises(SourceError, match="changed while it was read"):
        train(data, output, TrainConfig.parse(text), progress=lambda _: redrawn(data / "images" / "a.png"))
    assert existing_files(output) == before
    assert len(list(tmp_path.glob("tiny.*changed"))) == 1

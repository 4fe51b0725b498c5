"""Backbones of folds begin as the bundle's own backbone did."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import torch

from magnet_cli.errors import UsageError
from magnet_cli.models.architectures.efficientnet import efficientnet_lite0
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.bundle_writer import describe, write_bundle
from magnet_cli.models.registry import build_backbone
from magnet_cli.train import folds
from magnet_cli.train.backbone_training import Recipe
from magnet_cli.train.config import TrainConfig
from magnet_cli.train.folds import encoder_words, scene_views, start_of_folds
from tests.train.fields import make_scene

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.models.bundle import Bundle

CONFIG = """
[network]
architecture = "shared"

[folds]
held_out = [["a"], ["b"]]
"""
TRAIN = '[network]\narchitecture = "fpn-lite0"\nencoder_weights = "lite.pth"\n'


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write first weights of an encoder into a folder."""
    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("configs")
    torch.save(efficientnet_lite0().state_dict(), folder / "lite.pth")
    return folder


def bundle(folder: Path, *, architecture: str = "fpn-lite0", text: str | None = TRAIN, source: str = "") -> Bundle:
    """Return a bundle whose backbone has an encoder, with the configuration that made it."""
    network = build_backbone(architecture, classes=2, bands=3, options={})
    description = describe(size=32, scales=(32, 64), backbone={"architecture": architecture, "options": {}})
    write_bundle(folder, {**description, "source": source}, {"backbone.safetensors": network})
    if text is not None:
        (folder / "train.toml").write_text(text)
    return load_bundle(str(folder))


def recipe_of(made: Bundle, config: TrainConfig) -> Recipe:
    return Recipe(bundle=made, data=config.data, loop=config.folds.loop)


def test_a_fold_begins_with_the_weights_of_the_bundles_encoder(
    lite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, config, found = bundle(tmp_path / "tiny"), TrainConfig.parse(CONFIG, folder=lite), []

    def noted(recipe: Recipe, *_: Any, **__: Any) -> None:
        found.append(recipe.network().state_dict())
        raise InterruptedError

    monkeypatch.setattr(folds, "fit_backbone", noted)
    notes: list[str] = []
    with pytest.raises(InterruptedError):
        scene_views(
            [make_scene("a", seed=0), make_scene("b", seed=1)],
            bundle=made,
            config=config,
            folder=tmp_path,
            message=notes.append,
        )
    given = torch.load(lite / "lite.pth", weights_only=True)
    assert torch.equal(found[0]["resnet_backbone.stem.weight"], given["stem.weight"])
    assert notes == []


def test_weights_are_the_same_where_the_bundle_states_their_digest(lite: Path, tmp_path: Path) -> None:
    config = TrainConfig.parse(CONFIG)
    made = bundle(tmp_path / "tiny", text=TRAIN.replace("lite.pth", str(lite / "lite.pth")))
    start = start_of_folds(recipe_of(made, config), tmp_path, None)
    origin = start.fill(build_backbone("fpn-lite0", classes=2, bands=3, options={}))
    for source, is_same in ((f"x; encoder: {origin}", True), ("x; encoder: y (SHA-256 0123456789abcdef)", False)):
        notes: list[str] = []
        made = bundle(tmp_path / "tiny", text=TRAIN, source=source)
        start = start_of_folds(recipe_of(made, config), lite, notes.append)
        assert (start.words, notes == []) == ("lite.pth" if is_same else "", is_same)
        # A file that is not found in the folder of the bundle does not hide why the one that was found is not taken.
        assert is_same or "holds other weights" in notes[0]


@pytest.mark.parametrize(
    ("text", "source", "said"),
    [
        (TRAIN, "", "lite.pth.*begin at random"),
        (TRAIN.replace("lite.pth", "package:no_such_package"), "", "no such package is installed.*begin at random"),
        (None, "x; encoder: EfficientNet", "no train.toml.*begin at random"),
        ("[[", "x; encoder: EfficientNet", "no train.toml.*begin at random"),
        (TRAIN.replace("fpn-lite0", "unet-lite0"), "x; encoder: EfficientNet", "no train.toml.*begin at random"),
        (None, "x", None),
        ('[network]\narchitecture = "fpn-lite0"\n', "x", None),
    ],
)
def test_a_message_says_that_folds_begin_at_random(
    tmp_path: Path, text: str | None, source: str, said: str | None
) -> None:
    made, notes = bundle(tmp_path / "tiny", text=text, source=source), list[str]()
    start = start_of_folds(recipe_of(made, TrainConfig.parse(CONFIG)), tmp_path, notes.append)
    assert start.words == ""
    assert len(notes) == (said is not None)
    if said is not None:
        assert re.search(said, notes[0])


@pytest.mark.parametrize("text", ["network = 3", '[network]\nencoder_weights = "x"', "[network]\narchitecture = 3"])
def test_a_configuration_that_is_none_names_no_weights(tmp_path: Path, text: str) -> None:
    assert encoder_words(bundle(tmp_path / "tiny", text=text)) is None


def test_folds_of_a_backbone_without_an_encoder_have_no_rate_of_it(tmp_path: Path) -> None:
    made = bundle(tmp_path / "tiny", architecture="conv", text=None)
    config = TrainConfig.parse(CONFIG + "[folds.loop]\nencoder_rate = 0.3\n")
    scenes = [make_scene("a", seed=0), make_scene("b", seed=1)]
    with pytest.raises(UsageError, match="no effect on a network without an encoder"):
        scene_views(scenes, bundle=made, config=config, folder=tmp_path)

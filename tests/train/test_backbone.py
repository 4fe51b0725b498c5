"""The training of a backbone learns, resumes after an interruption, and refuses wrong inputs before it works."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import imagecodecs
import pytest
import torch
from safetensors.torch import load_file

from magnet_cli.errors import SourceError, UsageError, WeightsError
from magnet_cli.models.architectures.efficientnet import efficientnet_lite0
from magnet_cli.models.networks import load_networks
from magnet_cli.models.registry import build_backbone
from magnet_cli.train.backbone_training import Recipe, train_backbone
from magnet_cli.train.config import LoopConfig, TrainConfig
from magnet_cli.train.loop import SHARE, optimizer_of
from tests.train.support import CONFIG, make_data, validating

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from magnet_cli.train.batches import BatchSampler
    from magnet_cli.train.scenes import LabelledScene


def test_it_learns_and_writes_a_bundle(tmp_path: Path) -> None:
    data, output = make_data(tmp_path / "data"), tmp_path / "tiny"
    lines: list[dict[str, float]] = []
    bundle = train_backbone(data, output, TrainConfig.parse(CONFIG), progress=lines.append)
    assert bundle is not None
    assert [line["iteration"] for line in lines] == [10, 20, 30, 40]
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
    assert (output / "train.toml").read_text() == CONFIG
    log = (tmp_path / "tiny.training" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in log] == lines
    patch = torch.tensor([-1.0, 1.0]).reshape(1, 1, 1, 2).expand(1, 3, 1, 2)
    probs = load_networks(bundle, device="cpu", precision="float32").predict(patch, bundle.scales[0])
    assert probs.argmax(dim=1).flatten().tolist() == [0, 1]


@pytest.mark.parametrize("network", ["conv", "fpn-small"])
def test_stopped_and_continued_equals_never_stopped(tmp_path: Path, network: str) -> None:
    data = make_data(tmp_path / "data")
    text = CONFIG.replace("iterations = 40", "iterations = 5").replace('"conv"', f'"{network}"')
    if network == "fpn-small":
        text = text.replace("[data]", "options = { width = 2, depths = [1, 1, 1, 1], lateral = 2, head = 2 }\n[data]")
        text = text.replace("width = 16, height = 16", "width = 32, height = 32")
    config = TrainConfig.parse(text)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_backbone(data, whole, config)
    assert train_backbone(data, parts, config, until=2) is None
    assert not parts.exists()
    train_backbone(data, parts, config)
    first, second = (load_file(folder / "backbone.safetensors") for folder in (whole, parts))
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    train_backbone(data, tmp_path / "tiny", TrainConfig.parse(CONFIG), until=2)
    other = CONFIG.replace("[data]", "options = { kernel = 3 }\n[data]")
    with pytest.raises(UsageError, match="checkpoint does not fit"):
        train_backbone(data, tmp_path / "tiny", TrainConfig.parse(other))


def test_labels_and_descriptions_are_checked_before_any_work(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    labels = imagecodecs.imread(data / "labels" / "b.png")
    labels[3, 3] = 7
    imagecodecs.imwrite(data / "labels" / "b.png", labels)
    with pytest.raises(SourceError, match=r"b: labels must be below 2, or 255 \(got 7\)"):
        train_backbone(data, tmp_path / "tiny", TrainConfig.parse(CONFIG))
    config = TrainConfig.parse(CONFIG.replace('name = "tiny"', 'name = "tiny"\ncolour = 1'))
    with pytest.raises(WeightsError, match=r"unknown keys.*colour"):
        train_backbone(data, tmp_path / "tiny", config)


def test_scenes_to_validate_on_are_not_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    sampler = Recipe.sampler

    def spied(recipe: Recipe, scenes: Sequence[LabelledScene]) -> BatchSampler:
        seen.append([scene.name for scene in scenes])
        return sampler(recipe, scenes)

    monkeypatch.setattr(Recipe, "sampler", spied)
    lines: list[dict[str, float]] = []
    data, config = make_data(tmp_path / "data"), TrainConfig.parse(validating(every=20))
    train_backbone(data, tmp_path / "tiny", config, progress=lines.append)
    assert seen == [["a"]]
    scored = [line for line in lines if "validation_miou" in line]
    assert [line["iteration"] for line in scored] == [20, 40]
    assert scored[-1]["validation_miou"] > 0.9
    page = (tmp_path / "tiny.training" / "evaluation.html").read_text()
    assert "<th>b</th>" in page
    assert "<th>a</th>" not in page
    assert page.count("data:image/png;base64,") == 1
    assert "No window of the finest scale has a wrong pixel" in page


def test_with_validation_too_stopped_and_continued_equals_never_stopped(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    config = TrainConfig.parse(validating(CONFIG.replace("iterations = 40", "iterations = 9"), patience=3))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_backbone(data, whole, config)
    for until in (1, 3, 6):
        assert train_backbone(data, parts, config, until=until) is None
    train_backbone(data, parts, config)
    assert (whole / "backbone.safetensors").read_bytes() == (parts / "backbone.safetensors").read_bytes()
    states = [torch.load(tmp_path / f"{name}.training" / "checkpoint.pt") for name in ("whole", "parts")]
    for key in ("network", "average"):
        for name, value in states[0][key].items():
            assert torch.equal(value, states[1][key][name]), name
    first, second = (state["best"] for state in states)
    for name, value in first.pop("weights").items():
        assert torch.equal(value, second["weights"][name]), name
    del second["weights"]
    assert first == second


def test_an_early_end_makes_the_bundle(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    config = TrainConfig.parse(validating(every=1, patience=1).replace("rate = 0.2", "rate = 1e-9"))
    lines: list[dict[str, float]] = []
    assert train_backbone(data, tmp_path / "tiny", config, progress=lines.append, until=30) is not None
    assert lines[-1]["iteration"] == 2
    told = (tmp_path / "tiny" / "README.md").read_text()
    assert "2 iterations (of 40, until patience ran out) of 4 windows" in told
    assert "The weights are those of iteration 1, whose validation was the best." in told


def test_other_pixels_are_another_training(tmp_path: Path) -> None:
    data, config = make_data(tmp_path / "data"), TrainConfig.parse(CONFIG)
    train_backbone(data, tmp_path / "tiny", config, until=2)
    labels = imagecodecs.imread(data / "labels" / "b.png")
    imagecodecs.imwrite(data / "labels" / "b.png", 1 - labels.clip(0, 1))
    with pytest.raises(UsageError, match=r"\[scenes\] training was another"):
        train_backbone(data, tmp_path / "tiny", config)


def test_an_encoder_begins_with_weights_of_other_images(tmp_path: Path) -> None:
    """The training begins with them and gives them a rate of their own, and the bundle states their source."""
    data = make_data(tmp_path / "data")
    torch.manual_seed(5)
    torch.save(efficientnet_lite0().state_dict(), tmp_path / "lite.pth")
    text = CONFIG.replace('architecture = "conv"', 'architecture = "fpn-lite0"\nencoder_weights = "lite.pth"')
    text = text.replace("width = 16, height = 16", "width = 32, height = 32").replace(
        "iterations = 40", "iterations = 1"
    )
    text = text.replace("rate = 0.2", "rate = 1e-3\nencoder_rate = 0.0").replace("average = 0.5", "average = 0.0")
    text = text.replace("mean = [0.5, 0.5, 0.5]\nstd = [0.25, 0.25, 0.25]\n", "")
    bundle = train_backbone(data, tmp_path / "tiny", TrainConfig.parse(text, folder=tmp_path))
    assert bundle is not None
    assert bundle.input.mean == pytest.approx((127 / 255,) * 3, abs=1e-6)
    assert bundle.input.std == pytest.approx((128 / 255,) * 3, abs=1e-6)
    assert "lite.pth" in bundle.source
    card = (tmp_path / "tiny" / "README.md").read_text()
    assert "lite.pth" in card
    assert "fpn-lite0" in card
    for name in ("a", "b"):
        size = imagecodecs.imread(data / "images" / f"{name}.png").shape
        assert f"- {name}, {size[1]}x{size[0]} pixels" in card
    given = torch.load(tmp_path / "lite.pth", weights_only=True)
    written = load_file(tmp_path / "tiny" / "backbone.safetensors")
    begun = build_backbone("fpn-lite0", classes=2, bands=3, options={}).state_dict()
    for key, value in given.items():
        if key.endswith(".weight"):
            torch.testing.assert_close(written[f"resnet_backbone.{key}"].float(), value, rtol=1e-3, atol=1e-3)
    assert begun.keys() == written.keys()


def test_a_rate_of_an_encoder_that_is_not_there_is_refused_before_any_work(tmp_path: Path) -> None:
    text = CONFIG.replace("rate = 0.2", "rate = 0.2\nencoder_rate = 0.3")
    with pytest.raises(UsageError, match=r"no effect on a network without an encoder \(got encoder_rate = 0.3"):
        train_backbone(tmp_path / "no-data", tmp_path / "tiny", TrainConfig.parse(text))
    assert not (tmp_path / "tiny.training").exists()


def test_an_encoders_rate_is_a_share_of_the_loops() -> None:
    network = build_backbone("fpn-lite0", classes=2, bands=3, options={})
    groups = optimizer_of(network, LoopConfig(rate=0.5, encoder_rate=0.1)).param_groups
    assert [group[SHARE] for group in groups] == [1.0, 0.1]
    counts = [sum(weight.numel() for weight in group["params"]) for group in groups]
    assert counts[1] == 2_958_848
    assert sum(counts) == sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize("words", ["missing.pth", "package:no_such_package"])
def test_missing_encoder_weights_are_refused_before_any_work(tmp_path: Path, words: str) -> None:
    text = CONFIG.replace('architecture = "conv"', f'architecture = "fpn-lite0"\nencoder_weights = "{words}"')
    with pytest.raises(WeightsError):
        train_backbone(tmp_path / "no-data", tmp_path / "tiny", TrainConfig.parse(text, folder=tmp_path))
    text = CONFIG.replace('architecture = "conv"', f'architecture = "conv"\nencoder_weights = "{words}"')
    with pytest.raises(UsageError, match="needs an architecture with an encoder"):
        train_backbone(tmp_path / "no-data", tmp_path / "tiny", TrainConfig.parse(text, folder=tmp_path))

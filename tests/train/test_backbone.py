"""Training of a backbone: it learns, it goes on where it stopped, it refuses before it works."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from magnet_cli.errors import SourceError, UsageError, WeightsError
from magnet_cli.models.networks import load_networks
from magnet_cli.train.backbone import train_backbone
from magnet_cli.train.config import LoopConfig, TrainConfig
from magnet_cli.train.loop import class_weights, rate_at

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """
[bundle]
name = "tiny"
activation = "softmax"
classes = [{ name = "dark", color = "#000000" }, { name = "light", color = "#FFFFFF" }]
scales = [{ width = 16, height = 16 }, { width = 32, height = 32 }]

[bundle.input]
size = { width = 16, height = 16 }
bands = ["red", "green", "blue"]
range = [0, 255]
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
resample = "area"

[bundle.magnet]
merge = "mean"
points = "all"
patches = "all"
median = 11
margin = 0

[network]
architecture = "conv"

[data]
colour = 0.0

[loop]
iterations = 40
batch = 4
rate = 0.2
decay = 0.0
average = 0.5
save_every = 3
log_every = 10
"""


def make_data(folder: Path) -> Path:
    """Two scenes of light and dark squares, with a few unlabelled pixels."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for scene in ("a", "b"):
        labels = np.kron(rng.integers(0, 2, (6, 5), dtype=np.uint8), np.ones((8, 8), np.uint8))
        pixels = np.where(labels, 200, 60)[..., None] + rng.integers(-30, 30, (48, 40, 3))
        labels[:2, :2] = 255
        imagecodecs.imwrite(folder / "images" / f"{scene}.png", pixels.astype(np.uint8))
        imagecodecs.imwrite(folder / "labels" / f"{scene}.png", labels)
    return folder


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


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch = 4", "bach = 4", "bach"),
        ("batch = 4", 'batch = "4"', "batch must be of type int"),
        ("batch = 4", "batch = 0", "at least 1"),
        ("colour = 0.0", "color = 0.0", r"unknown keys in \[data\]"),
        ('architecture = "conv"', "", "names no network"),
    ],
)
def test_a_configuration_that_is_wrong_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainConfig.parse(CONFIG.replace(old, new))
    (tmp_path / "a.toml").write_text("= 3")
    with pytest.raises(UsageError, match=r"a\.toml"):
        TrainConfig.read(tmp_path / "a.toml")


def test_the_rate_rises_and_falls() -> None:
    config = LoopConfig(iterations=100, rate=1.0, warmup=0.1)
    rates = [rate_at(index, config) for index in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001


def test_rare_classes_weigh_more_and_the_mean_is_one() -> None:
    counts = np.array([90, 10, 0])
    weights = class_weights(counts, balance=0.5)
    assert weights[1] / weights[0] == pytest.approx(3)
    assert float((weights[:2] * torch.tensor([0.9, 0.1])).sum()) == pytest.approx(1)
    assert class_weights(counts, balance=0).tolist() == [1, 1, 1]

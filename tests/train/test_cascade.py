"""The training of a cascade makes a bundle from scenes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from magnet_cli.cli.app import app
from magnet_cli.errors import SourceError, UsageError, WeightsError
from magnet_cli.models.architectures.cascadepsp import cascadepsp_lite0
from magnet_cli.models.architectures.efficientnet import efficientnet_lite0
from magnet_cli.models.architectures.resnet import BasicBlock, ResNet
from magnet_cli.models.bundle import load_cascade_bundle
from magnet_cli.models.registry import build_cascade
from magnet_cli.train.cascade_training import cascade_description, train_cascade
from magnet_cli.train.config import TrainConfig
from magnet_cli.train.encoder_start import EncoderStart
from tests.train.support import make_data

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """
[bundle]
name = "tiny"
object = "disc"
side = 72

[bundle.input]
bands = ["red", "green", "blue"]
range = [0, 255]
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]

[network]
architecture = "conv"
options = { kernel = 3 }

[data]
colour = 0.0

[cascade]
crop = 24
scales = [24, 32]
smallest = 16

[loop]
iterations = 30
batch = 3
optimizer = "adam"
rate = 0.05
schedule = "step"
steps = [0.5]
decay = 1e-4
average = 0.5
log_every = 5
save_every = 100
device = "cpu"
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("cascade") / "data")


def tensors(folder: Path) -> bytes:
    return (folder / "cascade.safetensors").read_bytes()


def test_it_learns_and_an_interrupted_training_ends_with_the_same_weights(data: Path, tmp_path: Path) -> None:
    config = TrainConfig.parse(CONFIG)
    lines: list[dict[str, float]] = []
    bundle = train_cascade(data, tmp_path / "whole", config, progress=lines.append)
    assert bundle is not None
    assert (bundle.name, bundle.side, bundle.network.architecture) == ("tiny", 72, "conv")
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]
    assert train_cascade(data, tmp_path / "cut", config, until=13) is None
    assert train_cascade(data, tmp_path / "cut", config) is not None
    assert tensors(tmp_path / "cut") == tensors(tmp_path / "whole")
    assert (tmp_path / "whole" / "train.toml").read_text() == CONFIG
    assert bundle.kind_of_object == "disc"
    assert load_cascade_bundle(str(tmp_path / "cut")).network.sha256 == bundle.network.sha256


def test_a_lower_cut_raises_what_the_bundle_is_unsure_of(data: Path, tmp_path: Path) -> None:
    biases = []
    for cut in (0.5, 0.3):
        text = CONFIG.replace("iterations = 30", "iterations = 2").replace("smallest", f"cut = {cut}\nsmallest")
        assert train_cascade(data, tmp_path / str(cut), TrainConfig.parse(text)) is not None
        biases.append(load_file(tmp_path / str(cut) / "cascade.safetensors")["network.conv.bias"].float().item())
    assert biases[1] - biases[0] == pytest.approx(np.log(0.7 / 0.3), abs=2e-3)


LITE0 = """architecture = "cascadepsp-lite0"
encoder_weights = "lite.pth"
options = { lateral = 8, pooled = 8, widths = [8, 8, 8], hidden = 4 }
"""


def test_the_encoder_of_a_cascade_begins_with_weights_of_other_images(tmp_path: Path) -> None:
    torch.manual_seed(6)
    given = efficientnet_lite0().state_dict()
    torch.save(given, tmp_path / "lite.pth")
    network = cascadepsp_lite0()
    assert EncoderStart(words="lite.pth", folder=tmp_path).fill(network) is not None
    begun = network.feats.get_submodule("network").state_dict()
    assert begun.keys() == given.keys()
    assert torch.equal(begun["stem.weight"][:, :3], given["stem.weight"])
    assert all(torch.equal(begun[key], given[key]) for key in given if key != "stem.weight")
    # The encoder sees no mask before it has learnt to.
    assert not begun["stem.weight"][:, 3:].any()
    images, masks = torch.randn(1, 3, 32, 32), torch.randn(2, 3, 32, 32)
    one, other = (network.eval().feats(torch.cat((images, part[None]), dim=1)) for part in masks)
    assert all(torch.equal(first, second) for first, second in zip(one, other, strict=True))


def test_a_residual_encoder_of_a_cascade_begins_with_them_as_well(tmp_path: Path) -> None:
    torch.manual_seed(6)
    given = ResNet(block=BasicBlock, depths=(2, 2, 2, 2), width=32).state_dict()
    torch.save({**given, "fc.weight": torch.zeros(9, 256)}, tmp_path / "resnet.pth")
    network = build_cascade("cascadepsp-light", options={})
    assert EncoderStart(words="resnet.pth", folder=tmp_path).fill(network) is not None
    begun = network.get_submodule("feats").state_dict()
    assert torch.equal(begun["conv1.weight"][:, :3], given["conv1.weight"])
    assert torch.equal(begun["layer4.1.conv2.weight"], given["layer4.1.conv2.weight"])


def test_a_bundle_names_what_its_encoder_began_with_and_has_its_normalisation(data: Path, tmp_path: Path) -> None:
    torch.save(efficientnet_lite0().state_dict(), tmp_path / "lite.pth")
    text = CONFIG.replace('architecture = "conv"\noptions = { kernel = 3 }\n', LITE0)
    text = text.replace("mean = [0.5, 0.5, 0.5]\nstd = [0.25, 0.25, 0.25]\n", "")
    text = text.replace("iterations = 30\nbatch = 3", "encoder_rate = 0.3\niterations = 2\nbatch = 2")
    config = TrainConfig.parse(text.replace('name = "tiny"', 'name = "tiny"\nsource = "discs"'), folder=tmp_path)
    bundle = train_cascade(data, tmp_path / "out", config)
    assert bundle is not None
    assert bundle.source.startswith("discs; encoder: lite.pth (SHA-256 ")
    assert bundle.input.mean == pytest.approx([127 / 255] * 3, abs=1e-6)
    own = TrainConfig.parse(text.replace("range = [0, 255]", "range = [0, 255]\nmean = [0.1, 0.2, 0.3]"))
    assert cascade_description(own)["input"]["mean"] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("network", "error", "message"),
    [
        (LITE0, WeightsError, "lite.pth"),
        ('architecture = "conv"\nencoder_weights = "lite.pth"\n', UsageError, "needs an architecture with an encoder"),
    ],
)
def test_first_weights_that_cannot_be_had_are_refused_before_the_scenes_are_read(
    tmp_path: Path, network: str, error: type[Exception], message: str
) -> None:
    text = CONFIG.replace('architecture = "conv"\noptions = { kernel = 3 }\n', network)
    with pytest.raises(error, match=message):
        train_cascade(tmp_path / "no-such-folder", tmp_path / "out", TrainConfig.parse(text, folder=tmp_path))


def test_the_command_tells_what_masks_are_worth_before_and_after(data: Path, tmp_path: Path) -> None:
    text = CONFIG.replace("colour = 0.0", 'colour = 0.0\nvalidation = ["b"]')
    text = text.replace("iterations = 30", "iterations = 4\nvalidate_every = 4").replace(
        "smallest", "windows = 5\nsmallest"
    )
    (tmp_path / "c.toml").write_text(text)
    words = ["train", "cascade", str(data), "-o", str(tmp_path / "tiny"), "--config", str(tmp_path / "c.toml")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0
    assert result.stderr.splitlines()[-1] == f"{tmp_path / 'tiny'}: bundle 'tiny'"
    line = json.loads((tmp_path / "tiny.training" / "log.jsonl").read_text().splitlines()[-1])
    assert {"validation_miou", "validation_iou_before", "validation_mba", "validation_mba_before"} <= set(line)
    assert 0.8 <= line["validation_iou_before"] < 1
    assert 0.5 < line["validation_mba_before"] < 1
    (tmp_path / "c.toml").write_text(text.replace("crop = 24", "crop = 32"))
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "[cascade] crop was 24" in result.stderr


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ('architecture = "conv"', 'architecture = "unet"', WeightsError, "unknown architecture"),
        ("side = 72", "", WeightsError, "side"),
        ('name = "tiny"', 'name = "tiny"\nkind = "segmentation"', WeightsError, "networks"),
        ("colour = 0.0", "colour = 0.0\nrare = 0.3", UsageError, "rare and border are for backbones"),
        ("colour = 0.0", "colour = 0.0\nborder = 1", UsageError, "rare and border are for backbones"),
        ("smallest = 16", "smallest = 16\nmasks = 0.5", UsageError, "no scene to train on has a mask"),
        ("batch = 3", "batch = 3\nsmoothing = 0.1", UsageError, "smoothing is for networks that segment"),
        ("batch = 3", "batch = 3\nlogit_adjustment = 0.5", UsageError, "logit_adjustment is for networks that segment"),
        ("smallest = 16", "smallest = 800", SourceError, "200 windows have no object of 800 pixels"),
    ],
)
def test_what_cannot_be_trained_is_named(
    data: Path, tmp_path: Path, *, old: str, new: str, error: type[Exception], message: str
) -> None:
    config = TrainConfig.parse(CONFIG.replace(old, new))
    with pytest.raises(error, match=message):
        train_cascade(data, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


def test_a_scene_of_other_bands_is_refused(tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        imagecodecs.imwrite(tmp_path / kind / "a.png", np.zeros((40, 40), np.uint8))
    with pytest.raises(SourceError, match="takes 3 bands"):
        train_cascade(tmp_path, tmp_path / "out", TrainConfig.parse(CONFIG))

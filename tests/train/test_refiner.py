"""Training of a refiner: fields, pieces, folds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import pytest
import torch

from magnet_cli.errors import UsageError
from magnet_cli.geometry import Size
from magnet_cli.models.bundle import InputSpec
from magnet_cli.models.networks import load_networks
from magnet_cli.models.registry import build_backbone
from magnet_cli.models.writing import describe, write_bundle
from magnet_cli.train.config import TrainConfig
from magnet_cli.train.data import Scene
from magnet_cli.train.fields import own_canvas, sampled, under
from magnet_cli.train.refiner import FieldSampler, Stage, chained, train_refiner

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """
[network]
architecture = "shared"
options = { width = 4 }

[data]
colour = 0.0

[loop]
iterations = 3
batch = 2
rate = 0.01

[folds]
held_out = [["a"], ["b"]]

[folds.loop]
iterations = 2
batch = 2
"""


def square(side: int) -> Size:
    return Size(width=side, height=side)


def make_data(folder: Path) -> Path:
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for scene in ("a", "b"):
        pixels = rng.integers(0, 256, (50, 44, 3), dtype=np.uint8)
        imagecodecs.imwrite(folder / "images" / f"{scene}.png", pixels)
        imagecodecs.imwrite(folder / "labels" / f"{scene}.png", (pixels[..., 0] > 127).astype(np.uint8))
    return folder


def make_bundle(folder: Path, *, scales: tuple[int, ...] = (16, 32)) -> Path:
    network = build_backbone("conv", classes=2, bands=3, options={})
    write_bundle(folder, describe(size=16, scales=scales), {"backbone.safetensors": network})
    return folder


@pytest.mark.parametrize("folds", [True, False])
def test_a_refiner_joins_the_bundle(tmp_path: Path, *, folds: bool) -> None:
    data, output = make_data(tmp_path / "data"), make_bundle(tmp_path / "tiny")
    before = (output / "backbone.safetensors").read_bytes()
    text = CONFIG if folds else CONFIG.split("[folds]", maxsplit=1)[0]
    lines: list[dict[str, float]] = []
    bundle = train_refiner(data, output, TrainConfig.parse(text), progress=lines.append)
    assert len(lines) == (3 if folds else 1)
    assert bundle.refiners[0].architecture == "shared"
    assert bundle.magnet.merge == "mean"
    assert (output / "backbone.safetensors").read_bytes() == before
    assert (output / "train-refiner.toml").read_text() == text
    networks = load_networks(bundle, device="cpu", precision="float32")
    half = torch.full((1, 2, 16, 16), 0.5)
    assert networks.refine(half, half, square(16)).shape == (1, 2, 16, 16)


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    with pytest.raises(UsageError, match="two or more scales"):
        train_refiner(data, make_bundle(tmp_path / "one", scales=(16,)), TrainConfig.parse(CONFIG))
    config = TrainConfig.parse(CONFIG.replace('["a"]', '["c"]'))
    with pytest.raises(UsageError, match="scene that the data do not have"):
        train_refiner(data, make_bundle(tmp_path / "two"), config)


def test_a_canvas_at_the_finest_scale_is_the_network_on_every_pixel() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (21, 37, 3), dtype=np.uint8)
    scene = Scene(name="s", pixels=pixels, labels=np.zeros((21, 37), np.uint8))
    network = build_backbone("conv", classes=2, bands=3, options={}).eval()
    spec = InputSpec(
        size=square(16), bands=("r", "g", "b"), range=(0, 255), mean=(0, 0, 0), std=(1, 1, 1), resample="area"
    )
    canvas = own_canvas(network, scene, classes=2, scale=square(16), spec=spec)
    with torch.no_grad():
        whole = network(torch.from_numpy(pixels / np.float32(255)).permute(2, 0, 1)[None]).softmax(dim=1)[0]
    torch.testing.assert_close(canvas.float(), whole, atol=1e-3, rtol=0)
    assert own_canvas(network, scene, classes=2, scale=square(32), spec=spec).shape == (2, 11, 19)


def test_sampling_is_bilinear_with_aligned_centres() -> None:
    coarse = torch.randn(3, 6, 5)
    expected = torch.nn.functional.interpolate(coarse[None], scale_factor=2, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(under(coarse, ratio=(2, 2), corner=(0, 0), shape=(12, 10)), expected)
    part = under(coarse, ratio=(2, 2), corner=(3, 4), shape=(6, 5))
    torch.testing.assert_close(part, expected[:, 3:9, 4:9])
    same = sampled(coarse, rows=torch.arange(6.0), columns=torch.arange(5.0))
    torch.testing.assert_close(same, coarse)


def test_stages_lie_over_the_mean_of_what_is_below() -> None:
    owns = [torch.full((1, side, side), value).half() for side, value in ((4, 0.8), (8, 0.4), (16, 0.2))]
    labels = [np.zeros(own.shape[1:], np.uint8) for own in owns]
    second, third = chained(owns, labels, scales=[square(64), square(32), square(16)])
    assert float(second.field.float().mean()) == pytest.approx(0.8, abs=1e-3)
    assert float(third.field.float().mean()) == pytest.approx(0.6, abs=1e-3)
    assert second.ratio == (2, 2)


def test_pieces_keep_fields_and_labels_together() -> None:
    labels = np.random.default_rng(2).integers(0, 2, (60, 300), dtype=np.uint8)
    own = torch.nn.functional.one_hot(torch.from_numpy(labels).long(), 2).permute(2, 0, 1).half()
    sampler = FieldSampler(stages=[Stage(own=own, field=own, labels=labels, ratio=(1, 1))], batch=4, seed=0, ignore=255)
    joined, target = sampler(5)
    known = target != 255
    for probs in (joined[:, :2], joined[:, 2:]):
        assert torch.equal(probs.argmax(dim=1)[known], target[known])
    assert 0 < int(known.sum()) < target.numel()
    assert torch.equal(sampler(5)[0], joined)

"""The page at the end of a training shows the network's results on held-out scenes."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import torch

from magnet_cli.train.backbone_training import bundle_description, bundle_of
from magnet_cli.train.config import LoopConfig, TrainConfig
from magnet_cli.train.evaluation_page import evaluation_page, score_held_out
from magnet_cli.train.precision import Arithmetic
from magnet_cli.train.scenes import LabelledScene
from magnet_cli.train.validation import Validator
from tests.train.support import CONFIG

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.train.evaluation_page import HeldOutScores


class Threshold(torch.nn.Module):
    """A network that gives class 1 to bright pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((-x[:, :1], x[:, :1]), dim=1)


def scored(
    folder: Path, labels: np.ndarray, *, bright: tuple[int, ...] = (230, 230, 230), bands: str = "red, green, blue"
) -> tuple[HeldOutScores, Validator]:
    """Return a scene whose left half is bright, whatever its labels say."""
    pixels = np.full((*labels.shape, 3), 20, np.uint8)
    pixels[:, : labels.shape[1] // 2] = bright
    text = CONFIG.replace("scales = [{ width = 16, height = 16 }, { width = 32, height = 32 }]", "scales = [SIDE]")
    text = text.replace('["red", "green", "blue"]', str(bands.split(", ")))
    config = TrainConfig.parse(text.replace("SIDE", "{ width = 16, height = 16 }"))
    bundle = bundle_of(bundle_description(config, folder=folder), folder=folder)
    scene = LabelledScene.of("held <b>", pixels=pixels, labels=labels)
    validator = Validator(scenes=[scene], bundle=bundle, ignore=255)
    return score_held_out(Threshold(), validator, Arithmetic(LoopConfig(device="cpu"))), validator


def test_confusion_counts_every_labelled_pixel_once(tmp_path: Path) -> None:
    labels = np.zeros((24, 40), np.uint8)
    labels[:, :20] = 1
    labels[:4] = 255
    labels[10:13, 30:35] = 1
    scores, validator = scored(tmp_path, labels)
    assert scores.scenes[0].all.tolist() == [[20 * 20 - 15, 0], [15, 20 * 20]]
    page = evaluation_page(scores, validator, curves=None)
    assert "held &lt;b&gt;" in page
    assert "<b>" not in page.split("</style>")[1].split("<section>")[0]
    assert f"{100 * 400 / 415:.1f}" in page
    assert re.search(r"x 16, y 0|x 32, y 0", page)


def test_pictures_have_the_colours_of_the_bands_by_name(tmp_path: Path) -> None:
    scores, validator = scored(tmp_path, np.zeros((16, 32), np.uint8), bright=(230, 120, 10), bands="Blue, green, RED")
    found = re.search(r"data:image/png;base64,([\w+/=]+)", evaluation_page(scores, validator, curves=None))
    assert found is not None
    assert imagecodecs.png_decode(base64.b64decode(found[1]))[0, 0].tolist() == [10, 120, 230]


def test_the_worst_windows_come_first_and_unlabelled_ones_not_at_all(tmp_path: Path) -> None:
    labels = np.zeros((32, 64), np.uint8)
    labels[:, :32] = 1
    labels[:16, :16] = 0
    labels[16:18, 48:64] = 1
    labels[16:, 32:48] = 255
    labels[31, 40] = 1
    scores, _ = scored(tmp_path, labels)
    assert [round(window.right, 3) for window in scores.worst] == [0.0, 0.875]
    assert "x 0, y 0" in scores.worst[0].caption
    assert scores.worst[0].image.shape == (16, 16, 3)
    assert int(scores.worst[0].image.mean()) == 230
    assert set(np.unique(scores.worst[0].prediction)) == {1}

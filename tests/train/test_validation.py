"""Scores on held-out scenes equal those of the whole picture at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from magnet_cli.errors import SourceError
from magnet_cli.models.bundle_writer import describe
from magnet_cli.models.registry import build_backbone
from magnet_cli.train.backbone_training import bundle_of as bundle_from
from magnet_cli.train.config import LoopConfig
from magnet_cli.train.precision import Arithmetic
from magnet_cli.train.scenes import LabelledScene
from magnet_cli.train.validation import Score, Validator, better, mean_iou
from tests.train.support import labels_of, pixels_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from magnet_cli.models.bundle import Bundle


def bundle_of(*scales: int) -> Bundle:
    description = describe(size=16, scales=scales, classes=3)
    description["networks"]["backbone"]["sha256"] = "0" * 64
    return bundle_from(description, folder=Path())


def network() -> nn.Module:
    torch.manual_seed(5)
    return build_backbone("conv", classes=3, bands=3, options={}).eval()


def scene(rows: int, columns: int, *, block: int = 1, seed: int = 0) -> LabelledScene:
    """Write blocks of one colour and one label each, with a corner that is not labelled."""
    rng = np.random.default_rng(seed)
    tall = np.ones((block, block), np.uint8)
    shape = (rows // block, columns // block)
    pixels = np.stack([np.kron(rng.integers(0, 256, shape, np.uint8), tall) for _ in range(3)], axis=-1)
    labels = np.kron(rng.integers(0, 3, shape, np.uint8), tall)
    labels[:8, :12] = 255
    return LabelledScene.of("s", pixels=pixels, labels=labels)


def at_once(scene: LabelledScene) -> tuple[NDArray[np.int64], float]:
    """Return confusion and cross-entropy on the whole picture for a network that uses single pixels."""
    with torch.no_grad():
        logits: Tensor = network()(torch.from_numpy(pixels_of(scene) / np.float32(255)).permute(2, 0, 1)[None])[0]
    probs = logits.double().softmax(dim=0).numpy()
    labels = labels_of(scene)
    known = labels != 255
    truth, own = labels[known], probs[:, known]
    confusion = np.zeros((3, 3), np.int64)
    np.add.at(confusion, (truth, own.argmax(axis=0)), 1)
    return confusion, float(-np.log(own[truth, np.arange(truth.size)]).mean())


def iou(confusion: NDArray[np.int64]) -> float:
    both = np.diag(confusion)
    return float(np.mean(both / (confusion.sum(axis=0) + confusion.sum(axis=1) - both)))


def scored(bundle: Bundle, *scenes: LabelledScene) -> Score:
    return Validator(scenes=scenes, bundle=bundle, ignore=255)(network(), Arithmetic(LoopConfig(device="cpu")))


def test_windows_that_do_not_fit_count_each_pixel_once() -> None:
    first, second = scene(37, 53), scene(20, 16, seed=1)
    score = scored(bundle_of(16), first, second)
    (one, _), (two, _) = at_once(first), at_once(second)
    assert score.miou == pytest.approx(iou(one + two), abs=1e-9)
    assert scored(bundle_of(16), first).cross_entropy == pytest.approx(at_once(first)[1], rel=1e-5)


def test_scales_are_pooled() -> None:
    """A window of 32 shows a scene of blocks of 2 exactly, with one pixel for each block."""
    blocks = scene(40, 72, block=2)
    found = scored(bundle_of(16, 32), blocks)
    confusion, loss = at_once(blocks)
    assert found.miou == pytest.approx(iou(confusion + confusion // 4), abs=1e-9)
    assert found.cross_entropy == pytest.approx(loss, rel=1e-5)


def test_scenes_without_a_label_are_refused() -> None:
    blank = LabelledScene.of("blank", pixels=np.zeros((9, 9, 3), np.uint8), labels=np.full((9, 9), 255, np.uint8))
    with pytest.raises(SourceError, match=r"no labelled pixel \(got blank\)"):
        scored(bundle_of(16), blank)


def test_a_class_that_nobody_has_is_left_out() -> None:
    confusion = torch.tensor([[6, 2, 0], [0, 4, 0], [0, 0, 0]])
    assert mean_iou(confusion) == pytest.approx((6 / 8 + 4 / 6) / 2)


def test_only_a_higher_score_is_better() -> None:
    conv = network()
    best = better(None, Score(miou=0.5, cross_entropy=1), conv, iteration=2)
    kept = {key: value.clone() for key, value in best.weights.items()}
    with torch.no_grad():
        next(conv.parameters()).add_(1)
    same = better(best, Score(miou=0.5, cross_entropy=0), conv, iteration=4)
    assert (same.iteration, same.since, same.score.cross_entropy) == (2, 1, 1)
    assert all(torch.equal(value, same.weights[key]) for key, value in kept.items())
    after = better(same, Score(miou=0.6, cross_entropy=2), conv, iteration=6)
    assert (after.iteration, after.since) == (6, 0)
    assert not torch.equal(after.weights["conv.weight"], kept["conv.weight"])

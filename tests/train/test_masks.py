"""Windows with wrong masks of objects, and what such masks are worth."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from magnet_cli.geometry import Size
from magnet_cli.models.registry import build_cascade
from magnet_cli.train.config import LoopConfig
from magnet_cli.train.masks import MaskSampler, MaskValidator, Tally
from magnet_cli.train.objects import Objects
from magnet_cli.train.perturbing import Perturbation
from magnet_cli.train.precision import Arithmetic
from magnet_cli.train.sampling import Sampler
from magnet_cli.train.scenes import Scene


def sampler() -> MaskSampler:
    """A square of class 3 on class 0, and unknown pixels at the left."""
    labels = np.zeros((40, 40), np.uint8)
    labels[10:30, 12:36] = 3
    labels[:, :4] = 255
    pixels = np.repeat(labels[..., None], 3, axis=2)
    size = Size(width=40, height=40)
    return MaskSampler(
        windows=Sampler(
            scenes=[Scene.of("a", pixels=pixels, labels=labels)],
            size=size,
            scales=[size],
            mean=(0, 0, 0),
            std=(1, 1, 1),
            jitter=1.0,
            colour=0.0,
            batch=4,
        ),
        objects=Objects(ignore=255, pieces=0.5, smallest=16),
        perturbation=Perturbation(iou=(0.8, 1.0), coarse=0.5, shrink=4.0),
    )


def test_a_batch_is_image_and_wrong_mask_with_the_truth_beside_it() -> None:
    inputs, labels = sampler()(0)
    assert inputs.shape == (4, 4, 40, 40)
    assert inputs.dtype == torch.float32
    assert set(inputs[:, 3].flatten().tolist()) == {-1.0, 1.0}
    for image, label in zip(inputs, labels, strict=True):
        square = torch.isclose(image[0], torch.tensor(3 / 255))
        unknown = label == 255
        assert int(unknown.sum()) == 160
        # The object is the square or what lies around it: the image was turned and mirrored with it.
        same = bool(((label == 1) == square)[~unknown].all())
        assert same or bool(((label == 0) == square)[~unknown].all())
        inside, truth = image[3] > 0, label == 1
        overlap = float((inside & truth & ~unknown).sum() / ((inside | truth) & ~unknown).sum())
        assert 0.75 < overlap <= 1
    again = sampler()(0)
    assert torch.equal(again[0], inputs)
    assert torch.equal(again[1], labels)
    assert not torch.equal(sampler()(1)[0], inputs)


def test_a_tally_counts_what_is_known() -> None:
    labels = torch.zeros((1, 40, 40), dtype=torch.int64)
    labels[0, 10:30, 10:30] = 1
    labels[0, :, 35:] = 255
    wrong = torch.full((1, 40, 40), -1.0)
    wrong[0, 10:30, 10:20] = 1
    wrong[0, :, 36:] = 1
    right = torch.where(labels == 1, 9.0, -9.0)
    tally = Tally()
    tally.add(wrong, right, labels)
    score = tally.score
    assert score.miou == 1
    assert score.others["iou_before"] == 0.5
    assert score.others["mba"] == 1
    # Of 20 rows, half the object's pixels are missing.
    assert 0.5 < score.others["mba_before"] < 0.9
    assert score.cross_entropy == pytest.approx(np.log1p(np.exp(-9)), rel=1e-2)


def test_a_validator_looks_at_the_same_objects_each_time() -> None:
    torch.manual_seed(0)
    network = build_cascade("conv", options={}).eval()
    validator = MaskValidator(sampler=sampler(), windows=6)
    first, second = (validator(network, Arithmetic(LoopConfig(device="cpu"))) for _ in range(2))
    assert first == second
    assert first.others["iou_before"] > 0.8

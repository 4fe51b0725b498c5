"""Windows with wrong masks of objects are drawn, and such masks are scored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from magnet_cli.geometry import Size
from magnet_cli.models.registry import build_cascade
from magnet_cli.train.batches import BatchSampler
from magnet_cli.train.binary_objects import BinaryObjects
from magnet_cli.train.config import LoopConfig
from magnet_cli.train.mask_samples import MaskSampler, MaskTally, MaskValidator
from magnet_cli.train.perturbation import Perturbation
from magnet_cli.train.precision import Arithmetic
from magnet_cli.train.scenes import LabelledScene
from magnet_cli.train.spoilage import Spoiling, thinned

if TYPE_CHECKING:
    from numpy.typing import NDArray

SOUND = Spoiling(dropped=0.0, soft=0.0)


def sampler(*, masks: float = 0.0, spoiling: Spoiling = SOUND) -> MaskSampler:
    """Return a square of class 3 on class 0, and unknown pixels at the left; another program found two pieces of it."""
    labels = np.zeros((40, 40), np.uint8)
    labels[10:30, 12:36] = 3
    labels[:, :4] = 255
    pixels = np.repeat(labels[..., None], 3, axis=2)
    mask = np.zeros_like(labels)
    mask[8:18, 14:36] = mask[22:30, 16:40] = 3
    size = Size(width=40, height=40)
    return MaskSampler(
        windows=BatchSampler(
            scenes=[LabelledScene.of("a", pixels=pixels, labels=labels, mask=mask)],
            size=size,
            scales=[size],
            mean=(0, 0, 0),
            std=(1, 1, 1),
            jitter=1.0,
            colour=0.0,
            batch=4,
        ),
        objects=BinaryObjects(ignore=255, pieces=0.5, smallest=16),
        perturbation=Perturbation(iou=(0.8, 1.0), coarse=0.5, shrink=4.0),
        spoiling=spoiling,
        masks=masks,
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


def turned(mask: NDArray[np.bool_]) -> set[bytes]:
    """Return a square mask in all eight positions."""
    turns = [np.rot90(mask, number) for number in range(4)]
    return {np.ascontiguousarray(each).tobytes() for turn in turns for each in (turn, turn[:, ::-1])}


def test_a_mask_that_something_else_found_is_turned_with_its_picture() -> None:
    given = sampler(masks=1.0)
    mask = given.windows.scenes[0].mask
    assert mask is not None
    found = mask.at(np.arange(40), np.arange(40)) == 3
    inputs, _ = given(0)
    wrong = (inputs[:, 3] > 0).numpy()
    assert {each.tobytes() for each in wrong} <= turned(found) | turned(~found)
    assert len({each.tobytes() for each in wrong}) > 1
    for image, inside in zip(inputs.numpy(), wrong, strict=True):
        # The square holds all of the mask but two rows and four columns, however it lies.
        assert np.count_nonzero((image[0] > 0.005) & (inside if inside.sum() < 800 else ~inside)) >= 320


def test_pieces_are_left_out_and_one_stays() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:6, 2:6] = mask[2:6, 10:18] = mask[10:14, 2:4] = True
    found = [int(thinned(mask, np.random.default_rng(seed), share=0.4).sum()) for seed in range(60)]
    assert set(found) == {8, 16, 24, 32, 40, 48, 56}
    assert thinned(mask, np.random.default_rng(0), share=1.0).any()
    assert np.array_equal(thinned(mask, np.random.default_rng(0), share=0.0), mask)


def test_an_unsure_mask_is_one_that_a_coarser_level_leaves() -> None:
    mask = np.zeros((32, 32), bool)
    mask[:, 16:] = True
    assert set(np.unique(SOUND(mask, np.random.default_rng(0)))) == {0, 1}
    found = Spoiling(dropped=0.0, soft=1.0)(mask, np.random.default_rng(0))
    assert found.dtype == np.float32
    assert np.all(np.diff(found, axis=1) >= 0)
    assert np.any((found > 0.1) & (found < 0.9))
    assert np.array_equal(found[:, :12] > 0.5, mask[:, :12])
    assert np.array_equal(found[:, 20:] > 0.5, mask[:, 20:])
    inputs, _ = sampler(spoiling=Spoiling(dropped=0.0, soft=1.0))(0)
    values = inputs[:, 3]
    assert -1 <= float(values.min()) < -0.9
    assert 0.9 < float(values.max()) <= 1
    assert bool((values.abs() < 0.9).any())


def test_a_tally_counts_what_is_known() -> None:
    labels = torch.zeros((1, 40, 40), dtype=torch.int64)
    labels[0, 10:30, 10:30] = 1
    labels[0, :, 35:] = 255
    wrong = torch.full((1, 40, 40), -1.0)
    wrong[0, 10:30, 10:20] = 1
    wrong[0, :, 36:] = 1
    right = torch.where(labels == 1, 9.0, -9.0)
    tally = MaskTally()
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

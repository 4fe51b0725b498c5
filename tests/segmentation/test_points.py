"""Points and windows are chosen by counts, shares and thresholds, with fixed ties, and a block counts as one image."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from magnet_cli.geometry import Size
from magnet_cli.options.rules import Rule, parse_points
from magnet_cli.options.segment import SegmentOptions
from tests.segmentation.support import ArrayImage, CodedNetworks, count, facts, run, sides

if TYPE_CHECKING:
    from torch import Tensor


class NoisyNetworks(CodedNetworks):
    """Networks that predict other classes at each scale, so that every chosen point matters."""

    def predict(self, patches: Tensor, scale: Size) -> Tensor:
        values = patches[:, :1] * (7 + scale.width % 13)
        logits = torch.cat([torch.sin(values * (n + 1)) * 2 for n in range(self.classes)], dim=1)
        return logits.softmax(dim=1)

    def refine(self, own: Tensor, field: Tensor, scale: Size) -> Tensor:
        del scale
        return (own * field + 0.1).softmax(dim=1)


class OpinionatedNetworks(NoisyNetworks):
    """Networks that also predict a mixture of classes for black pixels."""

    def predict(self, patches: Tensor, scale: Size) -> Tensor:
        return super().predict(patches + 0.3, scale)


class RecordingNetworks(NoisyNetworks):
    """Networks that keep the size of each batch."""

    def predict(self, patches: Tensor, scale: Size) -> Tensor:
        self.batches.append(len(patches))
        return super().predict(patches, scale)


def noisy(size: int, seed: int = 5) -> ArrayImage:
    return ArrayImage(np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8))


def stage_counts(outcome: object, stage: int) -> dict[str, int]:
    groups = outcome.sink.groups  # type: ignore[attr-defined]
    total: dict[str, int] = {}
    for counts in groups[0].values():
        for key, value in counts["stages"][str(stage)].items():
            total[key] = total.get(key, 0) + value
    return total


def test_a_count_is_taken_per_stage_of_a_full_block() -> None:
    options = SegmentOptions(scales=sides(128, 64), points=count(100), median=3, overlap=0, num_workers=0)
    outcome = run(noisy(128), facts(3, input_side=64), options, NoisyNetworks(3))
    assert stage_counts(outcome, 2)["points"] == 100


def test_a_cut_block_gets_its_share_by_area() -> None:
    options = SegmentOptions(scales=sides(128, 64), points=count(1000), median=3, overlap=0, num_workers=0)
    outcome = run(noisy(64), facts(3, input_side=64), options, NoisyNetworks(3))
    assert stage_counts(outcome, 2)["points"] == 250


def test_a_share_is_of_the_blocks_own_pixels() -> None:
    options = SegmentOptions(scales=sides(128, 64), points=parse_points("30%"), median=1, overlap=0, num_workers=0)
    outcome = run(noisy(128), facts(3, input_side=64), options, NoisyNetworks(3))
    assert stage_counts(outcome, 2)["points"] == int(Fraction(3, 10) * 128 * 128)


def test_fast_gets_points_by_the_share_of_windows_selected() -> None:
    options = SegmentOptions(
        scales=sides(128, 64),
        method="magnet-fast",
        points=parse_points("50%"),
        patches=count(1),
        median=1,
        overlap=0,
        num_workers=0,
    )
    outcome = run(noisy(128), facts(3, input_side=64), options, NoisyNetworks(3))
    counts = stage_counts(outcome, 2)
    assert counts["run"] == 1
    assert counts["unselected"] == 3
    assert counts["points"] == 128 * 128 // 2 // 4


@pytest.mark.parametrize("missing", [0, 48])
def test_one_block_equals_the_whole_stage_computed_at_once(missing: int) -> None:
    """One block without margins gives the stages of an independent, naive computation of the paper.

    Rows that are missing are seen as the mean, which is 0 here, and no point of them is chosen.
    """
    values = np.random.default_rng(5).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    valid = np.broadcast_to(np.arange(128)[:, None] >= missing, (128, 128))
    image, model, networks = ArrayImage(values, valid=valid), facts(3, input_side=64), OpinionatedNetworks(3)
    options = SegmentOptions(scales=sides(128, 64), points=parse_points("40%"), median=5, overlap=0, num_workers=0)
    outcome = run(image, model, options, networks)
    seen = np.where(valid[..., None], values, np.uint8(0))
    pixels = torch.from_numpy(seen).permute(2, 0, 1)[None].float() / 255
    shrunk = torch.nn.functional.avg_pool2d(pixels * 255, 2)
    first = networks.predict(torch.floor(shrunk + 0.5) / 255, Size(width=128, height=128)).half().float()
    field = torch.nn.functional.interpolate(first, scale_factor=2, mode="bilinear")
    own = networks.predict(pixels, Size(width=64, height=64))
    refined = networks.refine(own, field, Size(width=64, height=64))
    best = field.topk(2, dim=1).values
    sure = refined.topk(2, dim=1).values
    raw = (1 - (best[:, 0] - best[:, 1])) * (sure[:, 0] - sure[:, 1])
    raw[:, :missing] = 0
    squares = torch.nn.functional.pad(raw[None], (2, 2, 2, 2), mode="replicate")[0, 0].unfold(0, 5, 1).unfold(1, 5, 1)
    score = squares.reshape(128, 128, 25).median(dim=-1).values.reshape(-1)
    order = torch.sort(score, descending=True, stable=True).indices[: int(0.4 * 128 * 128)]
    chosen = torch.zeros(128 * 128, dtype=torch.bool)
    chosen[order] = True
    result = torch.where(chosen.reshape(1, 1, 128, 128), refined.half(), field.half())
    np.testing.assert_array_equal(outcome.labels, np.where(valid, result[0].argmax(dim=0).numpy(), 255))


def test_a_threshold_does_not_depend_on_the_blocks() -> None:
    """With a threshold and enough margin, blocks of 2 x 2 and of 4 x 4 windows choose the same points."""
    rule = Rule(kind="threshold", values=(Fraction(1, 5),))
    labels = []
    for size in (200, 328):
        pixels = np.zeros((size, size, 3), np.uint8)
        pixels[:200, :200] = np.random.default_rng(2).integers(0, 255, (200, 200, 3))
        options = SegmentOptions(scales=sides(128, 64), points=rule, median=3, overlap=16, num_workers=0)
        labels.append(run(ArrayImage(pixels), facts(3, input_side=64), options, NoisyNetworks(3)).labels)
    np.testing.assert_array_equal(labels[0][:100, :100], labels[1][:100, :100])


def test_zero_scores_are_never_chosen() -> None:
    flat = ArrayImage(np.zeros((64, 64, 3), np.uint8))
    options = SegmentOptions(scales=sides(64, 32), points=count(500), median=1, overlap=0, num_workers=0)
    outcome = run(flat, facts(2, input_side=32), options, CodedNetworks(2, sharpness=10000))
    assert stage_counts(outcome, 2)["points"] == 0


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_batches_are_filled_within_the_group(batch: int) -> None:
    networks = RecordingNetworks(3)
    options = SegmentOptions(scales=sides(128, 32), overlap=0, median=1, batch_size=batch, num_workers=0)
    run(noisy(128), facts(3, input_side=32), options, networks)
    assert networks.batches == [1] + [batch] * (16 // batch) + ([16 % batch] if 16 % batch else [])

"""The lab against the program's own functions, and against scenes so small that the answer can be said."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from benchmarks.accuracy.ablations import TABLES, Row
from benchmarks.accuracy.fields import ArraySink, pass_of
from benchmarks.accuracy.gain import BINS, PRIOR, GainTable, fitted_gain
from benchmarks.accuracy.lab import (
    AllScales,
    ByCertainty,
    Geometric,
    Merger,
    Oracle,
    Scored,
    SeenScene,
    Weighted,
    cascade,
    fitted_temperature,
    stepped_median,
)
from magnet_cli.arithmetic.merge import merge
from magnet_cli.arithmetic.scores import median_blur
from magnet_cli.geometry import Box, Size
from magnet_cli.masks.spec import GroupId
from magnet_cli.options.segment import Rule, SegmentOptions, parse_points
from magnet_cli.segmentation.scheduler import PROBABILITIES
from magnet_cli.train.temperature import tempered
from tests.segmentation.support import ArrayImage, CodedNetworks, facts, run, sides

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.plan.windows import Pass

SCALES = (64, 32, 16)
INPUT = Size(width=16, height=16)
CLASSES = 3


def stages(height: int, width: int, scales: tuple[int, ...] = SCALES) -> Pass:
    return pass_of(scales, image=Size(width=width, height=height), input=INPUT, margin=2)


def scene_of(height: int, width: int, seed: int, *, truth: NDArray[np.uint8] | None = None) -> SeenScene:
    """Random fields, smooth enough that neighbours agree now and then."""
    rng = np.random.default_rng(seed)
    own = {}
    for stage in stages(height, width).stages:
        logits = torch.from_numpy(rng.normal(size=(CLASSES, stage.extent.height, stage.extent.width)) * 2)
        own[stage.scale.width] = logits.softmax(dim=0).numpy().astype(np.float16)
    if truth is None:
        truth = rng.integers(0, CLASSES, (height, width)).astype(np.uint8)
    return SeenScene(name=f"seed{seed}", own=own, truth=truth)


class SinesOfGrey(CodedNetworks):
    """Looks at one pixel at a time and says something different at each scale."""

    def predict(self, patches: Tensor, scale: Size) -> Tensor:
        values = patches[:, :1] * (7 + scale.width % 13)
        return torch.cat([torch.sin(values * (n + 1)) * 2 for n in range(self.classes)], dim=1).softmax(dim=1)


@pytest.mark.parametrize("points", ["all", "q>0.1", "30%", "500"])
def test_agrees_with_the_program(points: str) -> None:
    scales, side, margin = (128, 64, 32), 32, 6
    rng = np.random.default_rng(6)
    pixels = np.kron(rng.integers(0, 255, (27, 32)), np.ones((6, 6))).astype(np.uint8)
    image = ArrayImage(np.repeat(pixels[..., None], 3, axis=2))
    model, networks = facts(CLASSES, input_side=side, scales=scales), SinesOfGrey(CLASSES)
    rule, step = (
        parse_points(points),
        pass_of(scales, image=image.info.size, input=Size(width=side, height=side), margin=margin),
    )
    own = {}
    for stage in step.stages:
        looking = SegmentOptions(
            method="patch", scales=(stage.scale,), margin=margin, probabilities=True, num_workers=0
        )
        values = np.full((CLASSES, stage.extent.height, stage.extent.width), np.nan, np.float16)
        sink, group = ArraySink(values), GroupId(pass_index=0, index=0)
        for box, found in run(image, model, looking, networks).sink.fields[PROBABILITIES]:
            sink.put_field(group, name=PROBABILITIES, box=box, values=found)
        own[stage.scale.width] = values
    scene = SeenScene(name="sines", own=own, truth=np.zeros(pixels.shape, np.uint8))
    pick = None if rule.kind == "all" else Scored(rule=rule, median=3)
    labels = cascade(scene, step, merger=Weighted(), pick=pick).labels
    whole = SegmentOptions(scales=sides(*scales), merge="mean", points=rule, median=3, margin=margin, num_workers=0)
    program = run(image, model, whole, networks).labels
    assert (labels == program).mean() > 0.99
    assert (labels == own[scales[-1]].argmax(axis=0)).mean() < 0.9


def test_one_stage_is_what_the_backbone_said() -> None:
    scene = scene_of(70, 90, 0)
    outcome = cascade(scene, stages(70, 90, (16,)), merger=Weighted())
    assert np.array_equal(outcome.labels, scene.own[16].argmax(axis=0))
    assert outcome.counts == {}


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_o_that_is_all_or_nothing(share: float) -> None:
    scene = scene_of(70, 90, 1)
    outcome = cascade(scene, stages(70, 90), merger=Weighted(share))
    alone = cascade(scene, stages(70, 90, (16,) if share else (64,)), merger=Weighted())
    # Kept, the coarsest canvas is resampled twice on its way and once on the other.
    assert (outcome.labels == alone.labels).mean() > (0.999 if share else 0.9)


def test_all_scales_weigh_the_same_in_the_end() -> None:
    shape = (CLASSES, 4, 4)
    parts = [torch.from_numpy(np.random.default_rng(seed).random(shape, np.float32)) for seed in range(3)]
    total = parts[0]
    for part, stage in zip(parts[1:], stages(70, 90).stages[1:], strict=True):
        total = AllScales().merge(part, total, stage)
    assert torch.allclose(total, sum(parts, torch.zeros(shape)) / 3)


@pytest.mark.parametrize(("merger", "how"), [(Weighted(), "mean"), (ByCertainty(), "certainty")])
def test_merges_are_the_programs(merger: Merger, how: str) -> None:
    own, under = (torch.rand(CLASSES, 5, 6).softmax(dim=0) for _ in range(2))
    stage = stages(70, 90).stages[1]
    theirs = merge(own[None], under[None], how=how, networks=None, scale=stage.scale)[0]  # type: ignore[arg-type]
    assert torch.allclose(merger.merge(own, under, stage), theirs)


def test_a_geometric_mean_rules_out_what_either_side_rules_out() -> None:
    own, under = (torch.tensor(probs)[:, None, None] for probs in ([0.5, 0.5, 0.0], [0.2, 0.3, 0.5]))
    merged = Geometric().merge(own, under, stages(70, 90).stages[1])
    assert torch.allclose(merged.sum(dim=0), torch.ones(1, 1))
    assert merged[2].item() < 1e-3
    assert (merged[1] / merged[0]).item() == pytest.approx((0.3 / 0.2) ** 0.5)


def test_stepped_median_follows_the_median_and_is_exact_about_thresholds() -> None:
    score = torch.rand(60, 50, generator=torch.Generator().manual_seed(0)) ** 3
    exact, stepped = median_blur(score, 5), stepped_median(score, 5, keep=[0.1, 0.2])
    assert float((exact - stepped).abs().max()) < 0.02
    for cut in (0.1, 0.2):
        assert torch.equal(exact > cut, stepped > cut)
    assert torch.equal(stepped_median(torch.zeros(9, 9), 5), torch.zeros(9, 9))


@pytest.mark.parametrize("points", ["40", "30%", "100000"])
def test_as_many_points_as_the_program_would_choose(points: str) -> None:
    step = stages(100, 75)
    rule = parse_points(points)
    pick = Scored(rule=rule, median=1)
    for stage in step.stages[1:]:
        shape = (stage.extent.height, stage.extent.width)
        chosen = pick.choose(torch.rand(shape) + 0.01, stage=stage, step=step)
        for number in range(step.blocks.pixels):
            own = step.own(step.block(number), stage)
            full = step.ratio(stage).pixels * stage.cell.pixels
            share = rule.values[0] if rule.kind == "share" else Fraction(rule.values[0], full)
            assert int(chosen[own.slices].sum()) == min(own.area, int(own.area * share))


def test_a_threshold_takes_what_exceeds_it() -> None:
    step = stages(100, 75)
    score = torch.rand(100, 75)
    pick = Scored(rule=parse_points("q>0.25"), median=3)
    assert torch.equal(pick.choose(score, stage=step.stages[-1], step=step), median_blur(score, 3) > 0.25)


def test_an_oracle_is_never_worse_than_what_it_starts_from_nor_than_taking_all_once() -> None:
    scene = scene_of(70, 90, 2)
    step = stages(70, 90, (32, 16))

    def right(pick: Oracle | None, scales: tuple[int, ...] = (32, 16)) -> float:
        outcome = cascade(scene, stages(70, 90, scales), merger=Weighted(), pick=pick)
        return float((outcome.labels == scene.truth).mean())

    assert right(Oracle()) >= max(right(None), right(None, (32,)))
    assert right(Oracle(agreed=True)) == pytest.approx(right(Oracle()), abs=0.002)
    assert cascade(scene, step, merger=Weighted(), pick=Oracle()).counts[16].chosen < 0.5


def test_gain_is_drawn_to_the_average_where_pixels_are_few() -> None:
    bins = np.array([5] * (100 * PRIOR) + [7])
    table = GainTable.of(bins, np.array([1] * (100 * PRIOR) + [-1]))
    expected = table.expected.ravel()
    assert expected.shape == (BINS * BINS,)
    assert expected[5] == pytest.approx(1, abs=0.01)
    assert expected[7] > 0.9
    assert (table + table).pixels.sum() == 2 * (100 * PRIOR + 1)


def test_gain_takes_a_side_that_is_always_right_and_no_other() -> None:
    scene = scene_of(200, 220, 3)
    step = stages(200, 220, (32, 16))
    own = cascade(scene, stages(200, 220, (16,)), merger=Weighted()).labels
    coarse = cascade(scene, stages(200, 220, (32,)), merger=Weighted()).labels
    for truth, want in ((own, 1.0), (coarse, 0.0)):
        known = SeenScene(name="known", own=scene.own, truth=truth)
        pick = fitted_gain([(known, step)], merger=Weighted(1.0), agreed=False)
        assert set(pick.tables) == {16}
        outcome = cascade(scene, step, merger=Weighted(1.0), pick=pick)
        assert outcome.counts[16].changed == pytest.approx(want * (own != coarse).mean(), abs=0.02)


def test_a_temperature_is_found_again() -> None:
    rng = np.random.default_rng(4)
    stage = stages(200, 200, (16,)).stages[0]
    logits = torch.from_numpy(rng.normal(size=(CLASSES, 200, 200)).astype(np.float32) * 2)
    probs = logits.softmax(dim=0).numpy()
    truth = (probs.cumsum(axis=0) < rng.random((200, 200))).sum(axis=0).clip(max=CLASSES - 1).astype(np.uint8)
    sharp = SeenScene(name="sharp", own={16: tempered(logits, 0.5).numpy().astype(np.float16)}, truth=truth)
    assert fitted_temperature([sharp], 16, [stage]) == pytest.approx(2, rel=0.05)
    warm = SeenScene(name="warm", own=sharp.own, truth=truth, temperatures={16: 2.0})
    assert torch.allclose(warm.look(stage, Box.whole(stage.extent)), torch.from_numpy(probs), atol=0.01)


def test_rows_have_names_of_their_own_and_rules_that_the_program_reads() -> None:
    rows = [row for make in TABLES.values() for row in make()]
    assert len({(row.table, row.name) for row in rows}) == len(rows)
    assert all(isinstance(parse_points(row.points), Rule) for row in rows)
    assert all(isinstance(row, Row) and list(row.scales) == sorted(row.scales, reverse=True) for row in rows)

"""Simulated selections against the program, and against answers that can be said beforehand."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks.accuracy import curve as module
from benchmarks.accuracy.curve import Curve, Point
from benchmarks.accuracy.curves import EVEN, SELECTORS, SPREADS, budget
from benchmarks.accuracy.fields import ArraySink, pass_of
from benchmarks.accuracy.folds import AERIAL, CURVES, backbone_config
from benchmarks.accuracy.lab import SeenScene, Weighted, cascade
from benchmarks.accuracy.learnt import Learnt, child_part, mean_over
from benchmarks.accuracy.selection import (
    Above,
    AtRandom,
    Best,
    CoarseFirst,
    Row,
    Tapered,
    TrueGain,
    Uncertain,
    row_box,
    selected,
)
from benchmarks.accuracy.selectors import LABELS, selector_config
from magnet_cli.geometry import LEVEL0, Box, Size
from magnet_cli.images.protocol import Request
from magnet_cli.masks.spec import GroupId
from magnet_cli.options.segment import Rule, SegmentOptions
from magnet_cli.plan.windows import Index
from magnet_cli.segmentation.scheduler import PROBABILITIES
from magnet_cli.train.scenes import Scene
from tests.segmentation.support import ArrayImage, CodedNetworks, facts, run, sides

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.accuracy.selection import Untaught
    from magnet_cli.models.networks import Networks
    from magnet_cli.plan.windows import Pass

SCALES = (128, 64, 32)
SIDE, MARGIN, CLASSES = 32, 6, 3
MODEL = facts(CLASSES, input_side=SIDE, scales=SCALES)


class SinesOfGrey(CodedNetworks):
    """Looks at one pixel at a time and says something different at each scale, surer in dark places."""

    def predict(self, patches: Tensor, scale: Size) -> Tensor:

        values = patches[:, :1] * (7 + scale.width % 13)
        waves = [torch.sin(values * (n + 1)) * 3 * (1.2 - patches[:, :1]) for n in range(self.classes)]
        return torch.cat(waves, dim=1).softmax(dim=1)


@pytest.fixture(scope="module")
def image() -> ArrayImage:
    rng = np.random.default_rng(6)
    pixels = np.kron(rng.integers(0, 255, (27, 32)), np.ones((8, 8))).astype(np.uint8)
    return ArrayImage(np.repeat(pixels[..., None], 3, axis=2))


@pytest.fixture(scope="module")
def step(image: ArrayImage) -> Pass:
    return pass_of(SCALES, image=image.info.size, input=Size(width=SIDE, height=SIDE), margin=MARGIN)


@pytest.fixture(scope="module")
def scene(image: ArrayImage, step: Pass) -> SeenScene:
    own = {}
    for stage in step.stages:
        options = SegmentOptions(
            method="patch", scales=(stage.scale,), margin=MARGIN, probabilities=True, num_workers=0
        )
        values = np.full((CLASSES, stage.extent.height, stage.extent.width), np.nan, np.float16)
        sink, group = ArraySink(values), GroupId(pass_index=0, index=0)
        for box, found in run(image, MODEL, options, SinesOfGrey(CLASSES)).sink.fields[PROBABILITIES]:
            sink.put_field(group, name=PROBABILITIES, box=box, values=found)
        own[stage.scale.width] = values
    height, width = step.stages[0].image.height, step.stages[0].image.width
    truth = np.random.default_rng(7).integers(0, CLASSES, (height, width)).astype(np.uint8)
    return SeenScene(name="sines", own=own, truth=truth)


@pytest.mark.parametrize(
    ("select", "share"),
    [("uncertainty", Fraction(1, 4)), ("change", Fraction(1, 4)), ("both", Fraction(1, 4)), ("both", Fraction(3, 5))],
)
def test_a_simulated_budget_agrees_with_the_program(
    image: ArrayImage, step: Pass, scene: SeenScene, select: Untaught, share: Fraction
) -> None:
    options = SegmentOptions(
        method="magnet-fast", scales=sides(*SCALES), merge="mean", budget=share, select=select, margin=MARGIN,
        num_workers=0,
    )  # fmt: skip
    program = run(image, MODEL, options, SinesOfGrey(CLASSES))
    rule = CoarseFirst(budget=share, stages=step.stages)
    simulated = selected(scene, step, worth=Uncertain(select=select), rule=rule)
    fates: list[Any] = [counts["fates"] for groups in program.sink.groups.values() for counts in groups.values()]
    assert sum("".join(fate.values()).count("r") for fate in fates) == sum(simulated.windows)
    # At a block's border the program looks at the block's own rim, here at the neighbour or nothing: windows that are
    # worth nearly the same may change places, and one is up to 0.7 % of so small an image.
    assert (simulated.labels == program.labels).mean() >= 0.98
    without = selected(scene, step, worth=Uncertain(), rule=Best(share=Fraction(0)))
    assert (simulated.labels == without.labels).mean() < 0.97, "windows that are computed change labels"


def test_a_simulated_threshold_agrees_with_the_program(image: ArrayImage, step: Pass, scene: SeenScene) -> None:
    limit = Fraction(7, 10)
    rule = Rule(kind="threshold", values=(limit,))
    options = SegmentOptions(
        method="magnet-fast", scales=sides(*SCALES), merge="mean", patches=rule, margin=MARGIN, num_workers=0
    )
    simulated = selected(scene, step, worth=Uncertain(), rule=Above(limit=float(limit)))
    assert (simulated.labels == run(image, MODEL, options, SinesOfGrey(CLASSES)).labels).mean() >= 0.99
    assert 0 < sum(simulated.windows[1:]) < sum(stage.cells.pixels for stage in step.stages[1:])


def test_all_windows_are_the_cascade(step: Pass, scene: SeenScene) -> None:
    everything = selected(scene, step, worth=AtRandom(seed=1), rule=Best(share=Fraction(1)))
    assert (everything.labels == cascade(scene, step, merger=Weighted()).labels).mean() > 0.999
    assert everything.windows == tuple(stage.cells.pixels for stage in step.stages)


def test_an_oracle_beats_what_does_not_know_the_truth(step: Pass, scene: SeenScene) -> None:
    two = pass_of(SCALES[:2], image=step.stages[0].image, input=step.stages[0].input, margin=MARGIN)
    truth = cascade(scene, two, merger=Weighted()).labels
    knowing = SeenScene(name="known", own=scene.own, truth=truth)
    right = {}
    for name, worth in (("oracle", TrueGain()), ("chance", AtRandom(seed=1)), ("unsure", Uncertain())):
        run = selected(knowing, two, worth=worth, rule=Best(share=Fraction(1, 2)))
        right[name] = (run.labels == truth).mean()
    assert right["oracle"] > max(right["chance"], right["unsure"])


def test_a_class_weighs_the_same_to_a_balanced_oracle(scene: SeenScene) -> None:
    rare = np.zeros_like(scene.truth)
    rare[:4, :4] = 1
    unlike = SeenScene(name="rare", own=scene.own, truth=rare)
    assert unlike.pixels[:2].tolist() == [rare.size - 16, 16]
    assert TrueGain(balanced=True)._weights(unlike)[1].item() == pytest.approx(1 / 16)
    assert TrueGain()._weights(unlike)[1].item() == 1


def test_windows_that_tie_at_the_cut_are_left_out(step: Pass) -> None:
    worths, stage = np.array([[3.0, 1.0], [1.0, 0.0]]), step.stages[1]
    assert Best(share=Fraction(1, 2)).choose(worths, stage).tolist() == [[True, False], [False, False]]
    assert Best(share=Fraction(3, 4)).choose(worths, stage).tolist() == [[True, True], [True, False]]
    assert Best(share=Fraction(1)).choose(worths, stage).all()
    assert not Best(share=Fraction(0)).choose(worths, stage).any()
    assert Above(limit=1.0).choose(worths, stage).tolist() == [[True, False], [False, False]]


def test_a_budget_counts_the_coarsest_stage(step: Pass) -> None:
    first, *rest = (stage.cells.pixels for stage in step.stages)
    assert budget(Fraction(1, 2), step) == Fraction(first + sum(rest), 2) - first
    assert budget(Fraction(1), step) == sum(rest)
    assert budget(Fraction(1, 1000), step) is None


@pytest.mark.parametrize("share", [Fraction(1, 10), Fraction(1, 2), Fraction(9, 10), Fraction(1)])
def test_a_tapered_budget_spends_what_it_has(step: Pass, share: Fraction) -> None:
    second, third = (stage.cells.pixels for stage in step.stages[1:])
    total = share * (second + third)
    rule = Tapered.spending(total, step)
    assert min(Fraction(1), 2 * rule.share) * second + rule.share * third == total
    worths = np.arange(64.0).reshape(8, 8)
    computed = [rule.choose(worths, stage).sum() for stage in step.stages[1:]]
    assert computed == [int(min(Fraction(1), 2 * rule.share) * 64), int(rule.share * 64)]


def point(asked: float, windows: tuple[int, ...], right: int) -> Point:
    counts = {"truth": (10, 10), "mask": (10, 10), "both": (right, right), "labelled": 20}
    return Point(asked=asked, windows=windows, **counts)  # type: ignore[arg-type]


def test_a_curve_is_straight_between_its_runs_and_survives_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    curve = Curve(
        scene="s", selector="x", backbone="b", scales=(2, 1), windows=(1, 9), more={"seed": 1},
        points=(point(1, (1, 9), 10), point(0.1, (1, 0), 5), point(0.5, (1, 4), 8)),
    )  # fmt: skip
    curve.save()
    assert Curve.load("s", "x") == curve
    assert Curve.load("s", "y") is None
    low, middle = 100 * 5 / 15, 100 * 8 / 12
    assert curve.miou(0.1) == pytest.approx(low)
    assert curve.miou(0.3) == pytest.approx((low + middle) / 2)
    assert curve.miou(1.0) == pytest.approx(100)


def test_backbones_of_the_curves_leave_scenes_out() -> None:
    outer, inner = backbone_config(("tile7",), CURVES), backbone_config(("tile4", "tile7"), CURVES)
    assert outer.data.scenes == ("tile1", "tile2", "tile3", "tile4", "tile6")
    assert inner.data.scenes == ("tile1", "tile2", "tile3", "tile6")
    assert (outer.loop.iterations, inner.loop.iterations) == (1500, 700)
    assert [backbone_config((tile,), AERIAL).loop.iterations for tile in ("tile4", "tile7")] == [2200, 3000]


class Brightness:
    """A selector that looks for dark places: the score of each is how bright it is, or how likely the first class."""

    bundle = SimpleNamespace(
        input=SimpleNamespace(range=(0, 255), mean=(0.0,) * 3, std=(1.0,) * 3, resample="area"),
    )

    def __init__(self) -> None:
        self.looks = 0

    def score_map(self, patches: Tensor, field: Tensor | None = None) -> Tensor:
        self.looks += len(patches)
        return functional.avg_pool2d(patches[:, :1] if field is None else field[:, :1], 2)[:, 0]


@pytest.mark.parametrize("sees_field", [False, True])
def test_what_a_selector_says_is_averaged_over_each_window(
    image: ArrayImage, step: Pass, scene: SeenScene, *, sees_field: bool
) -> None:
    pixels = image.read([Request(pitch=LEVEL0, box=Box.whole(image.info.size))])[0].pixels
    networks = Brightness()
    learnt = Learnt(
        networks=cast("Networks", networks),
        scene=Scene.of("sines", pixels=pixels.astype(np.uint8), labels=scene.truth),
        sees_field=sees_field,
    )
    first, second = step.stages[:2]
    canvas = scene.canvas(first)
    under = canvas.sample(row_box(second, 1), second.pitch)
    row = Row(scene=scene, before=first, canvas=canvas, stage=second, number=1, under=under, moved=None)
    worths = learnt.of(row)
    assert worths.tolist() == learnt.of(row).tolist()
    assert networks.looks == first.cells.width * (2 if sees_field else 1), "what a picture says is said once"
    if sees_field:
        expected = -row.means(under[0])
    else:
        grey = pixels[..., 0] / 255
        boxes = [second.pitch.level0(second.own(Index(column=c, row=1))) for c in range(second.cells.width)]
        expected = np.array([-grey[box.slices].mean() for box in boxes])
    assert np.ptp(expected) > 0.1
    assert np.abs(worths - expected).max() < 0.03


def test_a_window_takes_the_places_that_lie_in_it() -> None:
    scores = np.arange(16.0).reshape(4, 4)
    whole, quarter = slice(0, 1), slice(0, 0.25)
    assert mean_over(scores, (whole, whole)) == pytest.approx(7.5)
    assert mean_over(scores, (quarter, slice(0.75, 1))) == pytest.approx(3)
    assert mean_over(scores, (slice(0.125, 0.5), quarter)) == pytest.approx((0 * 1 + 4 * 2) / 3)


def test_windows_of_a_stage_share_out_the_cell_that_holds_them(step: Pass) -> None:
    first, second = step.stages[:2]
    held = [child_part(first, Index(column=0, row=0), second, Index(column=c, row=0))[1] for c in range(2)]
    cell = first.own(Index(column=0, row=0))
    assert [held[0].start, held[1].stop] == [0, cell.width / first.input.width]
    assert held[0].stop == held[1].start == cell.width / first.input.width / 2


def test_selectors_of_the_curves_are_fitted_to_what_their_backbones_have_not_seen(tmp_path: Path) -> None:
    gain, paper = (selector_config("tile4", tmp_path, labels) for labels in LABELS)
    assert gain.data.scenes == ("tile6", "tile7-part")
    assert gain.folds.held_out == (("tile6",), ("tile7-part",))
    assert [Path(folder).name for folder in gain.folds.backbones] == ["out46", "out47"]
    assert (gain.selector.labels, paper.selector.labels) == ("gain", "paper")
    assert gain.network.options["sees"] == "image+field"
    assert dict(paper.network.options) == {"cells": 4}


@pytest.mark.parametrize("spread", SPREADS)
def test_every_selector_is_measured_with_every_spread_but_the_threshold(spread: str) -> None:
    assert {name for name in SELECTORS if name.startswith(spread)} == {
        f"{spread}-{name}" for name in EVEN if name != "threshold"
    }

"""The windows that are computed are chosen by comparable scores, and a budget holds for the whole image."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from magnet_cli.arithmetic.canvas import Canvas
from magnet_cli.errors import UsageError
from magnet_cli.geometry import Box, Pitch
from magnet_cli.options.rules import ALL, parse_budget, parse_patches
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan import make_plan
from magnet_cli.plan.segmentation_plan import budget_share
from magnet_cli.segmentation.block_borders import joined
from magnet_cli.segmentation.block_stage import BlockStage
from magnet_cli.segmentation.window_scores import Known, difference, window_score
from tests.segmentation.support import (
    MACHINE,
    STEP,
    ArrayImage,
    CodedNetworks,
    MemorySink,
    Outcome,
    computed,
    facts,
    run,
    run_in_turns,
    sides,
)

if TYPE_CHECKING:
    from magnet_cli.geometry import Size

pytestmark = pytest.mark.full

SIDE = 256
INPUT = 32
CELLS = (9, 36, 121)
"""Number of windows of each stage."""
SCALES = sides(128, 64, 32)
SELECTIONS = ("uncertainty", "change", "both")


class Growing(CodedNetworks):
    """Networks that are less certain of fine patterns; at finer scales they are more certain, and of other classes."""

    def predict(self, patches: torch.Tensor, scale: Size) -> torch.Tensor:
        centres = torch.arange(self.classes).reshape(1, -1, 1, 1) * (STEP / 255)
        self.batches.append(len(patches))
        return (-(2000 / scale.width) * (patches[:, :1] - centres).abs()).softmax(dim=1)


class Failing(Growing):
    """Networks that raise an error after some batches."""

    def __init__(self, classes: int, *, after: int) -> None:
        super().__init__(classes)
        self.after = after

    def predict(self, patches: torch.Tensor, scale: Size) -> torch.Tensor:
        if len(self.batches) >= self.after:
            raise KeyboardInterrupt
        return super().predict(patches, scale)


def textured(*, valid: bool = False) -> ArrayImage:
    """Return an image that is plain in one corner and busier towards the other. With `valid`, a quarter lacks data."""
    rng = np.random.default_rng(8)
    strength = np.add.outer(np.arange(SIDE), np.arange(SIDE)) / (2 * SIDE)
    grey = (STEP + strength * rng.normal(0, STEP, (SIDE, SIDE))).clip(0, 255)
    holding = None
    if valid:
        holding = np.ones((SIDE, SIDE), bool)
        holding[SIDE // 2 :, SIDE // 2 :] = False
    return ArrayImage(np.repeat(grey[..., None], 3, axis=2).astype(np.uint8), valid=holding)


def options(**more: Any) -> SegmentOptions:
    given = {"scales": SCALES, "method": "magnet-fast", "points": ALL, "num_workers": 0, "overlap": 8, "batch_size": 3}
    return SegmentOptions(**{**given, **more})


def totals(sink: MemorySink, step: int) -> dict[str, int]:
    """Return the counts of all groups of a pass that has one stage, added up."""
    found: dict[str, int] = {}
    for counts in sink.groups[step].values():
        (stage,) = dict(counts["stages"]).values()  # type: ignore[call-overload]
        for key, value in stage.items():
            found[key] = found.get(key, 0) + value
    return found


def test_difference_is_half_the_sum() -> None:
    one, other = torch.tensor([[[1.0, 0.5]], [[0.0, 0.5]]]), torch.tensor([[[0.0, 0.25]], [[1.0, 0.75]]])
    torch.testing.assert_close(difference(one, other), torch.tensor([[1.0, 0.25]]))


@pytest.mark.parametrize(("by", "expected"), [("uncertainty", 0.5), ("change", 0.25), ("both", 0.125)])
def test_what_a_window_is_worth(by: Any, expected: float) -> None:
    box, pitch = Box(x=0, y=0, width=4, height=4), Pitch.square(2)
    canvas = Canvas(values=torch.tensor([0.75, 0.25]).half()[:, None, None].expand(2, 4, 4), box=box, pitch=pitch)
    moved = Canvas(values=torch.full((1, 4, 4), 0.25).half(), box=box, pitch=pitch)
    own = Box(x=2, y=2, width=4, height=4)
    assert window_score(Known(canvas=canvas, moved=moved), own, Pitch.square(1), by=by) == pytest.approx(expected)
    assert window_score(Known(canvas=canvas), own, Pitch.square(1), by=by) == pytest.approx(0.5)


@pytest.mark.parametrize("by", SELECTIONS)
@pytest.mark.parametrize("share", ["0.15", "0.6"])
def test_a_budget_pays_for_its_share_of_the_image(by: str, share: str) -> None:
    outcome = run(textured(), facts(4, input_side=INPUT), options(budget=Fraction(share), select=by), Growing(4))
    assert [len(step.stages) for step in outcome.plan.passes] == [1, 1, 1]
    cells = [step.stages[0].cells.pixels for step in outcome.plan.passes]
    assert tuple(cells) == CELLS
    left = int(Fraction(share) * sum(cells)) - cells[0]
    for number in (1, 2):
        counts, paid = totals(outcome.sink, number), min(cells[number], left)
        # Windows that are worth the same as the first one left out are left out too.
        assert 0.8 * paid <= counts["run"] <= paid, "coarse stages are filled first"
        assert counts["run"] + counts["unpaid"] == counts["windows"] == cells[number]
        left -= paid
    assert (outcome.sink.touched == 1).all()


def test_a_budget_buys_the_most_uncertain_windows_of_the_whole_image() -> None:
    """An independent ranking of the first pass's field takes the windows of all blocks together."""
    outcome = run(
        textured(),
        facts(4, input_side=INPUT),
        options(budget=Fraction(CELLS[0] + CELLS[1] // 4, sum(CELLS))),
        Growing(4),
    )
    before, step = outcome.plan.passes[:2]
    stage = step.stages[0]
    field = joined(outcome.sink, before, Box.whole(before.stages[0].extent), classes=4)
    fine = torch.nn.functional.interpolate(torch.from_numpy(field)[None].float(), scale_factor=2, mode="bilinear")[0]
    top = fine.topk(2, dim=0).values
    unsure = 1 - top[0] + top[1]
    cells = [step.block(number) for number in range(step.blocks.pixels)]
    means = torch.stack([unsure[stage.own(cell).slices].mean() for cell in cells])
    best = means.argsort(descending=True)[: len(cells) // 4].tolist()
    groups = outcome.sink.groups[1].values()
    statuses = "".join(dict(counts["statuses"])["2"] for counts in groups)  # type: ignore[call-overload]
    assert sorted(best) == [number for number, status in enumerate(statuses) if status == "r"]


def test_a_whole_budget_is_every_window() -> None:
    everything = run(textured(), facts(4, input_side=INPUT), options(budget=Fraction(1)), Growing(4))
    for step in everything.plan.passes:
        counts = totals(everything.sink, step.number)
        assert counts["run"] == counts["windows"]


def test_what_has_no_data_takes_no_share() -> None:
    outcome = run(
        textured(valid=True),
        facts(4, input_side=INPUT),
        options(budget=1 - Fraction(CELLS[2], 2 * sum(CELLS))),
        Growing(4),
    )
    last = totals(outcome.sink, 2)
    known = last["windows"] - last["nodata"]
    assert last["nodata"] > 0
    assert 0.4 * known < last["run"] <= known / 2
    assert (outcome.labels[SIDE // 2 :, SIDE // 2 :] == 255).all()
    assert (outcome.labels[: SIDE // 2] < 4).all()


def test_pixels_of_windows_that_nobody_pays_for_are_not_read() -> None:
    image = textured()
    outcome = run(image, facts(4, input_side=INPUT), options(budget=Fraction(1, 10)), Growing(4))
    assert image.reads == sum(totals(outcome.sink, number)["run"] for number in range(3))


@pytest.mark.parametrize("by", SELECTIONS)
@pytest.mark.parametrize("after", [1, 4, 9])
def test_an_interrupted_run_goes_on_to_the_same_mask(by: Any, after: int) -> None:
    """The threshold is found from the results of both runs, never from those of one alone."""
    image, model, given = textured(), facts(4, input_side=INPUT), options(budget=Fraction(2, 5), select=by)
    whole = run(image, model, given, Growing(4))
    resumed = run_in_turns(image, model, given, (Failing(4, after=after), Growing(4)))
    np.testing.assert_array_equal(resumed.labels, whole.labels)


def test_inside_a_block_windows_that_changed_are_chosen() -> None:
    """The last stage chooses by the change of the stage before, not by uncertainty."""
    found = {}
    for by in SELECTIONS:
        given = options(patches=None, select=by, scales=SCALES)
        outcome = run(textured(), facts(4, input_side=INPUT), given, Growing(4))
        found[by] = [
            str(dict(counts["statuses"]))  # type: ignore[call-overload]
            for step in outcome.plan.passes
            for counts in outcome.sink.groups[step.number].values()
        ]
    assert found["uncertainty"] != found["change"]


@pytest.mark.parametrize(("by", "limit"), [("change", 0.22), ("both", 0.05)])
def test_what_a_pass_changed_is_known_in_the_next(by: Any, limit: float) -> None:
    """Two passes choose as one would: runs with one and two stages fewer give the scores that exceed the limit."""
    image, model, scales = textured(), facts(4, input_side=INPUT), sides(192, 96, 64)
    given = {"patches": parse_patches(f"w>{limit}"), "select": by, "probabilities": True}
    whole, second, first = (
        run(image, model, options(scales=scales[:stages], **given), Growing(4)) for stages in (3, 2, 1)
    )
    assert [len(step.stages) for step in whole.plan.passes] == [1, 1, 1]

    known = probabilities(second)
    moved = difference(known, enlarged(probabilities(first), 2)[:, : known.shape[1], : known.shape[2]])
    top = enlarged(known, 1.5).topk(2, dim=0).values
    worth = enlarged(moved[None], 1.5)[0]
    stage = whole.plan.stages[-1]
    cells = [whole.plan.passes[-1].block(number) for number in range(stage.cells.pixels)]
    means = [worth[stage.own(cell).slices].mean() for cell in cells]
    if by == "both":
        means = [
            mean * (1 - top[0] + top[1])[stage.own(cell).slices].mean() for mean, cell in zip(means, cells, strict=True)
        ]
    wanted = torch.stack(means).reshape(stage.cells.height, stage.cells.width).numpy()
    sure = abs(wanted - limit) > 0.001

    found = computed(whole, 3)
    assert 0.1 < found.mean() < 0.9
    assert sure.mean() > 0.8
    np.testing.assert_array_equal(found[sure], wanted[sure] > limit)
    unsure = run(image, model, options(scales=scales, **{**given, "select": "uncertainty"}), Growing(4))
    assert (computed(unsure, 3) != found).any()


def probabilities(outcome: Outcome) -> torch.Tensor:
    """Return the probabilities of the last stage, `(classes, height, width)` float32."""
    field = outcome.sink.read_field("probabilities", Box.whole(outcome.plan.stages[-1].extent))
    return torch.from_numpy(field).float()


def enlarged(maps: torch.Tensor, factor: float) -> torch.Tensor:
    """Return maps `(channels, height, width)` interpolated to a grid that is `factor` times as fine."""
    return torch.nn.functional.interpolate(maps[None], scale_factor=factor, mode="bilinear")[0]


@pytest.mark.parametrize(
    ("more", "bands"),
    [
        ({"select": "change", "patches": parse_patches("w>0.1")}, [4, 5]),
        ({"select": "both", "patches": parse_patches("w>0.1"), "scales": sides(192, 128, 64)}, [4]),
        ({"select": "both", "patches": parse_patches("1")}, [4, 4]),
        ({"select": "both", "patches": parse_patches("1"), "scales": SCALES}, [4, 5]),
        ({"select": "change", "budget": Fraction(1, 2), "scales": SCALES}, [4, 4]),
        ({"patches": parse_patches("u>0.1")}, [4]),
    ],
)
def test_a_pass_leaves_what_it_changed_where_the_next_compares_windows_by_it(
    more: dict[str, Any], bands: list[int]
) -> None:
    """The first stage of a run has changed nothing, so its field has no band of changes. The plan counts the bands."""
    outcome = run(textured(), facts(4, input_side=INPUT), options(**{"scales": sides(192, 96, 64), **more}), Growing(4))
    left = [outcome.sink.fields[f"pass{number}-00"][0][1].shape[0] for number in range(len(bands))]
    assert left == bands
    kept = sum(values.nbytes for name, parts in outcome.sink.fields.items() if "-" in name for _, values in parts)
    assert kept <= outcome.plan.disk()["fields_at_most"] < 1.3 * kept


@pytest.mark.parametrize("text", ["0", "101%", "1.5", "u>0.2", "", "20"])
def test_a_budget_is_a_share(text: str) -> None:
    with pytest.raises(UsageError, match="--budget 20%"):
        parse_budget(text)
    assert parse_budget("12.5%") == Fraction(1, 8)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"method": "magnet", "budget": Fraction(1, 5)}, "--budget is for magnet-fast"),
        ({"method": "patch", "select": "change"}, "--select is for magnet-fast"),
        ({"budget": Fraction(1, 5), "patches": ALL}, "both say how many"),
        ({"budget": Fraction(1, 5), "scales": sides(96, 64)}, "multiple of the next"),
        ({"budget": Fraction(1, 5), "compat": "published"}, "--compat published"),
    ],
)
def test_what_contradicts_itself_is_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_plan(textured().info, facts(4, input_side=INPUT), options(**more), MACHINE)


@pytest.mark.parametrize("share", [Fraction(1, 50), Fraction(1, 10), Fraction(1, 5), Fraction(1, 3), Fraction(1)])
def test_a_budget_is_spent_coarse_first(share: Fraction) -> None:
    stages = run(textured(), facts(4, input_side=INPUT), options(), Growing(4)).plan.stages
    shares = [budget_share(share, stages, stage) for stage in stages[1:]]
    spent = CELLS[0] + sum(part * cells for part, cells in zip(shares, CELLS[1:], strict=True))
    assert spent == max(CELLS[0], share * sum(CELLS))
    assert all(0 <= part <= 1 for part in shares)
    assert shares[1] == 0 or shares[0] == 1


def test_nothing_moves_where_nothing_was_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window that is not computed has not changed, although rounding alters its probabilities."""
    movement, found = BlockStage._movement, []

    def recorded(stage: BlockStage, before: Known | None) -> Canvas | None:
        moved = movement(stage, before)
        if moved is not None:
            covered = stage._covered()
            assert covered is not None
            found.append((float(moved.values[0][~covered].max()), float(moved.values[0][covered].max())))
        return moved

    monkeypatch.setattr(BlockStage, "_movement", recorded)
    run(textured(), facts(4, input_side=INPUT), options(select="change", patches=parse_patches("1,2")), Growing(4))
    assert found
    assert all(beside == 0 < inside for beside, inside in found)

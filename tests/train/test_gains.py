"""The gain of each window is measured, and selectors learn it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from magnet_cli.arithmetic.scores import uncertainty
from magnet_cli.errors import UsageError
from magnet_cli.geometry import Box
from magnet_cli.models.architectures.ppn import ppn_small
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.bundle_check import verify_bundle
from magnet_cli.models.bundle_writer import read_description, write_bundle
from magnet_cli.models.networks import load_networks
from magnet_cli.train.config import TrainConfig
from magnet_cli.train.gains import GainRow, PairSampler, Symmetry, WindowPair, census, pairs_of
from magnet_cli.train.loop import Files
from magnet_cli.train.precision import Arithmetic
from magnet_cli.train.proposals import FieldObjective, GainObjective
from magnet_cli.train.scene_data import load_scenes
from magnet_cli.train.scene_fields import windows_of
from magnet_cli.train.scenes import LabelledScene
from magnet_cli.train.selector_training import initialise_scores, selector_trainer, spread, train_selector
from tests.train.fields import make_bundle, make_data, make_scene, square, view_of, whole
from tests.train.support import labels_of, pixels_of

if TYPE_CHECKING:
    from torch import Tensor

pytestmark = pytest.mark.full

CONFIG = """
[network]
architecture = "ppn-small"
options = { width = 2, sees = "image+field", against = "constant" }

[selector]
labels = "gain"

[data]
colour = 0.5

[loop]
iterations = 4
batch = 3
rate = 0.01
average = 0.5
save_every = 2
log_every = 2

[folds]
held_out = [["a"], ["b"]]
backbones = ["one", "two"]
"""
PAPER = CONFIG.replace('labels = "gain"', 'labels = "paper"\nminimum = 0.05').replace(
    "width = 2,", "width = 2, cells = 2,"
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[WindowPair]:
    """Make fields of one scene at three scales, some of whose labels are unknown."""
    folder = tmp_path_factory.mktemp("pairs")
    bundle = load_bundle(str(make_bundle(folder / "bundle", scales=(16, 32, 64))))
    scene = make_scene("a", seed=0)
    labels = labels_of(scene).copy()
    labels[:9, :7] = 255
    scene = LabelledScene.of("a", pixels=pixels_of(scene), labels=labels)
    return pairs_of([view_of(folder / "fields", bundle, scene)], [scene], bundle=bundle, ignore=255)


def now_and_before(pair: WindowPair) -> tuple[Tensor, Tensor, Tensor]:
    """Return the truth, and the classes after and before the second stage of a pair, each `(rows, columns)`."""
    box = Box.whole(pair.second.extent)
    truth = torch.from_numpy(pair.step.labels.read(box).astype(np.int64))
    return truth, whole(pair.after).argmax(dim=0), pair.step.under(box).argmax(dim=0)


def test_a_windows_gain_is_what_turns_right_less_what_turns_wrong(pairs: list[WindowPair]) -> None:
    for pair in pairs:
        truth, now, before = now_and_before(pair)
        for own in (window.own for window in windows_of(pair.second)):
            right = wrong = known = 0
            for y in range(own.y, own.bottom):
                for x in range(own.x, own.right):
                    label = int(truth[y, x])
                    known += label != 255
                    right += label != 255 and int(now[y, x]) == label != int(before[y, x])
                    wrong += label != 255 and int(before[y, x]) == label != int(now[y, x])
            assert pair.gain(own) == pytest.approx(((right - wrong) / max(1, known), known / own.area))
    assert pairs[1].gain(Box(x=1000, y=0, width=4, height=4)) == (0, 0)
    assert any(row.gain for row in census(pairs))
    assert any(row.labelled < 1 for row in census(pairs))


def test_the_second_pair_stands_on_what_the_first_came_to(pairs: list[WindowPair]) -> None:
    """Compute each stage as a run with the merge `mean` does: half of O and half of the field below."""
    first, second = pairs
    assert (first.first.scale, first.second.scale, second.second.scale) == (square(64), square(32), square(16))
    box = Box.whole(first.second.extent)
    mean = (first.step.own(box) + first.step.under(box)) / 2
    torch.testing.assert_close(second.known(box), mean, atol=2e-3, rtol=0)


def test_parts_of_a_window_are_its_cells_children(pairs: list[WindowPair]) -> None:
    for pair in pairs:
        margin, cell = pair.first.margin, pair.first.cell
        around = Box(x=3, y=5, width=pair.first.input.width, height=pair.first.input.height)
        parts = [pair.within(part, around) for part in pair.parts(around)]
        half = cell.width / 2
        corners = [(margin, margin), (margin + half, margin), (margin, margin + half), (margin + half, margin + half)]
        assert parts == [(x, y, x + half, y + half) for x, y in corners]


@pytest.mark.parametrize("index", range(8))
def test_boxes_turn_with_their_patch(index: int) -> None:
    turn = Symmetry(across=bool(index & 1), left=bool(index & 2), up=bool(index & 4))
    values = torch.arange(64.0).reshape(1, 8, 8)
    targets = torch.tensor([[0.0, 1, 3, 7, 0.5, 1], [4, 4, 8, 8, 0, 1]])
    laid = turn.laid(values)[0]
    for before, after in zip(targets.int().tolist(), turn.boxes(targets, size=square(8)).int().tolist(), strict=True):
        mine = values[0, before[1] : before[3], before[0] : before[2]]
        theirs = laid[after[1] : after[3], after[0] : after[2]]
        assert sorted(mine.flatten().tolist()) == sorted(theirs.flatten().tolist())


def test_a_drawn_window_has_the_gains_of_its_place(pairs: list[WindowPair]) -> None:
    """Find the window by the only place of the field that has the patch's probabilities."""
    drawn = PairSampler(pairs=pairs[1:], batch=1, seed=5)
    pair, found = pairs[1], 0
    for index in range(2):
        inputs, targets = drawn(index)
        assert (inputs.shape, targets.shape) == ((1, 5, 16, 16), (1, 4, 6))
        for y in range(pair.first.extent.height - 15):
            for x in range(pair.first.extent.width - 15):
                box = Box(x=x, y=y, width=16, height=16)
                for turn in (Symmetry(across=bool(i & 1), left=bool(i & 2), up=bool(i & 4)) for i in range(8)):
                    if torch.equal(turn.laid(pair.known(box)), inputs[0, 3:]):
                        expected = turn.boxes(pair.targets(box, pair.parts(box)), size=square(16))
                        torch.testing.assert_close(targets[0], expected)
                        torch.testing.assert_close(inputs[0, :3], turn.laid(torch.from_numpy(pair.patch(box))))
                        found += 1
    assert found == 2
    assert torch.equal(drawn(2)[0], drawn(2)[0])
    assert not torch.equal(drawn(2)[0], drawn(3)[0])


def test_the_gain_objective_tells_windows_that_gain_from_those_that_lose_by_how_much() -> None:
    torch.manual_seed(0)
    network = ppn_small(width=2, classes=2, sees="image+field", against="constant").train()
    inputs = torch.randn(2, 5, 32, 32)
    inputs[:, 3:] = inputs[:, 3:].softmax(dim=1)
    targets = torch.tensor([[[0.0, 0, 16, 16, 0.1, 1], [16, 8, 32, 24, -0.2, 0.5]], [[4, 0, 12, 32, 0.3, 0.25]] * 2])
    found = GainObjective(bands=3)(network, inputs, targets, Arithmetic(TrainConfig.parse(CONFIG).loop))
    unsure = uncertainty(inputs[:, 3:]).reshape(2, 2, 16, 2, 16).mean(dim=(2, 4))
    scores = (-unsure).repeat_interleave(16, dim=1).repeat_interleave(16, dim=2)
    total = weight = 0.0
    for image, rows in enumerate(targets.tolist()):
        for left, top, right, bottom, gain, share in rows:
            mean = float(scores[image, int(top) : int(bottom), int(left) : int(right)].mean())
            p = 1 / (1 + math.exp(mean))
            total -= share * abs(gain) * math.log(p if gain > 0 else 1 - p)
            weight += share * abs(gain)
    assert float(found.detach()) == pytest.approx(total / weight, rel=1e-5)


def test_a_selector_begins_with_the_best_line_from_uncertainty_to_gain() -> None:
    rows = [GainRow(scale=square(8), unsure=u, gain=0.5 * u - 0.05, labelled=1.0) for u in (0.1, 0.3, 0.8)]
    rows.append(GainRow(scale=square(8), unsure=0.9, gain=-9.0, labelled=0.0))
    network = ppn_small(width=2, classes=2, sees="image+field", against="constant").eval()
    initialise_scores(network, rows)
    field = torch.randn(1, 2, 16, 16).softmax(dim=1)
    said = float(network.score_map(torch.randn(1, 3, 16, 16), field).detach())
    mean, unit = spread(rows)
    assert -unit * said == pytest.approx(0.5 * float(uncertainty(field).mean()) - 0.05, abs=1e-5)
    assert mean == pytest.approx(np.mean([0.0, 0.1, 0.35]))
    assert unit == pytest.approx(np.std([0.0, 0.1, 0.35]))


def made(folder: Path) -> Path:
    """Write data, a bundle whose weights are zero, and two others with other weights for its folds."""
    make_data(folder / "data")
    make_bundle(folder / "one", seed=2)
    make_bundle(folder / "two", seed=3)
    make_bundle(folder / "bundle", seed=1)
    weights = {key: torch.zeros_like(value) for key, value in load_file(folder / "bundle/backbone.safetensors").items()}
    write_bundle(folder / "bundle", read_description(folder / "bundle"), {"backbone.safetensors": weights})
    return folder / "bundle"


def parsed(folder: Path, text: str = CONFIG) -> TrainConfig:
    return TrainConfig.parse(text, folder=folder)


def test_gains_are_those_of_backbones_that_have_not_seen_the_scene(tmp_path: Path) -> None:
    """The bundle's own backbone gives every pixel the same result, so with it no window would gain anything."""
    bundle, config = load_bundle(str(made(tmp_path))), parsed(tmp_path)
    scenes = load_scenes(tmp_path / "data", config.data)
    trainer, _ = selector_trainer(bundle, config, scenes, files=Files(folder=tmp_path / "work"))
    assert any(bool(trainer.batches(index)[1][..., 4].any()) for index in range(4))
    sampler = trainer.batches
    assert isinstance(sampler, PairSampler)
    for pair, name in zip(sampler.pairs, ("one", "two"), strict=True):
        theirs = view_of(tmp_path / "again", load_bundle(str(tmp_path / name)), pair.scene)
        assert (pair.scene.name, pair.step.view.key) == ({"one": "a", "two": "b"}[name], theirs.key)


@pytest.mark.parametrize("text", [CONFIG, PAPER])
def test_a_selector_of_windows_is_added_and_goes_on_where_it_stopped(tmp_path: Path, text: str) -> None:
    one = made(tmp_path)
    lines: list[dict[str, float]] = []
    bundle = train_selector(tmp_path / "data", one, parsed(tmp_path, text), progress=lines.append)
    assert bundle is not None
    assert bundle.selector is not None
    assert [check.error for check in verify_bundle(bundle)] == [None, None]
    table = json.loads((one / "bundle.json").read_text())
    assert table["metrics"]["selector"]["scenes"] == ["a", "b"]
    assert [line["iteration"] for line in lines] == [2, 4]
    once = load_file(one / "selector.safetensors")
    networks = load_networks(bundle, device="cpu", precision="float32")
    field = torch.rand(2, 2, 16, 16).softmax(dim=1)
    assert networks.score_map(torch.rand(2, 3, 16, 16), field).shape == (2, 1, 1)
    if text == PAPER:
        assert bundle.selector.options["constant"] != 0
    other = tmp_path / "again"
    other.mkdir()
    for name in ("bundle.json", "backbone.safetensors"):
        (other / name).write_bytes((one / name).read_bytes())
    assert train_selector(tmp_path / "data", other, parsed(tmp_path, text), until=3) is None
    train_selector(tmp_path / "data", other, parsed(tmp_path, text))
    again = load_file(other / "selector.safetensors")
    assert all(torch.equal(value, again[key]) for key, value in once.items())


def test_a_training_begins_with_the_line_through_the_windows_of_the_held_out_scenes(tmp_path: Path) -> None:
    """The rate is too small to learn anything, so the selector keeps its initial weights."""
    text = CONFIG.replace("rate = 0.01", "rate = 1e-9").replace("iterations = 4", "iterations = 1")
    bundle = train_selector(tmp_path / "data", made(tmp_path), parsed(tmp_path, text))
    assert bundle is not None
    selector = load_networks(bundle, device="cpu", precision="float32").selector
    assert selector is not None
    scenes = load_scenes(tmp_path / "data", parsed(tmp_path).data)
    views = [
        view_of(tmp_path / "f", load_bundle(str(tmp_path / n)), s) for n, s in zip(("one", "two"), scenes, strict=True)
    ]
    rows = census(pairs_of(views, scenes, bundle=bundle, ignore=255))
    slope, height = np.polyfit(
        [row.unsure for row in rows], [row.gain for row in rows], 1, w=np.sqrt([r.labelled for r in rows])
    )
    unit = spread(rows)[1]
    assert -unit * float(selector.score.weight[0, -1]) == pytest.approx(slope, rel=1e-4)
    assert -unit * float(selector.score.bias) == pytest.approx(height, rel=1e-4)


def test_the_papers_rule_over_fields_compares_the_cells_of_the_field() -> None:
    torch.manual_seed(1)
    network = ppn_small(width=2, cells=2).eval()
    field = torch.zeros(1, 2, 16, 16)
    field[:, 0] = 1
    labels = torch.zeros(1, 16, 16, dtype=torch.int64)
    labels[0, :8, :8] = 1
    inputs = torch.cat((torch.randn(1, 3, 16, 16), field), dim=1)
    objective = FieldObjective(bands=3, cells=2, ignore=255, minimum=0.0)
    found = objective(network, inputs, labels, Arithmetic(TrainConfig.parse(CONFIG).loop))
    # The first cell is wrong everywhere, the others right.
    wanted = torch.tensor([[1.0, 0, 0, 0]])
    logits = network(inputs[:, :3])
    torch.testing.assert_close(found, torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('held_out = [["a"], ["b"]]\nbackbones = ["one", "two"]', "", "not seen.*no held_out"),
        ("[loop]", "[loop]\nlogit_adjustment = 0.5", "logit_adjustment is for networks that segment"),
        (', against = "constant"', "", "compares with a constant"),
        ('labels = "gain"', 'labels = "gains"', r"\[selector\] labels must be paper or gain"),
        ('labels = "gain"', 'labels = "gain"\nminimum = 0.1', "minimum must be 0 where labels is gain"),
        ('labels = "gain"', 'labels = "paper"\nminimum = 0.7', "minimum must be at least 0 and below 0.5"),
        ('labels = "gain"', 'labels = "paper"', "how many cells"),
        ('labels = "gain"', 'label = "gain"', r"unknown keys in \[selector\]"),
        ('"one", "two"', '"bundle", "bundle"', "no window of the held-out scenes changes"),
    ],
)
def test_a_selector_of_windows_that_cannot_be_trained_is_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in CONFIG
    bundle = made(tmp_path)
    with pytest.raises(UsageError, match=message):
        train_selector(tmp_path / "data", bundle, parsed(tmp_path, CONFIG.replace(old, new)))


def test_the_configuration_of_the_page_is_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "grnet.md").read_text(encoding="utf-8")
    text = page.split("```toml")[1].split("```")[0]
    config = TrainConfig.parse(text)
    assert (config.selector.labels, config.folds.held_out) == ("gain", (("a",), ("b",)))
    assert config.network.options == {"sees": "image+field", "against": "constant"}


def test_a_bundle_of_one_scale_has_no_gains(tmp_path: Path) -> None:
    made(tmp_path)
    one = make_bundle(tmp_path / "flat", scales=(16,))
    with pytest.raises(UsageError, match="one scale have no next stage"):
        train_selector(tmp_path / "data", one, parsed(tmp_path))

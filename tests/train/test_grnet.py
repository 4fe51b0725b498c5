"""A GRNet and its selector are trained in turns: each part lowers its own loss, and nothing is lost."""

from __future__ import annotations

import json
import re
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from magnet_cli.errors import UsageError, WeightsError
from magnet_cli.models.architectures.conv import conv_backbone
from magnet_cli.models.architectures.efficientnet import efficientnet_lite0
from magnet_cli.models.architectures.ppn import ppn_small
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.bundle_check import verify_bundle
from magnet_cli.train.backbone_training import Recipe, bundle_of, train_backbone
from magnet_cli.train.config import GRNetConfig, LoopConfig, TrainConfig
from magnet_cli.train.encoder_start import EncoderStart
from magnet_cli.train.grnet_parts import TurnObjective, only_in, turn_at
from magnet_cli.train.grnet_training import build_grnet, grnet_description, train_grnet
from magnet_cli.train.precision import Arithmetic
from magnet_cli.train.proposals import SelectorObjective
from magnet_cli.train.selector_training import train_selector
from tests.train.grnet import GRNET, SELECTOR, SIDE
from tests.train.support import CONFIG, make_data, validating

if TYPE_CHECKING:
    from magnet_cli.train.grnet_parts import GRNet, Turn

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("scenes") / "data")


def same(one: Path, other: Path) -> bool:
    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


def test_parts_take_turns() -> None:
    turns = [turn_at(i, GRNetConfig(alone=3, selecting=2, refining=1)) for i in range(9)]
    assert [(turn, len(list(group))) for turn, group in groupby(turns)] == [
        ("alone", 3),
        ("selecting", 2),
        ("refining", 1),
        ("selecting", 2),
        ("refining", 1),
    ]
    assert turn_at(3, GRNetConfig(alone=3, variant="all")) == "refining"


def test_it_trains_and_writes_a_bundle_and_goes_on_where_it_stopped(data: Path, tmp_path: Path) -> None:
    config = TrainConfig.parse(GRNET)
    lines: list[dict[str, float]] = []
    bundle = train_grnet(data, tmp_path / "one", config, progress=lines.append)
    assert bundle is not None
    assert bundle.selector is not None
    assert bundle.local is not None
    assert bundle.local.options["cells"] == bundle.selector.options["cells"] == 2
    assert [check.error for check in verify_bundle(bundle)] == [None, None, None]
    assert json.loads((tmp_path / "one" / "bundle.json").read_text())["schema"] == 1
    assert {"loss_alone", "loss_selecting", "loss_refining", "looked_at"} < set(lines[-1])
    assert 0 < lines[-1]["looked_at"] <= 1
    assert train_grnet(data, tmp_path / "two", config, until=5) is None
    train_grnet(data, tmp_path / "two", config)
    for name in ("backbone", "selector", "local"):
        assert same(tmp_path / "one" / f"{name}.safetensors", tmp_path / "two" / f"{name}.safetensors"), name


def test_held_out_scenes_compare_the_variants(data: Path, tmp_path: Path) -> None:
    text = validating(GRNET, every=1).replace("iterations = 8", "iterations = 4")
    lines: list[dict[str, float]] = []
    bundle = train_grnet(data, tmp_path / "one", TrainConfig.parse(text), progress=lines.append)
    assert bundle is not None
    # While the global branch learns alone there is nothing to validate.
    assert [line["iteration"] for line in lines if "validation_miou" in line] == [3, 4]
    found = bundle.metrics["variants"]
    assert list(found) == ["selected", "all", "local-only", "global-only"]
    assert found["selected"] == pytest.approx(100 * max(line.get("best_miou", 0) for line in lines), abs=0.01)
    text = text.replace("cells = 2", 'cells = 2\nvariant = "all"').replace("selecting = 1\n", "")
    bundle = train_grnet(data, tmp_path / "two", TrainConfig.parse(text))
    assert bundle is not None
    assert bundle.selector is None
    assert list(bundle.metrics["variants"]) == ["all", "local-only", "global-only"]


def grnet_of(text: str) -> tuple[GRNet, TrainConfig]:
    config = TrainConfig.parse(text)

    bundle = bundle_of(grnet_description(config, folder=Path()), folder=Path())
    torch.manual_seed(0)
    return build_grnet(Recipe(bundle=bundle, data=config.data, loop=config.loop), config.grnet), config


def batch(side: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(2, 3, side, side, generator=generator)
    return inputs, (inputs.mean(dim=1) > 0).long()


@pytest.mark.parametrize("fusion", ["literal", "detail"])
@pytest.mark.parametrize(
    ("turn", "taught"), [("alone", {"backbone"}), ("selecting", {"selector"}), ("refining", {"backbone", "local"})]
)
def test_a_turn_teaches_its_own_parts_alone(turn: Turn, taught: set[str], fusion: str) -> None:
    network, config = grnet_of(GRNET.replace("cells = 2", f'cells = 2\nfusion = "{fusion}"'))
    objective = TurnObjective(config=config.loop, weights=torch.ones(2), ignore=255, turn=turn)
    norms = {key: value.clone() for key, value in network.selector.named_buffers()}
    loss = objective(network, *batch(), Arithmetic(config.loop))
    loss.backward()  # type: ignore[no-untyped-call]
    assert {name.split(".")[0] for name, value in network.named_parameters() if value.grad is not None} == taught
    assert all(module.training for module in network.modules())
    if turn != "selecting":
        assert all(torch.equal(norms[key], value) for key, value in network.selector.named_buffers())


def test_the_overall_loss_is_the_sum_over_the_three_outputs() -> None:
    """Equations 2 and 3 are computed from the parts, with every cell selected and literal fusion."""
    network, config = grnet_of(GRNET.replace("cells = 2", 'cells = 2\nvariant = "all"'))
    objective = TurnObjective(config=config.loop, weights=torch.ones(2), ignore=255, turn="refining")
    inputs, labels = batch()
    found = objective(network, inputs, labels, Arithmetic(config.loop))

    def focal(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        p = logits.softmax(dim=1).gather(1, truth[:, None])
        return (-((1 - p) ** 3) * p.log()).mean()

    small = torch.nn.functional.avg_pool2d(inputs, 2)
    scores = network.backbone(small)
    halves = [(slice(y, y + 32), slice(x, x + 32)) for y in (0, 32) for x in (0, 32)]
    cells = torch.stack([inputs[image, :, *half] for image in range(2) for half in halves])
    known = torch.stack(
        [scores[image, :, y : y + 16, x : x + 16] for image in range(2) for y in (0, 16) for x in (0, 16)]
    )
    known = torch.nn.functional.interpolate(known, size=(32, 32), mode="bilinear").softmax(dim=1)
    refined = network.local(cells, known)
    shrunk = torch.nn.functional.interpolate(refined, size=(16, 16), mode="bilinear").reshape(2, 2, 2, 2, 16, 16)
    pasted = shrunk.permute(0, 3, 1, 4, 2, 5).reshape(2, 2, 32, 32)
    truth = torch.stack([labels[image, *half] for image in range(2) for half in halves])
    centres = labels[:, 1::2, 1::2]
    expected = focal(scores, centres) + focal(refined, truth) + focal(network.local.aggregate(pasted, scores), centres)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert objective.shares == [1.0]


def test_labels_outside_the_chosen_cells_say_nothing() -> None:
    found = only_in(torch.ones(1, 2, 4, dtype=torch.int64), [(0, 1)], side=2, ignore=9)
    assert found.tolist() == [[[9, 9, 1, 1], [9, 9, 9, 9]]]


def test_a_selector_learns_the_label_rule_by_cross_entropy_over_the_cells_that_count() -> None:
    backbone, network = conv_backbone(classes=2), ppn_small(cells=2, width=2)
    inputs, labels = batch(32)
    labels[0, :16, :16] = 255
    objective = SelectorObjective(backbone=backbone, cells=2, ignore=255)
    loss = objective(network, inputs, labels, Arithmetic(LoopConfig()))
    said = backbone(inputs).argmax(dim=1)

    def miou(said: torch.Tensor, truth: torch.Tensor) -> float:
        known = truth != 255
        ious = []
        for index in range(2):
            mine, theirs = said[known] == index, truth[known] == index
            if (mine | theirs).any():
                ious.append(float((mine & theirs).sum() / (mine | theirs).sum()))
        return sum(ious) / len(ious)

    losses = []
    probs = network(inputs).sigmoid()
    for image in range(2):
        total = miou(said[image], labels[image])
        for cell in range(4):
            y, x = 16 * (cell // 2), 16 * (cell % 2)
            if (image, cell) != (0, 0):
                part = (image, slice(y, y + 16), slice(x, x + 16))
                p = probs[image, cell]
                losses.append(-(p if miou(said[part], labels[part]) < total else 1 - p).log())
    torch.testing.assert_close(loss, torch.stack(losses).mean(), rtol=1e-3, atol=1e-5)


def test_a_selector_is_added_to_a_bundle_and_goes_on_where_it_stopped(data: Path, tmp_path: Path) -> None:
    config = TrainConfig.parse(SELECTOR)
    for name in ("one", "two"):
        train_backbone(data, tmp_path / name, TrainConfig.parse(CONFIG.replace("iterations = 40", "iterations = 1")))
    before = (tmp_path / "one" / "backbone.safetensors").read_bytes()
    bundle = train_selector(data, tmp_path / "one", config)
    assert bundle is not None
    assert [check.role for check in verify_bundle(bundle) if check.error is None] == ["backbone", "selector"]
    assert (tmp_path / "one" / "backbone.safetensors").read_bytes() == before
    assert json.loads((tmp_path / "one" / "bundle.json").read_text())["schema"] == 1
    assert train_selector(data, tmp_path / "two", config, until=2) is None
    assert load_bundle(str(tmp_path / "two")).selector is None
    train_selector(data, tmp_path / "two", config)
    assert same(tmp_path / "one" / "selector.safetensors", tmp_path / "two" / "selector.safetensors")


def test_a_selector_does_not_learn_from_scenes_to_validate_on(data: Path, tmp_path: Path) -> None:
    train_backbone(data, tmp_path / "one", TrainConfig.parse(CONFIG.replace("iterations = 40", "iterations = 1")))
    bundle = train_selector(
        data, tmp_path / "one", TrainConfig.parse(SELECTOR.replace("colour", 'validation = ["b"]\ncolour'))
    )
    assert bundle is not None
    assert bundle.metrics["selector"]["scenes"] == ["a"]
    with pytest.raises(UsageError, match="validation names scenes that the data do not have"):
        train_selector(
            data, tmp_path / "one", TrainConfig.parse(SELECTOR.replace("colour", 'validation = ["B"]\ncolour'))
        )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (f"scales = [{SIDE}]", f"scales = [{SIDE}, {SIDE}]", "has one scale"),
        ("cells = 2", "cells = 3", "multiple of its 3 cells"),
        ("alone = 2", "alone = 8", "needs more than 9 iterations"),
        ("selecting = 1", "selecting = 6", "needs more than 8 iterations"),
        ("alone = 2\nselecting = 1", 'variant = "all"\nalone = 8', "needs more than 8 iterations"),
        ("cells = 2", "cells = 1", "cells must be at least 2"),
        ("cells = 2", 'cells = 2\nfusion = "sum"', "fusion must be literal or detail"),
        ("cells = 2", 'cells = 2\nvariant = "some"', "variant must be selected or all"),
        ("cells = 2", "sells = 2", "unknown keys in"),
        ("{ width = 2 }", "{ cells = 4 }", "not options of its networks"),
        ('architecture = "ppn-small", ', "", "needs the name of an architecture"),
    ],
)
def test_a_grnet_that_cannot_be_trained_is_refused(
    data: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in GRNET
    with pytest.raises(UsageError, match=message):
        train_grnet(data, tmp_path / "grnet", TrainConfig.parse(GRNET.replace(old, new)))


def test_a_selector_that_cannot_be_trained_is_refused(data: Path, tmp_path: Path) -> None:
    train_backbone(data, tmp_path / "one", TrainConfig.parse(CONFIG.replace("iterations = 40", "iterations = 1")))
    for old, new, message in (
        ("cells = 2, ", "", "how many cells"),
        ("cells = 2", "cells = 3", "multiple of its 3 cells"),
        ("[loop]", "[loop]\nvalidate_every = 2", "not validated|needs scenes"),
    ):
        with pytest.raises(UsageError, match=message):
            train_selector(data, tmp_path / "one", TrainConfig.parse(SELECTOR.replace(old, new)))


def test_both_branches_begin_with_weights_of_other_images(tmp_path: Path) -> None:
    torch.manual_seed(6)
    torch.save(efficientnet_lite0().state_dict(), tmp_path / "lite.pth")
    entry = 'architecture = "{}-lite0", encoder_weights = "lite.pth"'
    text = GRNET.replace('architecture = "conv"', entry.format("fpn").replace(", ", "\n"))
    text = re.sub(r"local = .*", f"local = {{ {entry.format('grnet')} }}", text)
    config = TrainConfig.parse(text, folder=tmp_path)
    bundle = bundle_of(grnet_description(config, folder=Path()), folder=Path())
    start = EncoderStart(words=config.network.encoder_weights, folder=tmp_path)
    network = build_grnet(Recipe(bundle=bundle, data=config.data, loop=config.loop, start=start), config.grnet)
    given = torch.load(tmp_path / "lite.pth", weights_only=True)
    begun = network.state_dict()
    for branch in ("backbone", "local.branch"):
        assert torch.equal(begun[f"{branch}.resnet_backbone.stem.weight"], given["stem.weight"])


def test_a_bundle_names_what_its_encoders_began_with(data: Path, tmp_path: Path) -> None:
    torch.save(efficientnet_lite0().state_dict(), tmp_path / "lite.pth")
    local = '{ architecture = "grnet-lite0", encoder_weights = "lite.pth" }'
    text = re.sub(r"local = .*", f"local = {local}", GRNET)
    bundle = train_grnet(data, tmp_path / "out", TrainConfig.parse(text, folder=tmp_path))
    assert bundle is not None
    assert bundle.source.count("encoder: lite.pth (SHA-256 ") == 1
    (tmp_path / "lite.pth").unlink()
    with pytest.raises(WeightsError, match=r"lite\.pth"):
        train_grnet(tmp_path / "no-such-folder", tmp_path / "other", TrainConfig.parse(text, folder=tmp_path))


def test_a_selector_takes_no_published_weights() -> None:
    text = GRNET.replace('"ppn-small"', '"ppn-small", encoder_weights = "lite.pth"')
    with pytest.raises(UsageError, match="a selector begins at random"):
        TrainConfig.parse(text)

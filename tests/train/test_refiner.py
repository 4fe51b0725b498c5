"""The training of refiners and temperatures has folds and rounds, and adds them to the bundle."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import pytest
import tifffile
import torch
from safetensors.torch import load_file

import magnet_cli
from magnet_cli.errors import UsageError, WeightsError
from magnet_cli.geometry import Size
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.bundle_writer import describe, write_bundle
from magnet_cli.models.networks import load_networks
from magnet_cli.models.registry import build_backbone
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.plan import defaults
from magnet_cli.train import scene_fields as fields
from magnet_cli.train.canvases import HeldField, HeldTruth, Scratch
from magnet_cli.train.config import TrainConfig
from magnet_cli.train.refiner_training import Course, FieldSampler, train_refiner
from magnet_cli.train.scene_fields import SceneView, short_hash, stages_of
from magnet_cli.train.snapshots import HARMLESS
from magnet_cli.train.stage_runs import Previous, Refiners, StageRun, accumulated_runs, merged_field
from tests.train.fields import make_bundle, make_data, make_scene, probabilities_in, square, view_of, whole
from tests.train.support import labels_of, pixels_of

pytestmark = pytest.mark.full

CONFIG = """
[network]
architecture = "shared"
options = { width = 4 }

[data]
colour = 0.0

[loop]
iterations = 3
batch = 2
rate = 0.01
balance = 0.0

[folds]
held_out = [["a"], ["b"]]
rounds = 1

[folds.loop]
iterations = 2
batch = 2
"""


@pytest.mark.parametrize("folds", [True, False])
def test_a_refiner_joins_the_bundle(tmp_path: Path, *, folds: bool) -> None:
    data, output = make_data(tmp_path / "data"), make_bundle(tmp_path / "tiny")
    before = (output / "backbone.safetensors").read_bytes()
    text = CONFIG if folds else CONFIG.split("[folds]", maxsplit=1)[0]
    lines: list[dict[str, float]] = []
    bundle = train_refiner(data, output, TrainConfig.parse(text), progress=lines.append)
    assert [(line.get("fold"), line.get("round")) for line in lines] == [
        *([(0, None), (1, None)] if folds else []),
        (None, 0),
        (None, 1),
    ]
    assert bundle.refiners[0].architecture == "shared"
    assert bundle.magnet.merge == "mean"
    assert (output / "backbone.safetensors").read_bytes() == before
    assert (output / "train-refiner.toml").read_text() == text
    networks = load_networks(bundle, device="cpu", precision="float32")
    half = torch.full((1, 2, 16, 16), 0.5)
    assert networks.refine(half, half, square(16)).shape == (1, 2, 16, 16)
    (found,) = bundle.metrics.values()
    assert list(bundle.metrics) == ["out_of_fold" if folds else "own_scenes"]
    assert found["scenes"] == ["a", "b"]
    assert set(found["miou"]) >= {"downsample", "patch", "mean", "certainty", "refiner", "mean_untempered"}
    assert all(0 < value < 100 for value in found["miou"].values())
    for table, spec in ((found["backbone"], bundle.backbone), (found["refiner"], bundle.refiners[0])):
        for scale, heat in spec.temperature.scales:
            assert table[str(scale)]["temperature"] == heat
            assert table[str(scale)]["nll_tempered"] <= table[str(scale)]["nll"]
    assert [scale.width for scale, _ in bundle.backbone.temperature.scales] == [32, 16]
    assert [scale.width for scale, _ in bundle.refiners[0].temperature.scales] == [16]


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    with pytest.raises(UsageError, match="two or more scales"):
        train_refiner(data, make_bundle(tmp_path / "one", scales=(16,)), TrainConfig.parse(CONFIG))
    config = TrainConfig.parse(CONFIG.replace('["a"]', '["c"]'))
    with pytest.raises(UsageError, match="scene that the data do not have"):
        train_refiner(data, make_bundle(tmp_path / "two"), config)
    unknown = CONFIG.replace("colour = 0.0", 'validation = ["A"]')
    with pytest.raises(UsageError, match=r"\[data\] validation names scenes that the data do not have"):
        train_refiner(data, tmp_path / "two", TrainConfig.parse(unknown))
    alone = CONFIG.split("[folds]", maxsplit=1)[0].replace("colour = 0.0", 'validation = ["a", "b"]')
    with pytest.raises(UsageError, match="leaves nothing to train on"):
        train_refiner(data, tmp_path / "two", TrainConfig.parse(alone))
    text = CONFIG.replace("balance = 0.0", "validate_every = 1").replace("colour = 0.0", 'validation = ["a"]')
    text = text.replace('[["a"], ["b"]]', '[["b"]]')
    with pytest.raises(UsageError, match="not validated while it is fitted"):
        train_refiner(data, tmp_path / "two", TrainConfig.parse(text))


def test_scenes_to_validate_on_are_not_learnt_from(tmp_path: Path) -> None:
    data, output = make_data(tmp_path / "data"), make_bundle(tmp_path / "tiny")
    text = CONFIG.split("[folds]", maxsplit=1)[0].replace("colour = 0.0", 'validation = ["b"]')
    assert train_refiner(data, output, TrainConfig.parse(text)).metrics["own_scenes"]["scenes"] == ["a"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rounds = 4", "rounds is 0 to 3"),
        ("accumulate = false", "rounds is 0 where nothing is accumulated"),
        ('rounds = 0\nbackbones = ["x"]', "one for each of 2 folds"),
        ("temperatures = 1", "temperatures must be of type bool"),
        ('held_out = [["a"], []]', "a fold of held_out is empty"),
        ('held_out = [["a"], ["a", "b"]]', "names a scene twice"),
        ('held_out = [["a", "a"]]', "names a scene twice"),
        ("tempratures = true", r"unknown keys in \[folds\]"),
        ('held_out = ["a"]', "list of lists"),
        ('held_out = [["a"]]\ncross = true', "two folds or more"),
    ],
)
def test_folds_that_are_wrong_are_refused(line: str, message: str) -> None:
    text = CONFIG.replace("rounds = 1", line)
    if "held_out" in line:
        text = text.replace('held_out = [["a"], ["b"]]\n', "", 1)
    elif line == "accumulate = false":
        text = CONFIG.replace("rounds = 1", "rounds = 1\naccumulate = false")
    with pytest.raises(UsageError, match=message):
        TrainConfig.parse(text)


def test_a_folder_named_as_a_shipped_bundle_is_the_one_that_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, output = make_data(tmp_path / "data"), make_bundle(tmp_path / "fundus", metrics={"out_of_fold": {}})
    monkeypatch.chdir(tmp_path)
    text = CONFIG.split("[folds]", maxsplit=1)[0]
    bundle = train_refiner(data, Path("fundus"), TrainConfig.parse(text))
    assert bundle.folder == output.resolve()
    assert list(bundle.metrics) == ["own_scenes"], "what it said of another training is gone"
    monkeypatch.chdir(output)
    assert train_refiner(data, Path(), TrainConfig.parse(text)).refiners == bundle.refiners


def test_a_fold_of_every_scene_leaves_nothing_to_train_on(tmp_path: Path) -> None:
    text = CONFIG.replace('[["a"], ["b"]]', '[["a", "b"]]')
    with pytest.raises(UsageError, match="leaves nothing to train on"):
        train_refiner(make_data(tmp_path / "data"), make_bundle(tmp_path / "tiny"), TrainConfig.parse(text))


def with_backbones(tmp_path: Path, *names: str) -> TrainConfig:
    """Return a configuration in a folder beside the folds' bundles, read from disk."""
    (tmp_path / "configs").mkdir(exist_ok=True)
    listed = ", ".join(f'"../{name}"' for name in names)
    path = tmp_path / "configs" / "r.toml"
    text = CONFIG.partition("[folds.loop]")[0]
    path.write_text(text.replace("rounds = 1", f"rounds = 1\nbackbones = [{listed}]"))
    return TrainConfig.read(path)


def test_backbones_that_are_there_serve_the_folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, output = make_data(tmp_path / "data"), make_bundle(tmp_path / "tiny")
    for seed, name in enumerate(("one", "two"), start=5):
        make_bundle(tmp_path / name, seed=seed)
    config = with_backbones(tmp_path, "one", "two")
    lines: list[dict[str, float]] = []
    first = train_refiner(data, output, config, progress=lines.append)
    assert [line["iteration"] for line in lines] == [3, 3], "the refiner's two rounds alone"
    assert len(list((tmp_path / "tiny.refiner-training" / "fields").glob("*.npy"))) == 4

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("looked at again")

    monkeypatch.setattr(fields, "own_logs", refuse)
    assert train_refiner(data, output, config).refiners == first.refiners
    with pytest.raises(AssertionError, match="looked at again"):
        train_refiner(data, output, with_backbones(tmp_path, "two", "one"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": {"architecture": "conv", "options": {}}}, "the bundle's options"),
        ({"classes": [{"name": "x", "color": "#000000"}, {"name": "y", "color": "#FFFFFF"}]}, "the bundle's classes"),
        ({"size": 8}, "the bundle's input"),
    ],
)
def test_a_backbone_of_another_kind_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    data, output = make_data(tmp_path / "data"), make_bundle(tmp_path / "tiny")
    make_bundle(tmp_path / "one")
    options = change.get("backbone", {}).get("options", {"kernel": 3})
    description = describe(**{"size": 16, "scales": (16, 32), "backbone": {"options": options}, **change})
    if "size" not in change:
        description["input"].update(mean=[0.4, 0.5, 0.5], std=[0.1, 0.2, 0.2])
    network = build_backbone("conv", classes=2, bands=3, options=options)
    write_bundle(tmp_path / "two", description, {"backbone.safetensors": network})
    with pytest.raises(WeightsError, match=message):
        train_refiner(data, output, with_backbones(tmp_path, "one", "two"))


def test_temperatures_alone(tmp_path: Path) -> None:
    data, output = make_data(tmp_path / "data"), make_bundle(tmp_path / "tiny")
    head, _, rest = CONFIG.replace('"shared"\noptions = { width = 4 }', '"none"').partition("[loop]")
    config = TrainConfig.parse(head + rest[rest.index("[folds]") :].replace("rounds = 1\n", ""))
    bundle = train_refiner(data, output, config)
    assert bundle.refiners == ()
    assert len(bundle.backbone.temperature.scales) == 2
    found = bundle.metrics["out_of_fold"]
    assert "refiner" not in found["miou"]
    networks = load_networks(bundle, device="cpu", precision="float32")
    patch = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = networks.backbone(patch)
    for scale, heat in bundle.backbone.temperature.scales:
        torch.testing.assert_close(networks.predict(patch, scale), (logits / heat).softmax(dim=1))
    train_refiner(data, output, TrainConfig.parse(CONFIG))
    with pytest.raises(UsageError, match="must be trained again"):
        train_refiner(data, output, config)
    with pytest.raises(UsageError, match="neither a refiner nor temperatures"):
        train_refiner(data, output, TrainConfig.parse(config.text.replace("[folds]", "[folds]\ntemperatures = false")))


def test_a_run_speaks_at_the_temperatures_that_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Probabilities on disk, of the finest scale and of the stages' mean, equal those fitted from logits."""
    # A field is blended at a temperature of one and divided by the temperature afterwards; a run blends what has been
    # divided. Where windows overlap, the two differ by more than a wrong temperature might change.
    monkeypatch.setattr(defaults, "DEFAULT_BLEND", "none")
    data, output = make_data(tmp_path / "data"), make_bundle(tmp_path / "tiny", magnet={"margin": 3})
    bundle = train_refiner(data, output, TrainConfig.parse(CONFIG.replace("rounds = 1", "rounds = 0")))
    scene = make_scene("s", seed=9)
    view = view_of(tmp_path / "fields", bundle, scene)
    coarse, fine = heats = [bundle.backbone.temperature.at(stage.scale) for stage in view.stages]
    assert coarse != pytest.approx(1, abs=0.05)
    assert fine != pytest.approx(1, abs=0.05)
    (step,) = accumulated_runs([view], temperatures=heats, how="mean", refiners=[Refiners()])
    expected = {
        "patch": (whole(view.logs[1]).float() / fine).softmax(dim=0),
        "magnet": whole(merged_field(step, how="mean", refiners=Refiners())).float().exp(),
    }
    tifffile.imwrite(tmp_path / "s.tif", pixels_of(scene), photometric="rgb", tile=(64, 64))
    for method, probs in expected.items():
        options = SegmentOptions(
            weights=str(output), method=cast("Any", method), device="cpu", num_workers=0, probabilities=True
        )
        mask = tmp_path / f"{method}.tif"
        (result,) = magnet_cli.segment([tmp_path / "s.tif"], mask, options)
        assert result.error is None
        found = torch.from_numpy(probabilities_in(mask))
        torch.testing.assert_close(found[:, 4:-4, 4:-4], probs[:, 4:-4, 4:-4], atol=3e-3, rtol=0)


def test_without_temperatures_the_bundle_keeps_its_own(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    output = make_bundle(tmp_path / "tiny")
    description = json.loads((output / "bundle.json").read_text())
    description["networks"]["backbone"]["temperature"] = 1.5
    (output / "bundle.json").write_text(json.dumps(description))
    text = CONFIG.replace("rounds = 1", "rounds = 0\ntemperatures = false")
    bundle = train_refiner(data, output, TrainConfig.parse(text))
    assert bundle.backbone.temperature.default == 1.5
    assert bundle.refiners[0].temperature.default == 1.0


def test_one_refiner_a_stage_and_scores_across_folds(tmp_path: Path) -> None:
    data, output = make_data(tmp_path / "data"), make_bundle(tmp_path / "tiny", scales=(16, 32, 64))
    text = CONFIG.replace("rounds = 1", "rounds = 1\nper_scale = true\ncross = true")
    lines: list[dict[str, float]] = []
    bundle = train_refiner(data, output, TrainConfig.parse(text), progress=lines.append)
    assert [line.get("scale") for line in lines] == [None, None, *[32, 16] * 2 * 3], (
        "two backbones; two refiners in two rounds, for the bundle and without each fold"
    )
    assert [spec.scale for spec in bundle.refiners] == [square(32), square(16)]
    assert [bundle.refiner_for(square(side)) for side in (32, 16)] == [0, 1]
    first, second = (load_file(output / spec.file) for spec in bundle.refiners)
    assert any(not torch.equal(first[key], second[key]) for key in first)
    found = bundle.metrics["out_of_fold"]
    assert found["refiner_scored_by"] == "refiners of the other folds"
    heats = {str(spec.scale): spec.temperature.default for spec in bundle.refiners}
    assert heats == {scale: entry["temperature"] for scale, entry in found["refiner"].items()}


def test_stopped_and_continued_equals_never_stopped(tmp_path: Path) -> None:
    data, config = make_data(tmp_path / "data"), TrainConfig.parse(CONFIG.replace("rounds = 1", "rounds = 2"))
    whole, parts = make_bundle(tmp_path / "whole"), make_bundle(tmp_path / "parts")
    train_refiner(data, whole, config)
    lines: list[dict[str, float]] = []

    def stop(line: dict[str, float]) -> None:
        lines.append(line)
        if len(lines) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_refiner(data, parts, config, progress=stop)
    assert load_bundle(str(parts)).refiners == ()
    rounds = [
        path.parents[1].name for path in (tmp_path / "parts.refiner-training").glob("refiner-*/*/*/checkpoint.pt")
    ]
    assert "round0" in rounds
    assert "round2" not in rounds
    train_refiner(data, parts, config)
    first, second = (load_file(folder / "refiner.safetensors") for folder in (whole, parts))
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def test_other_settings_do_not_take_up_an_old_checkpoint(tmp_path: Path) -> None:
    data, output = make_data(tmp_path / "data"), make_bundle(tmp_path / "tiny")
    before = train_refiner(data, output, TrainConfig.parse(CONFIG))
    after = train_refiner(data, output, TrainConfig.parse(CONFIG.replace("rate = 0.01", "rate = 0.02")))
    assert before.refiners[0].sha256 != after.refiners[0].sha256


def test_a_training_that_knows_no_logit_adjustment_goes_on(tmp_path: Path) -> None:
    config = TrainConfig.parse(CONFIG)
    bundle = load_bundle(str(make_bundle(tmp_path / "tiny")))
    names, weighted = [], replace(config.loop, balance=0.5)
    for adjusted in (0.0, 0.5):
        loop = replace(weighted, logit_adjustment=adjusted)
        course = Course(
            bundle=bundle, config=replace(config, loop=loop), temperatures=(1.0, 1.0), folder=tmp_path / "work"
        )
        names.append(course.named([]))
    # The name is the one that version of the program gave which had no such key.
    known = {key: value for key, value in asdict(weighted).items() if key != "logit_adjustment"}
    flat = {f"[loop] {key}": value for key, value in known.items() if key not in HARMLESS}
    network = [config.network.architecture, json.dumps(config.network.options, sort_keys=True)]
    flags = [config.folds.accumulate, config.folds.per_scale, config.data.ignore]
    assert names[0] == short_hash([*network, flat, *flags, (1.0, 1.0)])
    assert names[0] != names[1]


def test_pieces_keep_fields_and_labels_together(tmp_path: Path) -> None:
    scene = make_scene("s", seed=2, rows=60, columns=300)
    bundle = load_bundle(str(make_bundle(tmp_path / "tiny", scales=(16,))))
    (stage,) = stages_of(bundle, Size(width=300, height=60))
    hot = torch.nn.functional.one_hot(torch.from_numpy(labels_of(scene)).long(), 2).permute(2, 0, 1)
    logs = (hot.float() * 50).log_softmax(dim=0).half()
    held, truth = HeldField(logs), HeldTruth(labels_of(scene))
    view = SceneView(name="s", key="", stages=(stage,), logs=(held,), labels=(truth,), scratch=Scratch(tmp_path))
    field = Previous(logs=held, stage=stage, temperature=1.0)
    sampler = FieldSampler(
        steps=[StageRun(view=view, index=0, field=field, temperature=1.0)], batch=4, seed=0, ignore=255
    )
    joined, target = sampler(5)
    known = target != 255
    for probs in (joined[:, :2], joined[:, 2:]):
        assert torch.equal(probs.argmax(dim=1)[known], target[known])
    assert 0 < int(known.sum()) < target.numel()
    assert torch.equal(sampler(5)[0], joined)

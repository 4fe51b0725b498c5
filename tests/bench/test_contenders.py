"""Each contender of a bench counts, refuses and leaves behind what it should. Its speed is not tested."""

from __future__ import annotations

import pickle
from dataclasses import replace
from importlib import util
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import torch

from magnet_cli.bench import patching
from magnet_cli.bench.ceiling import Ceiling, sampled_patches
from magnet_cli.bench.naive import Naive
from magnet_cli.bench.patching import KINDS, Patching
from magnet_cli.bench.program import Program, made_plan
from magnet_cli.bench.studio import Studio
from magnet_cli.errors import SourceError
from magnet_cli.events import Events
from magnet_cli.options.rules import ALL
from magnet_cli.options.values import parse_value_range
from magnet_cli.segmentation.segment_model import load_model
from tests.bench.support import SCALES, SIDE, task
from tests.laws.support import blurry_bundle
from tests.segmentation.test_grnet import grnet

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from magnet_cli.arithmetic.grnet_stages import Fusion

pytestmark = pytest.mark.full


def test_the_program_reports_a_real_run_and_leaves_nothing(tmp_path: Path) -> None:
    given = task(tmp_path, timed=True)
    program = Program(given)

    ready = program.prepare()
    took = program.run("", None)

    assert (ready.size.width, ready.size.height) == (SIDE, SIDE) if ready.size else False
    assert took.windows == sum(took.by_stage.values()) == ready.windows
    assert set(took.by_stage) == {"1", "2", "3"}
    assert took.report["input"]["path"] == given.image  # type: ignore[index]
    assert took.host_peak is None or took.host_peak > 0
    assert {"read", "forward", "refine", "select", "write", "idle", "wall", "finish"} <= set(took.parts)
    assert 0 < took.parts["networks_backbone"] + took.parts["networks_refiner"] < took.seconds
    assert list(given.folder.iterdir()) == []


class Classes(pickle.Unpickler):
    """An unpickler that keeps the names of the modules that it imports."""

    def __init__(self, value: object) -> None:
        super().__init__(BytesIO(pickle.dumps(value)))
        self.modules: set[str] = set()
        self.load()

    def find_class(self, module: str, name: str) -> Any:
        self.modules.add(module.partition(".")[0])
        return super().find_class(module, name)


def test_what_a_process_answers_loads_no_library_where_it_arrives(tmp_path: Path) -> None:
    given = task(tmp_path)
    program = Program(given)

    answers = [Studio(given.options).setting(), program.prepare(), program.run("", None)]

    assert {module for answer in answers for module in Classes(answer).modules} <= {"magnet_cli", "builtins"}


def test_the_ceiling_stands_for_the_windows_that_the_program_ran(tmp_path: Path) -> None:
    given = task(tmp_path)
    program, ceiling = Program(given), Ceiling(given)
    program.prepare()
    ours = program.run("", None)
    ceiling.prepare()

    took = ceiling.run("", ours)

    assert took.windows == ours.windows
    assert took.parts["measured_windows"] > 0
    assert took.seconds > 0


class Asked:
    """Networks that count the patches of each call."""

    NAMES = ("predict", "refine", "scores", "selected", "score_map", "cell_scores", "aggregate")

    def __init__(self, networks: Any) -> None:
        self._networks = networks
        self.found: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._networks, name)
        if name not in self.NAMES:
            return value

        def noted(patches: Tensor, *more: Any, **named: Any) -> Any:
            self.found[name] = self.found.get(name, 0) + len(patches)
            return value(patches, *more, **named)

        return noted


FIRST = {"predict": 1, "score_map": 1}
LATER = {"predict": 1, "refine": 1, "score_map": 1}
LAST = {"predict": 1, "refine": 1}


@pytest.mark.parametrize(
    ("method", "fusion", "changes", "wanted"),
    [
        ("grnet", "detail", {}, [{"scores": 1, "selected": 1}, {"cell_scores": 1, "aggregate": 1}]),
        ("grnet", "literal", {}, [{"scores": 1, "selected": 1, "aggregate": 1}, {"cell_scores": 1}]),
        ("grnet", "detail", {"patches": ALL}, [{"scores": 1}, {"cell_scores": 1, "aggregate": 1}]),
        ("grnet-local", "detail", {}, [{"cell_scores": 1}]),
        ("magnet-fast", None, {"select": "ppn"}, [FIRST, LATER, LAST]),
        ("magnet-fast", None, {}, [{"predict": 1}, LAST, LAST]),
    ],
)
def test_the_ceiling_asks_each_network_that_a_run_asks(
    tmp_path: Path, method: Any, fusion: Fusion | None, changes: dict[str, Any], wanted: list[dict[str, int]]
) -> None:
    """Each network of the ceiling computes each window once, and networks that a run does not use compute none."""
    folder = tmp_path / "of-it"
    bundle = blurry_bundle(folder, scales=SCALES, selector=True) if fusion is None else grnet(folder, fusion=fusion)
    given = task(tmp_path, method=method, bundle=bundle)
    given = replace(given, options=replace(given.options, **changes))
    program, ceiling = Program(given), Ceiling(given)
    program.prepare()
    ceiling.prepare()
    networks = Asked(ceiling._model.networks)
    ceiling._model = replace(ceiling._model, networks=networks)  # type: ignore[arg-type]

    found = []
    for stage in ceiling._plan.stages:
        networks.found.clear()
        count = ceiling._pass(stage, number=0)
        found.append({name: asked / count for name, asked in networks.found.items()})
    assert found == wanted

    run = Asked(program._model.networks)
    program._model = replace(program._model, networks=run)  # type: ignore[arg-type]
    took = program.run("", None)
    whole: dict[str, int] = {}
    for windows, names in zip(took.by_stage.values(), wanted, strict=True):
        for name, times in names.items():
            whole[name] = whole.get(name, 0) + times * windows
    assert run.found == whole
    assert ceiling.run("", took).windows == took.windows == sum(took.by_stage.values())


@pytest.mark.parametrize("method", ["grnet", "grnet-local"])
def test_the_networks_of_a_grnet_are_timed(tmp_path: Path, method: Any) -> None:
    program = Program(task(tmp_path, method=method, timed=True, bundle=grnet(tmp_path / "grnet")))
    program.prepare()
    took = program.run("", None)
    names = ("backbone", "selector", "local") if method == "grnet" else ("local",)
    seconds = [took.parts[f"networks_{name}"] for name in names]
    assert all(part > 0 for part in seconds)
    assert sum(seconds) < took.seconds


@pytest.mark.parametrize("method", ["grnet", "grnet-local"])
@pytest.mark.parametrize("kind", [Patching, Naive])
def test_a_grnet_has_a_ceiling_alone(tmp_path: Path, kind: type[Patching | Naive], method: Any) -> None:
    ready = kind(task(tmp_path, method=method, bundle=grnet(tmp_path / "grnet"))).prepare()

    assert ready.refusal == "does not apply"
    assert ready.reason is not None
    assert "GRNet" in ready.reason or method in ready.reason


def test_bands_and_values_of_an_image_are_not_those_of_the_drawn_one(tmp_path: Path) -> None:
    """The image has four bands of 16 bits. The generated image for the warm-up has the bundle's bands of 8 bits."""
    given = task(tmp_path, method="patch")
    values = np.random.default_rng(0).integers(0, 10000, (SIDE, SIDE, 4)).astype(np.uint16)
    tifffile.imwrite(given.image, values, photometric="minisblack", planarconfig="contig", tile=(64, 64))
    options = replace(given.options, bands=("4", "2", "1"), value_range=parse_value_range("1%,99%"))
    given = replace(given, options=options)
    program = Program(given)

    program.prepare()
    took = program.run("", None)

    seen: Any = took.report["options"]
    assert [entry["band"] for entry in seen["bands"]] == [4, 2, 1]
    model = load_model(options, Events())
    plan = made_plan(given.image, model, options)
    patches = sampled_patches(given, plan, model, count=4)
    means, deviations = (
        (torch.tensor(part)[:, None, None]) for part in (model.bundle.input.mean, model.bundle.input.std)
    )
    shown = patches * deviations + means
    assert -1e-5 < float(shown.min()) < 0.01
    assert 0.99 < float(shown.max()) < 1 + 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_plain_patching_looks_at_the_finest_windows_once(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("monai")
    given = task(tmp_path, method="patch")
    plain = Patching(given)

    ready = plain.prepare()
    took = plain.run(kind, None)

    assert ready.refusal is None
    assert took.windows == (-(-SIDE // 32)) ** 2


def test_both_models_give_plain_patching_the_same_labels(tmp_path: Path) -> None:
    pytest.importorskip("monai")
    plain = Patching(task(tmp_path))
    plain.prepare()

    first, second = (plain._infer(plain._pixels, plain._predictor(kind)) for kind in KINDS)

    assert first.shape == (1, SIDE, SIDE)
    assert (first == second).float().mean() > 0.999
    assert first.min() < first.max()


@pytest.mark.parametrize("kind", [Patching, Naive])
def test_what_does_not_fit_is_refused_before_it_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Patching | Naive]
) -> None:
    pytest.importorskip("monai")
    monkeypatch.setattr(patching, "available_memory", lambda: 1000)

    ready = kind(task(tmp_path)).prepare()

    assert ready.refusal == "refused"
    assert ready.needs is not None
    assert ready.needs > ready.available == 1000  # type: ignore[operator]
    assert ready.reason is not None
    assert "KiB" in ready.reason or "MiB" in ready.reason


def test_plain_patching_needs_the_whole_image_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("monai")
    monkeypatch.setattr(patching, "available_memory", lambda: 0)

    ready = Patching(task(tmp_path, method="patch")).prepare()

    bands, classes, counts, labels = 3, 5, 1, 2
    assert ready.needs == SIDE * SIDE * 4 * (bands + classes + counts + labels)


def test_without_monai_it_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patching, "find_spec", lambda name: None if name == "monai" else util.find_spec(name))

    ready = Patching(task(tmp_path)).prepare()

    assert ready.refusal == "unavailable"
    assert ready.reason is not None
    assert "pip install 'magnet-cli[bench]'" in ready.reason


def test_the_naive_arithmetic_takes_one_window_at_a_time_and_the_whole_image(tmp_path: Path) -> None:
    naive = Naive(task(tmp_path))
    naive.prepare()
    batches: list[int] = []
    plain = naive._networks._networks
    predict = plain.logits

    def counted(patches: Tensor) -> Tensor:
        batches.append(len(patches))
        logits: Tensor = predict(patches)
        return logits

    vars(plain)["logits"] = counted

    took = naive.run("", None)

    # 256, 128, 64 and 32 pixels: one window holds the image, then four times as many at each step.
    assert took.windows == len(batches) == 1 + 4 + 16 + 64
    assert set(batches) == {1}
    assert set(took.parts) == {"backbone", "refiner", "rest"}
    assert sum(took.parts.values()) == pytest.approx(took.seconds, abs=0.01)


@pytest.mark.parametrize("method", ["patch", "downsample"])
def test_a_method_without_stages_has_no_naive_counterpart(tmp_path: Path, method: str) -> None:
    ready = Naive(task(tmp_path, method=method)).prepare()  # type: ignore[arg-type]

    assert ready.refusal == "does not apply"
    assert ready.reason is not None
    assert method in ready.reason


def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    given = task(tmp_path)
    program = Program(given)
    program.prepare()
    (tmp_path / "image.tif").write_bytes(b"no image")

    with pytest.raises(SourceError, match=r"image\.tif"):
        program.run("", None)
    assert list(given.folder.iterdir()) == []

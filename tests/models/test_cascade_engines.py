"""A cascade and a GRNet in engines other than PyTorch: the same labels and counts, hashes, memory, and refusals."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np
import pytest
import tifffile
import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from magnet_cli.errors import DeviceError, OutputError, UsageError, WeightsError
from magnet_cli.models.bundle import load_bundle, load_cascade_bundle
from magnet_cli.models.bundle_writer import describe_cascade, write_cascade_bundle
from magnet_cli.models.cascade_networks import LoadedCascade, load_cascade
from magnet_cli.models.engines import engine_memory, engine_speed, exported_graphs
from magnet_cli.models.engines import graph_engine as engines
from magnet_cli.models.engines.engine_choice import choose_cascade_engine
from magnet_cli.models.engines.engine_memory import cascade_memory
from magnet_cli.models.engines.engine_networks import loaded_cascade, loaded_networks
from magnet_cli.models.engines.engine_runs import EngineRun, measured_engines, store_engine
from magnet_cli.models.engines.engine_speed import measure_cascade, measure_engine
from magnet_cli.models.engines.graph_writer import GridMeans, write_graph
from magnet_cli.models.networks import load_networks
from magnet_cli.models.registry import build_cascade
from magnet_cli.options.refine import RefineOptions
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.refinement import last_stage
from magnet_cli.refinement import refinement_plan as plan
from magnet_cli.refinement.api import plan_refine, refine
from tests.models.engine_support import engines_here
from tests.models.test_engines import NAMES, installed
from tests.refinement.support import discs, write_grey, write_image
from tests.segmentation.test_grnet import grnet, mask_of, picture

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.models.network_spec import Bundle, CascadeBundle
    from magnet_cli.models.networks import Networks
    from magnet_cli.options.segment import RefineMethod
    from magnet_cli.options.shared import EngineName

SLIM: dict[str, Any] = {"width": 4, "depths": [1, 1, 1, 1], "pooled": 8, "widths": [8, 4, 4], "hidden": 4, "sees": True}
SIDE = 128
NORMALISED = {"mean": [0.4, 0.4, 0.4], "std": [0.2, 0.2, 0.2]}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> CascadeBundle:
    """Write a bundle of a tiny CascadePSP with random weights, whose logits lie on both sides of zero."""
    torch.manual_seed(2)
    network = build_cascade("cascadepsp-light", options=SLIM).eval()
    images, masks = torch.randn(1, 3, 64, 64), torch.ones(1, 1, 64, 64)
    with torch.inference_mode():
        network.raise_finest(-float(network(images, masks).s1.median()))
    described = describe_cascade(
        name="tiny", side=SIDE, input=NORMALISED, network={"architecture": "cascadepsp-light", "options": SLIM}
    )
    return write_cascade_bundle(tmp_path_factory.mktemp("bundles") / "tiny", described, network, dtype=torch.float32)


@pytest.fixture
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    engines_here(monkeypatch)
    monkeypatch.setattr(
        engine_memory,
        "_cascade_measured",
        lambda bundle, device, precision, engine, side: asdict(
            engine_memory.cascade_measured_here(bundle, device=device, precision=precision, engine=engine, side=side)
        ),
    )


def pair(folder: Path) -> tuple[Path, Path]:
    """Write an image and a mask with a small object, two of middling size, and one that is refined level by level."""
    bright = discs((420, 300), (30, 40, 20), (60, 150, 40), (40, 250, 30), (270, 150, 130))
    mask = discs((420, 300), (32, 40, 20), (58, 152, 40), (40, 250, 27), (266, 152, 126))
    return write_image(folder / "image.tif", bright), write_grey(folder / "mask.tif", mask.astype(np.uint8))


def options(bundle: CascadeBundle, **more: Any) -> RefineOptions:
    return RefineOptions(**{"weights": str(bundle.folder), "device": "cpu", "num_workers": 0, **more})


# What an engine computes. The first export of a process takes ten seconds.


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("_in_this_process")
def test_a_refined_mask_has_the_labels_and_the_counts_of_torch(
    name: EngineName, bundle: CascadeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(name)
    # Objects of more than 2 x 2 windows are refined level by level.
    monkeypatch.setattr(plan, "UNIT_SIDES", 2)
    image, mask = pair(tmp_path)
    masks, reports = [], []
    for engine in ("torch", name):
        output = tmp_path / f"{engine}.tif"
        report = refine(image, mask, output, options(bundle, engine=engine)).report
        assert cast("dict[str, Any]", report["options"])["engine"] == engine
        masks.append(tifffile.imread(output))
        reports.append(report)
    before = tifffile.imread(mask)
    assert float((masks[0] != before).mean()) > 0.01
    assert float((masks[0] == masks[1]).mean()) >= 0.999
    counts = [[(step.get("wholes_run"), step.get("windows_run")) for step in report["passes"]] for report in reports]  # type: ignore[attr-defined]  # a list
    assert counts[0] == counts[1]
    assert sum(whole or 0 for whole, _ in counts[0]) >= 4
    assert sum(windows or 0 for _, windows in counts[0]) > 0
    # Neither mask is taken for the other, and the message names the engine that is another.
    with pytest.raises(OutputError, match="options, runtime"):
        refine(image, mask, tmp_path / "torch.tif", options(bundle, engine=name))
    with pytest.raises(OutputError, match="options, runtime"):
        refine(image, mask, tmp_path / f"{name}.tif", options(bundle, engine="torch"))
    assert refine(image, mask, tmp_path / f"{name}.tif", options(bundle, engine=name)).was_done


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("_in_this_process")
def test_steps_of_any_size_give_the_probabilities_of_torch(name: EngineName, bundle: CascadeBundle) -> None:
    installed(name)
    plain, other = (
        loaded_cascade(bundle, device="cpu", precision="float32", engine=engine) for engine in ("torch", name)
    )
    seen: dict[tuple[int, int], torch.Tensor] = {}
    for rows, columns in ((128, 192), (64, 64), (16, 128), (128, 16), (136, 88), (64, 64), (128, 192)):
        random = torch.Generator().manual_seed(rows * columns)
        images = torch.randn(1, 3, rows, columns, generator=random)
        masks, coarse = (torch.rand(2, 1, 1, rows, columns, generator=random) * 2 - 1).unbind()
        wanted = (*plain.three_levels(images, masks), *plain.two_levels(images, masks, coarse))
        found = (*other.three_levels(images, masks), *other.two_levels(images, masks, coarse))
        for one, two in zip(wanted, found, strict=True):
            assert float((one - two).abs().max()) < 1e-5
        assert float(wanted[1].max() - wanted[1].min()) > 0.01
        # The sizes that came before change nothing.
        assert torch.equal(seen.setdefault((rows, columns), found[3]), found[3])


@pytest.mark.full
@pytest.mark.usefixtures("_in_this_process")
def test_an_interrupted_refinement_is_not_resumed_by_another_engine(
    bundle: CascadeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed("onnxruntime")
    image, mask = pair(tmp_path)
    given, calls, step = options(bundle, engine="onnxruntime"), [0], LoadedCascade.three_levels
    cascade_memory(bundle, device="cpu", precision="float32", engine="onnxruntime", side=SIDE)

    def interrupted(self: LoadedCascade, *inputs: torch.Tensor) -> object:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return step(self, *inputs)

    with monkeypatch.context() as patch:
        patch.setattr(LoadedCascade, "three_levels", interrupted)
        with pytest.raises(KeyboardInterrupt):
            refine(image, mask, tmp_path / "out.tif", given)
    with pytest.raises(OutputError, match="options, runtime"):
        refine(image, mask, tmp_path / "out.tif", options(bundle, engine="torch"))
    with monkeypatch.context() as patch:
        patch.setattr(engines.GraphEngine, "version", property(lambda _: "0.0"))
        with pytest.raises(OutputError, match="different runtime"):
            refine(image, mask, tmp_path / "out.tif", given)
    assert not refine(image, mask, tmp_path / "out.tif", given).was_done


@pytest.mark.full
@pytest.mark.usefixtures("_in_this_process")
def test_the_memory_of_a_step_is_measured_once_for_each_side(
    bundle: CascadeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed("onnxruntime")
    monkeypatch.setenv("MAGNET_STATE", str(tmp_path))
    given: dict[str, Any] = {"device": "cpu", "precision": "float32", "engine": "onnxruntime"}
    small, large = (cascade_memory(bundle, side=side, **given) for side in (64, 1000))
    # The finest level has four channels in float32, and its convolution reads one map and writes another.
    assert large > 1000 * 1000 * 4 * 4 * 2
    assert large > small

    def refuse(*given: object) -> NoReturn:
        raise AssertionError(given)

    monkeypatch.setattr(engine_memory, "_cascade_measured", refuse)
    assert cascade_memory(bundle, side=1000, **given) == large
    with pytest.raises(AssertionError):
        cascade_memory(bundle, side=72, **given)


@pytest.mark.full
@pytest.mark.usefixtures("_in_this_process")
def test_a_cascade_is_measured_and_its_plan_has_the_engine(bundle: CascadeBundle, tmp_path: Path) -> None:
    installed("onnxruntime")
    run = measure_cascade(bundle, engine="onnxruntime", precision="float32")
    assert run.agreement > 0.999
    assert run.speed > 0
    image, mask = pair(tmp_path)
    described = plan_refine(image, mask, options(bundle, engine="onnxruntime")).plan.describe()
    assert described["engine"] == "onnxruntime"


@pytest.mark.full
@pytest.mark.parametrize("fusion", ["literal", "detail"])
@pytest.mark.usefixtures("_in_this_process")
def test_a_grnet_has_the_labels_of_torch(fusion: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed("onnxruntime")
    weights = grnet(tmp_path / "grnet", fusion=fusion)
    image, _ = picture(tmp_path, width=150, height=170)
    both = [
        mask_of(image, weights, tmp_path / f"{engine}.tif", engine=engine, merge=None)[0]
        for engine in ("torch", "onnxruntime")
    ]
    assert len(np.unique(both[0])) > 1
    assert float((both[0] == both[1]).mean()) >= 0.999
    found = load_bundle(str(weights))
    plain = load_networks(found, device="cpu", precision="float32")
    other = loaded_networks(found, device="cpu", precision="float32", engine="onnxruntime")
    cells, scores = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    for known in (scores.softmax(dim=1), None):
        assert torch.allclose(plain.cell_scores(cells, known), other.cell_scores(cells, known), atol=1e-5)
    for size in ((32, 32), (34, 36), (7, 30)):
        maps = torch.randn(2, 1, 3, *size).unbind()
        assert torch.allclose(plain.aggregate(*maps), other.aggregate(*maps), atol=1e-5)
    monkeypatch.setattr(engine_speed, "ROUNDS", 1)
    for name in NAMES:
        if engines.ENGINES[name].is_installed:
            assert measure_engine(found, engine=name, precision="float32").agreement > 0.999
    # What PyTorch would compute is not there.
    assert other.local is not None
    assert not any(isinstance(part, torch.nn.Conv2d) for part in other.local.branch.modules())
    assert not any(isinstance(part, torch.nn.Conv2d) for part in other.local.aggregation.modules())


class OneMap(torch.nn.Module):
    """Takes one map at a time, as the exported graph of an aggregation layer does."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        assert len(maps) == 1
        return maps


def test_a_grnet_is_measured_whose_engine_fuses_one_cell_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed("onnxruntime")
    loaded: list[str] = []

    def one_by_one(found: Bundle, *, device: str, precision: str, engine: EngineName = "torch") -> Networks:
        loaded.append(engine)
        networks = load_networks(found, device=device, precision=precision)
        if networks.local is not None and engine != "torch":
            networks.local.aggregation = torch.nn.Sequential(OneMap(), networks.local.aggregation)
        return networks

    monkeypatch.setattr(engine_speed, "loaded_networks", one_by_one)
    monkeypatch.setattr(engine_speed, "ROUNDS", 1)
    run = measure_engine(load_bundle(str(grnet(tmp_path / "grnet"))), engine="onnxruntime", precision="float32")
    assert run.agreement == 1
    assert loaded == ["torch", "onnxruntime"]


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_means_over_a_grid_are_those_of_adaptive_pooling(count: int) -> None:
    for size in ((1, 1), (2, 5), (6, 6), (7, 13), (28, 128), (112, 3)):
        maps = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(GridMeans(count)(maps), adaptive_avg_pool2d(maps, count), atol=1e-6)


# Which engine is chosen.


def test_auto_takes_what_is_faster_and_agrees(
    bundle: CascadeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines.GraphEngine, "is_installed", property(lambda _: True))
    monkeypatch.setattr(engines, "check_modules", lambda *_, **__: None)

    def chosen(found: CascadeBundle) -> EngineName:
        return choose_cascade_engine(found, engine="auto", precision="float32", device="cpu")[0]

    assert chosen(bundle) == "torch"
    for number, (speed, agreement, wanted) in enumerate(
        [(1.5, 0.9995, "onnxruntime"), (1.5, 0.9985, "torch"), (1.01, 1.0, "torch")]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        own = replace(bundle, folder=folder)
        store_engine(own, EngineRun(speed=speed, agreement=agreement), engine="onnxruntime", precision="float32")
        assert measured_engines(own).engines["cpu"]["float32"]["onnxruntime"].speed == speed
        assert chosen(own) == wanted
    exact = replace(bundle, folder=tmp_path / "0", compat="published")
    assert chosen(exact) == "torch"
    monkeypatch.setattr(engines.GraphEngine, "is_installed", property(lambda _: False))
    assert chosen(replace(bundle, folder=tmp_path / "0")) == "torch"


def test_a_named_engine_computes_in_single_precision(bundle: CascadeBundle) -> None:
    installed("onnxruntime")
    found = choose_cascade_engine(bundle, engine="onnxruntime", precision="auto", device="cpu")
    assert found == ("onnxruntime", "float32")


def test_segment_hands_its_engine_to_its_last_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[RefineOptions] = []
    monkeypatch.setattr(last_stage, "load_method", lambda own, *_: given.append(own))
    chosen = SegmentOptions(
        engine="onnxruntime", precision="bfloat16", device="cuda:1", gpu_memory="4GiB", memory="2GiB"
    )
    last_stage.LastStage.load("cascadepsp", chosen, cast("Any", None))
    # A method without a network has no use for it.
    last_stage.LastStage.load("guided", chosen, cast("Any", None))
    assert [each.engine for each in given] == ["onnxruntime", "auto"]
    assert [(each.device, each.precision) for each in given] == [("cuda:1", "bfloat16"), ("auto", "auto")]
    assert [(each.gpu_memory, each.memory) for each in given] == [(4 << 30, 2 << 30), (None, 2 << 30)]


# What is refused.


@pytest.mark.parametrize("method", ["guided", "crf"])
def test_an_engine_is_refused_by_a_method_without_a_network(method: RefineMethod) -> None:
    with pytest.raises(UsageError, match=f"--method {method} has no network.*--engine.*cascadepsp"):
        RefineOptions(method=method, engine="openvino")
    assert RefineOptions(method=method, engine="torch").engine == "torch"


@pytest.mark.parametrize("method", ["guided", "crf"])
@pytest.mark.parametrize(
    ("option", "value", "done"),
    [("device", "cuda:1", "cpu"), ("precision", "bfloat16", "float32"), ("gpu_memory", "4GiB", None)],
)
def test_a_method_without_a_network_refuses_what_it_would_ignore(
    method: RefineMethod, option: str, value: str, done: str | None
) -> None:
    given, alike = dict[str, Any]({option: value}), dict[str, Any]({option: done})
    word = f"--{option.replace('_', '-')}"
    with pytest.raises(UsageError, match=f"--method {method} .*on the CPU in float32.*{word}.*cascadepsp"):
        RefineOptions(method=method, **given)
    assert getattr(RefineOptions(method=method, **alike), option) == done
    assert getattr(RefineOptions(**given), option)


def test_engines_are_refused_where_they_do_not_compute(
    bundle: CascadeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, mask = pair(tmp_path)
    with pytest.raises(UsageError, match=r"8 bits are for backbones.*int8"):
        refine(image, mask, tmp_path / "out.tif", options(bundle, engine="openvino", precision="int8"))
    with pytest.raises(DeviceError, match=r"onnxruntime computes in float32 .*bfloat16"):
        refine(image, mask, tmp_path / "out.tif", options(bundle, engine="onnxruntime", precision="bfloat16"))
    published = replace(bundle, compat="published")
    with pytest.raises(UsageError, match="PyTorch alone computes it"):
        choose_cascade_engine(published, engine="openvino", precision="auto", device="cpu")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(WeightsError, match=r"--engine openvino needs .* openvino.*magnet-cli\[openvino") as error:
        refine(image, mask, tmp_path / "out.tif", options(bundle, engine="openvino"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out.tif").exists()


def test_torch_needs_no_graph(bundle: CascadeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exported_graphs, "_export", None)
    other = loaded_cascade(load_cascade_bundle(str(bundle.folder)), device="cpu", precision="float32")
    images, masks = torch.randn(1, 3, 64, 64), torch.ones(1, 1, 64, 64)
    plain = load_cascade(bundle, device="cpu", precision="float32")
    assert torch.equal(other.three_levels(images, masks)[1], plain.three_levels(images, masks)[1])


def test_a_network_that_the_exporter_refuses_may_run_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        message = "no translation\nof an operator"
        raise RuntimeError(message)

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(
        WeightsError, match=r"refuses the network: no translation\. Take --engine torch, or --precision"
    ):
        write_graph(nn.Identity(), (3, 8, 8), tmp_path / "graph.onnx")

"""Engines other than PyTorch give the same labels, keep the plan's memory and the journal's hashes, or are refused."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import pytest
import tifffile
import torch

from magnet_cli.errors import DeviceError, OutputError, UsageError, WeightsError
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.bundle_writer import describe, write_bundle
from magnet_cli.models.engines import exported_graphs
from magnet_cli.models.engines import graph_engine as engines
from magnet_cli.models.engines.engine_choice import choose_engine
from magnet_cli.models.engines.engine_networks import loaded_networks
from magnet_cli.models.engines.engine_runs import EngineRun, measured_engines, store_engine
from magnet_cli.models.engines.engine_speed import measure_engine
from magnet_cli.models.engines.graph_engine import check_engine
from magnet_cli.models.foreign.kinds import KINDS
from magnet_cli.models.foreign.network_kind import engine_of
from magnet_cli.models.networks import load_networks
from magnet_cli.models.registry import build_refiner
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.segmentation.api import segment
from tests.models.engine_support import engines_here, options_of, segment_by_own_network, write_squares
from tests.models.foreign.makers import decided_pyramid, onnx_saved

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.models.bundle import Bundle
    from magnet_cli.options.shared import EngineName, Precision

SIDE = 64
NAMES: tuple[EngineName, ...] = ("onnxruntime", "openvino")


def installed(name: str) -> None:
    for package in (name, *engines.EXPORTERS):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Write a bundle of a pyramid with a refiner, for two scales."""
    backbone = decided_pyramid(SIDE)
    refiner = build_refiner("conv", classes=3, options={"kernel": 3})
    described = describe(
        name="pyramid", classes=3, size=SIDE, scales=(2 * SIDE, SIDE), backbone={"architecture": "fpn-small"},
        refiners=[{"options": {"kernel": 3}}], magnet={"merge": "refiner", "margin": 12},
        input={"mean": [0.4, 0.5, 0.5], "std": [0.1, 0.2, 0.2]},
    )  # fmt: skip
    networks = {"backbone.safetensors": backbone, "refiner.safetensors": refiner}
    return write_bundle(tmp_path_factory.mktemp("bundles") / "pyramid", described, networks, dtype=torch.float32)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("image") / "image.tif")


@pytest.fixture
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    engines_here(monkeypatch)


# What an engine computes. The first export of a process takes ten seconds.


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("_in_this_process")
def test_an_engine_gives_the_labels_of_torch(name: EngineName, bundle: Bundle, image: Path, tmp_path: Path) -> None:
    installed(name)
    networks = loaded_networks(bundle, device="cpu", precision="float32", engine=name)
    plain = load_networks(bundle, device="cpu", precision="float32")
    size = bundle.input.size
    for count in (1, 2, 3):
        patches = torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(count))
        found, wanted = networks.predict(patches, size), plain.predict(patches, size)
        assert float((found - wanted).abs().max()) < 1e-5
        assert torch.equal(found, networks.predict(patches, size))
        assert float((wanted.amax(dim=(2, 3)) - wanted.amin(dim=(2, 3))).max()) > 0.05
        field = wanted.flip(3)
        refined = networks.refine(found, field, size)
        assert float((refined - plain.refine(wanted, field, size)).abs().max()) < 1e-5
    masks = []
    for engine in ("torch", name):
        done = segment(image, tmp_path / f"{engine}.tif", options_of(bundle, engine=engine, merge="mean"))[0]
        assert done.error is None
        assert done.report is not None
        assert done.report["options"]["engine"] == engine  # type: ignore[index]  # a table
        masks.append(tifffile.imread(tmp_path / f"{engine}.tif"))
    assert len(np.unique(masks[0])) > 1
    assert float((masks[0] == masks[1]).mean()) > 0.999
    # The engine belongs to the hash of the options: neither mask is taken for the other.
    error = segment(image, tmp_path / "torch.tif", options_of(bundle, engine=name, merge="mean"))[0].error
    assert isinstance(error, OutputError)


@pytest.mark.full
@pytest.mark.usefixtures("resident_memory")
@pytest.mark.parametrize("name", NAMES)
def test_a_run_keeps_to_the_memory_that_was_measured(name: EngineName, image: Path, tmp_path: Path) -> None:
    installed(name)
    pixels = np.tile(tifffile.imread(image), (6, 5, 1))
    tifffile.imwrite(tmp_path / "large.tif", pixels, tile=(64, 64), photometric="rgb")
    done = segment(
        tmp_path / "large.tif",
        tmp_path / "mask.tif",
        SegmentOptions(weights="aerial", engine=name, tissue="none", domain="aerial"),
    )[0]
    assert done.error is None
    assert done.report is not None
    memory = done.report["memory"]
    assert isinstance(memory, dict)
    assert memory["host_peak"] <= memory["host_planned"]


@pytest.mark.full
@pytest.mark.usefixtures("_in_this_process")
def test_graphs_are_exported_once_and_for_one_size(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed("onnxruntime")
    monkeypatch.setenv("MAGNET_STATE", str(tmp_path))
    first = exported_graphs.exported_graphs(bundle)
    assert [first.backbone.is_file(), *(path.is_file() for path in first.refiners)] == [True, True]

    def refuse(*given: object) -> NoReturn:
        raise AssertionError(given)

    monkeypatch.setattr(exported_graphs, "_export", refuse)
    assert exported_graphs.exported_graphs(bundle) == first
    networks = loaded_networks(bundle, device="cpu", precision="float32", engine="onnxruntime")
    with pytest.raises(WeightsError, match=r"exported for patches \(3, 64, 64\)"):
        networks.backbone(torch.zeros(1, 3, 32, 32))
    # Other sources of the networks make other graphs.
    monkeypatch.setattr(exported_graphs, "SOURCES", ("registry.py",))
    with pytest.raises(AssertionError):
        exported_graphs.exported_graphs(bundle)


@pytest.mark.full
@pytest.mark.usefixtures("_in_this_process")
def test_a_run_is_not_resumed_by_another_version_of_the_engine(
    bundle: Bundle, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed("onnxruntime")
    given = options_of(bundle, engine="onnxruntime")
    assert segment(image, tmp_path / "mask.tif", given)[0].error is None
    assert segment(image, tmp_path / "mask.tif", given)[0].was_done
    monkeypatch.setattr(engines.GraphEngine, "version", property(lambda _: "0.0"))
    error = segment(image, tmp_path / "mask.tif", given)[0].error
    assert isinstance(error, OutputError)
    assert "runtime" in str(error)


@pytest.mark.full
@pytest.mark.usefixtures("_in_this_process")
def test_a_network_in_onnx_is_computed_by_either_engine(image: Path, tmp_path: Path) -> None:
    installed("openvino")
    saved = onnx_saved(tmp_path)
    masks = []
    for name in NAMES:
        chosen = SegmentOptions(foreign=saved.options(), engine=name, tissue="none", num_workers=0)
        done = segment(image, tmp_path / f"{name}.tif", chosen)[0]
        assert done.error is None
        masks.append(tifffile.imread(tmp_path / f"{name}.tif"))
    assert len(np.unique(masks[0])) > 1
    assert float((masks[0] == masks[1]).mean()) > 0.999


@pytest.mark.full
@pytest.mark.usefixtures("_in_this_process")
def test_an_engine_is_measured_and_then_taken_unasked(bundle: Bundle, tmp_path: Path) -> None:
    installed("onnxruntime")
    own = load_bundle(str(shutil.copytree(bundle.folder, tmp_path / "own")))
    run = measure_engine(own, engine="onnxruntime", precision="float32")
    assert run.agreement > 0.999
    assert run.speed > 0
    assert f"{run.speed:.2f} times the speed of torch" in run.line("onnxruntime", "float32")
    store_engine(own, run, engine="onnxruntime", precision="float32")
    # The digest of a bundle is not that of its measurements.
    assert load_bundle(str(own.folder)).digest == own.digest
    assert measured_engines(own).engines["cpu"]["float32"]["onnxruntime"] == run


# Which engine is chosen.


def recommended(folder: Path, bundle: Bundle, **runs: tuple[float, float]) -> Bundle:
    """Return the bundle in a folder with stored measurements of speed and agreement."""
    found = replace(bundle, folder=folder)
    for name, (speed, agreement) in runs.items():
        store_engine(found, EngineRun(speed=speed, agreement=agreement), engine=name, precision="float32")  # type: ignore[arg-type]  # by name
    return found


def chosen(bundle: Bundle, device: str = "cpu", precision: Precision = "float32") -> EngineName:
    return choose_engine(bundle, engine="auto", precision=precision, device=device)[0]


def test_auto_takes_what_is_faster_and_agrees(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.GraphEngine, "is_installed", property(lambda _: True))
    monkeypatch.setattr(engines, "check_modules", lambda *_, **__: None)
    assert chosen(bundle) == "torch"
    for number, (runs, wanted) in enumerate(
        [
            ({"onnxruntime": (1.2, 1.0)}, "onnxruntime"),
            ({"onnxruntime": (1.2, 1.0), "openvino": (1.5, 0.9995)}, "openvino"),
            ({"onnxruntime": (1.2, 1.0), "openvino": (1.5, 0.9985)}, "onnxruntime"),
            ({"onnxruntime": (0.9, 1.0)}, "torch"),
            ({"onnxruntime": (1.01, 1.0)}, "torch"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert chosen(recommended(folder, bundle, **runs)) == wanted
    last = recommended(tmp_path / "0", bundle)
    # Figures of other weights, which a training has replaced since, say nothing of these.
    retrained = replace(last, backbone=replace(last.backbone, sha256="0" * 64))
    assert (chosen(last), chosen(retrained)) == ("onnxruntime", "torch")
    store_engine(retrained, EngineRun(speed=2.0, agreement=1.0), engine="openvino", precision="float32")
    assert (chosen(last), chosen(retrained)) == ("torch", "openvino")
    recommended(tmp_path / "0", bundle, onnxruntime=(1.2, 1.0))
    assert chosen(last, precision="bfloat16") == "torch"
    monkeypatch.setattr(engines.GraphEngine, "is_installed", property(lambda _: False))
    assert chosen(last) == "torch"
    (tmp_path / "0" / "engines.json").write_text(json.dumps({"engines": {"cpu": {"float32": {"turbo": {}}}}}))
    with pytest.raises(WeightsError, match=r"engines\.json"):
        chosen(last)


def test_a_named_engine_computes_in_single_precision(bundle: Bundle) -> None:
    found = choose_engine(bundle, engine="onnxruntime", precision="auto", device="cpu")
    assert found == ("onnxruntime", "float32")


# What is refused.


def test_engines_are_refused_where_they_do_not_compute(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match=r"openvino computes on cpu.*cuda:0"):
        check_engine("openvino", device="cuda:0", precision="float32")
    with pytest.raises(DeviceError, match=r"computes in float32 .*bfloat16"):
        choose_engine(bundle, engine="onnxruntime", precision="bfloat16", device="cpu")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(
        WeightsError, match=r"--engine openvino needs the Python package openvino.*magnet-cli\[openvino"
    ):
        choose_engine(bundle, engine="openvino", precision="float32", device="cpu")


def test_an_export_without_its_packages_is_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MAGNET_STATE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(WeightsError, match=r"needs the Python package onnxscript.*magnet-cli\[onnx\]"):
        exported_graphs.exported_graphs(bundle)


def test_networks_that_no_engine_takes_are_refused() -> None:
    for name in ("smp", "transformers", "torchvision", "torchscript"):
        assert engine_of(KINDS[name], "auto") == "torch"
        with pytest.raises(WeightsError, match=f"networks of the kind {name} are computed by torch"):
            engine_of(KINDS[name], "openvino")
    with pytest.raises(WeightsError, match="computed by onnxruntime or openvino"):
        engine_of(KINDS["onnx"], "torch")
    assert engine_of(KINDS["onnx"], "auto", {"openvino": "1"}) == "openvino"


def test_the_network_of_a_program_is_called_as_it_is(image: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="called as it is"):
        segment_by_own_network(image, tmp_path / "mask.tif", engine="onnxruntime")

"""Runs with networks from other libraries resume, are refused after a change of the runtime, and keep to their plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import torch

from magnet_cli.errors import DeviceError, OutputError
from magnet_cli.events import Events
from magnet_cli.importing import import_network
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.foreign import loading, measurement
from magnet_cli.models.foreign.loading import load_foreign
from magnet_cli.models.foreign.measurement import measured
from magnet_cli.models.networks import load_networks
from magnet_cli.options.foreign_network import NetworkOptions
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.segmentation.api import segment
from magnet_cli.segmentation.computer import Computer
from magnet_cli.segmentation.image_planner import plan_segment
from tests.models.foreign.makers import BANDS, SIDE, Strided, save_script, save_smp, smp_network

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from magnet_cli.segmentation.block import BlockState


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_script(tmp_path_factory.mktemp("script") / "strided.pt", Strided())


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "image.tif"
    pixels = np.random.default_rng(0).integers(0, 255, (25, 33, BANDS), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    tifffile.imwrite(path, pixels[:197, :259], tile=(64, 64), photometric="rgb")
    return path


def options(script: Path, **more: Any) -> SegmentOptions:
    foreign = NetworkOptions(network=str(script), input=SIDE, mean="imagenet", std="imagenet", trust=True)
    return SegmentOptions(**{"foreign": foreign, "tissue": "none", "num_workers": 0, **more})


class Heard(Events):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


def interrupt(monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """Let the computation fail after a number of groups."""
    run, done = Computer.run, [0]

    def failing(self: Computer, *given: Any) -> Sequence[BlockState]:
        if done[0] == after:
            raise DeviceError("pulled the plug")
        done[0] += 1
        return run(self, *given)

    monkeypatch.setattr(Computer, "run", failing)


def test_an_interrupted_run_goes_on_to_the_same_mask(
    script: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = segment(image, tmp_path / "whole.tif", options(script))[0]
    assert whole.report is not None
    with monkeypatch.context() as broken:
        interrupt(broken, after=2)
        failed = segment(image, tmp_path / "parts.tif", options(script))[0]
        assert failed.error is not None
    done = segment(image, tmp_path / "parts.tif", options(script))[0]
    assert done.report is not None
    groups = done.report["groups"]
    assert isinstance(groups, dict)
    assert groups["resumed"] == 2
    assert groups["computed"] > 0
    mask = tifffile.imread(tmp_path / "whole.tif")
    assert len(np.unique(mask)) > 1
    assert np.array_equal(mask, tifffile.imread(tmp_path / "parts.tif"))


def test_another_runtime_is_refused_by_name(
    script: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bundle"
    import_network(options(script).foreign, folder)
    chosen = SegmentOptions(weights=str(folder), tissue="none", num_workers=0)
    with monkeypatch.context() as broken:
        interrupt(broken, after=2)
        segment(image, tmp_path / "mask.tif", chosen)
    monkeypatch.setattr(loading, "runtime_of", lambda *_: {"torch": "0.0"})
    heard = Heard()
    error = segment(image, tmp_path / "mask.tif", chosen, events=heard)[0].error
    assert isinstance(error, OutputError)
    assert "different runtime" in str(error)
    assert any("torch 0.0 here" in message and "weights verify" in message for message in heard.messages)


def test_one_scale_is_the_default_and_auto_looks_coarser(script: Path, image: Path) -> None:
    plan = plan_segment(image, options(script))[0]
    assert [str(stage.scale) for stage in plan.stages] == ["64x64"]
    assert any("--scales auto" in note for note in plan.notes)
    wider = plan_segment(image, options(script, scales="auto"))[0]
    assert [str(stage.scale) for stage in wider.stages] == ["128x128", "64x64"]
    assert not any("--scales auto" in note for note in wider.notes)


def test_the_margin_is_what_was_measured_and_what_the_network_leaves_out(script: Path, tmp_path: Path) -> None:
    bundle = import_network(options(script).foreign, tmp_path / "bundle").bundle
    networks = load_foreign(bundle, device="cpu", precision="float32")
    # Two convolutions of three pixels at strides of one and two feel an edge for fewer than eight pixels.
    assert measurement.felt_edge(networks, bundle) == bundle.magnet.margin == 8
    assert bundle.foreign is not None
    assert [each.batch for each in bundle.foreign.memory["cpu"]] == [1, 2, 4]
    assert bundle.execution["cpu"]["bfloat16"].agreement is not None


@pytest.mark.full
@pytest.mark.usefixtures("resident_memory")
@pytest.mark.parametrize("kind", ["unet", "segformer-b0"])
def test_a_run_keeps_to_its_plan_of_memory(kind: str, image: Path, tmp_path: Path) -> None:
    from tests.models.foreign.makers import transformers_network  # noqa: PLC0415 - an extra

    if kind == "unet":
        path = save_smp(tmp_path / "network", smp_network(decoder_channels=(64, 32, 32, 16, 16)))
    else:
        path = tmp_path / "network"
        sizes = {"hidden_sizes": [32, 64, 160, 256], "depths": [2] * 4, "num_attention_heads": [1, 2, 5, 8]}
        transformers_network("segformer", **sizes).save_pretrained(path)  # type: ignore[operator]  # of the library's class
    given = NetworkOptions(network=str(path), input=512, mean="imagenet", std="imagenet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measurement, "measured", measured)
        bundle = import_network(given, tmp_path / "bundle").bundle
    result = segment(image, tmp_path / "mask.tif", SegmentOptions(weights=str(bundle.folder), tissue="none"))[0]
    assert result.error is None
    assert result.report is not None
    memory = result.report["memory"]
    assert isinstance(memory, dict)
    assert memory["host_peak"] <= memory["host_planned"]


@pytest.mark.full
def test_the_shipped_backbone_as_torchscript_gives_the_same_mask(tmp_path: Path) -> None:
    bundle = load_bundle("aerial")
    networks = load_networks(bundle, device="cpu", precision="float32")
    size, given = bundle.input.size, bundle.input
    example = torch.rand(1, BANDS, size.height, size.width)
    path = save_script(tmp_path / "aerial.pt", networks.backbone, example=example)
    foreign = NetworkOptions(
        network=str(path), input=size, mean=given.mean, std=given.std, activation="softmax", trust=True,
        classes=len(bundle.classes), network_bands=given.bands,
    )  # fmt: skip
    pixels = np.random.default_rng(0).integers(0, 255, (300, 700, BANDS), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "image.tif", pixels, tile=(64, 64), photometric="rgb")
    same: dict[str, Any] = {"scales": str(size), "overlap": 64, "tissue": "none", "domain": "aerial", "batch_size": 4}
    segment(tmp_path / "image.tif", tmp_path / "own.tif", SegmentOptions(weights="aerial", **same))
    segment(tmp_path / "image.tif", tmp_path / "script.tif", SegmentOptions(foreign=foreign, **same))
    own, other = tifffile.imread(tmp_path / "own.tif"), tifffile.imread(tmp_path / "script.tif")
    assert float((own == other).mean()) > 0.9995
    assert len(np.unique(own)) > 1

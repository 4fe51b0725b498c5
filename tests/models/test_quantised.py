"""A backbone in 8 bits gives almost the same labels, changes the run's hash, and is refused where it cannot run."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import torch

from magnet_cli import images
from magnet_cli.errors import DeviceError, OutputError, SourceError, UsageError, WeightsError
from magnet_cli.importing.calibration import patches_of, quantise_bundle, shares
from magnet_cli.models import device
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.bundle_check import verify_bundle
from magnet_cli.models.bundle_writer import describe, write_bundle
from magnet_cli.models.engines import engine_choice
from magnet_cli.models.engines.engine_choice import choose_engine
from magnet_cli.models.engines.engine_networks import loaded_networks
from magnet_cli.models.engines.graph_engine import EXPORTERS
from magnet_cli.models.engines.quantised_graph import (
    FILE,
    GRAPH,
    QuantisedGraph,
    graph_of,
    network_digest,
    quantised_graph,
)
from magnet_cli.models.facts import model_facts
from magnet_cli.models.networks import load_networks
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.segmentation.api import segment
from magnet_cli.segmentation.image_planner import Planner
from tests.cli.support import invoke_json
from tests.models.engine_support import engines_here, options_of, segment_by_own_network, write_squares
from tests.models.foreign.makers import decided_pyramid

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.models.bundle import Bundle
    from magnet_cli.options.shared import EngineName

SIDE = 64


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Write a bundle of a pyramid for two scales, whose classes depend on the picture."""
    backbone = decided_pyramid(SIDE)
    described = describe(
        name="pyramid", classes=3, size=SIDE, scales=(2 * SIDE, SIDE), backbone={"architecture": "fpn-small"},
        magnet={"merge": "mean", "margin": 12}, input={"mean": [0.4, 0.5, 0.5], "std": [0.1, 0.2, 0.2]},
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("bundles") / "pyramid"
    return write_bundle(folder, described, {"backbone.safetensors": backbone}, dtype=torch.float32)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("image") / "image.tif")


def described_as_quantised(bundle: Bundle, folder: Path, **more: Any) -> Bundle:
    """Copy the bundle to another folder, and describe a graph that does not exist."""
    own = load_bundle(str(shutil.copytree(bundle.folder, folder)))
    (folder / GRAPH).write_bytes(b"graph")
    made = QuantisedGraph(sha256="0" * 64, network=network_digest(own), windows=1, agreement=0.98)
    (folder / FILE).write_text(json.dumps({**asdict(made), **more}))
    return own


@pytest.fixture
def _engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the choice of an engine ignore which libraries are installed and which instructions the processor has."""
    monkeypatch.setattr("magnet_cli.models.engines.graph_engine.check_modules", lambda *_, **__: None)
    monkeypatch.setattr(engine_choice, "computes_int8", lambda: True)


# What 8 bits compute. The first export of a process takes ten seconds.


@pytest.mark.full
def test_a_run_in_8_bits_from_calibration_to_mask(
    bundle: Bundle, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("onnxruntime", *EXPORTERS):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    if not device.computes_int8():
        pytest.skip("the processor has no instructions for 8 bits")
    monkeypatch.setenv("MAGNET_STATE", str(tmp_path / "state"))
    engines_here(monkeypatch)
    own = load_bundle(str(shutil.copytree(bundle.folder, tmp_path / "own")))
    words = ("weights", "quantise", str(own.folder), str(image), "--windows", "12", "--seed", "3", "--bands", "1,2,3")
    (row,) = invoke_json(*words)["bundles"]
    assert row["agreement"] > 0.9
    # The description of the bundle, and with it every run in another precision, stays as it was.
    assert load_bundle(str(own.folder)).digest == own.digest
    graph = (own.folder / GRAPH).read_bytes()
    # Four bytes of each weight became one.
    assert len(graph) < 0.6 * (own.folder / own.backbone.file).stat().st_size
    assert str(tmp_path).encode() not in graph
    assert b"magnet_cli" not in graph
    assert not any(check.error for check in verify_bundle(own))
    # The same images, number and seed give the same file.
    quantise_bundle(own, [image], windows=12, seed=3)
    assert (own.folder / GRAPH).read_bytes() == graph

    names: list[EngineName] = ["onnxruntime", *(["openvino"] if find_spec("openvino") else [])]  # type: ignore[list-item]  # names
    patches = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) / 2
    wanted = load_networks(own, device="cpu", precision="float32").predict(patches, own.input.size)
    for name in names:
        found = loaded_networks(own, device="cpu", precision="int8", engine=name).predict(patches, own.input.size)
        # Rounding to 8 bits leaves traces, and small ones.
        assert 1e-4 < float((found - wanted).abs().mean()) < 0.05
        done = segment(image, tmp_path / f"{name}.tif", options_of(own, engine=name, precision="int8"))[0]
        assert done.error is None
    plain = segment(image, tmp_path / "plain.tif", options_of(own, engine="onnxruntime"))[0]
    assert plain.error is None
    masks = [tifffile.imread(tmp_path / f"{name}.tif") for name in ("plain", *names)]
    assert len(np.unique(masks[0])) > 1
    for mask in masks[1:]:
        assert float((mask == masks[0]).mean()) > 0.9

    # A finished mask is not taken for one of another precision, and not for one of another graph.
    given = options_of(own, engine="onnxruntime", precision="int8")
    assert segment(image, tmp_path / "onnxruntime.tif", given)[0].was_done
    assert isinstance(segment(image, tmp_path / "plain.tif", given)[0].error, OutputError)
    quantise_bundle(own, [image], windows=1, seed=4)
    assert (own.folder / GRAPH).read_bytes() != graph
    error = segment(image, tmp_path / "onnxruntime.tif", given)[0].error
    assert isinstance(error, OutputError)
    assert "runtime" in str(error)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("flags\t\t: fpu avx2 avx512f", False),
        ("flags\t\t: fpu avx2 avx_vnni", True),
        ("flags\t\t: fpu avx512f avx512_vnni", True),
        ("Features\t: fp asimd asimddp", True),
        ("", True),
    ],
)
def test_x86_needs_vnni(text: str, wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001 - a case
    monkeypatch.setattr(device, "_read_text", lambda _: text)
    assert device.computes_int8() == wanted


@pytest.mark.parametrize("name", ["aerial", "fundus"])
def test_shipped_graphs_are_those_of_the_shipped_weights(name: str) -> None:
    shipped = load_bundle(name)
    assert graph_of(shipped).is_file()
    assert quantised_graph(shipped).windows == 96
    assert sum(path.stat().st_size for path in shipped.folder.iterdir()) < 12_000_000


# Windows of calibration.


def test_windows_are_those_of_the_seed_at_every_scale(bundle: Bundle, tmp_path: Path) -> None:
    # A picture whose value is its column, so that a patch shows its own scale.
    ramp = np.broadcast_to(np.arange(250, dtype=np.uint8)[None, :, None], (200, 250, 3))
    tifffile.imwrite(tmp_path / "ramp.tif", ramp, photometric="rgb")

    def drawn(seed: int) -> list[torch.Tensor]:
        with images.open_image(tmp_path / "ramp.tif") as opened:
            random = np.random.default_rng(seed)
            return patches_of(opened, bundle, model_facts(bundle), count=4, random=random)

    first = drawn(0)
    assert all(torch.equal(one, other) for one, other in zip(first, drawn(0), strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(first, drawn(1), strict=True))
    assert [tuple(patch.shape) for patch in first] == [(1, 3, SIDE, SIDE)] * 4
    steps = [float((patch[0, 0, 0, 40] - patch[0, 0, 0, 10]) * 0.1 * 255 / 30) for patch in first]
    assert steps == pytest.approx([1, 2, 1, 2], rel=1e-3)


def test_a_small_image_is_reflected_at_the_finest_scale(bundle: Bundle, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "small.tif", np.full((20, 30, 3), 90, np.uint8), photometric="rgb")
    with images.open_image(tmp_path / "small.tif") as opened:
        (patch,) = patches_of(opened, bundle, model_facts(bundle), count=1, random=np.random.default_rng(0))
    assert tuple(patch.shape) == (1, 3, SIDE, SIDE)
    assert float((patch[:, 0] - (90 / 255 - 0.4) / 0.1).abs().max()) < 1e-4


def test_options_say_what_is_read_of_an_image(bundle: Bundle, tmp_path: Path) -> None:
    # Band 2 of 16 bits runs from 1000 to 3000 by its column; the other bands are constant.
    columns = np.linspace(1000, 3000, 400, dtype=np.uint16)
    picture = np.zeros((300, 400, 3), np.uint16)
    picture[:, :, 1] = columns
    tifffile.imwrite(tmp_path / "a.tif", picture, photometric="rgb")

    def drawn(options: SegmentOptions | None) -> torch.Tensor:
        with images.open_image(tmp_path / "a.tif") as opened:
            random = np.random.default_rng(0)
            patch = patches_of(opened, bundle, model_facts(bundle), options, count=1, random=random)[0]
        mean, std = (torch.tensor(each)[:, None, None] for each in (bundle.input.mean, bundle.input.std))
        return patch[0] * std + mean

    with pytest.raises(WeightsError, match="value-range"):
        drawn(None)
    values = drawn(SegmentOptions(bands="2,2,2", value_range="1000,3000"))
    torch.testing.assert_close(values[0], values[2])
    found = (values[0, 0] * 2000 + 1000).numpy()
    assert np.abs(np.diff(found) - (columns[-1] - columns[0]) / 399).max() < 2
    # The percentiles of each band are its own: they are 0 and 1 of one that has two values.
    picture[:, :, 0], picture[:, :200, 2], picture[:, 200:, 2] = 7 * (columns > 2000), 40, 80
    tifffile.imwrite(tmp_path / "a.tif", picture, photometric="rgb")
    values = drawn(SegmentOptions(value_range="1%,99%"))
    ends = [set(np.unique(values[band].abs().round(decimals=3))) for band in (0, 2)]
    assert all(each <= {0.0, 1.0} for each in ends)


def test_shares_add_up() -> None:
    assert [shares(96, 7), sum(shares(96, 7))] == [[13, 14, 14, 13, 14, 14, 14], 96]
    assert shares(2, 3) == [0, 1, 1]


# What is refused.


def test_quantise_refuses_a_band_that_the_image_lacks(bundle: Bundle, image: Path) -> None:
    found = invoke_json("weights", "quantise", str(bundle.folder), str(image), "--bands", "1,2,9", code=3)
    assert "9" in found["error"]
    assert "band" in found["error"]


@pytest.mark.usefixtures("_engines")
@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_8_bits_need_the_name_of_an_engine(bundle: Bundle, tmp_path: Path, engine: EngineName) -> None:
    own = described_as_quantised(bundle, tmp_path / "own")
    with pytest.raises(UsageError, match=r"int8 is computed by the engines.*--engine openvino"):
        choose_engine(own, engine=engine, precision="int8", device="cpu")
    # Nor are they ever taken unasked.
    assert choose_engine(own, engine="auto", precision="auto", device="cpu") == ("torch", "float32")
    assert choose_engine(own, engine="openvino", precision="auto", device="cpu") == ("openvino", "float32")
    assert choose_engine(own, engine="openvino", precision="int8", device="cpu") == ("openvino", "int8")


@pytest.mark.usefixtures("_engines")
def test_a_bundle_without_a_graph_names_the_command(bundle: Bundle) -> None:
    with pytest.raises(WeightsError, match=r"no backbone in 8 bits.*magnet weights quantise .*pyramid IMAGE"):
        Planner.of(options_of(bundle, engine="openvino", precision="int8"))


@pytest.mark.usefixtures("_engines")
def test_a_graph_of_other_weights_or_with_other_bytes_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    old = described_as_quantised(bundle, tmp_path / "old", network="1" * 64)
    with pytest.raises(WeightsError, match=r"another backbone.*magnet weights quantise"):
        choose_engine(old, engine="openvino", precision="int8", device="cpu")
    damaged = described_as_quantised(bundle, tmp_path / "damaged")
    with pytest.raises(WeightsError, match=r"SHA-256 must be the one in int8\.json"):
        loaded_networks(damaged, device="cpu", precision="int8", engine="openvino")
    (error,) = [check.error for check in verify_bundle(damaged) if check.error]
    assert "SHA-256" in str(error)
    wrong = described_as_quantised(bundle, tmp_path / "wrong", agreement=2)
    with pytest.raises(WeightsError, match="agreement must be a share"):
        choose_engine(wrong, engine="openvino", precision="int8", device="cpu")


@pytest.mark.parametrize(
    "change",
    [
        lambda bundle: replace(bundle, backbone=replace(bundle.backbone, sha256="0" * 64)),
        lambda bundle: replace(bundle, backbone=replace(bundle.backbone, options={"width": 8})),
        lambda bundle: replace(bundle, input=replace(bundle.input, mean=(0.4, 0.5, 0.51))),
        lambda bundle: replace(bundle, input=replace(bundle.input, range=(0.0, 254.0))),
    ],
)
def test_a_graph_is_of_weights_and_input(bundle: Bundle, change: Any) -> None:
    assert network_digest(change(bundle)) != network_digest(bundle)
    assert network_digest(replace(bundle, name="other", digest="0")) == network_digest(bundle)


def test_weights_that_are_missing_are_named(bundle: Bundle, tmp_path: Path) -> None:
    absent = replace(bundle, folder=tmp_path, backbone=replace(bundle.backbone, sha256=None))
    with pytest.raises(WeightsError, match=r"cannot be read.* Check that the file is there") as found:
        network_digest(absent)
    assert str(tmp_path / bundle.backbone.file) in str(found.value)


@pytest.mark.usefixtures("_engines")
def test_8_bits_are_refused_where_nothing_computes_in_them(
    bundle: Bundle, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = described_as_quantised(bundle, tmp_path / "own")
    with pytest.raises(DeviceError, match=r"8 bits are for CPUs.*cuda:0"):
        choose_engine(own, engine="onnxruntime", precision="int8", device="cuda:0")
    monkeypatch.setattr(engine_choice, "computes_int8", lambda: False)
    with pytest.raises(DeviceError, match="VNNI"):
        choose_engine(own, engine="openvino", precision="int8", device="cpu")
    with pytest.raises(UsageError, match="not for a GRNet"):
        choose_engine(replace(own, local=own.backbone), engine="onnxruntime", precision="int8", device="cpu")
    with pytest.raises(UsageError, match="8 bits are for bundles"):
        segment_by_own_network(image, tmp_path / "mask.tif", precision="int8")
    with pytest.raises(UsageError, match="one window at least"):
        quantise_bundle(own, [], windows=4, seed=0)
    with pytest.raises(SourceError, match="missing"):
        quantise_bundle(own, [tmp_path / "missing.tif"], windows=4, seed=0)

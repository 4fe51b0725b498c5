"""Descriptions of BioImage.IO are read in both versions, a supported weights file is chosen, and others are refused.

The format's own library needs another version of pydantic than this program, so these tests write descriptions as the
format's specification has them.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from magnet_cli.errors import WeightsError
from magnet_cli.geometry import Size
from magnet_cli.models.foreign.adapter import Adapted
from magnet_cli.models.foreign.completion import described
from magnet_cli.models.foreign.foreign_bundle import bundle_in_place, tried_network
from magnet_cli.models.foreign.kinds import read_network
from magnet_cli.options.foreign_network import NetworkOptions
from tests.models.foreign.makers import BANDS, SIDE, Strided, enlarged, onnx_saved, torchscript_saved

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.models.foreign.completion import ForeignDescription

yaml: Any = pytest.importorskip("yaml", reason="the extra bioimageio is not installed")


def weights_of(folder: Path, kind: str = "onnx") -> dict[str, Any]:
    path = (onnx_saved if kind == "onnx" else torchscript_saved)(folder).path
    return {kind: {"source": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}}


def older(weights: dict[str, Any], *steps: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """Return a description in version 0.4."""
    image = {
        "name": "image", "axes": "bcyx", "data_type": "uint8", "preprocessing": list(steps),
        "shape": {"min": [1, BANDS, 64, 32], "step": [0, 0, 32, 32]},
    }  # fmt: skip
    scores = {
        "name": "scores", "axes": "bcyx", "data_type": "float32", "halo": [0, 0, 16, 16],
        "shape": {"reference_tensor": "image", "scale": [1, 1, 1, 1], "offset": [0, 0, 0, 0]},
        "postprocessing": [{"name": "sigmoid"}],
    }  # fmt: skip
    return {
        "format_version": "0.4.10", "type": "model", "name": "nuclei", "license": "MIT", "weights": weights,
        "inputs": [image], "outputs": [scores], **changed,
    }  # fmt: skip


def newer(weights: dict[str, Any], *steps: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """Return a description in version 0.5."""
    space = {"type": "space", "size": 96, "scale": 0.5, "unit": "micrometer"}
    image = {
        "id": "image", "preprocessing": list(steps), "data": {"type": "uint8"},
        "axes": [{"type": "batch"}, {"type": "channel", "channel_names": ["red", "green", "blue"]},
                 {**space, "id": "y"}, {**space, "id": "x"}],
    }  # fmt: skip
    scores = {
        "id": "scores", "data": {"type": "float32"},
        "postprocessing": [{"id": "softmax", "kwargs": {"axis": "channel"}}],
        "axes": [{"type": "batch"}, {"type": "channel", "channel_names": ["rest", "nucleus", "border"]},
                 {"type": "space", "id": "y", "size": {"tensor_id": "image", "axis_id": "y"}, "halo": 16},
                 {"type": "space", "id": "x", "size": {"tensor_id": "image", "axis_id": "x"}, "halo": 16}],
    }  # fmt: skip
    return {
        "format_version": "0.5.4", "type": "model", "name": "nuclei", "license": "CC-BY-4.0", "weights": weights,
        "inputs": [image], "outputs": [scores], **changed,
    }  # fmt: skip


def written(folder: Path, table: dict[str, Any], name: str = "rdf.yaml") -> Path:
    (folder / name).write_text(yaml.safe_dump(table))
    return folder


def description(folder: Path, **more: Any) -> ForeignDescription:
    options = NetworkOptions(network=str(folder), **more)
    return described(read_network(folder, options), options)


def normalised(found: ForeignDescription, stored: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    low, high = found["range"]
    value: np.ndarray[Any, Any] = ((stored - low) / (high - low) - np.array(found["mean"])) / np.array(found["std"])
    return value


def test_a_description_of_version_0_5_states_everything(tmp_path: Path) -> None:
    step = {
        "id": "fixed_zero_mean_unit_variance",
        "kwargs": {"mean": [10, 20, 30], "std": [4, 5, 6], "axis": "channel"},
    }
    folder = written(tmp_path, newer(weights_of(tmp_path), step))
    found = description(folder)
    assert found["input"] == Size(width=96, height=96)
    assert (found["bands"], found["pixel"], found["activation"]) == (("red", "green", "blue"), "0.5um", "softmax")
    assert [each.name for each in found["classes"]] == ["rest", "nucleus", "border"]
    assert (found["licence"], found["layout"]) == ("CC-BY-4.0", "nchw")
    stored = np.array([100.0, 110.0, 120.0])
    assert normalised(found, stored) == pytest.approx((stored - [10, 20, 30]) / [4, 5, 6])
    assert "rdf.yaml: fixed_zero_mean_unit_variance" in found.values["mean"].origin


@pytest.mark.parametrize(("threshold", "remark"), [(0.3, "; its threshold 0.3 is not applied"), (0.5, "")])
def test_a_threshold_that_is_not_applied_is_named(tmp_path: Path, threshold: float, remark: str) -> None:
    table = older(weights_of(tmp_path))
    steps = [{"name": "sigmoid"}, {"name": "binarize", "kwargs": {"threshold": threshold}}]
    folder = written(tmp_path, {**table, "outputs": [{**table["outputs"][0], "postprocessing": steps}]})
    found = description(folder, mean="imagenet", std="imagenet")
    assert found["activation"] == "sigmoid"
    assert found.values["activation"].origin.startswith(f"rdf.yaml: postprocessing{remark}")
    assert ("threshold" in found.values["activation"].origin) == bool(remark)


def test_a_description_of_version_0_4_states_what_it_can(tmp_path: Path) -> None:
    step = {
        "name": "zero_mean_unit_variance",
        "kwargs": {"mode": "fixed", "axes": "xy", "mean": [1, 2, 3], "std": [4, 5, 6]},
    }
    found = description(written(tmp_path, older(weights_of(tmp_path), step), "model.yaml"))
    # The first sizes from 512 on that start at 64 or 32 and rise by 32.
    assert found["input"] == Size(width=512, height=512)
    assert (found["multiple"], found["activation"], found["bands"]) == (32, "sigmoid", ("red", "green", "blue"))
    stored = np.array([100.0, 110.0, 120.0])
    assert normalised(found, stored) == pytest.approx((stored - [1, 2, 3]) / (np.array([4, 5, 6]) + 1e-6))


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [
        ([], lambda x: x),
        ([{"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}], lambda x: x),
        ([{"id": "scale_linear", "kwargs": {"gain": 1 / 255, "offset": -0.5}}], lambda x: x / 255 - 0.5),
        ([{"id": "scale_linear", "kwargs": {"gain": [1, 2, 3], "offset": [0, 1, 0], "axis": "channel"}}],
         lambda x: x * [1, 2, 3] + [0, 1, 0]),
        ([{"id": "scale_linear", "kwargs": {"gain": 1 / 255}},
          {"id": "fixed_zero_mean_unit_variance", "kwargs": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}],
         lambda x: (x / 255 - [0.1, 0.2, 0.3]) / [0.4, 0.5, 0.6]),
        ([{"id": "clip", "kwargs": {"min": 0, "max": 128}}, {"id": "scale_linear", "kwargs": {"gain": 1 / 128}}],
         lambda x: x / 128),
    ],
)  # fmt: skip
def test_linear_steps_are_what_the_network_gets(tmp_path: Path, steps: list[dict[str, Any]], wanted: Any) -> None:
    found = description(written(tmp_path, newer(weights_of(tmp_path), *steps)))
    stored = np.array([100.0, 110.0, 120.0])
    assert normalised(found, stored) == pytest.approx(wanted(stored))
    assert found["range"] == ((0.0, 128.0) if steps and steps[0]["id"] == "clip" else (0.0, 255.0))


def test_two_clips_leave_what_both_leave_and_are_not_lost_to_options(tmp_path: Path) -> None:
    clips = [
        {"id": "clip", "kwargs": {"min": 0, "max": 200}},
        {"id": "scale_linear", "kwargs": {"gain": 1 / 100}},
        {"id": "clip", "kwargs": {"min": 0.5, "max": 3}},
    ]
    folder = written(tmp_path, newer(weights_of(tmp_path), *clips))
    assert description(folder)["range"] == pytest.approx((50, 200))
    with pytest.raises(WeightsError, match=r"clips values, and options replace its steps.*max 200.* --range LOW,HIGH"):
        description(folder, mean=(0.5,), std=(0.2,))
    assert description(folder, mean=(0.5,), std=(0.2,), range=(50.0, 200.0))["mean"] == (0.5,) * BANDS
    apart = [clips[0], {"id": "clip", "kwargs": {"min": 300, "max": 400}}]
    with pytest.raises(WeightsError, match="ranges that have nothing in common"):
        description(written(tmp_path, newer(weights_of(tmp_path), *apart)))


def test_values_of_each_sample_are_asked_for(tmp_path: Path) -> None:
    step = {"id": "scale_range", "kwargs": {"min_percentile": 1, "max_percentile": 99.8}}
    folder = written(tmp_path, newer(weights_of(tmp_path), step))
    with pytest.raises(
        WeightsError, match=r"takes its values from each sample.*max_percentile 99\.8.*--range LOW,HIGH"
    ):
        description(folder)
    found = description(folder, range=(20.0, 220.0))
    assert normalised(found, np.array([20.0, 120.0, 220.0])) == pytest.approx([0, 0.5, 1])
    step = {"id": "zero_mean_unit_variance", "kwargs": {}}
    folder = written(tmp_path, newer(weights_of(tmp_path), step))
    with pytest.raises(WeightsError, match=r"takes its values from each sample.*--mean and --std"):
        description(folder)
    assert description(folder, mean=(0.5,), std=(0.2,))["std"] == (0.2,) * BANDS


@pytest.mark.full
@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_the_network_of_a_description_gives_what_it_gives_alone(kind: str, tmp_path: Path) -> None:
    step = {"id": "scale_linear", "kwargs": {"gain": 1 / 128, "offset": -1}}
    folder = written(tmp_path, newer(weights_of(tmp_path, kind), step))
    options = NetworkOptions(network=str(folder), trust=kind == "torchscript")
    found = tried_network(options)
    assert found.spec.kind == kind
    network: Any = Strided().eval()
    patch = torch.randn(1, BANDS, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    from magnet_cli.models.foreign.kinds import KINDS  # noqa: PLC0415 - for this alone

    loaded = KINDS[kind].load(folder, found.spec, "torch" if kind == "torchscript" else "onnxruntime")
    with torch.inference_mode():
        wanted = enlarged(network(patch), patch).softmax(dim=1)
        assert torch.allclose(Adapted(loaded, spec=found.spec)(patch), wanted, atol=1e-5)
    assert bundle_in_place(options).foreign_files == folder.resolve()


def test_code_runs_only_with_trust(tmp_path: Path) -> None:
    folder = written(tmp_path, newer(weights_of(tmp_path, "torchscript")))
    with pytest.raises(WeightsError, match="only where you trust it"):
        tried_network(NetworkOptions(network=str(folder)))


def test_other_weights_and_files_are_refused(tmp_path: Path) -> None:
    state = {"pytorch_state_dict": {"source": "weights.pt", "architecture": {"source": "unet.py", "callable": "UNet"}}}
    with pytest.raises(WeightsError, match="architecture in Python sources, which are not run"):
        description(written(tmp_path, newer(state)))
    with pytest.raises(WeightsError, match=r"onnx and torchscript are read .*keras_hdf5"):
        description(written(tmp_path, newer({"keras_hdf5": {"source": "a.h5"}})))
    onnx_saved(tmp_path)
    (tmp_path / "inner").mkdir()
    written(tmp_path / "inner", newer({"onnx": {"source": "../strided.onnx"}}))
    with pytest.raises(WeightsError, match="lies outside of its folder"):
        description(tmp_path / "inner")
    with pytest.raises(WeightsError, match="sha256 00 expected"):
        description(written(tmp_path, newer({"onnx": {"source": "strided.onnx", "sha256": "00"}})))
    # Archives hold the file beside the description, whatever address names it. Nothing is fetched.
    there = {"onnx": {"source": "https://example.org/files/strided.onnx"}}
    assert description(written(tmp_path, newer(there)))["input"].width == 96
    with pytest.raises(WeightsError, match=r"a file of the network is missing .*other\.onnx"):
        description(written(tmp_path, newer({"onnx": {"source": "https://example.org/other.onnx"}})))


def test_other_descriptions_are_refused(tmp_path: Path) -> None:
    weights = weights_of(tmp_path)
    table = newer(weights)
    for changed, words in (
        ({"format_version": "0.3.6"}, r"version of the format is not read .*0\.3\.6"),
        ({"type": "dataset"}, "does not describe a network"),
        ({"inputs": table["inputs"] * 2}, "takes patches, and nothing else"),
        ({"inputs": []}, "inputs is no list of tensors"),
        ({"inputs": [{**table["inputs"][0], "axes": table["inputs"][0]["axes"][1:]}]}, "axes of batch, bands, rows"),
        ({"inputs": [{**table["inputs"][0], "preprocessing": [{"id": "whiten"}]}]}, "before the network is not read"),
        (
            {"outputs": [{**table["outputs"][0], "postprocessing": [{"id": "stardist"}]}]},
            "after the network is not read",
        ),
    ):
        with pytest.raises(WeightsError, match=words):
            description(written(tmp_path, newer(weights, **changed)))
    (tmp_path / "rdf.yaml").write_text("a: [b\n - !!python/object/apply:os.system ['true']")
    with pytest.raises(WeightsError, match="the file cannot be read as YAML"):
        description(tmp_path)
    (tmp_path / "rdf.yaml").write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(WeightsError, match="the file cannot be read as YAML"):
        description(tmp_path)

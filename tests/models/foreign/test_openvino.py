"""Files of OpenVINO state what they need, some are refused, and the program sets their precision and threads.

The tests are marked `full`, because the library is only installed for those.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from magnet_cli.errors import DeviceError, WeightsError
from magnet_cli.geometry import Size
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.engines.openvino_network import OpenVinoNetwork
from magnet_cli.models.foreign.completion import described
from magnet_cli.models.foreign.foreign_bundle import TriedNetwork, tried_network
from magnet_cli.models.foreign.kinds import kind_of
from magnet_cli.models.foreign.openvino_file import OpenVinoFile
from magnet_cli.models.networks import load_networks
from magnet_cli.options.foreign_network import NetworkOptions
from tests.models.foreign.makers import BANDS, SIDE, Strided, onnx_graph, openvino_saved

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.models.foreign.completion import ForeignDescription

pytestmark = pytest.mark.full
openvino: Any = pytest.importorskip("openvino", reason="the extra openvino is not installed")
onnx: Any = pytest.importorskip("onnx", reason="the extra onnx is not installed")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return openvino_saved(tmp_path).path


def converted(model: Any, folder: Path) -> Path:
    """Convert an ONNX graph to OpenVINO's format."""
    onnx.save(model, folder / "other.onnx")
    openvino.save_model(openvino.Core().read_model(folder / "other.onnx"), folder / "other.xml", compress_to_fp16=False)
    return folder / "other.xml"


def description(path: Path, **more: Any) -> ForeignDescription:
    options = NetworkOptions(network=str(path), mean="imagenet", std="imagenet", **more)
    return described(OpenVinoFile().read(path, options), options)


def tried(path: Path, **more: Any) -> TriedNetwork:
    usual: dict[str, Any] = {"input": SIDE, "mean": "imagenet", "std": "imagenet"}
    return tried_network(NetworkOptions(network=str(path), **{**usual, **more}))


def patches(count: int = 2) -> torch.Tensor:
    return torch.randn(count, BANDS, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def test_fixed_sides_and_bands_are_read_from_the_graph(tmp_path: Path) -> None:
    path = converted(onnx_graph(side=96), tmp_path)
    found = description(path)
    assert found["input"] == Size(width=96, height=96)
    assert found["bands"] == ("red", "green", "blue")
    # OpenVINO would reshape the graph without a word.
    with pytest.raises(WeightsError, match="takes patches of 96x96 pixels and no others"):
        tried(path, input=64)
    assert tried(path, input=None).spec.channels == 3


def test_the_weights_belong_to_the_network(file: Path) -> None:
    assert sorted(tried(file).spec.files) == ["strided.bin", "strided.xml"]
    outside = file.parent.parent / "outside.bin"
    shutil.move(file.with_suffix(".bin"), outside)
    with pytest.raises(WeightsError, match=r"(?s)OpenVINO .* cannot read the network.* Export the network again"):
        tried(file)
    file.with_suffix(".bin").symlink_to(outside)
    with pytest.raises(WeightsError, match="lies outside of its folder"):
        tried(file)


def test_other_files_are_refused(file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "page.xml"
    other.write_text("<?xml version='1.0'?><html/>")
    with pytest.raises(WeightsError, match="no kind of network is recognised"):
        kind_of(other)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(WeightsError, match=r"(?s)OpenVINO .* cannot read the network.* Export the network again"):
        tried(file)
    model, helper = onnx_graph(), onnx.helper
    model.graph.input.append(helper.make_tensor_value_info("prompt", 1, ["n", BANDS, "side", "side"]))
    model.graph.node.append(helper.make_node("Add", ["image", "prompt"], ["sum"]))
    model.graph.output.append(helper.make_tensor_value_info("sum", 1, ["n", BANDS, "side", "side"]))
    with pytest.raises(WeightsError, match=r"takes patches, and nothing else .*image, prompt"):
        tried(converted(model, tmp_path))
    model = onnx_graph()
    model.graph.node.append(helper.make_node("ArgMax", ["scores"], ["labels"], axis=1))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("labels", 7, ["n", 1, None, None]))
    with pytest.raises(WeightsError, match="whole numbers instead of scores"):
        tried(converted(model, tmp_path))
    # The library's other readers of graphs write to the terminal what they think of a file that is not theirs.
    assert capfd.readouterr().err == ""


def test_precision_and_threads_are_stated(file: Path) -> None:
    network, before = OpenVinoNetwork(file), torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            one, again = (network(patches())["scores"] for _ in range(2))
            assert torch.equal(one, again)
            with torch.autocast("cpu", torch.bfloat16):
                network(patches())
    finally:
        torch.set_num_threads(before)
    made = [request.get_compiled_model().get_property for request in network._compiled.values()]
    # OpenVINO computes in float32 what is asked for in bfloat16 where the processor does not have it.
    half = "bf16" if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"
    assert [(each("INFERENCE_NUM_THREADS"), each("INFERENCE_PRECISION_HINT").get_type_name()) for each in made] == [
        (1, "f32"), (1, half), (2, "f32"), (2, half),
    ]  # fmt: skip
    with torch.inference_mode():
        assert torch.allclose(network(patches())["scores"], Strided()(patches()), atol=1e-5)
    with torch.autocast("cpu", torch.float16), pytest.raises(DeviceError, match="float32 or bfloat16"):
        network(patches())
    with pytest.raises(DeviceError, match="computes on the CPU"):
        network.open("cuda:0")


def test_compiled_networks_of_few_shapes_are_kept(file: Path) -> None:
    network = OpenVinoNetwork(file)
    for count in range(1, 8):
        assert network(patches(count))["scores"].shape[0] == count
    assert [shape[0] for (shape,), _, _ in network._compiled] == [4, 5, 6, 7]


def test_a_result_is_no_view_of_memory_that_the_next_pass_fills(file: Path) -> None:
    network = OpenVinoNetwork(file)
    first = network(patches(1))["scores"]
    kept = first.clone()
    network(patches(1) + 1)
    assert torch.equal(first, kept)


def test_weights_in_half_precision_are_computed_in_single(file: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.xml"
    openvino.save_model(openvino.Core().read_model(file), half, compress_to_fp16=True)
    assert tried(half).spec.input_type == "float32"
    with torch.inference_mode():
        assert np.allclose(OpenVinoNetwork(half)(patches())["scores"], Strided()(patches()), atol=2e-2)


def test_the_shipped_backbone_in_its_format_gives_the_same_labels(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="torch.onnx needs onnxscript")
    bundle = load_bundle("aerial")
    networks = load_networks(bundle, device="cpu", precision="float32")
    size = bundle.input.size
    patch = torch.randn(2, BANDS, size.height // 16, size.width // 16, generator=torch.Generator().manual_seed(1))
    patch = torch.nn.functional.interpolate(patch, size=(size.height, size.width), mode="bicubic")
    export: Any = torch.onnx.export
    export(networks.backbone, (patch,), str(tmp_path / "aerial.onnx"), dynamo=True, verbose=False)
    openvino.save_model(
        openvino.Core().read_model(tmp_path / "aerial.onnx"), tmp_path / "aerial.xml", compress_to_fp16=False
    )
    with torch.inference_mode():
        wanted = networks.backbone(patch)
    found = next(iter(OpenVinoNetwork(tmp_path / "aerial.xml")(patch).values()))
    assert float((found.argmax(dim=1) == wanted.argmax(dim=1)).double().mean()) > 0.9999
    assert float((found - wanted).abs().max()) < 1e-3

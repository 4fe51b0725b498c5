"""ONNX files are described by their metadata, some are refused, and the others compute what PyTorch does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from magnet_cli.errors import DeviceError, UsageError, WeightsError
from magnet_cli.geometry import Size
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.engines.onnxruntime_network import OnnxRuntimeNetwork
from magnet_cli.models.foreign.adapter import Adapted
from magnet_cli.models.foreign.completion import described
from magnet_cli.models.foreign.foreign_bundle import TriedNetwork, tried_network
from magnet_cli.models.foreign.loading import frozen, runtime
from magnet_cli.models.foreign.onnx_file import OnnxFile
from magnet_cli.models.networks import load_networks
from magnet_cli.options.foreign_network import NetworkOptions
from tests.models.foreign.makers import BANDS, SIDE, Strided, enlarged, onnx_graph

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.models.foreign.completion import ForeignDescription
    from magnet_cli.models.network_spec import Bundle
    from magnet_cli.options.shared import EngineName

onnx: Any = pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "net.onnx"


def description(path: Path, **more: Any) -> ForeignDescription:
    options = NetworkOptions(network=str(path), **more)
    return described(OnnxFile().read(path, options), options)


def tried(path: Path, **more: Any) -> TriedNetwork:
    usual: dict[str, Any] = {"input": SIDE, "mean": "imagenet", "std": "imagenet"}
    return tried_network(NetworkOptions(network=str(path), **{**usual, **more}))


def names(found: ForeignDescription) -> list[str]:
    return [each.name for each in found["classes"]]


# What describes a network.


def test_the_metadata_of_deepness_describe_a_network(file: Path) -> None:
    graph = onnx_graph(
        model_type="Segmentor", class_names={"0": "rest", "1": "roof", "2": "road"}, resolution=25, tile_size=96,
        standardization_mean=[0.1, 0.2, 0.3], standardization_std=[0.4, 0.5, 0.6], seg_thresh=0.7,
    )  # fmt: skip
    onnx.save(graph, file)
    found = description(file)
    assert names(found) == ["rest", "roof", "road"]
    assert (found["input"], found["mean"], found["std"]) == (
        Size(width=96, height=96),
        (0.1, 0.2, 0.3),
        (0.4, 0.5, 0.6),
    )
    assert (found["pixel"], found["range"], found["activation"]) == ("25cm", (0.0, 255.0), "none")
    assert "seg_thresh 0.7 is not applied" in found.values["classes"].origin
    assert description(file, pixel="0.5m", mean="imagenet")["pixel"] == "0.5m"
    # Its scores are logits, whatever Deepness's convention says: the trial refuses to take them for probabilities.
    with pytest.raises(WeightsError, match="activation none the scores of a pixel are probabilities"):
        tried_network(NetworkOptions(network=str(file)))
    assert tried_network(NetworkOptions(network=str(file), activation="softmax")).spec.channels == 3


def test_means_of_stored_values_in_a_description_of_deepness_are_refused(file: Path) -> None:
    onnx.save(onnx_graph(model_type="Segmentor", standardization_mean=[123.675, 116.28, 103.53]), file)
    with pytest.raises(
        WeightsError, match=r"standardization_mean is of values from 0 to 1.* --mean 0\.485,0\.456,0\.406"
    ):
        description(file, input=64)
    assert description(file, input=64, mean="imagenet")["mean"] == (0.485, 0.456, 0.406)


def test_a_detector_of_deepness_is_refused(file: Path) -> None:
    onnx.save(onnx_graph(model_type="Detector"), file)
    with pytest.raises(WeightsError, match=r"do not call it a Segmentor .*Detector"):
        description(file)


def test_a_file_of_geoai_beside_the_network_describes_it(file: Path) -> None:
    onnx.save(onnx_graph(), file)
    table = {"task": "semantic-segmentation", "input_height": 64, "input_width": 96, "input_channels": 3,
             "id2label": {"0": "a", "1": "b", "2": "c"}, "num_labels": 3}  # fmt: skip
    beside = file.with_name("net.onnx.json")
    beside.write_text(json.dumps(table))
    with pytest.raises(WeightsError, match=r"do not state mean, std; .* --mean imagenet --std imagenet"):
        description(file)
    found = description(file, mean="imagenet", std="imagenet")
    assert (names(found), found["input"]) == (["a", "b", "c"], Size(width=96, height=64))
    beside.write_text(json.dumps({**table, "id2label": {"0": "a", "2": "c"}}))
    with pytest.raises(WeightsError, match="without a gap"):
        description(file, mean="imagenet", std="imagenet")
    assert description(file, mean="imagenet", std="imagenet", classes="x,y,z")["input"].width == 96
    beside.write_text(json.dumps({**table, "task": "depth-estimation"}))
    with pytest.raises(WeightsError, match=r"its task is another one .*depth-estimation"):
        description(file)
    beside.write_text(json.dumps({**table, "input_channels": 4}))
    with pytest.raises(WeightsError, match=r"the graph takes 3 bands.*4 \(net\.onnx\.json"):
        description(file, mean="imagenet", std="imagenet")


def stac_item(scaling: object, **properties: object) -> dict[str, Any]:
    taken = {
        "bands": ["red", {"name": "green"}, "nir"],
        "input": {"shape": [-1, 3, 64, 64], "dim_order": ["batch", "bands", "height", "width"], "data_type": "float32"},
        "value_scaling": scaling,
    }
    classes = [{"value": 1, "name": "field"}, {"value": 0, "name": "rest"}, {"value": 2, "name": "border"}]
    output = {"tasks": ["semantic-segmentation"], "classification:classes": classes}
    known = {"mlm:tasks": ["semantic-segmentation"], "mlm:input": [taken], "mlm:output": [output], "gsd": 10}
    return {"properties": {**known, **properties}, "assets": {"model": {"href": "https://example.org/a/net.onnx"}}}


@pytest.mark.parametrize(
    ("scaling", "wanted"),
    [
        ([{"type": "min-max", "minimum": 100, "maximum": 900}], lambda x: (x - 100) / 800),
        ([{"type": "z-score", "mean": 50 * k, "stddev": 10 * k} for k in (1, 2, 3)],
         lambda x: (x - 50 * np.arange(1, 4)) / (10 * np.arange(1, 4))),
        ([{"type": "scale", "value": 255}], lambda x: x / 255),
        ([{"type": "offset", "value": 128}], lambda x: x - 128),
        ([{"type": "clip", "minimum": 0, "maximum": 3000}], lambda x: x),
    ],
)  # fmt: skip
@pytest.mark.parametrize("span", [None, (0.0, 1000.0)])
def test_the_scaling_of_a_stac_item_is_what_the_network_gets(
    file: Path, scaling: object, wanted: Any, span: tuple[float, float] | None
) -> None:
    onnx.save(onnx_graph(), file)
    file.with_name("item.json").write_text(json.dumps(stac_item(scaling)))
    found = description(file, range=span)
    assert (names(found), found["bands"], found["pixel"]) == (
        ["rest", "field", "border"],
        ("red", "green", "nir"),
        "10m",
    )
    low, high = found["range"]
    assert span is None or (low, high) == span
    stored = np.full(3, low + 0.3 * (high - low))
    given = ((stored - low) / (high - low) - np.array(found["mean"])) / np.array(found["std"])
    assert given == pytest.approx(wanted(stored))


def test_a_scaling_that_can_be_read_in_two_ways_is_asked_for(file: Path) -> None:
    onnx.save(onnx_graph(), file)
    steps = [{"type": "scale", "value": 255}, {"type": "z-score", "mean": 0.5, "stddev": 0.2}]
    file.with_name("item.json").write_text(json.dumps(stac_item(steps)))
    with pytest.raises(WeightsError, match="do not state mean, std"):
        description(file)
    file.with_name("item.json").write_text(json.dumps(stac_item([{"type": "processing"}])))
    with pytest.raises(WeightsError, match=r"step of value_scaling is not read .*processing"):
        description(file)
    assert description(file, mean=(0.5,), std=(0.2,))["std"] == (0.2,) * BANDS
    file.with_name("item.json").write_text(json.dumps(stac_item(steps[:1], **{"mlm:tasks": ["object-detection"]})))
    with pytest.raises(WeightsError, match="its tasks are others"):
        description(file)


def test_fixed_sides_are_read_from_the_graph(file: Path) -> None:
    onnx.save(onnx_graph(side=96), file)
    assert description(file, mean="imagenet", std="imagenet")["input"] == Size(width=96, height=96)
    with pytest.raises(WeightsError, match="takes patches of 96x96 pixels and no others"):
        tried(file, input=64)


@pytest.mark.parametrize(("side", "remark"), [(96, False), (98, True)])
def test_scores_that_do_not_divide_a_fixed_side_are_enlarged_as_libraries_do_and_named(
    file: Path, side: int, *, remark: bool
) -> None:
    onnx.save(onnx_graph(side=side), file)
    found = tried(file, input=None)
    assert found.description["input"] == Size(width=side, height=side)
    wanted = "no multiple of 25x25: labels in its last rows and columns may lie up to 4 pixels beside their place"
    assert (wanted in found.description.values["stride"].origin) == remark
    network = frozen(OnnxFile().load(file.parent, found.spec, "onnxruntime"))
    patches = torch.randn(2, BANDS, side, side, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        library = enlarged(Strided()(patches), patches).softmax(dim=1)
        assert float((Adapted(network, spec=found.spec)(patches) - library).abs().max()) < 1e-5


def transposed(kind: int, layout: tuple[int, ...] = (0, 3, 1, 2)) -> Any:
    """Return a graph whose input has another type, the bands as the last axis, and a fixed batch of two."""
    model, helper = onnx_graph(), onnx.helper
    model.graph.node[0].input[0] = "planes"
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=1),
        helper.make_node("Transpose", ["numbers"], ["planes"], perm=layout),
    ]
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    shape = [2, SIDE, SIDE, BANDS]
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", kind, shape))
    return model


def test_stored_values_bands_last_and_fixed_batches_are_read_from_the_graph(file: Path) -> None:
    onnx.save(transposed(2), file)
    found = tried_network(NetworkOptions(network=str(file), network_bands="red,green,blue"))
    assert (found.spec.layout, found.spec.input_type, found.spec.batch) == ("nhwc", "uint8", 2)
    stored = torch.randint(0, 256, (1, BANDS, SIDE, SIDE)).float()
    (name,) = found.spec.files
    given = stored.permute(0, 2, 3, 1).byte().expand(2, -1, -1, -1)
    with torch.inference_mode():
        assert torch.allclose(
            OnnxRuntimeNetwork(file.with_name(name))(given)["scores"][:1], Strided()(stored), atol=1e-3
        )


# What is refused.


def test_whole_numbers_instead_of_scores_are_refused(file: Path) -> None:
    model, helper = onnx_graph(), onnx.helper
    model.graph.node.append(helper.make_node("ArgMax", ["scores"], ["labels"], axis=1))
    labels = helper.make_tensor_value_info("labels", 7, ["n", 1, None, None])
    both = onnx.ModelProto()
    both.CopyFrom(model)
    both.graph.output.append(labels)
    onnx.save(both, file)
    assert description(file, input=SIDE, mean="imagenet", std="imagenet")["output"] == "scores"
    with pytest.raises(WeightsError, match="whole numbers instead of scores"):
        tried(file, output_name="labels")
    model.graph.output[0].CopyFrom(labels)
    onnx.save(model, file)
    with pytest.raises(WeightsError, match=r"whole numbers instead of scores.*labels"):
        tried(file)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_numbers_of_classes_among_floating_point_numbers_are_refused(file: Path, engine: EngineName) -> None:
    pytest.importorskip(engine, reason="the engine is not installed")
    model, helper = onnx_graph(), onnx.helper
    model.graph.node.append(helper.make_node("ArgMax", ["scores"], ["numbers"], axis=1))
    model.graph.node.append(helper.make_node("Cast", ["numbers"], ["labels"], to=1))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("labels", 1, ["n", 1, None, None]))
    onnx.save(model, file)
    # A sigmoid of such numbers would give a mask of two classes.
    options = NetworkOptions(network=str(file), input=SIDE, mean="imagenet", std="imagenet")
    with pytest.raises(
        WeightsError, match=r"numbers of classes instead of scores.* from 0 to 2.*without its last step"
    ):
        tried_network(options, engine=engine)


def double_graph() -> Any:
    """Return the graph with an input and an output in float64; it computes in float32."""
    model, helper = onnx_graph(), onnx.helper
    model.graph.node[0].input[0] = "single"
    model.graph.node.insert(0, helper.make_node("Cast", ["image"], ["single"], to=1))
    model.graph.node.append(helper.make_node("Cast", ["scores"], ["double"], to=11))
    model.graph.input[0].type.tensor_type.elem_type = 11
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("double", 11, None))
    return model


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_graph_in_double_precision_gives_what_it_gives_in_single_precision(file: Path, engine: EngineName) -> None:
    pytest.importorskip(engine, reason="the engine is not installed")
    onnx.save(double_graph(), file)
    options = NetworkOptions(network=str(file), input=SIDE, mean="imagenet", std="imagenet")
    found = tried_network(options, engine=engine)
    assert found.spec.input_type == "float64"
    network = frozen(OnnxFile().load(file.parent, found.spec, engine))
    patches = torch.randn(2, BANDS, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = enlarged(Strided()(patches), patches).softmax(dim=1)
        probs = Adapted(network, spec=found.spec)(patches)
    assert probs.dtype == torch.float32
    assert float((probs - wanted).abs().max()) < 1e-5


def test_weights_in_double_precision_are_for_openvino(file: Path) -> None:
    pytest.importorskip("openvino", reason="the engine is not installed")
    model = onnx_graph()
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float64), tensor.name))
    for end in (model.graph.input[0], model.graph.output[0]):
        end.type.tensor_type.elem_type = 11
    onnx.save(model, file)
    options = NetworkOptions(network=str(file), input=SIDE, mean="imagenet", std="imagenet")
    with pytest.raises(WeightsError, match=r"few operators in float64.* Take --engine openvino, or export .*float32"):
        tried_network(options, engine="onnxruntime")
    found = tried_network(options, engine="openvino")
    network = frozen(OnnxFile().load(file.parent, found.spec, "openvino"))
    patches = torch.randn(2, BANDS, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = enlarged(Strided()(patches), patches).softmax(dim=1)
        assert float((Adapted(network, spec=found.spec)(patches) - wanted).abs().max()) < 1e-5


def test_a_graph_in_double_precision_that_fails_for_another_reason_is_not_blamed_on_it(file: Path) -> None:
    model = double_graph()
    onnx.save(model, file)
    found = tried_network(NetworkOptions(network=str(file), input=SIDE, mean="imagenet", std="imagenet"))
    model.graph.node[1].op_type = "Unknown"
    onnx.save(model, file)
    with pytest.raises(WeightsError, match="cannot load the network") as failure:
        OnnxFile().load(file.parent, found.spec, "onnxruntime")
    assert "float64" not in str(failure.value)


def test_custom_operators_are_refused_also_inside_branches(file: Path) -> None:
    model, helper = onnx_graph(), onnx.helper
    inner = helper.make_graph(
        [helper.make_node("Spin", ["scores"], ["x"], domain="evil.example")], "then", [],
        [helper.make_tensor_value_info("x", 1, None)],
    )  # fmt: skip
    model.graph.node.append(helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=inner))
    onnx.save(model, file)
    with pytest.raises(WeightsError, match=r"not part of ONNX.*evil\.example\.Spin"):
        tried(file)


def test_weights_in_other_files_stay_inside_the_folder(file: Path) -> None:
    onnx.save(onnx_graph(), file, save_as_external_data=True, location="net.data", size_threshold=0)
    assert sorted(tried(file).spec.files) == ["net.data", "net.onnx"]
    outside = file.parent.parent / "outside.data"
    outside.write_bytes(file.with_name("net.data").read_bytes())
    file.with_name("net.data").unlink()
    with pytest.raises(WeightsError, match=r"a file of the network is missing .*net\.data"):
        tried(file)
    file.with_name("net.data").symlink_to(outside)
    with pytest.raises(WeightsError, match="lies outside of its folder"):
        tried(file)
    model = onnx.load(str(file), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = str(outside) if entry.key == "location" else entry.value
    file.write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match="lies outside of its folder"):
        tried(file)


def test_other_things_than_networks_for_patches_are_refused(file: Path) -> None:
    file.write_bytes(b"no graph" * 9)
    with pytest.raises(WeightsError, match="not an ONNX file"):
        tried(file)
    model, helper = onnx_graph(), onnx.helper
    model.graph.input.append(helper.make_tensor_value_info("prompt", 7, [1]))
    onnx.save(model, file)
    with pytest.raises(WeightsError, match=r"takes patches, and nothing else .*image, prompt"):
        tried(file)
    onnx.save(transposed(7), file)
    with pytest.raises(WeightsError, match="types float32, float16, float64, uint8"):
        tried(file)
    model = onnx_graph()
    model.graph.node[0].op_type = "Convolve"
    onnx.save(model, file)
    with pytest.raises(WeightsError, match=r"cannot load the network.* Export the network again"):
        tried(file)
    onnx.save(onnx_graph(), file)
    with pytest.raises((WeightsError, UsageError), match=r"4 bands|refuses a patch"):
        tried(file, network_bands="red,green,blue,nir", mean=(0.5,), std=(0.5,))


# How it runs.


def test_threads_follow_the_run_and_other_precisions_and_devices_are_refused(file: Path) -> None:
    onnx.save(onnx_graph(), file)
    network, before = OnnxRuntimeNetwork(file), torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert network.open("cpu").get_session_options().intra_op_num_threads == count
    finally:
        torch.set_num_threads(before)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(DeviceError, match="precision of the file"):
        network(torch.zeros(1, BANDS, SIDE, SIDE))
    with pytest.raises(DeviceError, match="does not compute on xpu"):
        network.open("xpu")


def test_the_release_of_the_runtime_belongs_to_a_run(file: Path, tmp_path: Path) -> None:
    from magnet_cli.importing import import_network  # noqa: PLC0415 - slower to import than all other tests here

    onnx.save(onnx_graph(), file)
    options = NetworkOptions(network=str(file), input=SIDE, mean="imagenet", std="imagenet")
    bundle = import_network(options, tmp_path / "bundle").bundle
    assert "onnxruntime " in runtime(bundle).text
    table = json.loads((bundle.folder / "bundle.json").read_text())
    assert "bfloat16" not in table.get("execution", {}).get("cpu", {})


@pytest.mark.full
def test_the_shipped_backbone_as_onnx_gives_the_same_mask(file: Path) -> None:
    pytest.importorskip("onnxscript", reason="torch.onnx needs onnxscript")
    bundle: Bundle = load_bundle("aerial")
    networks = load_networks(bundle, device="cpu", precision="float32")
    size = bundle.input.size
    patch = torch.randn(2, BANDS, size.height // 16, size.width // 16, generator=torch.Generator().manual_seed(1))
    patch = torch.nn.functional.interpolate(patch, size=(size.height, size.width), mode="bicubic")
    export: Any = torch.onnx.export
    export(networks.backbone, (patch,), str(file), dynamo=True, external_data=True, verbose=False)
    with torch.inference_mode():
        wanted = networks.backbone(patch)
    found = next(iter(OnnxRuntimeNetwork(file)(patch).values()))
    share = float((found.argmax(dim=1) == wanted.argmax(dim=1)).double().mean())
    assert share > 0.9999, share
    assert float((found - wanted).abs().max()) < 1e-3

"""The backbone of a bundle in 8 bits is a graph in the bundle's folder, with the ranges that calibration has found."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field

from magnet_cli.errors import UsageError, WeightsError
from magnet_cli.models.engines.engine_runs import AGREEMENT_RULE
from magnet_cli.models.engines.exported_graphs import exported_graphs
from magnet_cli.models.engines.graph_engine import check_modules, engine_network, version_of
from magnet_cli.models.networks import load_networks, placed
from magnet_cli.models.schema import (
    LARGEST,
    STRICT,
    FieldRule,
    Natural,
    Positive,
    Text,
    checked_description,
    parse_object,
)
from magnet_cli.system import durable, regular_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from magnet_cli.models.network_spec import Bundle

FILE = "int8.json"
"""This file describes the graph. It is no part of `bundle.json`, so that the digest of the bundle, and with it the hash
of every run in another precision, stays as it was."""
GRAPH = "backbone.int8.onnx"
PATCHES = 4
"""A forward pass takes this many patches while agreement is measured."""


@dataclass(frozen=True, kw_only=True)
class QuantisedGraph:
    """The description of a bundle's graph in 8 bits, as `int8.json` holds it."""

    __pydantic_config__ = STRICT

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$"), FieldRule("must be a SHA-256 in hexadecimal digits")]
    """SHA-256 of the graph's file."""
    network: Annotated[str, Field(pattern="^[0-9a-f]{64}$"), FieldRule("must be a SHA-256 in hexadecimal digits")]
    """The SHA-256 over the backbone and the input of the bundle that the graph was made of."""
    images: Annotated[tuple[str, ...], FieldRule("must be an array of strings")] = ()
    """The names of the images on whose windows the ranges of activations were found."""
    windows: Positive
    """The number of these windows."""
    seed: Natural = 0
    """The seed by which they were drawn."""
    agreement: Annotated[float, Field(ge=0, le=1), FieldRule(AGREEMENT_RULE)]
    """The share of pixels of other windows of the same images that get the same class as in float32."""
    version: Text = ""
    """The version of ONNX Runtime that made the graph."""

    def line(self) -> str:
        """Return the numbers of windows and images and the agreement in one sentence."""
        return (
            f"the backbone is quantised with {self.windows} windows of {len(self.images)} "
            f"image{'s'[: len(self.images) != 1]}, and gives {self.agreement:.2%} of pixels of other windows of them "
            "the class of float32"
        )


def network_digest(bundle: Bundle) -> str:
    """Return a SHA-256 over all that a graph in 8 bits depends on: the backbone and the bundle's input.

    Temperatures and the method's defaults are left out: no value inside of the network depends on them.

    Raises:
        WeightsError: The description gives no hash of the weights, and their file cannot be read.
    """
    spec, weights = bundle.backbone, bundle.folder / bundle.backbone.file
    digest = spec.sha256
    if digest is None:
        with regular_files.reading(weights, WeightsError):
            digest = regular_files.sha256_of(weights)
    given = bundle.input
    values = [spec.architecture, dict(spec.options), digest, len(bundle.classes), list(given.bands), str(given.size),
        list(given.mean), list(given.std), list(given.range)]  # fmt: skip
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def quantised_graph(bundle: Bundle) -> QuantisedGraph:
    """Return the description of a bundle's graph in 8 bits. The graph's file is `graph_of`.

    Raises:
        WeightsError: The bundle has no such graph, or it was made of other weights; the message names the command.
    """
    file = bundle.folder / FILE
    if not file.is_file():
        raise WeightsError("the bundle has no backbone in 8 bits", value=bundle.name, file=bundle.folder,
            advice=_advice(bundle))  # fmt: skip
    found = checked_description(
        QuantisedGraph, parse_object(regular_files.beginning(file, LARGEST + 1), file=file), file=file
    )
    if found.network != network_digest(bundle):
        raise WeightsError(f"{GRAPH} was made of another backbone, or for another input, than the bundle's",
            value=bundle.name, file=file, advice=_advice(bundle))  # fmt: skip
    return found


def graph_of(bundle: Bundle) -> Path:
    """Return the file of a bundle's graph in 8 bits, which has the hash that its description gives.

    Raises:
        WeightsError: The graph is missing, was made of other weights, or has another hash.
    """
    found, path = quantised_graph(bundle), bundle.folder / GRAPH
    try:
        digest = regular_files.sha256_of(path)
    except OSError as exc:
        raise WeightsError(f"cannot be read: {exc}", file=path, advice=_advice(bundle)) from exc
    if digest != found.sha256:
        raise WeightsError(f"the SHA-256 must be the one in {FILE}", value=digest, file=path, advice=_advice(bundle))
    return path


def _advice(bundle: Bundle) -> str:
    return f"Make it: magnet weights quantise {bundle.folder} IMAGE... , with images like those that you segment"


def refuse_quantising(bundle: Bundle) -> None:
    """Check that the backbone of a bundle can be quantised.

    Raises:
        UsageError: The network is not of the program's own architectures, is a GRNet, which PyTorch alone computes, or
            gets prepared colours.
    """
    if bundle.preparation != "none":
        raise UsageError(
            "ranges of activations are found on colours as they are stored, and runs of this bundle prepare them",
            value=f"{bundle.name}, preparation {bundle.preparation}",
            file=bundle.folder,
            advice="Take --precision float32",
        )
    if bundle.foreign is not None or bundle.local is not None:
        raise UsageError(
            "8 bits are for backbones of the program's own architectures, and not for a GRNet",
            value=bundle.name,
            file=bundle.folder,
            advice="Take --precision float32",
        )


def quantise(
    bundle: Bundle, patches: Sequence[Tensor], others: Sequence[Tensor], *, images: Sequence[str], seed: int
) -> QuantisedGraph:
    """Write the backbone of a bundle in 8 bits into its folder, with a description of how it was made.

    Weights have a scale for each output channel; activations have one range, from the least value to the greatest that
    occurred.

    Args:
        bundle: The bundle whose backbone is quantised.
        patches: Normalised patches `(1, bands, h, w)` float32 on which the ranges of activations are found.
        others: Other such patches, on which the agreement with float32 is measured.
        images: Names of the images that the patches come from.
        seed: The seed by which the windows were drawn.

    Raises:
        UsageError: Networks of the kind are not quantised.
        WeightsError: A package is missing, or the network cannot be exported.
        OutputError: The folder cannot be written.
    """
    refuse_quantising(bundle)
    check_modules(("onnx", "onnxruntime"), what="quantising a network")
    data = quantised(exported_graphs(bundle).backbone, patches)
    durable.write_whole(bundle.folder / GRAPH, data)
    made = QuantisedGraph(
        sha256=hashlib.sha256(data).hexdigest(),
        network=network_digest(bundle),
        images=tuple(images),
        windows=len(patches),
        seed=seed,
        agreement=round(_agreement(bundle, others), 6),
        version=version_of("onnxruntime"),
    )
    durable.write_whole(bundle.folder / FILE, (json.dumps(asdict(made), indent=2) + "\n").encode())
    return made


def quantised(graph: Path, patches: Sequence[Tensor]) -> bytes:
    """Return a graph with weights and activations in 8 bits as an ONNX file.

    Args:
        graph: A graph in float32 with one input.
        patches: Patches `(1, bands, h, w)` on which the ranges of activations are found.
    """
    import onnx  # noqa: PLC0415 - an extra
    from onnxruntime.quantization import (  # noqa: PLC0415 - an extra
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415 - an extra

    with tempfile.TemporaryDirectory(prefix="magnet-int8-") as name:
        folder = Path(name)
        # Symbolic inference of shapes would write into the current folder, and convolutions do not need it.
        quant_pre_process(str(graph), str(folder / "whole.onnx"), skip_symbolic_shape=True)
        quantize_static(
            str(folder / "whole.onnx"),
            str(folder / GRAPH),
            _CalibrationPatches(patches, onnx.load(str(graph), load_external_data=False).graph.input[0].name),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        model = onnx.load(str(folder / GRAPH))
    _strip(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


class _CalibrationPatches:
    """Gives patches to the calibration of ONNX Runtime."""

    def __init__(self, patches: Sequence[Tensor], name: str) -> None:
        self._feeds: Iterator[dict[str, Any]] = ({name: patch.numpy()} for patch in patches)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next patch; None after the last one."""
        return next(self._feeds, None)


def _strip(model: Any) -> None:
    """Remove parts that no engine reads: notes of the exporter, which name files, and operator sets without a node."""
    for each in (model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.value_info):
        each.ClearField("doc_string")
        each.ClearField("metadata_props")
    del model.graph.value_info[:]
    used = {node.domain for node in model.graph.node}
    kept = [each for each in model.opset_import if each.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


@torch.inference_mode()
def _agreement(bundle: Bundle, patches: Sequence[Tensor]) -> float:
    """Return the share of pixels that get the same class from the graph in 8 bits as from PyTorch in float32."""
    size, same = bundle.input.size, []
    plain = load_networks(bundle, device="cpu", precision="float32").backbone
    shape = (len(bundle.input.bands), size.height, size.width)
    network = engine_network(bundle.folder / GRAPH, "onnxruntime", shape=shape, device=placed("cpu"))
    for first in range(0, len(patches), PATCHES):
        batch = torch.cat(list(patches[first : first + PATCHES]))
        given = batch.contiguous(memory_format=torch.channels_last)
        scores, wanted = network(batch), plain(given)
        if scores.shape[1] == 1:
            # The network has one score under a sigmoid, so that the second class begins at 0.
            same.append(((scores > 0) == (wanted > 0)).double().mean())
        else:
            same.append((scores.argmax(dim=1) == wanted.argmax(dim=1)).double().mean())
    return float(torch.stack(same).mean())

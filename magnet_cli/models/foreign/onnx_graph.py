"""The graph of an ONNX file, read as data: its input, its outputs, and the other files that hold its weights."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from magnet_cli.errors import WeightsError
from magnet_cli.models.foreign.graph import Graph, GraphValue, sole_input
from magnet_cli.models.foreign.network_files import checked_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Domains of operators that ONNX Runtime itself computes. Those of any other need a shared library with code."""
TYPES = {1: "float32", 10: "float16", 11: "float64", 2: "uint8"}
"""Types of numbers that matter here, by their number in `TensorProto.DataType`."""
LARGEST = 1 << 31
"""Bytes of a graph: protobuf holds no larger message. Larger networks keep their weights in a file beside it."""


def read_graph(path: Path) -> Graph:
    """Read a graph without its weights. Nothing in it is computed.

    Raises:
        WeightsError: The file is no ONNX file, needs code or files from elsewhere, or takes something else than
            patches.
    """
    import onnx  # noqa: PLC0415 - an extra
    from google.protobuf.message import DecodeError  # noqa: PLC0415 - comes with onnx

    if path.stat().st_size >= LARGEST:
        raise WeightsError("a graph has less than 2 GiB", value=path.stat().st_size, file=path,
            advice="Export the network with its weights in a file of their own")  # fmt: skip
    try:
        # Weights in other files stay unread until their paths are checked: they could lead out of the folder.
        model = onnx.load_model(str(path), format="protobuf", load_external_data=False)
    except (DecodeError, ValueError) as exc:
        raise WeightsError(
            "not an ONNX file that can be read", file=path, advice="Export the network again with torch.onnx"
        ) from exc
    _refuse_custom(model, path)
    constants = {tensor.name for tensor in model.graph.initializer}
    # Files of older versions of ONNX list the weights among the inputs.
    inputs = [_value(each) for each in model.graph.input if each.name not in constants]
    outputs = tuple(_value(each) for each in model.graph.output)
    given = sole_input(inputs, outputs, path)
    files = sorted({name for tensor in _tensors(model) if (name := _location(tensor)) is not None})
    for name in files:
        checked_file(path.parent, name)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return Graph(input=given, outputs=outputs, files=tuple(files), metadata=metadata)


def _refuse_custom(model: Any, path: Path) -> None:
    """Refuse operators that only a shared library could compute."""
    own = {(function.domain, function.name) for function in model.functions}
    nodes = chain(_nodes(model.graph.node), *(_nodes(function.node) for function in model.functions))
    custom = sorted(
        {
            f"{node.domain}.{node.op_type}"
            for node in nodes
            if node.domain not in DOMAINS and (node.domain, node.op_type) not in own
        }
    )
    if custom:
        raise WeightsError(
            "operators of the graph are not part of ONNX: only a shared library with code could compute them",
            value=", ".join(custom[:6]),
            file=path,
            advice="Export the network with the operators of ONNX alone",
        )


def _nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    """Yield nodes with those of the graphs inside them, such as the branches of a condition."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in chain((attribute.g,), attribute.graphs):
                yield from _nodes(graph.node)


def _tensors(model: Any) -> Iterator[Any]:
    """Yield every tensor that a model may keep in another file."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[Any]) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for graph in (attribute.g, *attribute.graphs):
                yield from _graph_tensors(graph)


def _location(tensor: Any) -> str | None:
    return next((str(entry.value) for entry in tensor.external_data if entry.key == "location"), None)


def _value(info: Any) -> GraphValue:
    kind = info.type.tensor_type
    shape = (
        tuple(side.dim_value if side.HasField("dim_value") and side.dim_value > 0 else None for side in kind.shape.dim)
        if kind.HasField("shape")
        else None
    )
    name = TYPES.get(kind.elem_type, f"type {kind.elem_type} of TensorProto.DataType")
    return GraphValue(name=info.name, type=name, shape=shape)

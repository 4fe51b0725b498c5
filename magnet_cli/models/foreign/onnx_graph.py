"""The graph of an ONNX file, read as data: its input, its outputs, and the other files that hold its weights."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from magnet_cli.errors import WeightsError
from magnet_cli.models.foreign.network_files import checked_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Domains of operators that ONNX Runtime itself computes. Those of any other need a shared library with code."""
TYPES = {1: "float32", 10: "float16", 2: "uint8"}
"""Types of inputs by their number in `TensorProto.DataType`."""
FLOATING = frozenset({1, 10, 11})
"""Types of outputs that may hold scores: single, half and double precision."""
AXES = 4
LARGEST = 1 << 31
"""Bytes of a graph: protobuf holds no larger message. Larger networks keep their weights in a file beside it."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """An input or an output of a graph."""

    name: str
    type: int
    """Number in `TensorProto.DataType`."""
    shape: tuple[int | None, ...] | None
    """Sides of the axes, None where a side is free; None where the graph states no shape."""

    @property
    def may_be_scores(self) -> bool:
        """Whether it may hold a score for each pixel and class."""
        return self.type in FLOATING and (self.shape is None or len(self.shape) == AXES)


@dataclass(frozen=True, kw_only=True)
class OnnxGraph:
    """What a graph states."""

    input: Value
    outputs: tuple[Value, ...]
    files: tuple[str, ...]
    """Files with weights beside the graph, relative to its folder."""
    metadata: Mapping[str, str]
    """Words that programs attach to a graph (`metadata_props`)."""


def read_graph(path: Path) -> OnnxGraph:
    """Read a graph without its weights. Nothing in it is computed.

    Raises:
        WeightsError: It is no ONNX file, needs code or files from elsewhere, or takes something else than patches.
    """
    import onnx  # noqa: PLC0415 - an extra
    from google.protobuf.message import DecodeError  # noqa: PLC0415 - comes with onnx

    if path.stat().st_size >= LARGEST:
        raise WeightsError("a graph has less than 2 GiB", value=path.stat().st_size, file=path,
            advice="Export it with its weights in a file of their own")  # fmt: skip
    try:
        model = onnx.load_model(str(path), format="protobuf", load_external_data=False)
    except (DecodeError, ValueError) as exc:
        raise WeightsError("not an ONNX file that can be read", file=path) from exc
    _refuse_custom(model, path)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [_value(each) for each in model.graph.input if each.name not in constants]
    outputs = tuple(_value(each) for each in model.graph.output)
    _check_values(inputs, outputs, path)
    files = sorted({name for tensor in _tensors(model) if (name := _location(tensor)) is not None})
    for name in files:
        checked_file(path.parent, name)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return OnnxGraph(input=inputs[0], outputs=outputs, files=tuple(files), metadata=metadata)


def _check_values(inputs: list[Value], outputs: tuple[Value, ...], path: Path) -> None:
    if len(inputs) != 1:
        raise WeightsError(
            "a network takes patches, and nothing else",
            value=f"inputs {', '.join(each.name for each in inputs) or 'none'}",
            file=path,
            advice="Export it with the image as its only input",
        )
    (given,) = inputs
    if given.shape is not None and len(given.shape) != AXES:
        raise WeightsError(
            "a network takes patches with the axes of batch, bands, rows and columns",
            value=f"{given.name} with {len(given.shape)} axes",
            file=path,
        )
    if given.type not in TYPES:
        raise WeightsError(
            f"a network takes numbers of the types {', '.join(TYPES.values())}",
            value=f"{given.name}: type {given.type} of TensorProto.DataType",
            file=path,
        )
    if not any(each.type in FLOATING for each in outputs):
        raise WeightsError(
            "the network gives whole numbers instead of scores, so nothing can be refined or blended",
            value=", ".join(each.name for each in outputs),
            file=path,
            advice="Export it again without its last step, argmax",
        )


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
    """Nodes with those of the graphs inside them, such as the branches of a condition."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in chain((attribute.g,), attribute.graphs):
                yield from _nodes(graph.node)


def _tensors(model: Any) -> Iterator[Any]:
    """Every tensor that a model may keep in another file."""
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


def _value(info: Any) -> Value:
    kind = info.type.tensor_type
    shape = (
        tuple(side.dim_value if side.HasField("dim_value") and side.dim_value > 0 else None for side in kind.shape.dim)
        if kind.HasField("shape")
        else None
    )
    return Value(name=info.name, type=kind.elem_type, shape=shape)

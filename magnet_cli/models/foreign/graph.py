"""The facts in a network's graph, in ONNX or in OpenVINO's format: its input, its outputs, its files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from magnet_cli.errors import WeightsError
from magnet_cli.geometry import Size
from magnet_cli.models.foreign.network_kind import Stated

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from magnet_cli.options.foreign_network import NetworkOptions

TYPES = ("float32", "float16", "float64", "uint8")
"""Types of the numbers that a network may take."""
FLOATING = ("float32", "float16", "float64")
"""Types of outputs that may hold scores."""
AXES = 4
MOST_BANDS = 64
"""A side of the last axis up to which it may be that of the bands, where the second axis is no such side."""


@dataclass(frozen=True, kw_only=True)
class GraphValue:
    """An input or an output of a graph."""

    name: str
    type: str
    """Name of the type of its numbers, as numpy has it; another word for a type that no network may take."""
    shape: tuple[int | None, ...] | None
    """Sides of the axes, None where a side is free; None where the graph states no shape."""

    @property
    def may_be_scores(self) -> bool:
        """Whether it may hold a score for each pixel and class."""
        return self.type in FLOATING and (self.shape is None or len(self.shape) == AXES)


@dataclass(frozen=True, kw_only=True)
class Graph:
    """The facts in a graph."""

    input: GraphValue
    outputs: tuple[GraphValue, ...]
    files: tuple[str, ...] = ()
    """Files with weights beside the graph, relative to its folder."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Words that programs attach to a graph."""


def sole_input(inputs: list[GraphValue], outputs: tuple[GraphValue, ...], path: Path) -> GraphValue:
    """Return the one input of a graph, which takes patches.

    Raises:
        WeightsError: The network takes something else than patches, or gives no scores.
    """
    if len(inputs) != 1:
        raise WeightsError(
            "a network takes patches, and nothing else",
            value=f"inputs {', '.join(each.name for each in inputs) or 'none'}",
            file=path,
            advice="Export the network with the image as its only input",
        )
    (given,) = inputs
    if given.shape is not None and len(given.shape) != AXES:
        raise WeightsError(
            "a network takes patches with the axes of batch, bands, rows and columns",
            value=f"{given.name} with {len(given.shape)} axes",
            file=path,
            advice="Export the network again, or describe it by options; docs/networks.md lists them",
        )
    if given.type not in TYPES:
        raise WeightsError(
            f"a network takes numbers of the types {', '.join(TYPES)}",
            value=f"{given.name}: {given.type}",
            file=path,
            advice="Export the network again, or describe it by options; docs/networks.md lists them",
        )
    if not any(each.type in FLOATING for each in outputs):
        raise WeightsError(
            "the network gives whole numbers instead of scores, so nothing can be refined or blended",
            value=", ".join(each.name for each in outputs),
            file=path,
            advice="Export the network again without its last step, argmax",
        )
    return given


def stated_by_graph(graph: Graph, options: NetworkOptions) -> dict[str, Stated]:
    """Return what types and fixed sides of a graph state."""
    given, name = graph.input, f"graph: {graph.input.name}"
    found: dict[str, Stated] = {}
    layout = options.layout or _layout(given)
    if layout is not None:
        found["layout"] = Stated(value=layout, origin=f"{name} has the axes {_axes(given)}")
    if given.shape is not None:
        sides = given.shape if (layout or "nchw") == "nchw" else tuple(given.shape[axis] for axis in (0, 3, 1, 2))
        batch, bands, height, width = sides
        if batch is not None:
            found["batch"] = Stated(value=batch, origin=f"{name} has the fixed axes {_axes(given)}")
        if bands is not None:
            found["bands"] = Stated(value=bands, origin=f"bands of {name}")
        if height is not None and width is not None:
            size = Size(width=width, height=height)
            _check_input(options.input, size, f"{name} has the fixed axes {_axes(given)}")
            found["input"] = Stated(value=size, origin=f"{name} has the fixed axes {_axes(given)}")
    kind = given.type
    if kind != "float32":
        found["input_type"] = Stated(value=kind, origin=f"{name} is {kind}")
    if kind == "uint8":
        found["values"] = Stated(value="stored", origin=f"{name} is uint8, so the network takes stored values")
    scores = [each for each in graph.outputs if each.may_be_scores]
    if len(graph.outputs) > 1 and len(scores) == 1:
        found["output"] = Stated(value=scores[0].name, origin="graph: the only output that may hold scores of pixels")
    chosen = next(
        (each for each in scores if each.name == options.output_name), scores[0] if len(scores) == 1 else None
    )
    channels, last = (
        (chosen.shape[1], chosen.shape[3]) if chosen is not None and chosen.shape is not None else (None, None)
    )
    # Where the last axis is shorter, the second one may be that of the rows: the trial tells.
    if channels is not None and (last is None or last > channels):
        found["channels"] = Stated(value=channels, origin=f"graph: second axis of {chosen.name if chosen else ''}")
    return found


def _check_input(wanted: Size | None, size: Size, origin: str) -> None:
    if wanted is not None and wanted != size:
        raise WeightsError(
            f"the graph takes patches of {size} pixels and no others ({origin})",
            value=f"--input {wanted}",
            advice="Leave --input out, or export the network with free axes",
        )


def _layout(given: GraphValue) -> str | None:
    """Return the order of the axes, where fixed sides tell it."""
    if given.shape is None:
        return None
    second, last = given.shape[1], given.shape[3]
    if last is not None and last <= MOST_BANDS and (second is None or second > last):
        return "nhwc"
    return "nchw" if second is not None else None


def _axes(given: GraphValue) -> str:
    return "x".join("?" if side is None else str(side) for side in given.shape or ())


def bands_described(described: Stated, by_graph: Stated, path: Path) -> Stated:
    """Return names of bands, where a description has as many as the graph takes.

    Raises:
        WeightsError: The description has another number of bands.
    """
    names: Any = described.value
    count = names if isinstance(names, int) else len(names)
    if count != by_graph.value:
        raise WeightsError(
            f"the graph takes {by_graph.value} bands, and the description states another number",
            value=f"{count} ({described.origin})",
            file=path,
            advice="Give the bands in the network's order with --network-bands",
        )
    return by_graph if isinstance(names, int) else described

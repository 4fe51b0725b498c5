"""Networks in OpenVINO's own format: a graph in `x.xml`, and its weights in `x.bin`. Both are data."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from magnet_cli.errors import WeightsError
from magnet_cli.models.engines.openvino_network import OpenVinoNetwork, name_of, read_model
from magnet_cli.models.foreign.graph import Graph, GraphValue, sole_input, stated_by_graph
from magnet_cli.models.foreign.network_files import checked_file
from magnet_cli.models.foreign.network_kind import NetworkReading, check_installed
from magnet_cli.system import regular_files

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.models.foreign.foreign_spec import ForeignSpec
    from magnet_cli.options.foreign_network import NetworkOptions
    from magnet_cli.options.shared import EngineName

BEGINNING = 4096
"""Bytes of a file in which the root element of the format begins."""
ROOT = re.compile(rb"<net\s[^>]*\bversion=")
TYPES = {"f32": "float32", "f16": "float16", "f64": "float64", "u8": "uint8"}
"""Types of numbers that matter here, by OpenVINO's names."""


class OpenVinoFile:
    """Networks that OpenVINO's `save_model` wrote."""

    name = "openvino"
    extra = "openvino"
    packages: tuple[str, ...] = ()
    modules: tuple[str, ...] = ("openvino",)
    engines: tuple[EngineName, ...] = ("openvino",)

    def claims(self, path: Path) -> bool:
        """Return whether a file is an XML file whose root element is a network of OpenVINO."""
        if not path.is_file() or path.suffix.lower() != ".xml":
            return False
        return ROOT.search(regular_files.beginning(path, BEGINNING)) is not None

    def read(self, path: Path, options: NetworkOptions) -> NetworkReading:
        """Return what the graph states: types, bands and fixed sides."""
        check_installed(self)
        files = _files(path)
        return NetworkReading(
            kind=self.name,
            path=path,
            root=path.parent,
            files=files,
            stated=stated_by_graph(_graph(path), options),
            options={"file": path.name},
        )

    def load(self, folder: Path, spec: ForeignSpec, engine: EngineName) -> OpenVinoNetwork:
        """Read the graph on the host. OpenVINO compiles it when it gets its first patches."""
        del engine
        path = checked_file(folder, str(spec.options.get("file")))
        if set(_files(path)) - set(spec.files):
            raise WeightsError(
                "the weights lie in a file that the description does not name",
                value=path.with_suffix(".bin").name,
                file=path,
                advice="Put the .bin file beside it, and name both in the description",
            )
        network = OpenVinoNetwork(path)
        network.open("cpu")
        return network


def _files(path: Path) -> tuple[str, ...]:
    """Return the names of the graph's file and of that of its weights, which a network without weights lacks."""
    weights = path.with_suffix(".bin")
    if not weights.exists() and not weights.is_symlink():
        return (path.name,)
    return (path.name, checked_file(path.parent, weights.name).name)


def _graph(path: Path) -> Graph:
    model = read_model(path)
    inputs = [_value(port, index) for index, port in enumerate(model.inputs)]
    outputs = tuple(_value(port, index) for index, port in enumerate(model.outputs))
    return Graph(input=sole_input(inputs, outputs, path), outputs=outputs)


def _value(port: Any, index: int) -> GraphValue:
    shape, kind = port.partial_shape, port.element_type.get_type_name()
    sides = tuple(side.get_length() if side.is_static else None for side in shape) if shape.rank.is_static else None
    return GraphValue(name=name_of(port, index), type=TYPES.get(kind, kind), shape=sides)

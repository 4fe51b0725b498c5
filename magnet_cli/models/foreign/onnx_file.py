"""ONNX files. Their graphs are data: nothing in them runs but ONNX's operators, in ONNX Runtime or OpenVINO."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magnet_cli.errors import WeightsError
from magnet_cli.models.engines.graph_engine import ENGINES
from magnet_cli.models.foreign import onnx_descriptions
from magnet_cli.models.foreign.graph import bands_described, stated_by_graph
from magnet_cli.models.foreign.network_files import checked_file
from magnet_cli.models.foreign.network_kind import NetworkReading, check_installed
from magnet_cli.models.foreign.onnx_graph import read_graph

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.models.engines.graph_engine import GraphNetwork
    from magnet_cli.models.foreign.foreign_spec import ForeignSpec
    from magnet_cli.options.foreign_network import NetworkOptions
    from magnet_cli.options.shared import EngineName


class OnnxFile:
    """Networks in ONNX files."""

    name = "onnx"
    extra = "onnx"
    packages: tuple[str, ...] = ()
    modules: tuple[str, ...] = ("onnx",)
    engines: tuple[EngineName, ...] = ("onnxruntime", "openvino")

    def claims(self, path: Path) -> bool:
        """Return whether a file has the suffix `.onnx`: the format has no mark of its own."""
        return path.is_file() and path.suffix.lower() == ".onnx"

    def read(self, path: Path, options: NetworkOptions) -> NetworkReading:
        """Return the facts in the graph and in the descriptions in or beside it.

        For shapes and types the graph has priority.
        """
        check_installed(self)
        graph = read_graph(path)
        by_graph = stated_by_graph(graph, options)
        channels = by_graph["channels"].value if "channels" in by_graph else None
        described = {
            **onnx_descriptions.geoai(path, options),
            **onnx_descriptions.stac(path, options),
            **onnx_descriptions.deepness(graph.metadata, options, channels=channels, file=path),
        }
        if "bands" in described and "bands" in by_graph and options.network_bands is None:
            by_graph["bands"] = bands_described(described["bands"], by_graph["bands"], path)
        return NetworkReading(
            kind=self.name,
            path=path,
            root=path.parent,
            files=(path.name, *graph.files),
            stated={**described, **by_graph},
            options={"file": path.name},
        )

    def load(self, folder: Path, spec: ForeignSpec, engine: EngineName) -> GraphNetwork:
        """Open the graph on the host, after a second look at it: weights lie in checked files alone."""
        path = checked_file(folder, str(spec.options.get("file")))
        other = set(read_graph(path).files) - set(spec.files)
        if other:
            raise WeightsError("the graph takes weights from files that the description does not name",
                value=", ".join(sorted(other)), file=path, advice="Export the network again into one file")  # fmt: skip
        network = ENGINES[engine].open(path)
        try:
            network.open("cpu")
        except WeightsError as exc:
            is_kernel = "Could not find an implementation" in exc.rule
            if engine != "onnxruntime" or spec.input_type != "float64" or not is_kernel:
                raise
            raise WeightsError(
                f"ONNX Runtime computes few operators in float64: {exc.rule}",
                file=path,
                advice="Take --engine openvino, or export the network in float32, after network.float()",
            ) from exc
        return network

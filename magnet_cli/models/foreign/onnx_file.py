"""ONNX files, which ONNX Runtime computes. Their graphs are data: nothing in them runs but ONNX's operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from magnet_cli.errors import DeviceError, WeightsError
from magnet_cli.geometry import Size
from magnet_cli.models.foreign import onnx_descriptions
from magnet_cli.models.foreign.network_files import checked_file
from magnet_cli.models.foreign.network_kind import NetworkReading, Stated, check_installed
from magnet_cli.models.foreign.onnx_graph import TYPES, OnnxGraph, Value, read_graph

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.models.foreign.foreign_spec import ForeignSpec
    from magnet_cli.options.foreign_network import NetworkOptions

MOST_BANDS = 64
"""A side of the last axis up to which it may be that of the bands, where the second axis is no such side."""
NO_MEMORY = ("bad_alloc", "Failed to allocate", "bad allocation")
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
QUIET = 4
"""The runtime's level of messages that only lets fatal ones through: what fails is raised as well."""


class OnnxFile:
    """Networks in ONNX files."""

    name = "onnx"
    extra = "onnx"
    packages: tuple[str, ...] = ("onnxruntime",)
    modules: tuple[str, ...] = ("onnxruntime", "onnx")

    def claims(self, path: Path) -> bool:
        """Whether a file has the suffix `.onnx`: the format has no mark of its own."""
        return path.is_file() and path.suffix.lower() == ".onnx"

    def read(self, path: Path, options: NetworkOptions) -> NetworkReading:
        """What the graph and descriptions inside or beside the file state. The graph knows shapes and types best."""
        check_installed(self)
        graph = read_graph(path)
        by_graph = _stated(graph, options)
        channels = by_graph["channels"].value if "channels" in by_graph else None
        described = {
            **onnx_descriptions.geoai(path, options),
            **onnx_descriptions.stac(path, options),
            **onnx_descriptions.deepness(graph.metadata, options, channels=channels, file=path),
        }
        if "bands" in described and "bands" in by_graph and options.network_bands is None:
            by_graph["bands"] = _bands(described["bands"], by_graph["bands"], path)
        return NetworkReading(
            kind=self.name,
            path=path,
            root=path.parent,
            files=(path.name, *graph.files),
            stated={**described, **by_graph},
            options={"file": path.name},
        )

    def load(self, folder: Path, spec: ForeignSpec) -> OnnxNetwork:
        """Open a session on the host, after a second look at the graph: weights lie in checked files alone."""
        path = checked_file(folder, str(spec.options.get("file")))
        other = set(read_graph(path).files) - set(spec.files)
        if other:
            raise WeightsError("the graph takes weights from files that the description does not name",
                value=", ".join(sorted(other)), file=path)  # fmt: skip
        network = OnnxNetwork(path)
        network.open("cpu")
        return network


class OnnxNetwork:
    """An ONNX file as a call from patches to outputs, with as many threads as PyTorch has at the time of the call.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._session: Any = None
        self._place: tuple[str, int] | None = None

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        """Patches, prepared as the network takes them, to its outputs by name, on the device of the patches.

        Raises:
            DeviceError: Another precision than the file's is asked for, or the runtime does not know the device.
            RuntimeError: The network refuses the shape of the patches.
        """
        if torch.is_autocast_enabled(x.device.type):
            raise DeviceError(
                "ONNX Runtime computes in the precision of the file, and in no other", file=self._path,
                advice="Take --precision float32",
            )  # fmt: skip
        session = self.open(str(x.device))
        (given,), outputs = session.get_inputs(), [each.name for each in session.get_outputs()]
        runtime = _failures()
        try:
            found = session.run(outputs, {given.name: x.detach().cpu().contiguous().numpy()})
        except runtime as exc:
            text = str(exc)
            if any(words in text for words in NO_MEMORY):
                raise MemoryError(text) from exc
            raise RuntimeError(text) from exc
        return {name: torch.from_numpy(array).to(x.device) for name, array in zip(outputs, found, strict=True)}

    def open(self, device: str) -> Any:
        """The session for a device and PyTorch's number of threads; opened again where either has changed.

        Raises:
            DeviceError: The runtime that is installed does not know the device.
            WeightsError: The runtime cannot load the file.
        """
        import onnxruntime  # noqa: PLC0415 - an extra

        place = (device, torch.get_num_threads())
        if place == self._place:
            return self._session
        kind, _, index = device.partition(":")
        provider = PROVIDERS.get(kind)
        if provider not in onnxruntime.get_available_providers():
            raise DeviceError(
                f"the ONNX Runtime that is installed here does not compute on {kind}",
                file=self._path,
                advice="Take --device cpu, or install onnxruntime-gpu in place of onnxruntime",
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = place[1]
        options.inter_op_num_threads = 1
        options.log_severity_level = QUIET
        options.use_deterministic_compute = True
        # With patterns the arena grew with every new shape; without, it stayed flat at the same speed.
        options.enable_mem_pattern = False
        # Threads that spin between two calls take the cores from those that read and write.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        chosen = [(provider, {"device_id": index or "0"}), PROVIDERS["cpu"]] if kind == "cuda" else [provider]
        self._session = None
        try:
            session = onnxruntime.InferenceSession(str(self._path), options, providers=chosen)
        except _failures() as exc:
            raise WeightsError(
                f"ONNX Runtime {onnxruntime.__version__} cannot load the network: {str(exc).splitlines()[0][:300]}",
                file=self._path,
            ) from exc
        if kind == "cuda" and provider not in session.get_providers():
            raise DeviceError("ONNX Runtime finds no CUDA libraries that fit it", file=self._path,
                advice="Take --device cpu, or install the libraries that onnxruntime-gpu names")  # fmt: skip
        self._session, self._place = session, place
        return session


def _failures() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises; its errors have no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # noqa: PLC0415 - an extra

    known = (each for each in vars(state).values() if isinstance(each, type) and issubclass(each, Exception))
    return (*known, RuntimeError, ValueError)


def _stated(graph: OnnxGraph, options: NetworkOptions) -> dict[str, Stated]:
    """What types and fixed sides of a graph state."""
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
            found["input"] = Stated(value=size, origin=f"{name} has the fixed axes {_axes(given)}")
    kind = TYPES[given.type]
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


def _layout(given: Value) -> str | None:
    """The order of the axes, where fixed sides tell it."""
    if given.shape is None:
        return None
    second, last = given.shape[1], given.shape[3]
    if last is not None and last <= MOST_BANDS and (second is None or second > last):
        return "nhwc"
    return "nchw" if second is not None else None


def _axes(given: Value) -> str:
    return "x".join("?" if side is None else str(side) for side in given.shape or ())


def _bands(described: Stated, by_graph: Stated, path: Path) -> Stated:
    """Names of bands, where a description has as many as the graph takes."""
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

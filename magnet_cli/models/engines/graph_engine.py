"""The engines beside PyTorch: what each of them needs, and what it computes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from magnet_cli.errors import DeviceError, WeightsError
from magnet_cli.models.engines.onnxruntime_network import OnnxRuntimeNetwork
from magnet_cli.models.engines.openvino_network import OpenVinoNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from magnet_cli.options.shared import EngineName

EXPORTERS = ("onnx", "onnxscript")
"""Packages that write a graph of a network of PyTorch."""


class GraphNetwork(Protocol):
    """A graph in a file as a call from its inputs to its outputs by name."""

    def __call__(self, *inputs: Tensor) -> Mapping[str, Tensor]:
        """Return the outputs of the graph for its inputs, in the graph's order."""

    def open(self, device: str) -> Any:
        """Read the graph for a device."""


@dataclass(frozen=True, kw_only=True)
class GraphEngine:
    """A library that computes graphs."""

    name: EngineName
    package: str
    """Distribution and module of the library."""
    devices: tuple[str, ...]
    """Kinds of devices that it computes on here."""
    precisions: tuple[str, ...]
    """Precisions that networks of float32 can be computed in; `int8` needs a graph of its own (`quantised_graph`)."""
    open: Callable[[Path], GraphNetwork]
    """Makes a call of a graph's file."""
    open_sizeless: Callable[[Path], GraphNetwork]
    """Makes a call of a file whose graph takes maps of any size, most of which occur once in a run."""

    @property
    def is_installed(self) -> bool:
        """Whether the library can be found; it is not imported."""
        return find_spec(self.package) is not None

    @property
    def version(self) -> str:
        """The installed version."""
        return version_of(self.package)


_EVERY = (
    GraphEngine(
        name="onnxruntime",
        package="onnxruntime",
        devices=("cpu", "cuda"),
        precisions=("float32", "int8"),
        open=OnnxRuntimeNetwork,
        open_sizeless=OnnxRuntimeNetwork,
    ),
    GraphEngine(
        name="openvino",
        package="openvino",
        devices=("cpu",),
        precisions=("float32", "bfloat16", "int8"),
        open=OpenVinoNetwork,
        open_sizeless=partial(OpenVinoNetwork, any_size=True),
    ),
)
ENGINES: dict[str, GraphEngine] = {engine.name: engine for engine in _EVERY}
"""The engines by name. PyTorch computes modules and no graphs, so it is none of them."""
EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino", "onnx": "onnx", "onnxscript": "onnx"}
"""The extra of this package that installs a library."""


def version_of(package: str) -> str:
    """Return the installed version of a distribution."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def check_engine(name: str, *, device: str, precision: str) -> None:
    """Check that an engine computes on a device in a precision, and is installed.

    Raises:
        DeviceError: The engine does not compute on the device, or not in the precision.
        WeightsError: The library is missing; the message names the extra.
    """
    if name == "torch":
        return
    engine, kind = ENGINES[name], device.partition(":")[0]
    if kind not in engine.devices:
        raise DeviceError(
            f"the engine {name} computes on {' and '.join(engine.devices)}",
            value=f"--engine {name} and {device}",
            advice="Take --device cpu, or --engine torch",
        )
    if precision not in engine.precisions:
        raise DeviceError(
            f"the engine {name} computes in {' or '.join(engine.precisions)}",
            value=f"--engine {name} and --precision {precision}",
            advice="Take --precision float32, or --engine torch",
        )
    if precision == "int8" and kind != "cpu":
        raise DeviceError(
            "8 bits are for CPUs",
            value=f"--precision int8 and {device}",
            advice="Take --device cpu, or --precision auto",
        )
    check_modules((engine.package,), what=f"--engine {name}")


def check_modules(names: Sequence[str], *, what: str, extra: str | None = None) -> None:
    """Check that modules can be imported.

    Args:
        names: The modules.
        what: Option that needs them, with which the message begins.
        extra: The extra of this package that installs them; that of each module in `EXTRAS` where None.

    Raises:
        WeightsError: A module cannot be imported. The message names the extra.
    """
    for name in names:
        try:
            import_module(name)
        except ImportError as exc:
            raise WeightsError(
                f"{what} needs the Python package {name}, which cannot be imported here",
                value=str(exc).splitlines()[0],
                advice=f"pip install 'magnet-cli[{extra or EXTRAS[name]}]'",
            ) from exc


class EngineNetwork(nn.Module):
    """A network of this program that an engine computes in PyTorch's place.

    Args:
        graph: The graph of the network, with one output.
        shape: Bands, rows and columns of the patches that it was exported for; None where it takes any size.
    """

    def __init__(self, graph: GraphNetwork, *, shape: tuple[int, int, int] | None) -> None:
        super().__init__()
        self._graph, self._shape = graph, shape

    def forward(self, x: Tensor) -> Tensor:
        """Map patches `(n, bands, h, w)` to scores `(n, classes, h, w)`.

        Raises:
            WeightsError: The patches have another size than the bundle's input.
        """
        if self._shape is not None and tuple(x.shape[1:]) != self._shape:
            raise WeightsError(
                f"the network was exported for patches {self._shape}",
                value=tuple(x.shape[1:]),
                advice="Take --engine torch, which computes patches of any size",
            )
        return next(iter(self._graph(x).values()))


def engine_network(
    path: Path, engine: str, *, shape: tuple[int, int, int] | None, device: torch.device
) -> EngineNetwork:
    """Return a graph in a file as a module that an engine computes on a device.

    Args:
        path: The file of the graph, which has one input and one output.
        engine: The name of the engine.
        shape: Bands, rows and columns of the patches; None for a graph that takes any size.
        device: The device.
    """
    graph = ENGINES[engine].open_sizeless(path) if shape is None else ENGINES[engine].open(path)
    graph.open(str(device))
    return EngineNetwork(graph, shape=shape)


def engine_version(engine: EngineName) -> str | None:
    """Return the name and the version of an engine, as a journal keeps them; None for PyTorch."""
    return None if engine == "torch" else f"{engine} {ENGINES[engine].version}"

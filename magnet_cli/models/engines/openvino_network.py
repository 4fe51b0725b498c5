"""OpenVINO as the engine of a network in an ONNX file or in OpenVINO's own format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from magnet_cli.errors import DeviceError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

NO_MEMORY = ("bad_alloc", "bad allocation", "Failed to allocate", "not enough memory")
MANY_SIZES = {"CPU_RUNTIME_CACHE_CAPACITY": 0}
"""OpenVINO keeps what it has prepared for each size, so that memory grows with the number of sizes: by 330 MiB over 36
sizes of a cascade, while passes over small maps are 15 % faster."""
SHAPES = 4
"""Shapes of patches whose compiled networks are kept: those of a whole batch, of the last one of a group, and of halves
where memory ran out."""


Shapes = tuple[tuple[int, ...], ...]
"""The shape of each input of a graph; none for a graph that is compiled for inputs of any size."""


class OpenVinoNetwork:
    """A graph that OpenVINO computes, with as many threads as PyTorch has at the time of the call.

    OpenVINO takes bfloat16 of its own accord on processors that have it, so the precision is always stated: float32,
    or bfloat16 inside of PyTorch's autocast. A network is compiled for each shape of patches, because a compilation
    for any shape is slower and takes more memory.

    Args:
        path: A file `.onnx` or `.xml`. The weights of `x.xml` lie in `x.bin` beside it.
        any_size: Whether the graph is compiled once for inputs of any size. That is faster where most sizes occur once,
            because a compilation takes as long as several passes.
    """

    def __init__(self, path: Path, *, any_size: bool = False) -> None:
        self._path, self._any_size = path, any_size
        self._model: Any = None
        self._compiled: dict[tuple[Shapes, str, int], Any] = {}

    def __call__(self, *inputs: Tensor) -> Mapping[str, Tensor]:
        """Map the inputs of the graph, in its order, to its outputs by name.

        Raises:
            DeviceError: The inputs lie on a GPU, or a precision is asked for that OpenVINO does not compute in here.
            RuntimeError: The network refuses the shape of the patches.
        """
        request = self._request(inputs)
        given = [each.detach().contiguous().numpy() for each in inputs]
        try:
            found = request.infer(given, share_inputs=True)
        except RuntimeError as exc:
            raise _named(exc) from exc
        return {
            name_of(port, index): torch.from_numpy(found[index]) for index, port in enumerate(request.model_outputs)
        }

    def open(self, device: str) -> Any:
        """Return the graph as OpenVINO has read it.

        Raises:
            DeviceError: The device is no CPU.
            WeightsError: OpenVINO cannot read the file.
        """
        if device.partition(":")[0] != "cpu":
            raise DeviceError("OpenVINO computes on the CPU here", value=device, file=self._path,
                advice="Take --device cpu, or --engine torch")  # fmt: skip
        if self._model is None:
            self._model = read_model(self._path)
        return self._model

    def _request(self, inputs: Sequence[Tensor]) -> Any:
        """Return the request for inputs of these shapes, compiled where there is none yet."""
        device = inputs[0].device.type
        model, precision = self.open(device), _precision(device, self._path)
        shapes = () if self._any_size else tuple(tuple(each.shape) for each in inputs)
        place = (shapes, precision, torch.get_num_threads())
        if place not in self._compiled:
            while len(self._compiled) >= SHAPES:
                self._compiled.pop(next(iter(self._compiled)))
            self._compiled[place] = self._compile(model, *place)
        return self._compiled[place]

    def _compile(self, model: Any, shapes: Shapes, precision: str, threads: int) -> Any:
        settings = _settings(precision, threads) | (MANY_SIZES if self._any_size else {})
        try:
            own = model if self._any_size else _with_shapes(model, shapes)
            return _core().compile_model(own, "CPU", settings).create_infer_request()
        except RuntimeError as exc:
            raise _named(exc) from exc


def _with_shapes(model: Any, shapes: Shapes) -> Any:
    """Return a copy of a graph for inputs of these shapes alone.

    Raises:
        RuntimeError: The graph does not take them.
    """
    import openvino  # noqa: PLC0415 - an extra

    given = {index: openvino.PartialShape(list(shape)) for index, shape in enumerate(shapes)}
    for index, wanted in given.items():
        taken = model.inputs[index].partial_shape
        # OpenVINO would give a graph of fixed sides other ones, with a result that its maker never saw.
        if not taken.compatible(wanted):
            message = f"the network takes patches {taken}, not {wanted}"
            raise RuntimeError(message)
    own = model.clone()
    own.reshape(given)
    return own


def read_model(path: Path) -> Any:
    """Return a graph as OpenVINO reads it. Nothing in it is computed.

    Raises:
        WeightsError: OpenVINO cannot read the file.
    """
    import openvino  # noqa: PLC0415 - an extra

    try:
        return _core().read_model(str(path))
    except RuntimeError as exc:
        raise WeightsError(
            f"OpenVINO {openvino.__version__.partition('-')[0]} cannot read the network: {_line(exc)}",
            file=path,
            advice="Export the network again, or install a newer openvino; for a network of PyTorch "
            "take --engine torch",
        ) from exc


def name_of(port: Any, index: int) -> str:
    """Return the name of an input or an output; its number where it has none."""
    return str(port.any_name) if port.names else str(index)


def _settings(precision: str, threads: int) -> dict[str, object]:
    """Return the properties that make results repeatable: all that OpenVINO would choose by the machine are stated."""
    return {
        "INFERENCE_PRECISION_HINT": precision,
        "EXECUTION_MODE_HINT": "ACCURACY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # Pinned threads would keep those that read and write off their cores.
        "ENABLE_CPU_PINNING": False,
    }


def _precision(device: str, path: Path) -> str:
    if not torch.is_autocast_enabled(device):
        return "f32"
    if torch.get_autocast_dtype(device) != torch.bfloat16:
        raise DeviceError("OpenVINO computes in float32 or bfloat16", file=path, advice="Take --precision float32")
    return "bf16"


_CORES: list[Any] = []


def _core() -> Any:
    """Return the only core of this process, because each further one would load the plugin for CPUs again."""
    import openvino  # noqa: PLC0415 - an extra

    if not _CORES:
        _CORES.append(openvino.Core())
    return _CORES[0]


def _named(error: RuntimeError) -> Exception:
    """Return an error of OpenVINO as one of the program: memory that ran out, or a refusal in one line."""
    if any(words in str(error) for words in NO_MEMORY):
        return MemoryError(_line(error))
    return RuntimeError(_line(error))


def _line(error: RuntimeError) -> str:
    """Return the message of an error without the places in OpenVINO's own sources that come before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("Exception from ", "Check "))]
    return (said or lines or ["no reason given"])[-1][:300]

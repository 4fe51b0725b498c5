"""ONNX Runtime as the engine of a network in an ONNX file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from magnet_cli.errors import DeviceError, WeightsError

if TYPE_CHECKING:
    from pathlib import Path

NO_MEMORY = ("bad_alloc", "Failed to allocate", "bad allocation")
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
QUIET = 4
"""The runtime's level of messages that only lets fatal ones through: what fails is raised as well."""


class OnnxRuntimeNetwork:
    """An ONNX file that ONNX Runtime computes, with as many threads as PyTorch has at the time of the call.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._session: Any = None
        self._place: tuple[str, int] | None = None

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Map the inputs of the graph, in its order, to its outputs by name, on the device of the first input.

        Raises:
            DeviceError: Another precision than the file's is asked for, or the runtime does not know the device.
            RuntimeError: The network refuses the shape of the patches.
        """
        device = inputs[0].device
        if torch.is_autocast_enabled(device.type):
            raise DeviceError(
                "ONNX Runtime computes in the precision of the file, and in no other", file=self._path,
                advice="Take --precision float32",
            )  # fmt: skip
        session = self.open(str(device))
        names, outputs = ([each.name for each in ends] for ends in (session.get_inputs(), session.get_outputs()))
        given = (each.detach().cpu().contiguous().numpy() for each in inputs)
        runtime = _failures()
        try:
            found = session.run(outputs, dict(zip(names, given, strict=True)))
        except runtime as exc:
            text = str(exc)
            if any(words in text for words in NO_MEMORY):
                raise MemoryError(text) from exc
            raise RuntimeError(text) from exc
        return {name: torch.from_numpy(array).to(device) for name, array in zip(outputs, found, strict=True)}

    def open(self, device: str) -> Any:
        """Return the session for a device and PyTorch's number of threads; opened again where either has changed.

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
                advice="Export the network again, or install a newer onnxruntime; for a network of PyTorch "
                "take --engine torch",
            ) from exc
        if kind == "cuda" and provider not in session.get_providers():
            raise DeviceError("ONNX Runtime finds no CUDA libraries that fit it", file=self._path,
                advice="Take --device cpu, or install the libraries that onnxruntime-gpu names")  # fmt: skip
        self._session, self._place = session, place
        return session


def _failures() -> tuple[type[Exception], ...]:
    """Return the exceptions of ONNX Runtime, which have no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # noqa: PLC0415 - an extra

    known = (each for each in vars(state).values() if isinstance(each, type) and issubclass(each, Exception))
    return (*known, RuntimeError, ValueError)

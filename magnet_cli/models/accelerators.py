"""The installed PyTorch has a version, a build and devices on which it can compute."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
"""This file exists where NVIDIA's driver is loaded."""


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """A device that PyTorch can compute on faster than on the processor."""

    device: str
    """The name of the device, as `--device` takes it."""
    name: str
    memory: int | None
    """The bytes of the device's own memory; None where it shares the memory of the machine."""


@dataclass(frozen=True, kw_only=True)
class TorchFacts:
    """The facts are PyTorch's version and build, and the devices on which it can compute."""

    version: str
    build: str
    """The platform of the build: `CUDA 12.4`, `ROCm 6.2` or `CPUs alone`."""
    accelerators: tuple[Accelerator, ...]
    driver: bool
    """Whether NVIDIA's driver is loaded, whether or not PyTorch can use it."""


def torch_facts() -> TorchFacts:
    """Return the facts that PyTorch reports about its build and this machine."""
    cuda, hip = torch.version.cuda, torch.version.hip
    build = f"ROCm {hip}" if hip else f"CUDA {cuda}" if cuda else "CPUs alone"
    return TorchFacts(
        version=str(torch.__version__),
        build=build,
        accelerators=_accelerators(),
        driver=NVIDIA_DRIVER.exists(),
    )


def _accelerators() -> tuple[Accelerator, ...]:
    if torch.cuda.is_available():
        properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return tuple(
            Accelerator(device=f"cuda:{index}", name=str(each.name), memory=int(each.total_memory))
            for index, each in enumerate(properties)
        )
    if torch.backends.mps.is_available():
        return (Accelerator(device="mps", name="Apple GPU", memory=None),)
    return ()

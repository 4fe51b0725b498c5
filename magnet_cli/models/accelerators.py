"""PyTorch as it is installed, and the devices that it can compute on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
"""A file that exists where NVIDIA's driver is loaded."""


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """A device that PyTorch can compute on faster than on the processor."""

    device: str
    """The word for `--device`."""
    name: str
    memory: int | None
    """Bytes of its own memory; None where it shares the machine's."""


@dataclass(frozen=True, kw_only=True)
class TorchFacts:
    """PyTorch's version and build, and what it can compute on."""

    version: str
    build: str
    """What the build is for: `CUDA 12.4`, `ROCm 6.2` or `CPUs alone`."""
    accelerators: tuple[Accelerator, ...]
    driver: bool
    """Whether NVIDIA's driver is loaded, whether or not PyTorch can use it."""


def torch_facts() -> TorchFacts:
    """Return what PyTorch says about itself and about this machine."""
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

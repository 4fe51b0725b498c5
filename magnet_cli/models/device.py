"""Which device and precision a run uses."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

import torch

from magnet_cli.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from magnet_cli.options import Precision

DEVICE_ADVICE = "Take --device auto, or see what this machine has with its vendor's tool"


def resolve_device(name: str) -> str:
    """The device that a name means: `cpu`, `mps`, `cuda:0`, ...

    Args:
        name: `auto`, `cpu`, `mps`, `cuda` or `cuda:N`.

    Raises:
        UsageError: There is no such word.
        DeviceError: This machine has no such device.
    """
    kind, _, number = name.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (number and (kind != "cuda" or not number.isdigit())):
        raise UsageError("--device is auto, cpu, cuda, cuda:N or mps", value=repr(name), advice="Write one of these")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if kind == "cuda":
        index, count = int(number or 0), torch.cuda.device_count()
        if index >= count:
            raise DeviceError(
                f"there is no GPU {index}: this machine has {count} that PyTorch can use",
                value=name,
                advice=DEVICE_ADVICE,
            )
        return f"cuda:{index}"
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("PyTorch finds no Apple GPU here", value=name, advice=DEVICE_ADVICE)
    return kind


def resolve_precision(name: str, device: str) -> Precision:
    """The precision that `auto` means: float32 everywhere, because it gives the same mask on every run.

    Raises:
        DeviceError: The device cannot do it.
    """
    if name == "float16" and device == "cpu":
        raise DeviceError("float16 is for GPUs", value=name, advice="Take --precision float32 or bfloat16 on a CPU")
    return cast("Precision", "float32" if name == "auto" else name)


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pin_arithmetic(threads: int) -> None:
    """Make operations repeatable: a fixed number of threads, no autotuning, no TF32 (law 1).

    The number matters: one thread takes other kernels than two, and the last bits of a probability differ.
    """
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def limit_device_memory(device: str, budget: int | None) -> None:
    """Cap what PyTorch's allocator may take on a CUDA device; nothing to do elsewhere."""
    if budget is None or not device.startswith("cuda"):
        return
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, budget / total), device)


def free_device_memory(device: str) -> int | None:
    """Bytes that are free on a CUDA device; None elsewhere."""
    if not device.startswith("cuda"):
        return None
    return int(torch.cuda.mem_get_info(device)[0])


def reset_device_peak(device: str) -> None:
    """Begin to measure `device_peak` anew; nothing to do without CUDA."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def device_peak(device: str) -> dict[str, int]:
    """The most bytes that PyTorch allocated and reserved on a CUDA device; empty elsewhere."""
    if not device.startswith("cuda"):
        return {}
    return {
        "allocated": int(torch.cuda.max_memory_allocated(device)),
        "reserved": int(torch.cuda.max_memory_reserved(device)),
    }

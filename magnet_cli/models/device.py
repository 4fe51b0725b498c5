"""The device and the precision of a run."""

from __future__ import annotations

import os
import platform
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from magnet_cli.errors import DeviceError, UsageError
from magnet_cli.plan import Machine
from magnet_cli.system.memory import default_budget, host_memory
from magnet_cli.system.threads import usable_cores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magnet_cli.events import Events
    from magnet_cli.models.network_spec import Described
    from magnet_cli.options.shared import MachineOptions, Precision


OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "not enough memory")
"""Words of PyTorch's messages on the host and on Apple's GPUs."""
AGREES = 0.999
"""Share of pixels that must get the same class for another precision to be taken unasked."""
FIRST_BFLOAT16 = 8
"""CUDA's compute capability from which on GPUs have bfloat16."""
DEVICE_CONTEXT = 512 << 20
"""Device memory that a CUDA context takes, where nothing is there to measure it."""
DEVICE_ADVICE = "Take --device auto; `magnet doctor` lists what PyTorch can use here"


def resolve_device(name: str) -> str:
    """Return the device that a name means: `cpu`, `mps`, `cuda:0`, ...

    Args:
        name: `auto`, `cpu`, `mps`, `cuda` or `cuda:N`.

    Raises:
        UsageError: The name means no device.
        DeviceError: This machine has no such device.
    """
    kind, _, number = name.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (number and (kind != "cuda" or not number.isdigit())):
        raise UsageError(
            "--device is auto, cpu, cuda, cuda:N or mps",
            value=repr(name),
            advice="Write --device cpu, or --device cuda for a GPU",
        )
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


def resolve_precision(name: str, device: str, bundle: Described) -> Precision:
    """Return the precision of a run. `auto` takes 16 bits where the device has them and the mask stays the same.

    That is bfloat16 if it can be, which has the range of float32. On a GPU it may be float16, which is as quick and has
    three bits more: a number beyond its range ends the run with an error.

    Raises:
        DeviceError: The device cannot do it.
    """
    if name == "float16" and device == "cpu":
        raise DeviceError("float16 is for GPUs", value=name, advice="Take --precision float32 or bfloat16 on a CPU")
    if name != "auto":
        return cast("Precision", name)
    kind = device.partition(":")[0]
    if _agrees(bundle, kind, "bfloat16") and computes_bfloat16(device):
        return "bfloat16"
    return "float16" if kind == "cuda" and _agrees(bundle, kind, "float16") else "float32"


def _agrees(bundle: Described, kind: str, precision: str) -> bool:
    measured = bundle.runs(kind, precision)
    return measured is not None and (measured.agreement or 0) >= AGREES


def choose_device(options: MachineOptions, bundle: Described, events: Events) -> tuple[str, str]:
    """Choose the device and the precision that a bundle runs on and in, and limit the memory of the device.

    The user gets the bundle's notes and those on the precision.

    Args:
        options: The device, the precision and the budgets that a user asks for.
        bundle: The bundle that is to run.
        events: Receives the messages.

    Returns:
        The names of the device and of the precision.

    Raises:
        DeviceError, UsageError: The device or the precision is not to be had.
    """
    device = resolve_device(options.device)
    precision = resolve_precision(options.precision, device, bundle)
    for note in (*bundle.notes, *precision_notes(precision, device, bundle)):
        events.message(f"magnet: {note}")
    limit_device_memory(device, options.gpu_memory)
    return device, precision


def precision_notes(precision: str, device: str, bundle: Described) -> list[str]:
    """Return notes on a precision that is slow on the device or changes the bundle's mask; none for any other."""
    found = [_agreement_note(precision, device, bundle)]
    if precision == "bfloat16" and not computes_bfloat16(device):
        found.append(
            f"{device} has no instructions for bfloat16, so that a run takes many times as long as in float32, which "
            "--precision auto takes here"
        )
    return [note for note in found if note is not None]


def _agreement_note(precision: str, device: str, bundle: Described) -> str | None:
    if precision in ("float32", "int8"):  # the agreement of 8 bits stands beside their graph
        return None
    measured = bundle.runs(device.partition(":")[0], precision)
    if measured is None or measured.agreement is None:
        return f"it was not measured how far the masks of bundle {bundle.name} in {precision} agree with float32"
    if measured.agreement < AGREES:
        return f"in {precision} bundle {bundle.name} gives {measured.agreement:.2%} of pixels the class of float32"
    return None


def computes_bfloat16(device: str) -> bool:
    """Return whether a device multiplies bfloat16 by itself, so that it is quicker than float32."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device)[0] >= FIRST_BFLOAT16
    # Without these instructions PyTorch emulates bfloat16, which took ten times as long as float32 on AVX2.
    return bool({"avx512_bf16", "amx_bf16"} & _processor_words()) if device == "cpu" else False


def computes_int8() -> bool:
    """Return whether the processor adds products of 8 bits without cutting them off, as far as the system says.

    x86 processors without these instructions (VNNI) add two products in 16 bits, which are too few for large ones.
    Other processors add them in 32 bits. Systems other than Linux do not say, and the result is then true.
    """
    words = _processor_words()
    return "flags" not in words or bool({"avx512_vnni", "avx_vnni", "amx_int8"} & words)


def _processor_words() -> set[str]:
    return set(_read_text(Path("/proc/cpuinfo")).split())


def _read_text(path: Path) -> str:
    return path.read_text(encoding="ascii", errors="replace") if path.exists() else ""


def machine_of(
    device: str,
    precision: str,
    *,
    memory: int | None,
    gpu_memory: int | None = None,
    base: int | None = None,
    engine: str = "torch",
) -> Machine:
    """Return the machine that a run has.

    Args:
        device: A device that `resolve_device` has returned.
        precision: A precision that `resolve_precision` has returned.
        memory: Host bytes that the run may use; None for what is free.
        gpu_memory: Device bytes that it may use; None for what is free.
        base: Host bytes in use before the first read; None for what is in use now.
        engine: Library that computes the networks.
    """
    return Machine(
        device=device,
        precision=precision,
        engine=engine,
        memory=memory or default_budget(),
        gpu_memory=gpu_memory or free_device_memory(device),
        context=context_memory(device),
        base=(host_memory() or 0) if base is None else base,
        cores=usable_cores(),
    )


def pin_arithmetic(threads: int) -> None:
    """Make operations repeatable: a fixed number of threads, no autotuning, no TF32 (law 1).

    The number matters: one thread takes other kernels than two, and the last bits of a probability differ.
    """
    torch.set_num_threads(threads)
    # Autotuning picks kernels by measured speed, so that two runs may compute with different ones.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    # TF32 has 10 bits of mantissa. cuDNN uses it by default on GPUs that have it.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def limit_device_memory(device: str, budget: int | None) -> None:
    """Cap what PyTorch's allocator may take on a CUDA device, the context aside; nothing to do elsewhere."""
    if budget is None or not device.startswith("cuda"):
        return
    total = torch.cuda.get_device_properties(device).total_memory
    # PyTorch knows a share of the device's memory alone, and does not count the CUDA context.
    share = max(0, budget - context_memory(device)) / total
    torch.cuda.set_per_process_memory_fraction(min(1.0, share), device)


def context_memory(device: str) -> int:
    """Return the bytes that this process takes on a CUDA device besides PyTorch's allocator; 0 elsewhere.

    The driver reports it where the package `nvidia-ml-py` is installed; else it is `DEVICE_CONTEXT`.
    """
    if not device.startswith("cuda"):
        return 0
    used = _process_memory(device)
    return DEVICE_CONTEXT if used is None else max(0, used - torch.cuda.memory_reserved(device))


def _process_memory(device: str) -> int | None:
    """Return the bytes that the driver counts for this process.

    The result is None where it cannot be asked, as inside some containers.
    """
    try:
        import pynvml  # noqa: PLC0415  optional
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        # The device is found by UUID and not by number: CUDA_VISIBLE_DEVICES renumbers devices for a process, not for
        # the driver.
        identity = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        handle = pynvml.nvmlDeviceGetHandleByUUID(identity)
        running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except pynvml.NVMLError:
        return None
    return next((process.usedGpuMemory for process in running if process.pid == os.getpid()), None)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, on the host or on a device.

    PyTorch has no type for the host's.
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def release_device_memory(device: str) -> None:
    """Give memory that PyTorch's allocator keeps for later back to the device."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def free_device_memory(device: str) -> int | None:
    """Return the bytes that are free on a CUDA device; None elsewhere."""
    if not device.startswith("cuda"):
        return None
    return int(torch.cuda.mem_get_info(device)[0])


def failed_allocations(device: str) -> int:
    """Return how often PyTorch's allocator had no memory left on a CUDA device so far; 0 elsewhere.

    Not every time is an error: cuDNN then takes another algorithm, without a word.
    """
    if not device.startswith("cuda"):
        return 0
    return int(torch.cuda.memory_stats(device).get("num_ooms", 0))


def reset_device_peak(device: str) -> None:
    """Begin to measure `device_peak` anew; nothing to do without CUDA."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def device_peak(device: str) -> dict[str, int]:
    """Return the most bytes that PyTorch allocated and reserved on a CUDA device, and with the context.

    Other devices give an empty result.
    """
    if not device.startswith("cuda"):
        return {}
    reserved = int(torch.cuda.max_memory_reserved(device))
    return {
        "allocated": int(torch.cuda.max_memory_allocated(device)),
        "reserved": reserved,
        "process": reserved + context_memory(device),
    }


def processor_name() -> str:
    """Return the processor's name as its maker calls it, where the system knows it; else its architecture."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def device_name(device: str) -> str:
    """Return the name of a device as `resolve_device` gives it: a GPU's, or the processor's and the usable cores."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"{processor_name()}, {usable_cores()} core{'s'[: usable_cores() != 1]}"


def device_case(device: str) -> str:
    """Return the kind and name: where a measured speed holds."""
    return f"{device.partition(':')[0]}, {device_name(device)}"


class SideStream:
    """A queue of a GPU beside the one that computes, for a thread that fetches what was computed; elsewhere nothing.

    All threads of a process share a GPU's default queue. A copy to the host that one of them waits for waits there for
    everything that others have queued before it, which is the next group and takes as long as that.

    Args:
        device: A device that `resolve_device` has returned.
    """

    def __init__(self, device: str) -> None:
        # A lower number has priority: what is fetched is small, and the thread waits for it.
        self._stream: torch.cuda.Stream | None = None
        if device.startswith("cuda"):
            self._stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]  # torch declares no types

    def mark(self) -> torch.cuda.Event | None:
        """Return a moment of the calling thread's queue: all that was queued there until now."""
        if self._stream is None:
            return None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch declares no types
        event.record(torch.cuda.current_stream(self._stream.device))
        return event

    @contextmanager
    def after(self, moment: torch.cuda.Event | None) -> Iterator[None]:
        """Queue the block's work here once that moment has come, and wait for its end.

        Tensors of the other queue that are only alive inside must not be freed before it ends: their memory would go to
        what is queued there next, while this queue still reads it.
        """
        if self._stream is None or moment is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(moment)
            try:
                yield
            finally:
                self._stream.synchronize()

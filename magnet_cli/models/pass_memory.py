"""Memory of forward passes, measured while a call runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from magnet_cli.models.device import is_out_of_memory
from magnet_cli.models.foreign.foreign_spec import PassMemory
from magnet_cli.system.memory import PeakSampler, resident_peak, trim
from magnet_cli.system.threads import wait_briefly

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BATCHES = {"cpu": (1, 2, 4), "mps": (1, 2, 4, 8), "cuda": (1, 4, 16)}
"""Patches of the passes that are measured, up to the program's own batch on each kind of device."""


def memory_of_passes(
    call: Callable[[int], object], *, batches: Sequence[int], device: torch.device
) -> tuple[PassMemory, ...]:
    """Peaks of passes by batch, beyond what lies in memory before the first of them.

    Args:
        call: Runs one pass with so many patches.
        batches: Numbers of patches, rising. A number for which memory runs out ends the list.
        device: The device of the network.
    """
    found: list[PassMemory] = []
    base = _begin(device)
    for batch in batches:
        try:
            peak = _peak(call, batch, device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            break
        found.append(PassMemory(batch=batch, bytes=max(0, peak - base)))
    return tuple(found)


def answer_of(module: str, *words: str) -> tuple[str, int]:
    """Last line that a module of this program writes when it runs in a process of its own, and its exit status.

    A process of its own begins with a heap that no other work has grown.
    """
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    wait_briefly(environment)
    # -P: a module of the user's folder must not stand in for one of ours.
    command: list[Any] = [sys.executable, "-P", "-m", module, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)  # noqa: S603 - this interpreter and this program
    lines = done.stdout.strip().splitlines()
    return (lines[-1] if lines else "", done.returncode)


def _begin(device: torch.device) -> int:
    """Reset the counters of memory, and return the bytes in memory before the first pass."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return int(torch.cuda.memory_allocated(device))
    trim()
    return _reset_peak() or 0


def _reset_peak() -> int | None:
    """Let the kernel count the highest resident size anew, and return that size; None where the kernel cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return None
    return resident_peak()


def _peak(call: Callable[[int], object], batch: int, device: torch.device) -> int:
    """Return the most bytes in memory while a network runs twice, its input and output included."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        _twice(call, batch)
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device))
    if _reset_peak() is not None:
        _twice(call, batch)
        return resident_peak() or 0
    with PeakSampler(interval=0.005) as peaks:
        before = peaks.sample() or 0
        _twice(call, batch)
        peaks.sample()
    return max(0, (peaks.peak.pss or 0) - before)


def _twice(call: Callable[[int], object], batch: int) -> None:
    for _ in range(2):
        call(batch)

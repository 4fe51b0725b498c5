"""What the machine is called, for people and for figures that hold on it alone."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import torch

from magnet_cli.cores import usable_cores


def processor_name() -> str:
    """As its maker calls it, where the system says; else its architecture."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def device_name(device: str) -> str:
    """The name of a device as `resolve_device` gives it: a GPU's, or the processor's and the usable cores."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"{processor_name()}, {usable_cores()} core{'s'[: usable_cores() != 1]}"


def device_case(device: str) -> str:
    """Kind and name: where a measured speed holds."""
    return f"{device.partition(':')[0]}, {device_name(device)}"

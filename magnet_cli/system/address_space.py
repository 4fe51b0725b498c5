"""The limit of a process's address space (`ulimit -v`), under which libraries end with a crash instead of an error."""

from __future__ import annotations

import os
import subprocess
import sys

from magnet_cli.errors import DeviceError
from magnet_cli.system.memory import format_bytes

if sys.platform != "win32":
    import resource

PROBE = """
import re, torch, imagecodecs, tifffile
torch.nn.functional.conv2d(torch.zeros(1, 8, 64, 64), torch.zeros(8, 8, 3, 3))
print(re.search(r"VmPeak:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""
"""Loads what every run of a network loads, and prints the KiB of address space that it took."""
HEADROOM = 512 << 20
"""Bytes that a run of the smallest image takes besides its libraries."""
THREAD = 80 << 20
"""Bytes that a thread reserves: its stack and an arena of the C library."""
MARKS = ("failed to map segment", "cannot allocate memory", "cannot enable executable stack")
"""Words of the dynamic linker where a library does not fit."""


def address_space_limit() -> int | None:
    """Return the bytes that this process may address; None where there is no limit."""
    if sys.platform == "win32":
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def check_address_space() -> None:
    """Check, where the address space is limited, that the libraries of networks fit in.

    Under a limit that is only just too small a library does not report an error: the process ends with a segmentation
    fault. So another process tries it first.

    Raises:
        DeviceError: The libraries do not fit.
    """
    limit = address_space_limit()
    if limit is None or not sys.platform.startswith("linux"):
        return
    tried = subprocess.run([sys.executable, "-c", PROBE], check=False, capture_output=True, text=True)  # noqa: S603 - ours
    taken = int(tried.stdout) << 10 if tried.returncode == 0 and tried.stdout.strip().isdigit() else None
    # The process that tried has computed in one thread. A run starts one for each core, and each reserves address space
    # when it starts, whether or not it uses it.
    needed = None if taken is None else taken + HEADROOM + THREAD * (os.cpu_count() or 1)
    if needed is None or needed > limit:
        raise shortage(limit, needed)


def shortage(limit: int, needed: int | None = None) -> DeviceError:
    """Return the error of an address space that is too small."""
    wanted = "more" if needed is None else f"at least {format_bytes(needed)}"
    return DeviceError(
        f"the address space of this process is limited to {format_bytes(limit)}, and its libraries need {wanted}",
        advice="Raise the limit (ulimit -v unlimited); --memory bounds what a run really uses",
    )


def is_shortage(error: BaseException) -> bool:
    """Return whether an error of an import says that a library did not fit into the address space."""
    return isinstance(error, ImportError | OSError) and any(mark in str(error).lower() for mark in MARKS)

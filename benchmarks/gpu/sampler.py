"""Read from the driver how busy a GPU is, in a process of its own: `python -m benchmarks.gpu.sampler 0 FILE`."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.gpu.bundles import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

EVERY = 0.1
"""Seconds between samples. The driver's own period is about a sixth of a second."""


@dataclass(kw_only=True)
class Busy:
    """The samples of the driver in a file."""

    path: Path

    def share(self, since: float, until: float) -> float | None:
        """Return the mean share of the time in which a kernel ran, or None without samples.

        The driver's figure says whether any kernel ran, not how much of the GPU it used. The times are those of
        `time.time`.
        """
        if not self.path.exists():
            return None
        samples = [line.split() for line in self.path.read_text().splitlines()]
        found = [float(one[1]) for one in samples if len(one) == 2 and since <= float(one[0]) <= until]
        return sum(found) / len(found) / 100 if found else None


@contextmanager
def sampled(device: str, path: Path) -> Iterator[Busy]:
    """Sample while the context is open. On a CPU nothing is sampled."""
    if not device.startswith("cuda"):
        yield Busy(path=path)
        return
    index = device.partition(":")[2] or "0"
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.gpu.sampler", index, str(path)], cwd=ROOT)
    try:
        yield Busy(path=path)
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Write a line `time share` for each sample until the process is ended."""
    import pynvml  # noqa: PLC0415 - where there is a GPU alone

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(int(sys.argv[1]))
    with Path(sys.argv[2]).open("w", buffering=1) as out:
        while True:
            out.write(f"{time.time():.3f} {pynvml.nvmlDeviceGetUtilizationRates(handle).gpu}\n")
            time.sleep(EVERY)


if __name__ == "__main__":
    main()

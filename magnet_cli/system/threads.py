"""Cores that this process may use, and how OpenMP's threads, which do PyTorch's arithmetic on a CPU, wait for work."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import MutableMapping


def usable_cores() -> int:
    """Return the cores that this process may run on."""
    # Containers and batch systems give a process some of the machine's cores, and `cpu_count` counts all of them.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


POLICY: Final = "OMP_WAIT_POLICY"
SPINS: Final = "3000"
"""Spins of a waiting thread of GNU's OpenMP; about a hundred thousand take a millisecond."""


def wait_briefly(environment: MutableMapping[str, str]) -> None:
    """Let the threads of a process sleep after some 30 microseconds, unless its environment states how they wait.

    Threads that spin as long as they like take the cores from those that read and write: on a shared machine that made
    a run eight times slower. Threads that sleep at once have to be woken for each of the hundreds of small operations
    between two networks, which made those a third slower. It is read when PyTorch is loaded.
    """
    if POLICY not in environment:
        environment[POLICY] = "PASSIVE"
        environment.setdefault("GOMP_SPINCOUNT", SPINS)

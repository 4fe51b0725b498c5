"""Memory of the host: sizes as users write them, the memory there is, the memory in use, and giving it back.

Use is proportional set size (PSS): a page that n processes share counts 1/n in each, so that the sum over a program and
its workers counts every page once.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import threading
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple, Self

from magnet_cli.errors import UsageError
from magnet_cli.system.closing import Closing

if sys.platform != "win32":
    import resource

if TYPE_CHECKING:
    from collections.abc import Iterator

_UNITS: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE: Final = re.compile(r"(\d{1,18}(?:\.\d{1,18})?) ?(KiB|MiB|GiB|TiB|B)")
_PROC: Final = Path("/proc")
_CGROUPS: Final = Path("/sys/fs/cgroup")
_VERSION_1: Final = ("memory.limit_in_bytes", "memory.usage_in_bytes")
_VERSION_2: Final = ("memory.max", "memory.current")
_UNLIMITED: Final = 1 << 60
"""Version 1 groups without a limit report a number close to 2**63."""

DEFAULT_SHARE: Final = Fraction(1, 2)
"""Share of the available memory that is the budget where the user names none. The page cache and other programs get
the rest."""
UNKNOWN_BUDGET: Final = 2 << 30
"""The budget in bytes where the system does not say what is available."""


def parse_bytes(text: str, *, option: str = "--memory") -> int:
    """Return the bytes in a size such as 4GiB, 512MiB or 1.5GiB; a fraction of a byte is dropped.

    Raises:
        UsageError: The text is not a positive number with a unit; bare numbers and decimal units are refused.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(
            f"{option} takes a size with a binary unit", value=repr(text), advice="Write 4GiB or 512MiB, for example"
        )
    count = int(Fraction(found[1]) * _UNITS[found[2]])
    if count < 1:
        raise UsageError(f"{option} takes at least one byte", value=repr(text), advice="Write a size such as 4GiB")
    return count


def format_bytes(count: int) -> str:
    """Format a size in the largest unit that leaves at least one, with three digits: `1.50 GiB`, `97.0 MiB`."""
    unit = max((unit for unit in _UNITS if abs(count) >= _UNITS[unit]), key=_UNITS.__getitem__, default="B")
    value = count / _UNITS[unit]
    digits = 0 if unit == "B" else max(0, 3 - len(str(int(abs(value)))))
    return f"{value:.{digits}f} {unit}"


def total_memory() -> int | None:
    """Return the bytes this process could ever use: the machine's memory or its control group's limit.

    The result is None if unknown.
    """
    known = [limit for limit, _ in _group_limits()]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(known, default=None)


def available_memory() -> int | None:
    """Return the bytes this process can still take without swapping or meeting its control group's limit.

    The result is None if unknown.
    """
    known = [max(0, limit - used) for limit, used in _group_limits()]
    machine = _fields(_PROC / "meminfo").get("MemAvailable")
    if machine is not None:
        known.append(machine)
    return min(known, default=None)


def default_budget() -> int:
    """Return the bytes to plan with where the user names no budget."""
    available = available_memory()
    return UNKNOWN_BUDGET if available is None else int(available * DEFAULT_SHARE)


def host_memory() -> int | None:
    """Return the bytes that this process and its descendants use now: their PSS summed.

    Elsewhere than on Linux it is the highest resident size this process ever had, and None on Windows.
    """
    if (_PROC / "self/smaps_rollup").exists():
        return sum(_pss(process) for process in _family())
    return resident_peak()


def own_memory() -> int | None:
    """Return the bytes that this process uses now, without its descendants.

    Elsewhere than on Linux it is what `host_memory` returns.
    """
    return _pss(os.getpid()) or resident_peak()


def resident_peak() -> int | None:
    """Return the bytes of the highest resident size this process ever had, shared pages in full; None on Windows."""
    peak = _fields(_PROC / "self/status").get("VmHWM")
    if peak is None and sys.platform != "win32":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return peak


def trim() -> bool:
    """Give freed memory back to the system, and return whether the C library is able to, as glibc is."""
    return _glibc("malloc_trim", 0)


LARGE_TENSOR: Final = 16 << 20
"""Blocks of this size and more are given back to the system when they are freed, until `reuse_large_tensors`."""


def keep_heap_steady() -> bool:
    """Let the C library use two heaps, and a mapping of its own for each block of 16 MiB or more.

    The result is whether the C library has these settings, as glibc has.

    By default glibc raises its threshold for separate mappings as large blocks are freed and keeps eight heaps a core,
    and a steady pipeline of image-sized blocks then grows for hours: measured with blocks of 2,048 pixels, 590 MiB and
    rising against 500 MiB and flat. A lower threshold costs more than it saves, because every batch of patches is then
    mapped and zeroed anew: at 1 MiB the whole run took twice the CPU time.
    """
    # mallopt(3): M_MMAP_THRESHOLD -3, M_TRIM_THRESHOLD -1, M_ARENA_MAX -8.
    return all([_glibc("mallopt", -3, LARGE_TENSOR), _glibc("mallopt", -1, 64 << 20), _glibc("mallopt", -8, 2)])


def reuse_large_tensors() -> bool:
    """Let the C library keep the memory of freed tensors of any size, and use it for the next ones.

    The result is whether the C library has these settings, as glibc has.

    For networks whose tensors are large: the system zeroes the pages of each that is mapped anew, which made a pass of
    the paper's refiner at 508 pixels 3.6 times as slow in float32. Others only lose by it: with a network of one
    convolution the peak rose from 811 to 1,012 MiB with the image, because blocks of pixels left holes in the heap.
    """
    return all([_glibc("mallopt", -3, 1 << 30), _glibc("mallopt", -1, 1 << 30)])


@dataclass(frozen=True, kw_only=True)
class HostPeak:
    """The peak of the memory in use."""

    pss: int | None
    """Largest PSS of any sample in bytes, summed over all processes; None where it cannot be measured."""
    resident: int | None
    """Largest resident size of this process alone in bytes. The system records it at any time, not only at samples."""
    samples: int
    """Number of readings of PSS. The last reading of the sampler before counts where this one has begun with it."""


GROWTH: Final = 4 << 20
"""Bytes by which a process has to have grown beyond all it had before for its PSS to be read again."""
SPARING: Final = 100
"""PSS is read again once the process has computed this many times as long as the last reading took, because the time of
a clock passes many times as fast on a busy machine."""
LATEST: Final = 10
"""PSS is read in any case after this many times the usual seconds: a process may wait while its descendants grow."""


class _Reading(NamedTuple):
    """A reading of the memory in use."""

    used: int
    """What `host_memory` returned."""
    resident: int
    """The resident size of this process."""
    at: float
    """The time, in seconds of `time.monotonic`."""
    computed: float
    """The CPU seconds of this process until then."""
    cost: float
    """The CPU seconds that the reading took."""

    def is_due(self, rarely: float) -> bool:
        """Return whether the memory is to be read again though this process has not grown."""
        waited = time.monotonic() - self.at
        spared = time.process_time() >= self.computed + SPARING * self.cost
        return waited >= (rarely if spared else LATEST * rarely)


class PeakSampler(Closing):
    """Reads `host_memory` where this process has grown, and now and then, in its own thread while the context is open.

    Reading PSS walks the page tables, 8 ms for a gigabyte, in which the process cannot map memory: reading it at every
    sample took a tenth of one core from the networks. The resident size alone costs next to nothing. Between two
    readings its growth is added to the earlier one, and a sampler goes on from the last reading of the sampler before:
    a run over small images would otherwise spend a twentieth of its time on readings.

    Args:
        interval: Seconds between two readings of the resident size. Reading PSS takes at most a tenth of the time.
        rarely: Seconds after which PSS is read though this process has not grown: its descendants may have. It is read
            less often where the process has hardly computed meanwhile.
    """

    def __init__(self, *, interval: float = 0.05, rarely: float = 3.0) -> None:
        self._interval = interval
        self._rarely = rarely
        self._reading: _Reading | None = None
        self._highest: int | None = None
        self._samples = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="magnet-memory", daemon=True)

    def sample(self) -> int | None:
        """Return the bytes in use now, counted towards the peak; call it where the peak is expected."""
        resident, began = _resident(), time.thread_time()
        now = host_memory()
        with self._lock:
            self._samples += 1
            if now is not None:
                self._highest = max(now, self._highest or 0)
            if now is not None and resident is not None:
                _Latest.largest = max(_Latest.largest, resident)
                _Latest.reading = self._reading = _Reading(
                    used=now,
                    resident=resident,
                    at=time.monotonic(),
                    computed=time.process_time(),
                    cost=time.thread_time() - began,
                )
        return now

    @property
    def peak(self) -> HostPeak:
        """The peak until now. If the thread has not taken a sample yet, one is taken first."""
        with self._lock:
            is_measured = self._highest is not None
        if not is_measured:
            self.sample()
        with self._lock:
            return HostPeak(pss=self._highest, resident=resident_peak(), samples=self._samples)

    def _run(self) -> None:
        wait, has_read = 0.0, False
        if _Latest.reading is not None and not _Latest.reading.is_due(self._rarely):
            with self._lock:
                self._reading = _Latest.reading
                self._samples += 1
            has_read = True
        while not self._over.wait(wait):
            begin = time.monotonic()
            if not has_read or self._is_due() or self._has_grown():
                self.sample()
                has_read = True
            wait = max(self._interval, 9 * (time.monotonic() - begin))

    def _is_due(self) -> bool:
        """Return whether PSS is read though this process has not grown."""
        with self._lock:
            return self._reading is None or self._reading.is_due(self._rarely)

    def _has_grown(self) -> bool:
        """Return whether this process is larger than at any reading, or its size is unknown."""
        resident = _resident()
        with self._lock:
            if resident is None or self._reading is None or resident >= _Latest.largest + GROWTH:
                return True
            self._highest = max(self._reading.used + resident - self._reading.resident, self._highest or 0)
        return False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def close(self) -> None:
        """End the thread that measures, after a last sample."""
        self._over.set()
        self._thread.join()
        if self._has_grown():
            self.sample()


class _Latest:
    """The readings that samplers of this process have made."""

    reading: ClassVar[_Reading | None] = None
    """The last one."""
    largest: ClassVar[int] = 0
    """The largest resident size at a reading."""


def _glibc(function: str, *arguments: int) -> bool:
    """Call a function of the C library, and return whether it succeeded, which it says by returning 1.

    The result is False where the C library has no function of that name.
    """
    if not sys.platform.startswith("linux"):
        return False
    # musl and other C libraries lack these functions.
    # CDLL(None) is the C library that this process runs on, whatever its file is called.
    called = getattr(ctypes.CDLL(None), function, None)
    return called is not None and bool(called(*(ctypes.c_int(argument) for argument in arguments)))


def _read(path: Path) -> str:
    """Return a file of the kernel; empty where it is missing, may not be read, or its process has just ended."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _fields(path: Path) -> dict[str, int]:
    """Return the bytes by name, from lines such as `MemAvailable:  1024 kB`."""
    found = re.findall(r"^(\w+):\s+(\d+) kB$", _read(path), flags=re.MULTILINE)
    return {name: int(count) << 10 for name, count in found}


def _resident() -> int | None:
    """Return the bytes of this process that are in memory now, shared pages in full.

    The result is None where the system does not say.
    """
    # A sampler asks twenty times a second, and text files of Python cost ten times as much.
    try:
        descriptor = os.open(f"{_PROC}/self/statm", os.O_RDONLY)
    except OSError:
        return None
    try:
        fields = os.read(descriptor, 256).split()
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else None


def _pss(process: int) -> int:
    return _fields(_PROC / f"{process}/smaps_rollup").get("Pss", 0)


def _family() -> Iterator[int]:
    """Yield this process and its descendants; one that ends meanwhile may be missing."""
    if not _has_children():
        yield os.getpid()
        return
    # A kernel may be built without /proc/PID/task/TID/children, but every one names a process's parent.
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            # The name of the program, in brackets, may hold anything; state and parent follow it.
            _, _, rest = _read(entry / "stat").rpartition(")")
            if rest:
                children.setdefault(int(rest.split()[1]), []).append(int(entry.name))
    waiting = [os.getpid()]
    while waiting:
        process = waiting.pop()
        yield process
        waiting.extend(children.get(process, ()))


def _has_children() -> bool:
    """Return whether this process has started any other. The kernel knows, and looking for them reads all of /proc."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _group_limits() -> Iterator[tuple[int, int]]:
    """Limit and use, in bytes, of every control group above this process that has a limit."""
    for line in _read(_PROC / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            yield from _limits_above(_CGROUPS / controllers, path=path, unified=not controllers)


def _limits_above(root: Path, *, path: str, unified: bool) -> Iterator[tuple[int, int]]:
    """Yield the limits from a group up to the root.

    Inside a container the path may be the host's, and only the root exists.
    """
    limit_file, use_file = _VERSION_2 if unified else _VERSION_1
    group = root / path.lstrip("/")
    for folder in [group, *group.parents]:
        if not folder.is_relative_to(root):
            break
        limit = _read(folder / limit_file).strip()
        if limit.isdigit() and int(limit) < _UNLIMITED:
            # The page cache counts as used in a control group, but the kernel gives it back before it refuses memory.
            cache = re.search(r"^(?:total_)?inactive_file (\d+)$", _read(folder / "memory.stat"), flags=re.MULTILINE)
            used = int(_read(folder / use_file).strip() or 0) - int(cache[1] if cache else 0)
            yield int(limit), max(0, used)

"""Child processes of the campaign: forked from a process that has every library loaded, bounded, and measured.

A fork is sound only while the parent has one thread: locks that another thread holds would stay held in the child for
ever. `fork` therefore refuses to run beside other threads, and nothing in the parent opens an image or computes.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from magnet_cli.cli import signals
from magnet_cli.cli.program import main
from magnet_cli.system import address_space

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TRACEBACK = "Traceback (most recent call last)"
ADDRESS_SPACE = 12 << 30
"""Bytes of address space of a child: more than any case may need, less than would hurt the machine."""


def one_core(_: int) -> set[int]:
    """Stand in for `os.sched_getaffinity`."""
    return {0}


def limit_memory() -> None:
    """Limit this process's address space, so that a case cannot take the machine's memory.

    The program tries in a process of its own whether its libraries fit under such a limit. Here they are loaded
    already, and the trial would take longer than the case, so that the program does not learn of the limit.
    """
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    address_space.address_space_limit = _no_limit


def _no_limit() -> None:
    """Stand in for `address_space_limit`."""


@dataclass(frozen=True, kw_only=True)
class End:
    """How a child ended."""

    status: int | None
    """The exit code, the negative number of the signal that ended it, or None where its time was over."""
    output: str
    """What it wrote to standard output."""
    errors: str
    """What it wrote to standard error."""
    seconds: float
    peak: int
    """Largest resident memory in bytes, the libraries that it shares with its parent among it."""

    @property
    def traceback(self) -> bool:
        """Whether it printed the traceback of a bug."""
        return TRACEBACK in self.errors


@dataclass(frozen=True, kw_only=True)
class Stop:
    """A signal that the parent sends."""

    after: float
    """Seconds from the moment at which the program's work begins."""
    number: signal.Signals


def fork(work: Callable[[], int], *, folder: Path, limit: float, stop: Stop | None = None, bounded: bool = True) -> End:
    """Run `work` in a child and wait for its end.

    Args:
        work: What the child does; its result is the exit code. An exception is printed, and the code is 1.
        folder: The child's current folder. Its streams go to `stdout.txt` and `stderr.txt` there, which are removed.
        limit: Seconds after which the child is killed.
        stop: A signal to send it.
        bounded: Whether its address space is limited.

    Raises:
        RuntimeError: This process has more than one thread.
    """
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        raise RuntimeError("a process with several threads cannot be forked soundly")
    sys.stdout.flush()
    sys.stderr.flush()
    begun, begins = os.pipe()
    streams = [folder / "stdout.txt", folder / "stderr.txt"]
    pid = os.fork()
    if pid == 0:
        os.close(begun)
        _become(work, folder, streams, begins, bounded=bounded)
    os.close(begins)
    os.read(begun, 1)
    os.close(begun)
    start = time.monotonic()
    over = False
    descriptor = os.pidfd_open(pid)
    try:
        if stop is not None and not select.select([descriptor], [], [], stop.after)[0]:
            os.kill(pid, stop.number)
        if not select.select([descriptor], [], [], max(0.0, limit - (time.monotonic() - start)))[0]:
            over = True
            os.kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.close(descriptor)
    # Processes that the child started are in its group, and end when it does or here.
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    written = [path.read_text(encoding="utf-8", errors="replace") if path.exists() else "" for path in streams]
    for path in streams:
        path.unlink(missing_ok=True)
    return End(
        status=None if over else os.waitstatus_to_exitcode(status),
        output=written[0],
        errors=written[1],
        seconds=time.monotonic() - start,
        peak=usage.ru_maxrss * 1024,
    )


def typed(words: Sequence[str]) -> int:
    """Run `magnet WORDS` in this process, and return its exit code."""
    sys.argv = ["magnet", *words]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _become(work: Callable[[], int], folder: Path, streams: Sequence[Path], begins: int, *, bounded: bool) -> None:
    """Turn a forked process into the child; does not return."""
    code = 1
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        for number, path in ((0, Path(os.devnull)), (1, streams[0]), (2, streams[1])):
            file = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            os.dup2(file, number)
            os.close(file)
        if bounded:
            limit_memory()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # One thread computes: pools of threads would be started anew by each child, and only wait for a core.
        os.sched_getaffinity = one_core
        # The program's own handlers from here on: its first line has run.
        signals.start()
        os.write(begins, b"!")
        os.close(begins)
        code = work()
        threading._shutdown()  # type: ignore[attr-defined]  # the interpreter does so at its end, and a fork has none
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - as the interpreter does at its end
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)

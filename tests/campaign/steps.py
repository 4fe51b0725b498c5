"""The file-system steps of a program: counted, and disturbed at a chosen one.

A step is a call that changes something below one folder: opening for writing, renaming, removing, making a folder,
cutting, writing to a descriptor, or asking that it reach the disk. Python's audit hooks report calls that take a path;
calls that take a descriptor are wrapped. Writes of libraries in other languages are invisible here; signals at random
moments, small disks and limits of file sizes reach those.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
WITH_PATH: Final = {
    "os.rename": "rename",
    "os.remove": "unlink",
    "os.mkdir": "mkdir",
    "os.rmdir": "rmdir",
    "os.link": "link",
    "os.symlink": "symlink",
}
"""Audit events, and the steps that they report."""
STREAMS: Final = frozenset({"stdout.txt", "stderr.txt"})
"""Files that stand for the terminal."""
WITH_DESCRIPTOR: Final = ("fsync", "fdatasync", "write", "pwrite", "ftruncate")
REFUSABLE: Final = frozenset({"open", "rename", "unlink", "mkdir", "rmdir", "link", "symlink"})
"""Steps that a file system may deny for want of permission."""
FILLING: Final = frozenset({"open", "mkdir", "write", "pwrite", "fsync", "fdatasync", "rename"})
"""Steps that fail on a full disk."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One call that changes the file system."""

    kind: str
    path: str
    descriptor: int | None = None
    data: Any = None
    """What is written."""
    offset: int | None = None


Act = Callable[[Step], None]


@dataclass(kw_only=True)
class Steps:
    """Counts the steps of this process below a folder, and lets `act` disturb the chosen one.

    It cannot be taken back: Python's audit hooks stay until the process ends.
    """

    root: Path
    act: Act
    """It is called before the step, and may raise `OSError` in its place."""
    at: int
    """The number of the step that is disturbed, from 1; 0 for none."""
    onwards: bool = False
    """Whether each later step is disturbed as well."""
    kinds: frozenset[str] | None = None
    """The kinds of steps that count; all where None."""
    name: str = ""
    """The step that counts, as `seen` names it; all where empty."""
    seen: list[str] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _inside: threading.local = field(default_factory=threading.local)

    def install(self) -> None:
        """Begin to count the steps."""
        sys.addaudithook(self._heard)
        for name in WITH_DESCRIPTOR:
            setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & WRITING and not isinstance(path, int):
                self._reached(Step(kind="open", path=os.fsdecode(path)))
        elif event in WITH_PATH and not isinstance(arguments[0], int):
            self._reached(Step(kind=WITH_PATH[event], path=os.fsdecode(arguments[0])))

    def _wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(descriptor: int, *arguments: Any) -> Any:
            try:
                path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
            except OSError:
                return function(descriptor, *arguments)
            data = arguments[0] if name in ("write", "pwrite") else None
            offset = arguments[1] if name == "pwrite" else None
            self._reached(Step(kind=name, path=path, descriptor=descriptor, data=data, offset=offset))
            return function(descriptor, *arguments)

        return called

    def _reached(self, step: Step) -> None:
        if getattr(self._inside, "busy", False) or (self.kinds is not None and step.kind not in self.kinds):
            return
        path = Path(os.path.abspath(step.path))  # noqa: PTH100 - links stay as they are
        if not path.is_relative_to(self.root) or path.name in STREAMS:
            return
        parts = path.relative_to(self.root).parts
        # Names of temporary files are made up anew by each run.
        name = f"{step.kind} {'tmp/...' if parts[:1] == ('tmp',) and len(parts) > 1 else '/'.join(parts)}"
        if self.name not in ("", name):
            return
        self._inside.busy = True
        try:
            with self._lock:
                self.seen.append(name)
                number = len(self.seen)
                if self.at and (number == self.at or (self.onwards and number > self.at)):
                    self.act(step)
        finally:
            self._inside.busy = False


def nothing(step: Step) -> None:
    """Let the step pass."""
    del step


def dying(number: signal.Signals, *, torn: bool = False) -> Act:
    """End this process by a signal before the step; with `torn` half of what the step writes is written first."""

    def act(step: Step) -> None:
        if torn and step.data is not None and step.descriptor is not None:
            half = bytes(memoryview(step.data))[: len(memoryview(step.data)) // 2]
            if step.offset is None:
                os.write(step.descriptor, half)
            else:
                os.pwrite(step.descriptor, half, step.offset)
        os.kill(os.getpid(), number)
        if number == signal.SIGKILL:
            time.sleep(60)

    return act


def failing(number: int) -> Act:
    """Refuse the step with an error number of the operating system."""

    def act(step: Step) -> None:
        name = None if step.descriptor is not None else step.path
        raise OSError(number, os.strerror(number), name)

    return act


def losing(folder: Path) -> Act:
    """Remove a folder before the step, as somebody else might."""

    def act(step: Step) -> None:
        del step
        shutil.rmtree(folder, ignore_errors=True)

    return act


KINDS: Final = {errno.EACCES: REFUSABLE, errno.ENOSPC: FILLING, errno.EIO: None}
"""The errors that steps fail with, and the kinds of steps that each may strike; None for all."""

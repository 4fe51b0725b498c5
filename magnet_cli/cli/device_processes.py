"""One run on several devices of this machine: a process for each, which is a part of the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magnet_cli.errors import DeviceError
from magnet_cli.events import Images
from magnet_cli.segmentation.run_summary import DONE, FAILED, WAITING
from magnet_cli.system.memory import default_budget
from magnet_cli.system.speeds import format_seconds
from magnet_cli.system.threads import usable_cores

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO

    from magnet_cli.events import Events

LEAST_ENDING = 30.0
"""Seconds that the other processes have to end after an interruption, before they are killed."""
POLL = 0.2
"""Seconds between two checks whether a process has ended."""
SHOWN_EVERY = 2.0
"""Seconds between two updates of what the processes have finished."""
HANGING = 10.0
"""A process that has not finished an image for this many times as long as an image has taken is named to the user."""
LEAST_HANGING = 60.0
"""Least seconds after which a process is named."""
UNKNOWN = 360.0
"""Seconds that an image is expected to take before any has been finished."""


@dataclass(frozen=True, kw_only=True)
class DeviceProcess:
    """The process of one device."""

    device: str
    process: subprocess.Popen[bytes]
    answer: IO[bytes]
    """The file that takes the JSON object of the process."""

    def rows(self) -> list[dict[str, Any]]:
        """Return the results of the images as the process printed them; empty where it printed none."""
        self.answer.seek(0)
        with suppress(ValueError):
            found = json.loads(self.answer.read())
            return list(found["images"])
        return []


def run_on_devices(
    devices: Sequence[str], words: Sequence[str], *, memory: int | None, output: Path | None, events: Events
) -> tuple[list[dict[str, Any]], int]:
    """Run a command once for each device, as parts of one run, until all have ended.

    Args:
        devices: Names of the devices. A name may come twice.
        words: Words of the command, without device, memory and part.
        memory: Host bytes that all processes may use together. None takes what is free.
        output: The output folder, in which parts keep summaries. None for a single image, which has no summary, and
            where there is no such folder: then no process is watched.
        events: Receives the progress.

    Returns:
        The results of all images as JSON values, and the exit code of a process that printed no results, or 0.

    Raises:
        DeviceError: A process was ended by the system. What was finished is kept.
        KeyboardInterrupt: The run was interrupted. All processes have ended.
    """
    share = (memory or default_budget()) // len(devices)
    summaries = None if output is None else PartSummaries(output, len(devices))
    with ExitStack() as stack:
        running = []
        for index, device in enumerate(devices):
            answer = stack.enter_context(tempfile.TemporaryFile())
            part = ("--num-parts", str(len(devices)), "--part-id", str(index), "--device", device)
            limits = ("--memory", f"{share}B", "--no-progress", "--json")
            # A session of its own: Ctrl-C reaches this process alone, which passes it on once.
            process = subprocess.Popen(  # noqa: S603 - this program itself
                [sys.executable, "-m", "magnet_cli.cli.program", *words, *part, *limits],
                stdout=answer,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            running.append(DeviceProcess(device=device, process=process, answer=answer))
            _give_cores(process.pid, index, [name for name in devices if name == "cpu"], device)
        stack.callback(_end, running)
        _wait(running, summaries, events)
        rows = [row for each in running for row in each.rows()]
        for each in running:
            code = each.process.returncode
            if code < 0:
                raise DeviceError(
                    f"the process on {each.device} was ended by signal {-code}",
                    advice="Check the memory of the machine; the same command goes on from what was finished",
                )
        silent = [each.process.returncode for each in running if not each.rows() and each.process.returncode]
        return rows, silent[0] if silent else 0


def _give_cores(pid: int, index: int, alike: Sequence[str], device: str) -> None:
    """Give each of several processes that compute on the processor its own cores."""
    if device != "cpu" or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    own = cores[index % len(alike) :: len(alike)]
    if own and len(alike) <= usable_cores():
        with suppress(OSError):
            os.sched_setaffinity(pid, own)


class Stalls:
    """Names processes that have not finished an image for much longer than images take. They are waited for.

    A process that has not written a summary yet counts as waiting for its first image since the start.

    Args:
        devices: The device of each process.
        events: Receives the names.
        now: The time in seconds at which the processes were started.
    """

    def __init__(self, devices: Sequence[str], events: Events, now: float) -> None:
        self._devices = devices
        self._events = events
        self._since = [now] * len(devices)
        self._counts: list[dict[str, int]] = [{}] * len(devices)
        self._named = [0.0] * len(devices)
        self._longest = 0.0

    def note(self, index: int, counts: dict[str, int], now: float) -> None:
        """Take the counts of a process into account.

        Images that were done before, and those that fail, end in an instant, so that only computed images say how long
        an image takes.

        Args:
            index: The number of the process.
            counts: Its images by status.
            now: The time in seconds.
        """
        before = self._counts[index]
        if counts == before:
            return
        computed = counts.get(DONE, 0) - before.get(DONE, 0)
        if computed > 0:
            self._longest = max(self._longest, (now - self._since[index]) / computed)
        self._counts[index], self._since[index], self._named[index] = counts, now, 0.0

    def name(self, index: int, now: float) -> None:
        """Name a process that runs, if it has finished no image for too long, and again after twice the time."""
        counts = self._counts[index]
        if counts and not counts.get(WAITING):
            return
        expected, spent = self._longest or UNKNOWN, now - self._since[index]
        if spent < max(LEAST_HANGING, HANGING * expected, self._named[index]):
            return
        self._named[index] = 2 * spent
        self._events.message(
            f"magnet: the process on {self._devices[index]} (number {index}) has finished no image for "
            f"{format_seconds(spent)}, and an image was expected to take {format_seconds(expected)}; it may hang. The "
            "run goes on waiting: press Ctrl-C and run the same command again, which keeps what is finished"
        )


class PartSummaries:
    """Reads the summaries that the processes of a run write. Those that an earlier run has left are passed over.

    Args:
        folder: The output folder.
        count: The number of the processes, none of which has been started yet.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._paths = [folder / f"run-{index}-of-{count}.json" for index in range(count)]
        self._stale = [_version(path) for path in self._paths]

    def counts(self) -> dict[int, dict[str, int]]:
        """Return the images of each process by status; nothing of a process that has not written a summary yet."""
        found = {}
        for index, (path, stale) in enumerate(zip(self._paths, self._stale, strict=True)):
            with suppress(OSError, ValueError, KeyError):
                if _version(path) != stale:
                    found[index] = json.loads(path.read_bytes())["counts"]
        return found


def _version(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file is written again; None where there is no file.

    The clock of a file server may differ from the clock here, so that times are compared with each other alone.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _wait(running: Sequence[DeviceProcess], summaries: PartSummaries | None, events: Events) -> None:
    shown = time.monotonic()
    stalls = Stalls([each.device for each in running], events, shown)
    while any(each.process.poll() is None for each in running):
        time.sleep(POLL)
        if summaries is not None and time.monotonic() - shown >= SHOWN_EVERY:
            shown = time.monotonic()
            counts = summaries.counts()
            events.images(_progress(list(counts.values())))
            for index, each in enumerate(running):
                if index in counts:
                    stalls.note(index, counts[index], shown)
                if each.process.poll() is None:
                    stalls.name(index, shown)


def _progress(counts: Sequence[dict[str, int]]) -> Images:
    total = sum(sum(each.values()) for each in counts)
    waiting, failed = (sum(each.get(name, 0) for each in counts) for name in (WAITING, FAILED))
    return Images(done=total - waiting, total=max(1, total), failed=failed)


def _end(running: Sequence[DeviceProcess]) -> None:
    """Interrupt the processes that still run, and wait for them; kill those that do not end."""
    for each in running:
        if each.process.poll() is None:
            with suppress(OSError):
                each.process.send_signal(signal.SIGINT)
    until = time.monotonic() + LEAST_ENDING
    for each in running:
        try:
            each.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            each.process.kill()
            each.process.wait()


def joined_rows(rows: Sequence[dict[str, Any]], *, is_one: bool) -> list[dict[str, Any]]:
    """Return one row an image: of several parts of one image the one that failed, else the one that made the mask.

    Args:
        rows: The rows of all processes.
        is_one: Whether all rows are of one image. Names do not say so: with `--private` two images may have one.
    """
    ranks = ["part done", "already done", "done", "failed"]
    if is_one:
        return sorted(rows, key=lambda row: ranks.index(row["status"]))[-1:]
    return sorted(rows, key=lambda row: str(row["image"]))

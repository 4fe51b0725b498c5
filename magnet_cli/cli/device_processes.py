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
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from magnet_cli.errors import DeviceError
from magnet_cli.events import Images
from magnet_cli.masks.part_note import note_path
from magnet_cli.options.parts import JobPart
from magnet_cli.segmentation.run_summary import DONE, FAILED, WAITING
from magnet_cli.system.memory import default_budget
from magnet_cli.system.speeds import format_seconds
from magnet_cli.system.threads import usable_cores

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO

    from magnet_cli.events import Events
    from magnet_cli.masks.targets import Target

LEAST_ENDING = 30.0
"""Seconds that the other processes have to end after an interruption, before they are killed."""
POLL = 0.2
"""Seconds between two checks whether a process has ended."""
SHOWN_EVERY = 2.0
"""Seconds between two updates of what the processes have finished."""
HANGING = 10.0
"""A process that has finished nothing for this many times as long as an image, or a group of windows of a single one,
was expected to take is named to the user."""
LEAST_HANGING = 60.0
"""Least seconds after which a process is named that computes images."""
LEAST_HANGING_GROUP = 300.0
"""Least seconds after which a process is named that computes groups of one image. A group of windows that are left out
ends in a moment, and says little of one whose windows are all computed."""
UNKNOWN = 360.0
"""Seconds that an image or a group is expected to take before a device of its kind is known to have finished any."""


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
    devices: Sequence[str], words: Sequence[str], *, memory: int | None, watch: ProcessWatch | None, events: Events
) -> tuple[list[dict[str, Any]], int]:
    """Run a command once for each device, as parts of one run, until all have ended.

    Args:
        devices: Names of the devices. A name may come twice.
        words: Words of the command, without device, memory and part.
        memory: Host bytes that all processes may use together. None takes what is free.
        watch: Reads what the processes have finished, none of which has been started yet. With None no process is
            watched.
        events: Receives the progress.

    Returns:
        The results of all images as JSON values, and the exit code of a process that printed no results, or 0.

    Raises:
        DeviceError: A process was ended by the system. What was finished is kept.
        KeyboardInterrupt: The run was interrupted. All processes have ended.
    """
    share = (memory or default_budget()) // len(devices)
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
        _wait(running, watch, events)
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


@dataclass(frozen=True, kw_only=True)
class Doing:
    """What a process has done so far, and what it does now."""

    done: int = 0
    """Images or groups that it has computed."""
    passed: int = 0
    """Images or groups that were done already, or that failed. They take no time, so they do not count for the pace."""
    work: float = 0.0
    """Work of those that it has computed, in any unit."""
    following: float = 0.0
    """Work of the one that it computes now; 0 where none is left."""


class ProcessWatch(Protocol):
    """Reads what the processes of a run have finished."""

    @property
    def thing(self) -> str:
        """What they finish, such as an image."""

    @property
    def least(self) -> float:
        """Least seconds after which a process is named."""

    def doing(self) -> dict[int, Doing]:
        """Return what each process does; nothing of a process that has not written anything yet."""

    def progress(self) -> Images | None:
        """Return the progress of the run; None where it has a single image."""


@dataclass(kw_only=True)
class Pace:
    """How long an image, or a group of windows, has taken on devices of one kind; 0 until one is finished."""

    longest: float = 0.0
    """Largest number of seconds that an image or group has taken."""
    slowest: float = 0.0
    """Largest number of seconds that a unit of work has taken."""

    def expected(self, work: float) -> float:
        """Return the seconds that an image or group with this amount of work is expected to take."""
        return max(self.longest, self.slowest * work) or UNKNOWN


class Stalls:
    """Names processes that have finished nothing for much longer than was expected. They are waited for.

    An image or group is expected to take as long as the longest one before it on a device of the same kind. A larger
    one is expected to take more: its work at the slowest speed so far. A process that has not written anything yet has
    been at work on its first image or group since the start.

    Args:
        devices: The device of each process.
        events: Receives the names.
        now: The time in seconds at which the processes were started.
        thing: What they finish, such as an image.
        least: Least seconds after which a process is named. None takes those for images.
    """

    def __init__(
        self, devices: Sequence[str], events: Events, now: float, *, thing: str = "image", least: float | None = None
    ) -> None:
        self._devices = devices
        self._events = events
        self._thing = thing
        self._least = LEAST_HANGING if least is None else least
        self._since = [now] * len(devices)
        self._doing: list[Doing | None] = [None] * len(devices)
        self._named = [0.0] * len(devices)
        # A processor may take a hundred times as long as a GPU beside it.
        paces = {_kind(device): Pace() for device in devices}
        self._paces = [paces[_kind(device)] for device in devices]

    def note(self, index: int, doing: Doing, now: float) -> None:
        """Take what a process has done into account.

        Args:
            index: The number of the process.
            doing: What it has done, and does now.
            now: The time in seconds.
        """
        before = self._doing[index]
        if doing == before:
            return
        # What was done before the first note took the start of the process as well, which says nothing of the others.
        if before is not None:
            self._learn(self._paces[index], before, doing, now - self._since[index])
        self._doing[index], self._since[index], self._named[index] = doing, now, 0.0

    def _learn(self, pace: Pace, before: Doing, doing: Doing, spent: float) -> None:
        computed, work = doing.done - before.done, doing.work - before.work
        if computed > 0:
            pace.longest = max(pace.longest, spent / computed)
        if computed > 0 and work > 0 and doing.passed == before.passed:
            pace.slowest = max(pace.slowest, spent / work)

    def name(self, index: int, now: float) -> None:
        """Name a process that runs, if it has finished nothing for too long, and again after twice the time."""
        doing = self._doing[index]
        following = 1.0 if doing is None else doing.following
        if not following:
            return
        expected = self._paces[index].expected(following)
        spent = now - self._since[index]
        if spent < max(self._least, HANGING * expected, self._named[index]):
            return
        self._named[index] = 2 * spent
        self._events.message(
            f"magnet: the process on {self._devices[index]} (number {index}) has finished no {self._thing} for "
            f"{format_seconds(spent)}, and one was expected to take {format_seconds(expected)}; it may hang. The "
            "run goes on waiting: press Ctrl-C and run the same command again, which keeps what is finished"
        )


def _kind(device: str) -> str:
    """Return the kind of a device, such as `cuda`."""
    return device.partition(":")[0]


class PartSummaries:
    """Reads the summaries that the processes of a run over several images write, and passes over those of earlier runs.

    Args:
        folder: The output folder.
        images: The images of each process, none of which has been started yet, in the order in which it computes them.
    """

    thing = "image"

    @property
    def least(self) -> float:
        """Least seconds after which a process is named."""
        return LEAST_HANGING

    def __init__(self, folder: Path, images: Sequence[Sequence[str]]) -> None:
        self._files = NewFiles([folder / f"run-{index}-of-{len(images)}.json" for index in range(len(images))])
        # The command line answers before what opens images is loaded.
        from magnet_cli.segmentation.image_shares import image_weights

        weights = iter(image_weights([image for share in images for image in share]))
        self._sizes = [list(islice(weights, len(share))) for share in images]

    def counts(self) -> dict[int, dict[str, int]]:
        """Return the images of each process by status; nothing of a process that has not written a summary yet."""
        return {index: dict(found["counts"]) for index, found in self._files.read().items() if "counts" in found}

    def doing(self) -> dict[int, Doing]:
        """Return what each process has done."""
        return {index: self._done(index, counts) for index, counts in self.counts().items()}

    def progress(self) -> Images:
        """Return the progress of the run over its images."""
        return _progress(list(self.counts().values()))

    def _done(self, index: int, counts: dict[str, int]) -> Doing:
        waiting, done = counts.get(WAITING, 0), counts.get(DONE, 0)
        ended = sum(counts.values()) - waiting
        sizes = self._sizes[index]
        following = sizes[ended] if ended < len(sizes) else 1.0
        # Which of them were computed does not matter: no speed is taken from a time in which others ended.
        return Doing(done=done, passed=ended - done, work=sum(sizes[:ended]), following=following if waiting else 0.0)


class PartNotes:
    """Reads the notes that the processes of a run over one image write. Those of an earlier run are passed over.

    Args:
        folder: The folder of the image's pieces.
        count: The number of processes, none of which has been started yet.
    """

    thing = "group of windows"

    @property
    def least(self) -> float:
        """Least seconds after which a process is named."""
        return LEAST_HANGING_GROUP

    def __init__(self, folder: Path, count: int) -> None:
        self._files = NewFiles([note_path(folder, index, count) for index in range(count)])

    def doing(self) -> dict[int, Doing]:
        """Return what each process has done."""
        return {
            index: Doing(done=int(found["groups"]), work=float(found["work"]), following=float(found["next"]))
            for index, found in self._files.read().items()
            if found.keys() >= {"groups", "work", "next"}
        }

    def progress(self) -> None:
        """Return nothing, because there is one image."""


def watch_of(targets: Sequence[Target], folder: Path | None, count: int) -> PartSummaries | PartNotes | None:
    """Return what reads the files of a run's processes, none of which has been started yet.

    The result is None where there are several images and no folder for summaries.

    Args:
        targets: The images of the run and their masks.
        folder: The output folder; None where none is named.
        count: The number of processes.
    """
    # The command line answers before what reads masks is loaded.
    from magnet_cli.masks.pieces import PieceFolder
    from magnet_cli.masks.targets import in_order

    if len(targets) == 1:
        return PartNotes(PieceFolder.of(targets[0].mask).path, count)
    if folder is None:
        return None
    ordered = in_order(targets)
    parts = [JobPart(index=index, count=count) for index in range(count)]
    shares = [[target.image for target in part.deal(ordered)] for part in parts]
    return PartSummaries(folder, shares)


class NewFiles:
    """Reads files that hold JSON objects, except for those that nobody has written to since this was made.

    Args:
        paths: The files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._stale = [_version(path) for path in paths]

    def read(self) -> dict[int, dict[str, Any]]:
        """Return the object of each file, by the number of the file."""
        found = {}
        for index, (path, stale) in enumerate(zip(self._paths, self._stale, strict=True)):
            with suppress(OSError, ValueError):
                if _version(path) != stale:
                    found[index] = dict(json.loads(path.read_bytes()))
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


def _wait(running: Sequence[DeviceProcess], watch: ProcessWatch | None, events: Events) -> None:
    shown = time.monotonic()
    thing, least = ("", None) if watch is None else (watch.thing, watch.least)
    stalls = Stalls([each.device for each in running], events, shown, thing=thing, least=least)
    while any(each.process.poll() is None for each in running):
        time.sleep(POLL)
        if watch is not None and time.monotonic() - shown >= SHOWN_EVERY:
            shown = time.monotonic()
            progress = watch.progress()
            if progress is not None:
                events.images(progress)
            for index, doing in watch.doing().items():
                stalls.note(index, doing, shown)
            for index, each in enumerate(running):
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

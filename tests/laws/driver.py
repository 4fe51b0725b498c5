"""The command line with faults: it is killed at a chosen moment, slowed down, and notes every finished group."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magnet_cli.cli.app import app
from magnet_cli.masks.journal import Journal
from magnet_cli.plan import GROUP
from magnet_cli.run.readers import Readers
from magnet_cli.segmentation.block_borders import BorderRunner
from magnet_cli.segmentation.cluster.cluster_image import SharedPasses
from magnet_cli.segmentation.pass_runner import PassRunner
from magnet_cli.system import durable
from tests.forked import context
from tests.laws.conftest import one_core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from multiprocessing.process import BaseProcess

    from magnet_cli.segmentation.block_borders import Border
    from magnet_cli.segmentation.group_reader import GroupPixels


HELD = 60
"""Most seconds that a program waits for a signal."""


@dataclass(frozen=True, kw_only=True)
class Script:
    """A description of one run of the program and of its fault."""

    words: tuple[str, ...]
    """The words of the command line."""
    log: str
    """File to which a line is added for every group that was computed, before it is stored."""
    fault: str = ""
    """Key of `FAULTS` for the place where the program kills itself. Empty means nowhere."""
    at: int = 1
    """Number of the visit of that place, from 1, at which the program kills itself."""
    pause: float = 0.0
    """Seconds of waiting before each group."""
    hold: int = 0
    """Number of groups after which the program waits for a signal.

    Without this it could end before the signal comes. 0 means that it does not wait.
    """
    blocks: int = 1
    """Number of blocks in a group."""
    backwards: bool = False
    """Whether the last group of each pass is computed first."""


def die() -> None:
    """End without any chance to clean up."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def dying(function: Callable[..., Any], *, at: int, partly: Callable[..., None] | None = None) -> Callable[..., Any]:
    """Return a function that does not return from its `at`-th call, or does some of its work and then not."""
    calls = [0]

    def called(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            if partly is not None:
                partly(*args, **kwargs)
            die()
        return function(*args, **kwargs)

    return called


def _tear_record(at: int) -> None:
    write = durable.write_at
    durable.write_at = dying(
        write, at=at, partly=lambda file, data, offset: write(file, data[: len(data) // 2], offset)
    )


def _stop_before_group_is_finished(at: int) -> None:
    Journal.finish_group = dying(Journal.finish_group, at=at)  # type: ignore[method-assign]


def _stop_during_assembly(at: int) -> None:
    Journal.stored_tile = dying(Journal.stored_tile, at=at)  # type: ignore[method-assign]


def _stop_before_rename(at: int) -> None:
    replace = durable.replace
    deadly = dying(replace, at=at)

    def called(source: Path, target: Path) -> None:
        (deadly if target.suffix == ".tif" else replace)(source, target)

    durable.replace = called


def _stop_before_discard(at: int) -> None:
    Journal.discard = dying(Journal.discard, at=at)  # type: ignore[method-assign]


def _stop_after_tasks(at: int) -> None:
    SharedPasses.advance = dying(SharedPasses.advance, at=at)  # type: ignore[method-assign]


FAULTS: dict[str, Callable[[int], None]] = {
    "half a record": _tear_record,
    "group not finished": _stop_before_group_is_finished,
    "assembly": _stop_during_assembly,
    "before the rename": _stop_before_rename,
    "before the journal goes": _stop_before_discard,
    "tasks of a cluster": _stop_after_tasks,
}


def _write_down(script: Script) -> None:
    compute = PassRunner.compute
    done = [0]

    def begin() -> None:
        # Where no signal comes, the run ends, and the test that waits for it fails.
        held = time.monotonic() + HELD if script.hold and done[0] == script.hold else 0
        while time.monotonic() < held:
            time.sleep(0.01)
        done[0] += 1
        time.sleep(script.pause)

    def called(self: PassRunner, given: GroupPixels, known: Any) -> Any:
        begin()
        states = compute(self, given, known)
        with Path(script.log).open("a", encoding="ascii") as file:
            file.write(f"{self.bound.number} {given.number}\n")
        return states

    join = BorderRunner.compute

    def joined(self: BorderRunner, given: list[Border], known: None) -> list[Border]:
        begin()
        borders = join(self, given, known)
        with Path(script.log).open("a", encoding="ascii") as file:
            file.write(f"{len(self._plan.passes)} borders\n")
        return borders

    PassRunner.compute = called  # type: ignore[method-assign]
    BorderRunner.compute = joined  # type: ignore[method-assign]


def _turn_around() -> None:
    begin = Readers.begin

    def called(self: Readers, read: Callable[[int], Any], groups: Iterable[int]) -> None:
        begin(self, read, reversed(list(groups)))

    Readers.begin = called  # type: ignore[method-assign]


def play(script: Script) -> None:
    """Run the program; does not return."""
    os.sched_getaffinity = one_core
    GROUP["cpu"] = script.blocks
    _write_down(script)
    if script.backwards:
        _turn_around()
    if script.fault:
        FAULTS[script.fault](script.at)
    sys.argv = ["magnet", *script.words]
    app()


def started(script: Script) -> BaseProcess:
    """Start a script in a process of its own."""
    process = context().Process(target=play, args=(script,))
    process.start()
    return process


def forked(script: Script) -> int | None:
    """Run a script to its end in a process of its own and return its exit code."""
    process = started(script)
    process.join()
    return process.exitcode

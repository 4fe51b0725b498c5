"""Commands that are killed, and commands whose disk fails: what they leave, and what the next run makes of it."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.campaign.child import End, Stop, fork, typed
from tests.campaign.commands import COMMANDS, Command, differences, make_inputs, outputs_of
from tests.campaign.steps import KINDS, Act, Steps, dying, failing, losing, nothing
from tests.campaign.verdict import Verdict, chance

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

ROOT: Final = Path(__file__).parents[2]
LIMIT: Final = 180.0
"""Seconds after which a run counts as hanging, on a machine that does other things as well."""
COLD: Final = 0.03
"""Share of kills that strike a program that starts as a user's does, its libraries not yet loaded."""
CORES: Final = os.cpu_count() or 1
INTERRUPTED: Final = 130
REFUSED: Final = 5
SOME_FAILED: Final = 7
BEGUN: Final = "Python has started"
STARTED: Final = f"import os; os.write(2, b'{BEGUN}\\n'); from magnet_cli.cli.app import main; main()"
"""A program of a new interpreter, which says when Python has started: before that, a signal is Python's own affair."""
WHOLE: Final = (".tif", ".png", ".geojson", ".html", ".safetensors", ".zarr")
"""Ends of names under which nothing may stand, or the whole result."""
SUMMARY: Final = "distribution.png"
"""A plot of the images that succeeded, which some that failed make another one."""
MESSAGES: Final = 2048
"""Bytes of a command's messages, at most."""
KEPT: Final = ("is kept", "goes on from there", "already finished is safe")
"""Promises that are false where the output folder is gone."""


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What a command does and writes when nothing disturbs it."""

    outputs: Mapping[str, bytes]
    seconds: float
    steps: tuple[str, ...]
    """Every step below the folder in which the command is typed."""

    def numbers(self, kinds: frozenset[str] | None) -> int:
        """How many steps there are of some kinds."""
        return sum(kinds is None or step.partition(" ")[0] in kinds for step in self.steps)


@dataclass(kw_only=True)
class Bench:
    """A folder with inputs in which commands are typed, killed and compared.

    Args:
        folder: An empty folder; a folder `tmp` for temporary files of each run, and one for each case, are made in it.
        seed: From which every choice follows.
    """

    folder: Path
    seed: int
    _baselines: dict[str, Baseline] = field(default_factory=dict)
    _inputs: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def inputs(self) -> Path:
        """The folder of the inputs, which are made when they are first asked for."""
        place = self.folder / "inputs"
        if not place.exists():
            place.mkdir()
            end = fork(lambda: make_inputs(place), folder=self.folder, limit=LIMIT)
            if end.status != 0:
                raise RuntimeError(f"the inputs could not be made: {end.errors}")
            self._inputs = content(place)
        return place

    def baseline(self, command: Command) -> Baseline:
        """The undisturbed run of a command, which two runs in two folders agree about.

        Raises:
            RuntimeError: It fails, or two runs differ.
        """
        if command.name not in self._baselines:
            inputs = self.inputs
            log = self.folder / "steps.txt"
            plain = self._place("undisturbed")
            first = self.run(command, plain)
            counted = self._place("counted")
            second = self.run(command, counted, log=log)
            outputs = outputs_of(plain / "out")
            other = differences(outputs, outputs_of(counted / "out"))
            if first.status or second.status or other:
                raise RuntimeError(f"{command.name} in {inputs} is no measure: {first} {second} {other}")
            self._baselines[command.name] = Baseline(
                outputs=outputs, seconds=first.seconds, steps=tuple(log.read_text().splitlines())
            )
        return self._baselines[command.name]

    def run(
        self,
        command: Command,
        place: Path,
        *,
        steps: Steps | None = None,
        stop: Stop | None = None,
        log: Path | None = None,
        cold: bool = False,
        largest: int | None = None,
    ) -> End:
        """Type a command in a folder.

        Args:
            command: The command.
            place: The folder.
            steps: Counts and disturbs its steps.
            stop: A signal for it.
            log: A file for the list of its steps.
            cold: Whether a new interpreter runs it, which has to load every library.
            largest: Bytes that a file may have at most.
        """
        inputs = self.inputs

        def work() -> int:
            os.environ |= {"TMPDIR": str(place / "tmp"), "MAGNET_STATE": str(place / "state")}
            tempfile.tempdir = None
            if largest is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
            if cold:
                os.environ |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
                # The number of threads decides which kernels compute, so the new interpreter gets one core as well.
                os.sched_setaffinity(0, {os.getpid() % CORES})
                os.execv(sys.executable, [sys.executable, "-c", STARTED, *command.line(inputs)])  # noqa: S606
            counting = steps
            if log is not None:
                counting = Steps(root=place, act=nothing, at=0)
            if counting is not None:
                counting.install()
            code = typed(command.line(inputs))
            if log is not None and counting is not None:
                lines = list(counting.seen)
                log.write_text("\n".join(lines))
            return code

        return fork(work, folder=place, limit=LIMIT, stop=stop)

    def kill(self, case: str) -> Verdict:
        """Kill a command up to three times, let it finish, and compare."""
        command = self.command(case)
        baseline, random = self.baseline(command), chance(self.seed, case)
        place = self._place("case")
        outcomes: list[str] = []
        faults: list[str] = []
        evidence = ""
        brutal = False
        for _ in range(1 + int(random.integers(0, 3))):
            number = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[int(random.integers(0, 3))]
            cold = bool(random.random() < COLD)
            if cold or random.random() < 0.5:
                after = float(random.uniform(0, 4)) if cold else float(random.uniform(0, 1.1)) * baseline.seconds
                end = self.run(command, place, stop=Stop(after=after, number=number), cold=cold)
                outcomes.append(f"{number.name} {'while it starts' if cold else 'at a moment'}")
            else:
                at = 1 + int(random.integers(0, len(baseline.steps)))
                act = dying(number, torn=bool(random.random() < 0.5))
                end = self.run(command, place, steps=Steps(root=place, act=act, at=at))
                outcomes.append(f"{number.name} at a step")
            brutal |= number == signal.SIGKILL
            own = -signal.SIGKILL if number == signal.SIGKILL else INTERRUPTED
            found = self._partial(baseline, place)
            if not cold or BEGUN in end.errors:
                found += self._ended(end, {*command.finished, own})
            faults += found
            evidence = end.errors if found else evidence
        return self._finished(case, command, place, outcomes=outcomes, faults=faults, evidence=evidence, brutal=brutal)

    def fault(self, case: str) -> Verdict:
        """Let one step of a command fail, or take its disk away, let it finish, and compare."""
        command = self.command(case)
        baseline, random = self.baseline(command), chance(self.seed, case)
        place = self._place("case")
        chosen = FAULTS[int(random.integers(0, len(FAULTS)))]
        end = chosen.strike(self, command, baseline, place, random)
        if end is None:
            return Verdict(case=case, outcomes=(f"{chosen.name}: cannot be tried here",))
        outcome = f"{chosen.name}: {'exit ' + str(end.status) if (end.status or 0) >= 0 else 'signal'}"
        faults = self._ended(end, {0, REFUSED, SOME_FAILED})
        if end.status == 0:
            faults += differences(baseline.outputs, outputs_of(place / "out"))
        else:
            faults += self._partial(baseline, place)
            if "magnet: " not in end.errors:
                faults.append("no line says what happened")
        if chosen.lost and any(word in end.errors for word in KEPT):
            faults.append("it claims to have kept what is gone")
        # A step that removes a temporary file may be the one that fails.
        return self._finished(
            case, command, place, outcomes=[outcome], faults=faults, evidence=end.errors if faults else "", brutal=True
        )

    def command(self, case: str) -> Command:
        """The command that a case's name speaks of."""
        name = case.split("/")[1]
        return next(each for each in COMMANDS if each.name == name)

    def _place(self, name: str) -> Path:
        """An empty folder with one for temporary files."""
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        (place / "tmp").mkdir(parents=True)
        return place

    def _ended(self, end: End, expected: set[int]) -> list[str]:
        found = []
        if end.status is None:
            found.append(f"it did not end within {LIMIT:.0f} s")
        elif end.status not in expected:
            found.append(f"it ended with {end.status}")
        if end.traceback:
            found.append("it printed a traceback")
        return found

    def _partial(self, baseline: Baseline, place: Path) -> list[str]:
        """What stands under a final name and is not the whole result."""
        found = outputs_of(place / "out") if (place / "out").exists() else {}
        faults = []
        for name, data in found.items():
            if ".training/" in name or name not in baseline.outputs or name == SUMMARY:
                continue
            if name.rstrip("/").endswith(WHOLE) and data != baseline.outputs[name]:
                faults.append(f"{name} stands under its final name and is not whole")
            if name.endswith(".zarr/"):
                inside = {key: value for key, value in baseline.outputs.items() if key.startswith(name)}
                if any(found.get(key) != value for key, value in inside.items()):
                    faults.append(f"{name} stands under its final name and is not whole")
        return faults

    def _finished(
        self,
        case: str,
        command: Command,
        place: Path,
        *,
        outcomes: list[str],
        faults: list[str],
        evidence: str,
        brutal: bool,
    ) -> Verdict:
        """Run the command undisturbed to its end, and compare what lies there."""
        end = self.run(command, place)
        found = self._ended(end, command.finished)
        found += differences(
            self.baseline(command).outputs, outputs_of(place / "out") if (place / "out").exists() else {}
        )
        if content(self.inputs) != self._inputs:
            found.append("an input was changed")
            shutil.rmtree(self.inputs)
            self._baselines.clear()
        if temporary := sorted(path.name for path in (place / "tmp").iterdir()):
            # A process that is killed outright cannot remove them, and the next run does not know them.
            (outcomes if brutal else found).append("temporary files are left")
            evidence += "".join(f"\nleft in the temporary folder: {name}" for name in temporary)
        if not found:
            outcomes.append("finished with equal bytes")
        return Verdict(
            case=case,
            outcomes=tuple(outcomes),
            faults=tuple(dict.fromkeys([*faults, *(f"the run after it: {what}" for what in found)])),
            evidence=evidence + (end.errors if found else ""),
        )


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its exact content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


Strike = Callable[[Bench, Command, Baseline, Path, "np.random.Generator"], "End | None"]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A way in which a disk fails."""

    name: str
    strike: Strike
    lost: bool = False
    """Whether what was finished is gone."""


def _step(number: int, *, onwards: bool) -> Strike:
    kinds = KINDS[number]

    def strike(bench: Bench, command: Command, baseline: Baseline, place: Path, random: np.random.Generator) -> End:
        at = 1 + int(random.integers(0, baseline.numbers(kinds)))
        return bench.run(
            command, place, steps=Steps(root=place, act=failing(number), at=at, onwards=onwards, kinds=kinds)
        )

    return strike


def _lost(bench: Bench, command: Command, baseline: Baseline, place: Path, random: np.random.Generator) -> End:
    act: Act = losing(place / "out")
    last = max((n for n, step in enumerate(baseline.steps) if step.startswith("rename")), default=1)
    return bench.run(command, place, steps=Steps(root=place, act=act, at=1 + int(random.integers(0, max(1, last)))))


def _limited(bench: Bench, command: Command, baseline: Baseline, place: Path, random: np.random.Generator) -> End:
    largest = max(len(data) for data in baseline.outputs.values())
    # Standard error is a file here, and has to hold the line that says what happened.
    return bench.run(command, place, largest=int(random.integers(MESSAGES, max(MESSAGES + 1, largest))))


def _small(bench: Bench, command: Command, baseline: Baseline, place: Path, random: np.random.Generator) -> End | None:
    """Give the output folder a file system of its own that is too small."""
    if os.geteuid() != 0:
        return None
    total = sum(len(data) for data in baseline.outputs.values())
    size = 4096 * int(random.integers(1, max(2, total // 4096)))
    out = place / "out"
    out.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(out)], check=False)
    if mounted.returncode:
        out.rmdir()
        return None
    kept = place / "kept"
    try:
        end = bench.run(command, place)
        shutil.copytree(out, kept)
    finally:
        subprocess.run(["umount", str(out)], check=True)
    # The user makes space: what the small disk held goes on.
    out.rmdir()
    kept.rename(out)
    return end


FAULTS: Final = (
    Fault(name="one step fails with EIO", strike=_step(errno.EIO, onwards=False)),
    Fault(name="one step fails with ENOSPC", strike=_step(errno.ENOSPC, onwards=False)),
    Fault(name="the disk is full from a step on", strike=_step(errno.ENOSPC, onwards=True)),
    Fault(name="one step is denied", strike=_step(errno.EACCES, onwards=False)),
    Fault(name="everything is denied from a step on", strike=_step(errno.EACCES, onwards=True)),
    Fault(name="the output folder is removed", strike=_lost, lost=True),
    Fault(name="files may not grow", strike=_limited),
    Fault(name="the disk is small", strike=_small),
)

"""Commands that are killed, and commands whose disk fails: what they leave, and what the next run makes of it."""

from __future__ import annotations

import errno
import os
import re
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
from tests.campaign.commands import COMMANDS, Command, differences, make_inputs, outputs_of, warm
from tests.campaign.steps import KINDS, Act, Steps, dying, failing, losing, nothing
from tests.campaign.verdict import Verdict, chance

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

ROOT: Final = Path(__file__).parents[2]
LIMIT: Final = 180.0
"""Seconds after which a run counts as hanging, on a machine that does other things as well."""
BLOWS: Final = 4
"""Signals that a case sends at most, each to the run that goes on after the one before."""
COLD: Final = 0.25
"""Share of kills at random moments that strike a program that starts as a user's does, its libraries not yet loaded."""
LATE: Final = 0.75
"""Latest moment of a signal, as a share of the time that a run takes."""
TORN: Final = 0.5
"""Share of kills at a step that write half of what the step writes first."""
SIGNALS: Final = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CORES: Final = os.cpu_count() or 1
INTERRUPTED: Final = 130
REFUSED: Final = 5
SOME_FAILED: Final = 7
BEGUN: Final = "Python has started"
STARTED: Final = f"""
from magnet_cli.cli import program
program.signals.start()
import os
os.write(2, b"{BEGUN}\\n")
program.main()
"""
"""What the program's script does. It says when its first line has run: before that, a signal is Python's own affair."""
WHOLE: Final = (".tif", ".png", ".geojson", ".html", ".safetensors", ".zarr")
"""Ends of names under which nothing may stand, or the whole result."""
SUMMARY: Final = "distribution.png"
"""A plot of the images that succeeded, which some that failed make another one."""
MESSAGES: Final = 2048
"""Bytes of a command's messages, at most."""
TRIAL: Final = re.compile("[a-z0-9_]{8}")
"""Names of the files by which Python tries whether it may write into a folder for temporary files."""
KEPT: Final = ("is kept", "goes on from there", "already finished is safe")
"""Promises that are false where the output folder is gone."""


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What a command does and writes when nothing disturbs it."""

    outputs: Mapping[str, bytes]
    seconds: float
    steps: tuple[str, ...]
    """Every step below the folder in which the command is typed."""

    @property
    def names(self) -> list[str]:
        """The names of the steps, each once."""
        return sorted(set(self.steps))

    def numbers(self, kinds: frozenset[str] | None) -> int:
        """Return how many steps there are of some kinds."""
        return sum(kinds is None or step.partition(" ")[0] in kinds for step in self.steps)


@dataclass(frozen=True, kw_only=True)
class Blow:
    """One signal: at a step, or after some seconds."""

    number: signal.Signals
    name: str = ""
    """The step at which it strikes."""
    at: int = 0
    """Which of the steps of this name it is, from 1."""
    torn: bool = False
    """Whether half of what the step writes is written first."""
    after: float | None = None
    """Seconds after the program's work has begun; None where it strikes at a step."""
    cold: bool = False
    """Whether the program runs in a new interpreter."""

    @property
    def moment(self) -> str:
        """When it strikes, in words."""
        return "at a step" if self.after is None else "of a new interpreter" if self.cold else "at a moment"


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
    _start_seconds: float = 0.0

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
            warm(place)
        return place

    def baseline(self, command: Command) -> Baseline:
        """Return the undisturbed run of a command, which two runs in two folders agree about.

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
            tempfile.tempdir = str(place / "tmp")
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

        return fork(work, folder=place, limit=LIMIT, stop=stop, bounded=False)

    def step(self, case: str) -> Verdict:
        """Kill a command at chosen steps, one after another as the same command goes on, let it finish, and compare.

        The cases of a command strike every step by its name in turn, at one of its occurrences.
        """
        command = self.command(case)
        baseline, random = self.baseline(command), chance(self.seed, case)
        names = baseline.names
        order = chance(self.seed, case.rpartition("/")[0]).permutation(len(names))
        blows = []
        for index in range(BLOWS):
            name = names[order[(int(case.rpartition("/")[2]) * BLOWS + index) % len(names)]]
            times = baseline.steps.count(name)
            # A run that goes on has fewer steps before it.
            at = 1 + int(random.integers(0, times if index == 0 else max(1, times // 2)))
            number, torn = _signal(random), bool(random.random() < TORN)
            blows.append(Blow(number=number, name=name, at=at, torn=torn))
        return self._killed(case, command, blows)

    def moment(self, case: str) -> Verdict:
        """Kill a command at random moments, let it finish, and compare."""
        command = self.command(case)
        baseline, random = self.baseline(command), chance(self.seed, case)
        blows = []
        for _ in range(BLOWS):
            cold = bool(random.random() < COLD)
            longest = baseline.seconds + (self.start_seconds if cold else 0)
            after = float(random.uniform(0, LATE)) * longest
            blows.append(Blow(number=_signal(random), after=after, cold=cold))
        return self._killed(case, command, blows)

    @property
    def start_seconds(self) -> float:
        """How much longer a command takes in a new interpreter."""
        if not self._start_seconds:
            command = COMMANDS[0]
            baseline = self.baseline(command)
            place = self._place("cold")
            end = self.run(command, place, cold=True)
            other = differences(baseline.outputs, outputs_of(place / "out"))
            if end.status or other:
                raise RuntimeError(f"{command.name} in a new interpreter is no measure: {end} {other}")
            self._start_seconds = max(0.1, end.seconds - baseline.seconds)
        return self._start_seconds

    def _killed(self, case: str, command: Command, blows: Sequence[Blow]) -> Verdict:
        """Strike a command again and again as it goes on, and compare what its undisturbed end makes of it."""
        baseline = self.baseline(command)
        place = self._place("case")
        outcomes: list[str] = []
        faults: list[str] = []
        evidence = ""
        brutal = False
        for blow in blows:
            steps = Steps(root=place, act=dying(blow.number, torn=blow.torn), at=blow.at, name=blow.name)
            stop = None if blow.after is None else Stop(after=blow.after, number=blow.number)
            end = self.run(command, place, steps=steps if stop is None else None, stop=stop, cold=blow.cold)
            own = -signal.SIGKILL if blow.number == signal.SIGKILL else INTERRUPTED
            found = self._partial(baseline, place)
            # Before the program's first line a signal ends Python in Python's way.
            early = blow.cold and BEGUN not in end.errors
            if not early:
                found += self._ended(end, {*command.finished, own})
            if end.status in command.finished and not found:
                outcomes.append("finished before a signal")
                break
            outcomes.append(f"{blow.number.name} {blow.moment}")
            brutal |= blow.number == signal.SIGKILL or early
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
        """Return the command that a case's name speaks of."""
        name = case.split("/")[1]
        return next(each for each in COMMANDS if each.name == name)

    def _place(self, name: str) -> Path:
        """Return an empty folder with one for temporary files."""
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
        """Return what stands under a final name and is not the whole result."""
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
        names = sorted(path.name for path in (place / "tmp").iterdir())
        if temporary := [name for name in names if TRIAL.fullmatch(name) is None]:
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


def _signal(random: np.random.Generator) -> signal.Signals:
    return SIGNALS[int(random.integers(0, len(SIGNALS)))]


def content(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder with its exact content."""
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

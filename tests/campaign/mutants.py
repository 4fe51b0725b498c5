"""Mutated files, examined one after another in a child that is replaced when it dies, hangs or has done many."""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import resource
import select
import shutil
import signal
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from magnet_cli.errors import foreseen
from tests.campaign.child import fork, limit_memory, one_core
from tests.campaign.specimens import SERVED, SPECIMENS, Specimen
from tests.campaign.verdict import Verdict, chance

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np

HANG: Final = 20.0
"""Seconds that a file may take."""
EXCESS: Final = 1 << 30
"""Bytes of memory that a file may take; what its image is planned to take is a fraction of that."""


@dataclass(frozen=True, kw_only=True)
class Laboratory:
    """Makes specimens once, and examines mutated copies of them.

    Args:
        folder: An empty folder.
        seed: From which every mutation follows.
    """

    folder: Path
    seed: int
    hang: float = HANG
    """Seconds that a file may take here."""

    def specimen(self, case: str) -> Specimen:
        """Return the specimen that a case's name speaks of."""
        part, name, _ = case.split("/")
        return next(each for each in (SERVED if part == "answers" else SPECIMENS) if each.name == name)

    def examine(self, cases: Sequence[str]) -> Iterator[Verdict]:
        """Examine cases of one specimen.

        Args:
            cases: Their names; the last one's files stay in the folder `mutant`.

        Yields:
            A verdict for each, in this order.
        """
        specimen = self.specimen(cases[0])
        whole = self.whole(specimen)
        if not whole.exists():
            whole.mkdir()
            made = fork(lambda: made_in(specimen, whole), folder=self.folder, limit=120)
            if made.status:
                raise RuntimeError(f"{specimen.name} could not be made: {made.errors}")
        left = list(cases)
        while left:
            for verdict in self._in_one_child(specimen, whole, tuple(left)):
                yield verdict
                left.pop(0)

    def whole(self, specimen: Specimen) -> Path:
        """Return the folder of a specimen's sound files."""
        return self.folder / f"{'served-' if specimen.served else ''}{specimen.name.replace(' ', '-')}"

    def reproduce(self, case: str, place: Path) -> None:
        """Write the mutated files of a case into a folder; the specimen has been examined before."""
        specimen = self.specimen(case)
        shutil.copytree(self.whole(specimen), place)
        specimen.mutate(place, chance(self.seed, case))

    def _in_one_child(self, specimen: Specimen, whole: Path, cases: Sequence[str]) -> Iterator[Verdict]:
        """Yield the verdicts of the first cases, up to the one at which the child ends."""
        reading, writing = os.pipe()
        log = self.folder / "stderr.txt"
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            self._examine_all(specimen, whole, cases, writing, log)
        os.close(writing)
        try:
            with os.fdopen(reading, "rb", buffering=0) as pipe:
                buffered = b""
                for case in cases:
                    start = time.monotonic()
                    while b"\n" not in buffered:
                        late = time.monotonic() - start > self.hang
                        part = b"" if late else self._next(pipe, self.hang - (time.monotonic() - start))
                        if not part:
                            yield self._died(case, pid, log, late=late or time.monotonic() - start > self.hang)
                            return
                        buffered += part
                    line, _, buffered = buffered.partition(b"\n")
                    found = json.loads(line)
                    yield Verdict(
                        case=case,
                        outcomes=(found["outcome"],),
                        faults=tuple(found["faults"]),
                        evidence=found["evidence"],
                    )
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)

    @staticmethod
    def _next(pipe: Any, seconds: float) -> bytes:
        """Return the next bytes of a pipe; none where it is closed, or where the time is over."""
        ready = select.select([pipe], [], [], max(0.0, seconds))[0]
        return bytes(pipe.read(65536)) if ready else b""

    def _died(self, case: str, pid: int, log: Path, *, late: bool) -> Verdict:
        if late:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        fault = f"it took more than {self.hang:.0f} s" if late else f"the process ended with {code}"
        said = log.read_text(encoding="utf-8", errors="replace")[-3000:] if log.exists() else ""
        return Verdict(case=case, outcomes=("died",), faults=(fault,), evidence=said)

    def _examine_all(self, specimen: Specimen, whole: Path, cases: Sequence[str], pipe: int, log: Path) -> None:
        """Examine in the child; does not return."""
        try:
            os.setpgid(0, 0)
            os.sched_getaffinity = one_core
            limit_memory()
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            os.dup2(file, 1)
            os.dup2(file, 2)
            # Commands do so, too: it logs every tag of a damaged file.
            logging.getLogger("tifffile").setLevel(logging.CRITICAL)
            temporary = self.folder / "tmp"
            temporary.mkdir(exist_ok=True)
            os.environ |= {
                "TMPDIR": str(temporary),
                "MAGNET_STATE": str(self.folder / "state"),
                "NO_PROXY": "127.0.0.1",
            }
            for case in cases:
                faulthandler.dump_traceback_later(self.hang - 2)
                verdict = self._examine_one(specimen, whole, case)
                os.write(pipe, (json.dumps(verdict) + "\n").encode())
        except BaseException:  # noqa: BLE001 - this process must end here, whatever happened
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    def _examine_one(self, specimen: Specimen, whole: Path, case: str) -> dict[str, Any]:
        random: np.random.Generator = chance(self.seed, case)
        folder = self.folder / "mutant"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        specimen.mutate(folder, random)
        before = _resident("VmRSS")
        _forget_peak()
        evidence, outcome, faults = "", "traceback", list[str]()
        try:
            found = specimen.examine(folder)
            outcome, faults = found.outcome, list(found.faults)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - each is the bug that the campaign looks for
            expected = foreseen(error)
            if expected is not None:
                return {"outcome": f"exit {expected.exit_code}", "faults": [], "evidence": ""}
            said = str(error).replace(str(self.folder), "...")
            faults.append(f"{type(error).__name__}: {said[:200]}")
            evidence = traceback.format_exc()[-3000:]
        excess = _resident("VmHWM") - before
        if excess > EXCESS:
            faults.append(f"it took {excess >> 20} MiB of memory")
        return {"outcome": outcome, "faults": faults, "evidence": evidence}


def made_in(specimen: Specimen, folder: Path) -> int:
    """Write a specimen's files and return the exit code of a child."""
    specimen.make(folder)
    return 0


def _resident(key: str) -> int:
    """Return the bytes of this process's memory by a key of /proc/self/status."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.partition(f"{key}:")[2].split()[0]) * 1024


def _forget_peak() -> None:
    """Let the largest resident memory count from now on."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

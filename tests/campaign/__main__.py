"""Attack the program at random for some minutes: kills, failing disks, mutated files, false answers, bombs.

    python -m tests.campaign --minutes 10 --seed 1
    python -m tests.campaign --minutes 10 --only steps --only mutations
    python -m tests.campaign --cases 2 --only steps
    python -m tests.campaign --case "steps/segment/17" --seed 1

Every case follows from its name and the seed, so that a case that falls can be repeated by the command that is printed;
its files are kept. Only `moments` depend on the machine. The exit code is 1 where a case fell. With `--cases` the
campaign does the same cases on every machine, however long they take, and a case may take six times as long.
`--results FILE` adds the counts to a file, and `--page` makes the tables of docs/reliability.md of such a file.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import count
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from tests.campaign.verdict import Verdict

ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""The environment in which loading the libraries starts no thread."""
SHARES: Final = {"steps": 3, "moments": 2, "faults": 2, "mutations": 4, "answers": 1, "bombs": 1}
"""The parts of a campaign, and how much of its time each gets."""
BATCH: Final = 25
"""Mutated files that one child examines."""
PAUSE: Final = 120
"""Seconds between two lines that say how far the campaign is."""
UNTIMED: Final = 6.0
"""Times the usual limit that a case may take with `--cases`, so that a busy machine makes no case fall. A reader that
waits for ever falls all the same."""
KEPT: Final = 3
"""Cases that fell of which files are kept, for each part and subject."""


def options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="how long the campaign takes (default 10)")
    parser.add_argument("--cases", type=int, help="cases of each subject, instead of a time; of mutated files times 25")
    parser.add_argument("--seed", type=int, default=1, help="the number from which every case follows (default 1)")
    parser.add_argument("--only", action="append", choices=SHARES, default=[], help="a part; repeatable")
    parser.add_argument("--case", action="append", default=[], help="repeat a case by its name; repeatable")
    parser.add_argument("--keep", type=Path, help="folder for the files of cases that fell (default: a temporary one)")
    parser.add_argument("--results", type=Path, help="file to which the counts are added")
    parser.add_argument("--page", action="store_true", help="make the tables of docs/reliability.md, and end")
    return parser.parse_args()


def main() -> int:
    """Run a campaign and return the exit code."""
    given = options()
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        os.environ |= ONE_THREAD
        os.execv(sys.executable, [sys.executable, "-m", "tests.campaign", *sys.argv[1:]])  # noqa: S606 - this program
    from tests.campaign import page  # noqa: PLC0415 - the libraries are loaded after the environment is known
    from tests.campaign.tally import Tally, read_results  # noqa: PLC0415

    if given.page:
        text = page.PAGE.read_text(encoding="utf-8")
        page.PAGE.write_text(page.filled(text, read_results(given.results or page.RESULTS)), encoding="utf-8")
        return 0
    keep = given.keep or Path(tempfile.gettempdir()) / f"magnet-campaign-{os.getpid()}-fell"
    about = {"date": f"{dt.datetime.now(dt.UTC):%Y-%m-%d}", "commit": commit(), "seed": given.seed}
    tally = Tally()
    folder = Path(tempfile.mkdtemp(prefix="magnet-campaign-"))
    begun = told = time.monotonic()
    # What was counted is written whoever ends the campaign.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for verdict in verdicts(given, folder):
            tally.add(verdict)
            if time.monotonic() - told > PAUSE:
                told = time.monotonic()
                print(f"{(told - begun) / 60:.0f} min: {tally.counted}", flush=True)  # noqa: T201
            if verdict.faults:
                tell(verdict, given.seed, folder, keep, kept=tally.groups[verdict.group].fell <= KEPT)
    except KeyboardInterrupt:
        print("interrupted: the counts so far follow")  # noqa: T201
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    tally.about = {**about, "minutes": round((time.monotonic() - begun) / 60, 1)}
    if given.results is not None:
        with given.results.open("a", encoding="utf-8") as file:
            file.write(tally.line())
    print(page.generated([tally]))  # noqa: T201
    return 1 if tally.fell else 0


def verdicts(given: argparse.Namespace, folder: Path) -> Iterator[Verdict]:
    """Run the chosen cases, or parts in turns by their shares until the time is over."""
    from tests.campaign import loaded  # noqa: PLC0415
    from tests.campaign.bombs import detonate, names  # noqa: PLC0415
    from tests.campaign.commands import COMMANDS  # noqa: PLC0415
    from tests.campaign.interruptions import Bench  # noqa: PLC0415
    from tests.campaign.mutants import HANG, Laboratory  # noqa: PLC0415
    from tests.campaign.specimens import SERVED, SPECIMENS  # noqa: PLC0415

    loaded.load()
    bench = Bench(folder=made(folder / "bench"), seed=given.seed)
    hang = HANG * (UNTIMED if given.cases else 1)
    laboratory = Laboratory(folder=made(folder / "laboratory"), seed=given.seed, hang=hang)
    cellar = made(folder / "cellar")

    single: Mapping[str, Callable[[str], Verdict]] = {
        "steps": bench.step,
        "moments": bench.moment,
        "faults": bench.fault,
        "bombs": lambda name: detonate(name, cellar, hang=hang),
    }

    def commanded(part: str) -> Iterator[Verdict]:
        for name in numbered(part, [command.name for command in COMMANDS], given.seed, most=given.cases):
            yield single[part](name)

    def mutated(part: str, subjects: list[str]) -> Iterator[Verdict]:
        found = dict.fromkeys(subjects, 0)
        for name in numbered(part, subjects, given.seed, most=given.cases):
            subject = name.split("/")[1]
            first = found[subject]
            found[subject] += BATCH
            # The whole batch before anything else: its child goes on while nobody listens.
            yield from list(laboratory.examine([f"{part}/{subject}/{n}" for n in range(first, first + BATCH)]))

    parts: Mapping[str, Iterator[Verdict]] = {
        **{part: commanded(part) for part in ("steps", "moments", "faults")},
        "mutations": mutated("mutations", [each.name for each in SPECIMENS]),
        "answers": mutated("answers", [each.name for each in SERVED]),
        "bombs": (detonate(name, cellar, hang=hang) for name in names()),
    }
    for case in given.case:
        part = case.partition("/")[0]
        yield single[part](case) if part in single else next(laboratory.examine([case]))
    if not given.case:
        yield from in_turns(parts, given.only or SHARES, inf if given.cases else given.minutes)


def in_turns(parts: Mapping[str, Iterator[Verdict]], chosen: Iterable[str], minutes: float) -> Iterator[Verdict]:
    """Take verdicts of the part that is furthest behind its share of the time, until that is over."""
    spent = dict.fromkeys(chosen, 0.0)
    end = time.monotonic() + 60 * minutes
    while spent and time.monotonic() < end:
        part = min(spent, key=lambda name: spent[name] / SHARES[name])
        start = time.monotonic()
        verdict = next(parts[part], None)
        if verdict is None:
            del spent[part]
            continue
        spent[part] += time.monotonic() - start
        yield verdict


def numbered(part: str, subjects: list[str], seed: int, *, most: int | None) -> Iterator[str]:
    """Yield the names of cases: the subjects in an order of the seed's, again and again, with rising numbers.

    Args:
        part: The part of the campaign.
        subjects: Names of its commands or files.
        seed: The campaign's seed.
        most: How often each subject comes; without end where None.
    """
    from tests.campaign.verdict import chance  # noqa: PLC0415

    order = chance(seed, part).permutation(len(subjects))
    for number in count() if most is None else range(most):
        for index in order:
            yield f"{part}/{subjects[index]}/{number}"


def tell(verdict: Verdict, seed: int, folder: Path, keep: Path, *, kept: bool) -> None:
    """Print a case that fell, with the command that repeats it, and keep its files."""
    from tests.campaign.mutants import Laboratory  # noqa: PLC0415

    again = shlex.join(["python", "-m", "tests.campaign", "--case", verdict.case, "--seed", str(seed)])
    lines = [f"FELL: {verdict.case}: {'; '.join(verdict.faults)}", f"  again: {again}"]
    if kept:
        place = keep / re.sub(r"[^\w.-]+", "-", verdict.case)
        shutil.rmtree(place, ignore_errors=True)
        part = verdict.case.partition("/")[0]
        if part in ("mutations", "answers"):
            Laboratory(folder=folder / "laboratory", seed=seed).reproduce(verdict.case, place)
        else:
            home = folder / ("cellar/bomb" if part == "bombs" else "bench/case")
            # Nobody works there while this runs; sockets and the like are no files to keep.
            with suppress(shutil.Error):
                shutil.copytree(home, place, symlinks=True)
        place.mkdir(parents=True, exist_ok=True)
        (place / "evidence.txt").write_text("\n".join([*lines, verdict.evidence]) + "\n", encoding="utf-8")
        lines.append(f"  files: {place}")
    print("\n".join(lines), flush=True)  # noqa: T201


def made(folder: Path) -> Path:
    """Make a folder."""
    folder.mkdir()
    return folder


def commit() -> str:
    """Return the commit of the working tree, shortened; with a plus sign where the package differs from it."""
    root = Path(__file__).parents[2]
    named = subprocess.run(
        ["git", "rev-parse", "--short=8", "HEAD"], cwd=root, check=False, capture_output=True, text=True
    )
    if named.returncode:
        return "unknown"
    words = ["git", "status", "--porcelain", "magnet_cli"]
    changed = subprocess.run(words, cwd=root, check=False, capture_output=True, text=True)
    return named.stdout.strip() + ("+" if changed.stdout else "")


if __name__ == "__main__":
    sys.exit(main())

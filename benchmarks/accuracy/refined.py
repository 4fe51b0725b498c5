"""What sharpening makes of the program's own masks, on scenes that no network behind them has seen.

    python -m benchmarks.accuracy.refined --work WORK                           # the masks, guided filter, dense CRF
    python -m benchmarks.accuracy.refined --work WORK --cascade vessel=CASCADE  # and a cascade, for vessels alone
    python -m benchmarks.accuracy.refined --work WORK --cascade vessel=CASCADE --figures --part 04_h --kind bilinear
    python -m benchmarks.accuracy.refined --work WORK --part tile7 --cascade building=CASCADE --seed 2

WORK is what benchmarks.accuracy.scenes makes; WORK/bundles/out7 is a bundle that was trained without tile 7. A cascade
for buildings also refines these alone in the masks of all classes (`--only`). With --seed the rows are those of another
training of the cascade. With --figures also one step of the cascade alone, several L and several sizes of the picture.
A cell is one file in benchmarks/results/refined; what is there is not measured again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from benchmarks.accuracy.cascades import Cascade, by_cascade
from benchmarks.accuracy.inputs import KINDS, Input
from benchmarks.accuracy.judge import EVERY, Scored, save_cell
from benchmarks.accuracy.parts import ALONE, RETINAS, TILES, Part
from benchmarks.accuracy.refined_figures import measure_lengths, measure_sizes, measure_steps
from benchmarks.accuracy.tiles import CLASSICAL, classically


def measure_classical(scored: Scored, given: Input) -> None:
    """The mask itself, the guided filter and the dense CRF."""
    if not scored.has(f"{given.kind}-input"):
        scored.save(f"{given.kind}-input", given.labels())
    for name, method in CLASSICAL.items():
        row = f"{given.kind}-{name}"
        if not scored.has(row):
            started = time.process_time()
            labels = classically(method, given.probs(), scored.part.pixels())
            scored.save(row, labels, seconds=round(time.process_time() - started, 1))


def measure_cascade(scored: Scored, given: Input, cascade: Cascade, *, seed: int) -> None:
    """One mask, sharpened by `magnet refine`: of one class, and where there are others that class in a mask of all."""
    row = f"{given.kind}-cascade{'' if seed == 1 else f'-seed{seed}'}"
    _measure(scored, given, cascade, table=cascade.table, row=row, mask=cascade.mask(given))
    if EVERY in scored.judges and cascade.table != EVERY:
        chosen = {"mask_kind": "labels", "only": (cascade.table,), "evidence": given.evidence}
        _measure(scored, given, cascade, table=EVERY, row=row.replace("cascade", "only"), mask=given.named(), **chosen)


def _measure(
    scored: Scored, given: Input, cascade: Cascade, *, table: str, row: str, mask: Path, **chosen: Any
) -> None:
    if cascade.has(table, given.part, row):
        return
    started = time.process_time()
    found = by_cascade(cascade, given.part.image, mask, **chosen)
    seconds = round(time.process_time() - started, 1)
    more = {"seconds": seconds, "windows": found.windows, "backbone": cascade.digest, "more": {"L": cascade.side}}
    save_cell(given.part, table, row, {**scored.judges[table].score(found.labels), **more})


def measure_figures(scored: Scored, given: Input, cascade: Cascade) -> None:
    """What a cascade's steps, L and the size of the picture do."""
    measure_steps(scored, given, cascade)
    measure_lengths(scored, given, cascade)
    measure_sizes(given, cascade)


def main() -> None:
    """Measure what has not been measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("accuracy-work"))
    parser.add_argument("--part", action="append", choices=[*TILES, *RETINAS])
    parser.add_argument("--kind", action="append", choices=list(KINDS))
    parser.add_argument("--cascade", action="append", type=named_cascade, default=[], metavar="TABLE=FOLDER")
    parser.add_argument("--seed", type=int, default=1, help="of the cascade's training")
    parser.add_argument("--figures", action="store_true")
    args = parser.parse_args()
    for name in args.part or ("tile7", *RETINAS):
        part = Part(work=args.work, name=name)
        part.prepare()
        scored = Scored(part)
        for kind in args.kind or KINDS:
            given = Input(part=part, kind=kind)
            given.prepare()
            measure_classical(scored, given)
            for cascade in args.cascade:
                if cascade.suits(part):
                    measure_cascade(scored, given, cascade, seed=args.seed)
                    if args.figures:
                        measure_figures(scored, given, cascade)


def named_cascade(text: str) -> Cascade:
    """`vessel=FOLDER`."""
    table, _, weights = text.partition("=")
    if table not in {EVERY, *ALONE.values()} or not weights:
        message = f"write {', '.join([EVERY, *ALONE.values()])} and =FOLDER"
        raise argparse.ArgumentTypeError(message)
    return Cascade(table=table, weights=weights)


if __name__ == "__main__":
    main()

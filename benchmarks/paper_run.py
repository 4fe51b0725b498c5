"""The paper's DeepGlobe run, 21 windows of a 2448 x 2448 image, beside the published arithmetic done naively.

    python benchmarks/make_bundle.py fpn508
    python benchmarks/paper_run.py --weights fpn508 --repeats 3

The program in each precision and the naive arithmetic (batch 1, float32, whole canvases) are processes of their own
with the same settings of the C library's heap, and run in turn. Measured are the seconds of a whole run, the seconds
outside the two networks, and the peak of memory above what the loaded process took before; ratios are made round by
round. The result becomes the last line of benchmarks/results/paper_run.jsonl. The script runs on CPUs alone, because
timing the networks of a GPU would make the program wait for them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, cast

from magnet_cli.bench.task import Task
from magnet_cli.bench.worker_process import Process
from magnet_cli.options.segment import SegmentOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from magnet_cli.bench.task import Took
    from magnet_cli.options.shared import Precision

RESULTS = Path(__file__).with_name("results") / "paper_run.jsonl"
SIDE = 2448
NETWORKS = ("networks_backbone", "networks_refiner", "backbone", "refiner")


@dataclass(kw_only=True)
class Contender:
    """The program in one precision, or the naive arithmetic."""

    name: str
    process: Process
    runs: list[Took] = field(default_factory=list)

    def run(self) -> None:
        """Run once, and print the seconds on standard error."""
        took = self.process.run()
        self.runs.append(took)
        print(f"{self.name}: {took.seconds:.1f} s, {outside(took):.2f} s outside the networks", file=sys.stderr)


def outside(took: Took) -> float:
    """Return the seconds outside the two networks."""
    return took.seconds - sum(took.parts.get(name, 0.0) for name in NETWORKS)


def above(took: Took) -> float:
    """Return the bytes above what the process took before the run."""
    assert took.host_peak is not None
    assert took.host_base is not None
    return float(took.host_peak - took.host_base)


def spread(values: Sequence[float]) -> dict[str, object]:
    """Return median, range and all values of some runs as JSON values."""
    return {"median": median(values), "least": min(values), "most": max(values), "all": list(values)}


def described(one: Contender) -> dict[str, object]:
    """Return the runs of a contender as JSON values.

    Memory is that of the first run, because later runs reuse what the heap kept.
    """
    shares: dict[str, float] = {}
    for name in NETWORKS:
        if name in one.runs[0].parts:
            shares[name.removeprefix("networks_")] = median(took.parts[name] / took.seconds for took in one.runs)
    shares["rest"] = 1 - sum(shares.values())
    return {
        "seconds": spread([took.seconds for took in one.runs]),
        "outside": spread([outside(took) for took in one.runs]),
        "shares": {name: round(share, 4) for name, share in shares.items()},
        "windows": one.runs[0].windows,
        "memory": {"before": one.runs[0].host_base, "peak": one.runs[0].host_peak, "above": above(one.runs[0])},
        "parts": dict(one.runs[-1].parts),
    }


def compared(one: Contender, naive: Contender) -> dict[str, object]:
    """Return ratios of rounds: the speed-up of the whole run, and the shares of the naive time and memory."""

    def ratios(value: Callable[[Took], float]) -> list[float]:
        return [value(mine) / value(theirs) for mine, theirs in zip(one.runs, naive.runs, strict=True)]

    return {
        "times_as_fast": spread([1 / ratio for ratio in ratios(lambda took: took.seconds)]),
        "outside_share": spread(ratios(outside)),
        "memory_share": above(one.runs[0]) / above(naive.runs[0]),
    }


def measure(weights: str, *, side: int, repeats: int, precisions: Sequence[str]) -> dict[str, object]:
    """Run all rounds, each contender in turn."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        # An image of one block needs no margin; with one there would be more windows than the paper's.
        options = SegmentOptions(weights=weights, device="cpu", overlap=0)
        image, warm = folder / "image.tif", folder / "warm.tif"
        with Process("studio", options) as studio:
            setting = studio.ask("setting").describe()
            studio.ask("draw", image, side)
            studio.ask("draw", warm, side // 4)
        contenders = []
        for kind, precision in [*(("program", precision) for precision in precisions), ("naive", "float32")]:
            chosen = replace(options, precision=cast("Precision", precision))
            task = Task(image=str(image), options=chosen, folder=folder, warm=str(warm), timed=True)
            one = Contender(name=f"{kind} {precision}", process=stack.enter_context(Process(kind, task)))
            ready = one.process.prepare()
            assert ready.refusal is None, ready.reason
            contenders.append(one)
        for _ in range(repeats):
            for one in contenders:
                one.run()
    *ours, naive = contenders
    assert all(one.runs[0].windows == naive.runs[0].windows for one in ours), "they must look at the same windows"
    return {
        **setting,
        "side": side,
        "repeats": repeats,
        "contenders": {one.name: described(one) for one in contenders},
        "against naive": {one.name: compared(one, naive) for one in ours},
    }


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--side", type=int, default=SIDE)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precisions", default="float32,bfloat16")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    words = parser.parse_args()
    found = measure(words.weights, side=words.side, repeats=words.repeats, precisions=words.precisions.split(","))
    with words.output.open("a", encoding="utf-8") as file:
        file.write(json.dumps(found) + "\n")
    print(json.dumps(found["against naive"], indent=1))


if __name__ == "__main__":
    main()

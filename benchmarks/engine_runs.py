"""Whole runs of `magnet segment` in several engines beside the ceiling of PyTorch, in CPU seconds of one thread.

    taskset -c 0 python benchmarks/engine_runs.py --weights aerial --sides 2048,4096 --engines torch,openvino

Engines take turns round by round: a run over a generated image, from opening the image to the finished mask, and then
the passes of this run on tensors that are in memory. CPU seconds are those of the whole process, with the threads that
read and store, because other work on the machine stretches them less than the seconds of a clock. Give the process one
core (`taskset`), so that every operation has one thread. `of its ceiling` divides the passes of the engine by its run,
`of the ceiling of torch` the passes of PyTorch by it, each within a round; the load of the machine is noted before each
round. The result becomes the last line of benchmarks/results/engine_runs.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from magnet_cli.bench.ceiling import SAMPLE, sampled_patches
from magnet_cli.bench.passes import run_passes
from magnet_cli.bench.program import Program, made_plan
from magnet_cli.bench.studio import Studio
from magnet_cli.bench.task import Task
from magnet_cli.events import Events
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.segmentation.segment_model import load_model
from magnet_cli.system.memory import keep_heap_steady

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RESULTS = Path(__file__).with_name("results") / "engine_runs.jsonl"
PLAIN = "torch"
LEAST = 2.0
"""CPU seconds for which the passes of a stage are repeated."""


@dataclass(kw_only=True)
class Engine:
    """The rounds of an engine in a precision."""

    name: str
    windows: int = 0
    runs: list[float] = field(default_factory=list)
    """CPU seconds of each run."""
    passes: list[float] = field(default_factory=list)
    """CPU seconds of the forward passes of each run alone."""


class Measured:
    """A program in an engine, and its passes, in this process.

    Args:
        task: The image and the options.
    """

    def __init__(self, task: Task[SegmentOptions]) -> None:
        self._program = Program(task)
        self._program.prepare()
        self._networks = (model := load_model(task.options, Events())).networks
        self._plan = made_plan(task.image, model, task.options)
        patches = sampled_patches(task, self._plan, model, count=SAMPLE)
        self._batches = torch.split(patches, self._plan.batch)
        scale = self._plan.stages[-1].scale
        # The probabilities of any patch serve as the field of a stage: their content does not change the time.
        self._fields = [self._networks.predict(batch.flip(0), scale) for batch in self._batches]

    def run(self, into: Engine) -> Mapping[str, int]:
        """Run the program and then its passes, note the CPU seconds of both, and return the windows of each stage."""
        begun = time.process_time()
        took = self._program.run("", None)
        into.runs.append(time.process_time() - begun)
        self.passes(into, took.by_stage)
        return took.by_stage

    def passes(self, into: Engine, by_stage: Mapping[str, int]) -> None:
        """Run the passes of a run alone, and note their CPU seconds."""
        into.windows = sum(by_stage.values())
        into.passes.append(sum(self._seconds(number, count) for number, count in by_stage.items() if count))

    @torch.inference_mode()
    def _seconds(self, number: str, windows: int) -> float:
        """Return the CPU seconds of so many windows of a stage, from repeated passes over a sample."""
        (stage,) = (each for each in self._plan.stages if str(each.number) == number)
        done, begun = 0, time.process_time()
        for index, (patches, known) in enumerate(cycle(list(zip(self._batches, self._fields, strict=True)))):
            if index == 1:
                # The first pass is slower: kernels are chosen, or a graph is compiled.
                done, begun = 0, time.process_time()
            run_passes(self._plan, self._networks, stage, patches=patches, field=known)
            done += len(patches)
            if index and time.process_time() - begun >= LEAST:
                break
        return windows * (time.process_time() - begun) / done


def spread(values: Sequence[float]) -> dict[str, object]:
    """Return the median, the range and all values of some rounds as JSON values."""
    rounded = [round(value, 4) for value in values]
    return {"median": round(median(values), 4), "least": min(rounded), "most": max(rounded), "all": rounded}


def compared(engines: Sequence[Engine]) -> dict[str, dict[str, object]]:
    """Return the figures of engines as JSON values; ratios are made within rounds.

    Args:
        engines: Engines with as many rounds each. The one with the name `torch` is the ceiling of all.
    """
    plain = next((one.passes for one in engines if one.name == PLAIN), None)
    found: dict[str, dict[str, object]] = {}
    for one in engines:
        found[one.name] = {"windows": one.windows, "passes": spread(one.passes)}
        if not one.runs:
            continue
        found[one.name] |= {
            "seconds": spread(one.runs),
            "of its ceiling": spread([own / run for own, run in zip(one.passes, one.runs, strict=True)]),
        }
        if plain is not None:
            ratios = [ceiling / run for ceiling, run in zip(plain, one.runs, strict=True)]
            found[one.name]["of the ceiling of torch"] = spread(ratios)
    return found


def options_of(word: str, options: SegmentOptions) -> SegmentOptions:
    """Return options with an engine and a precision, written as `openvino` or `openvino:bfloat16`."""
    engine, _, precision = word.partition(":")
    chosen: Any = {"engine": engine, "precision": precision or "float32"}
    return replace(options, **chosen)


def measure(
    options: SegmentOptions, *, side: int, engines: Sequence[str], ceilings: Sequence[str], repeats: int
) -> dict[str, object]:
    """Run all rounds over one generated image, each engine in turn.

    Args:
        options: Options of all runs.
        side: Side of the image in pixels.
        engines: Engines, each with its precision as `options_of` takes it.
        ceilings: Those among them of which the passes alone are measured, not whole runs.
        repeats: The number of rounds.
    """
    loads = []
    with tempfile.TemporaryDirectory() as name:
        folder, studio = Path(name), Studio(options)
        image, warm = folder / "image.tif", folder / "warm.tif"
        studio.draw(image, side)
        studio.draw_warm(warm, side)
        every = [Engine(name=word) for word in engines]
        measured = [
            Measured(Task(image=str(image), options=options_of(word, options), folder=folder, warm=str(warm)))
            for word in engines
        ]
        for _ in range(repeats):
            loads.append(round(os.getloadavg()[0], 2))
            windows: Mapping[str, int] = {}
            for engine, one in zip(every, measured, strict=True):
                if engine.name not in ceilings:
                    windows = one.run(engine)
            for engine, one in zip(every, measured, strict=True):
                if engine.name in ceilings:
                    one.passes(engine, windows)
                print(f"{engine.name}: runs {engine.runs}, passes {engine.passes}, in CPU s", file=sys.stderr)
    return {**studio.setting().describe(), "method": options.method, "side": side, "load": loads,
        "engines": compared(every)}  # fmt: skip


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--sides", default="2048")
    parser.add_argument("--method", default="patch")
    parser.add_argument("--engines", default="torch,onnxruntime,openvino,openvino:bfloat16")
    parser.add_argument("--ceilings", default="", help="engines of which the passes alone are measured")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    words = parser.parse_args()
    keep_heap_steady()
    options = SegmentOptions(weights=words.weights, method=words.method, device="cpu", tissue="none")
    for side in words.sides.split(","):
        found = measure(
            options,
            side=int(side),
            engines=words.engines.split(","),
            ceilings=words.ceilings.split(","),
            repeats=words.repeats,
        )
        with words.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
        print(json.dumps(found["engines"], indent=1))


if __name__ == "__main__":
    main()

"""Speed is compared with the ceiling and with MONAI's sliding window, in turn in one process."""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.bundles import paper, shipped
from benchmarks.gpu.running import draw
from magnet_cli.bench.ceiling import Ceiling
from magnet_cli.bench.patching import KINDS, Patching
from magnet_cli.bench.program import Program
from magnet_cli.bench.task import Task
from magnet_cli.models.device import computes_bfloat16

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.gpu.part import Findings, Setting
    from magnet_cli.options.segment import SegmentOptions

AIMS = {("fpn508", "patch"): 0.92, ("fpn508", "magnet"): 0.88, ("aerial", "patch"): 0.80, ("aerial", "magnet"): 0.70}
"""Least share of the ceiling's speed, by bundle and method."""
MONAI_AIMS = dict(zip(KINDS, (1.5, 0.95), strict=True))
"""Least speed as a multiple of MONAI's sliding window, by kind of bundle."""
ROUNDS = 2


def run(setting: Setting, findings: Findings) -> None:
    """Measure each bundle and method."""
    # So large that opening the image and ending the mask are little of it.
    side = 600 if setting.short else 16_384
    image = draw(setting.folder / "scene.tif", side)
    warm = draw(setting.folder / "warm.tif", min(side, 2048) // 2)
    half: Any = "float32" if setting.short or not computes_bfloat16(setting.device) else "bfloat16"
    cases: list[tuple[str, Any, Any]] = [("aerial", "patch", half), ("aerial", "magnet", half)]
    if not setting.short:
        cases = [("fpn508", "patch", half), ("fpn508", "magnet", half), *cases, ("fpn508", "patch", "float32")]
    bundles = {"aerial": shipped(setting), "fpn508": paper(setting)}
    for name, method, precision in cases:
        with findings.guarded(f"{name}, {method}, {precision}"):
            overlap = 0 if (name, method) == ("fpn508", "patch") else None
            options = replace(bundles[name], method=method, precision=precision, overlap=overlap)
            task = Task(image=str(image), options=options, folder=setting.folder, warm=str(warm))
            _measure(setting, findings, task, name=f"{name}, {method}, {precision}", aim=AIMS[name, method])
    if not setting.short:
        with findings.guarded("a whole run"):
            _whole(setting, findings, replace(bundles["fpn508"], precision=half))


def _measure(setting: Setting, findings: Findings, task: Task[SegmentOptions], *, name: str, aim: float) -> None:
    program, ceiling = Program(task), Ceiling(task)
    patching = Patching(task) if task.options.method == "patch" else None
    ready = program.prepare()
    ceiling.prepare()
    monai = None if patching is None else patching.prepare()
    rounds: list[dict[str, float]] = []
    parts: dict[str, Any] = {}
    windows = 0
    for _ in range(1 if setting.short else ROUNDS):
        took = program.run("", None)
        found = {"program": took.seconds, "ceiling": ceiling.run("", took).seconds}
        if patching is not None and monai is not None and monai.refusal is None:
            found |= {kind: patching.run(kind, took).seconds for kind in KINDS}
        rounds.append(found)
        parts, windows = dict(took.parts), took.windows
    ratio = median(found["ceiling"] / found["program"] for found in rounds)
    pixels = 0 if ready.size is None else ready.size.pixels
    seconds = median(found["program"] for found in rounds)
    findings.add(
        f"{name}: of the ceiling",
        f"{ratio:.2f} ({seconds:.2f} s, {pixels / 1e6 / seconds:.0f} megapixels/s, {windows / seconds:.0f} windows/s)",
        aim="" if setting.short else f">= {aim}",
        met=None if setting.short else ratio >= aim,
        rounds=rounds,
        parts=parts,
        windows=windows,
    )
    if monai is not None and monai.refusal is not None:
        findings.add(f"{name}: MONAI", f"{monai.refusal}: {monai.reason}")
    elif monai is not None:
        for kind in KINDS:
            times = median(found[kind] / found["program"] for found in rounds)
            findings.add(
                f"{name}: times as fast as MONAI, {kind}",
                f"{times:.2f}",
                aim="" if setting.short else f">= {MONAI_AIMS[kind]}",
                met=None if setting.short else times >= MONAI_AIMS[kind],
            )


def _whole(setting: Setting, findings: Findings, options: SegmentOptions) -> None:
    """Segment a larger image as a whole, and add how long finishing the mask takes."""
    side = 24_576
    image: Path = draw(setting.folder / "larger.tif", side)
    warm = setting.folder / "warm.tif"
    program = Program(Task(image=str(image), options=options, folder=setting.folder, warm=str(warm)))
    program.prepare()
    started = time.monotonic()
    took = program.run("", None)
    findings.add(
        f"fpn508, magnet, {options.precision}, {side:,} px, whole",
        f"{took.seconds:.2f} s, {side * side / 1e6 / took.seconds:.0f} megapixels/s",
        parts=dict(took.parts),
        windows=took.windows,
        outer=time.monotonic() - started,
        host_peak=took.host_peak,
        device_peak=dict(took.device_peak),
    )

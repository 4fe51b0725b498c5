"""Segment a generated JPEG pyramid of 100,000 x 100,000 pixels for a bounded time, and measure rates and waiting."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.bundles import paper
from benchmarks.gpu.running import Watch, clocks, draw, run_once
from benchmarks.gpu.sampler import sampled
from benchmarks.gpu.threads import sampled_threads
from magnet_cli.events import Events
from magnet_cli.images import reading_processes
from magnet_cli.models.device import computes_bfloat16, device_peak, reset_device_peak
from magnet_cli.segmentation.segment_model import load_model
from magnet_cli.system.threads import usable_cores

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.gpu.part import Findings, Setting
    from benchmarks.gpu.sampler import Busy
    from magnet_cli.options.segment import SegmentOptions
    from magnet_cli.segmentation.segment_model import Model

AIMS = {"magnet": 75.0, "magnet-fast": 30.0}
"""Most seconds that the whole image may take on one H200, by method."""
MOST = 0.9
"""Share of a run's work from which on one pass tells how long the whole takes. The shares of passes are estimates."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way to run for a bounded time."""

    name: str
    method: Any
    seconds: float
    profiled: bool = False
    workers: int | None = None
    batch: int | None = None
    threads: bool = False
    """Whether threads read where processes would."""


FULL = (
    Variant(name="magnet", method="magnet", seconds=22),
    Variant(name="magnet, profiled", method="magnet", seconds=9, profiled=True),
    Variant(name="magnet-fast", method="magnet-fast", seconds=10),
    Variant(name="magnet, threads that read", method="magnet", seconds=9, threads=True),
    Variant(name="magnet, 64 patches a pass", method="magnet", seconds=9, batch=64),
)
SHORT = (Variant(name="magnet", method="magnet", seconds=2.0),)


def run(setting: Setting, findings: Findings) -> None:
    """Run each variant."""
    side = 1500 if setting.short else 100_000
    started = time.monotonic()
    image = draw(setting.folder / "scene.tif", side)
    findings.add("image drawn", f"{time.monotonic() - started:.1f} s", bytes=image.stat().st_size)
    half = "float32" if setting.short or not computes_bfloat16(setting.device) else "bfloat16"
    options = paper(setting, precision=half, overwrite=True)
    model = load_model(options, Events())
    warm = draw(setting.folder / "warm.tif", side // 20)
    run_once(warm, setting.folder / "warm" / "mask.tif", model, options)
    with sampled(setting.device, setting.folder / "busy.txt") as busy:
        scene = Scene(image=image, side=side, model=model, options=options, busy=busy)
        for variant in SHORT if setting.short else FULL:
            with findings.guarded(variant.name), _reading(threads=variant.threads):
                _measure(setting, findings, variant, scene)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The image and the model of all variants."""

    image: Path
    side: int
    model: Model
    options: SegmentOptions
    busy: Busy


def _measure(setting: Setting, findings: Findings, variant: Variant, scene: Scene) -> None:
    side, model, options = scene.side, scene.model, scene.options
    options = replace(options, method=variant.method, num_workers=variant.workers, batch_size=variant.batch)
    profile = _Profile() if variant.profiled and setting.kind == "cuda" else None
    watch = Watch(seconds=variant.seconds, at_group=None if profile is None else profile.at_group)
    reset_device_peak(setting.device)
    shutil.rmtree(setting.folder / "run", ignore_errors=True)
    began, cpu = time.time(), os.times()
    with clocks() as made, sampled_threads() as places:
        run_once(scene.image, setting.folder / "run" / "mask.tif", model, options, watch)
    ended, spent = time.time(), os.times()
    wall = ended - began
    # Groups end in bursts at first, while the readers are ahead: the rate is that after a third of the time.
    later = [entry for entry in watch.done if entry[0] >= variant.seconds / 3] or watch.done
    (first_time, _, first), (last_time, groups, last) = later[0], later[-1]
    # By shares of the work, because a run has several passes, and the time is over in the first.
    pace = (last - first) / (last_time - first_time) if last > first else last / last_time
    rate, whole = side * side * pace, 1 / pace
    seen = last / groups * watch.total if watch.what.startswith("pass 1 ") else last
    is_most = seen > MOST
    clock = made[-1].seconds() if made else {}
    readers = model.machine.readers(options.num_workers)
    share = scene.busy.share(began + variant.seconds / 3, ended)
    aim = AIMS[variant.method] if setting.kind == "cuda" and side == 100_000 else None
    findings.add(
        f"{side:,} px, {variant.name}",
        f"{rate / 1e6:.0f} megapixels/s, {whole:.0f} s the whole{'' if is_most else f', by {watch.what} alone'}",
        aim="" if aim is None else f"<= {aim:.0f} s",
        met=None if aim is None or variant.profiled or not is_most else whole <= aim,
        groups=groups,
        of=watch.total,
        wall=wall,
        rate=rate,
        clock=clock,
        first_group=watch.done[0][0],
        cores_user=(spent.user - cpu.user) / wall,
        cores_system=(spent.system - cpu.system) / wall,
        device_peak=device_peak(setting.device),
        places=places.shares(),
        kernels=None if profile is None else profile.kernels,
    )
    findings.add(
        f"{side:,} px, {variant.name}: idle",
        f"GPU {'?' if share is None else f'{1 - share:.0%}'}, "
        f"{readers} readers {1 - clock.get('read', 0) / wall / max(1, readers):.0%}, "
        f"writer {1 - clock.get('write', 0) / wall:.0%}, computing thread {clock.get('idle', 0) / wall:.0%}, "
        f"{usable_cores()} cores {1 - (spent.user + spent.system - cpu.user - cpu.system) / wall / usable_cores():.0%}",
        busy=share,
    )


@contextmanager
def _reading(*, threads: bool) -> Iterator[None]:
    """Let threads read also images for which processes would be started."""
    before = reading_processes.LEAST_PIXELS
    if threads:
        reading_processes.LEAST_PIXELS = 1 << 62
    try:
        yield
    finally:
        reading_processes.LEAST_PIXELS = before


class _Profile:
    """A profiler of the device's kernels in a few groups in the middle of a run."""

    AFTER, UNTIL = 3, 6

    def __init__(self) -> None:
        self.kernels: dict[str, Any] = {}
        self._profiler: Any = None
        self._began = 0.0

    def at_group(self, done: int) -> None:
        """Begin or end profiling at certain numbers of finished groups."""
        import torch  # noqa: PLC0415 - the program's own import has been made by now
        from torch.profiler import ProfilerActivity, profile  # noqa: PLC0415

        if done >= self.AFTER and self._profiler is None and not self.kernels:
            self._profiler, self._began = profile(activities=[ProfilerActivity.CUDA]), time.perf_counter()
            self._profiler.__enter__()
        elif done >= self.UNTIL and self._profiler is not None:
            torch.cuda.synchronize()
            wall = time.perf_counter() - self._began
            profiler, self._profiler = self._profiler, None
            profiler.__exit__(None, None, None)
            events = sorted(profiler.key_averages(), key=lambda event: -event.self_device_time_total)
            total = sum(event.self_device_time_total for event in events) / 1e6
            self.kernels = {
                "wall": wall,
                "busy": total,
                "launches": sum(event.count for event in events),
                "top": [[event.key[:90], event.count, event.self_device_time_total / 1e6] for event in events[:30]],
            }

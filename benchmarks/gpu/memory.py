"""Device memory does not grow with the image's size, and is small with the paper's networks."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.bundles import convolution, paper
from benchmarks.gpu.running import Watch, draw, run_once
from magnet_cli.events import Events
from magnet_cli.models.device import device_peak, release_device_memory, reset_device_peak
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.segmentation.segment_model import load_model
from magnet_cli.system.memory import host_memory

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.gpu.part import Findings, Setting
    from magnet_cli.segmentation.segment_model import Model

MIB = 1 << 20
PROCESS, RESERVED = 1_500_000_000, 700_000_000
"""Most bytes of the paper's networks with the smallest batch: of the process, and reserved. The paper has 1,559 MB."""


def run_flat(setting: Setting, findings: Findings) -> None:
    """Segment images of growing size for a bounded time each, and compare the peaks."""
    sides = (600, 1100) if setting.short else (5_000, 12_000, 100_000)
    seconds = 3.0 if setting.short else 10.0
    options = SegmentOptions(weights=convolution(setting.folder), device=setting.device, precision="float32")
    if setting.short:
        options = paper(setting)
    model = load_model(options, Events())
    peaks = []
    for side in sides:
        image = draw(setting.folder / f"scene{side}.tif", side)
        peak = _peak(model, image, setting.folder / f"masks{side}", options, seconds=seconds)
        image.unlink()
        peaks.append(peak)
        findings.add(
            f"one convolution, {side:,} px: device memory",
            _told(peak),
            host=host_memory(),
            peak=peak,
        )
    if setting.kind == "cuda":
        # The blocks of the smallest image are cut at its edge, so its groups hold smaller canvases: no aim.
        for key in ("allocated", "reserved"):
            for side, peak in zip(sides[:-1], peaks, strict=False):
                grown = peaks[-1][key] / max(1, peak[key]) - 1
                is_whole = side != sides[0]
                findings.add(
                    f"{key} memory of {sides[-1]:,} px above that of {side:,} px",
                    f"{grown:+.1%}",
                    aim="none, within 2 %" if is_whole else "",
                    met=grown <= 0.02 if is_whole else None,
                    grown=grown,
                )


def run_small(setting: Setting, findings: Findings) -> None:
    """Run the paper's networks with one patch in each forward pass, and read the driver's counters."""
    side = 600 if setting.short else 9_800
    image = draw(setting.folder / "scene.tif", side)
    for precision in ("float32",) if setting.short else ("float32", "bfloat16"):
        with findings.guarded(f"fpn508, -b 1, {precision}: memory"):
            _small(setting, findings, image, precision)


def _small(setting: Setting, findings: Findings, image: Path, precision: Any) -> None:
    options = paper(setting, precision=precision, batch_size=1, overwrite=True)
    model = load_model(options, Events())
    watch = Watch(seconds=2.0 if setting.short else 15.0)
    reset_device_peak(setting.device)
    release_device_memory(setting.device)
    report = run_once(image, setting.folder / f"mask-{precision}.tif", model, options, watch)
    peak = device_peak(setting.device)
    planned = None if report is None else report["memory"].get("device_planned")
    findings.add(
        f"fpn508, -b 1, {precision}: device memory",
        _told(peak),
        planned=planned,
        driver=driver_memory(),
        host=host_memory(),
        groups=watch.done[-1:] and watch.done[-1][1],
        peak=peak,
    )
    if setting.kind == "cuda":
        for key, aim in (("process", PROCESS), ("reserved", RESERVED)):
            findings.add(
                f"fpn508, -b 1, {precision}: {key}",
                f"{peak[key] / 1e6:,.0f} MB",
                aim=f"<= {aim / 1e6:,.0f} MB",
                met=peak[key] <= aim,
            )


def _peak(model: Model, image: Path, folder: Path, options: SegmentOptions, *, seconds: float) -> dict[str, int]:
    """Return the peak memory of a bounded run."""
    gc.collect()
    release_device_memory(options.device)
    reset_device_peak(options.device)
    watch = Watch(seconds=seconds)
    run_once(image, folder / "mask.tif", model, options, watch)
    return {**device_peak(options.device), "groups": watch.done[-1][1], "of": watch.total}


def _told(peak: dict[str, Any]) -> str:
    if "reserved" not in peak:
        return "no device memory on a CPU"
    return ", ".join(f"{key} {peak[key] / MIB:,.0f} MiB" for key in ("allocated", "reserved", "process"))


def driver_memory() -> list[dict[str, int]] | None:
    """Return the memory of each process that the driver lists, or None where the driver cannot be read."""
    try:
        import pynvml  # noqa: PLC0415 - where there is a GPU alone
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        listed = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        whole = pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError:
        return None
    found = [{"pid": entry.pid, "bytes": entry.usedGpuMemory or 0, "own": os.getpid()} for entry in listed]
    return [*found, {"pid": 0, "bytes": int(whole.used), "own": os.getpid()}]

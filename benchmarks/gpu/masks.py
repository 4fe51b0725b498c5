"""Masks of the device are compared with those of the CPU in float32."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, cast

from benchmarks.gpu.bundles import ROOT, paper, shipped
from benchmarks.gpu.running import agreement, draw, run_once
from magnet_cli.events import Events
from magnet_cli.geometry import Size
from magnet_cli.models.device import computes_bfloat16
from magnet_cli.options.refine import RefineOptions
from magnet_cli.refinement.api import refine
from magnet_cli.segmentation.segment_model import load_model

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.gpu.part import Findings, Setting
    from magnet_cli.options.segment import SegmentOptions
    from magnet_cli.options.shared import Precision

Method = Literal["magnet", "magnet-fast", "patch"]
METHODS: tuple[Method, ...] = ("magnet", "magnet-fast", "patch")
AIMS = {"float32": 0.9995, "bfloat16": 0.999, "float16": 0.999}
"""Least share of pixels with equal labels, by precision."""
SIZE = Size(width=2300, height=1500)
"""Size of the scene of the shipped bundle: several blocks. The CPU's masks of 6 megapixels took 16 cores 43 seconds,
which left no time for what follows."""
BATCH = 4
"""Batch size on both devices, because another batch alone changes a few pixels."""


def run(setting: Setting, findings: Findings) -> None:
    """Compare every method of both bundles in all precisions, refined masks, and the published arithmetic."""
    _compare(setting, findings, "aerial", shipped(setting), Size(width=700, height=600) if setting.short else SIZE)
    if setting.short:
        return
    with findings.guarded("roofs-cascade: masks refined"):
        _refine(setting, findings, setting.folder / "aerial.tif", setting.folder / "aerial-cpu" / "patch.tif")
    with findings.guarded("fpn508, published arithmetic"):
        _published(setting, findings)
    _compare(setting, findings, "fpn508", paper(setting), Size(width=2600, height=2200))


def _refine(setting: Setting, findings: Findings, image: Path, mask: Path) -> None:
    """Refine the buildings of the CPU's mask on both devices."""
    found = []
    for number, device in enumerate(("cpu", setting.device)):
        options = RefineOptions(
            weights=str(ROOT / "weights" / "roofs-cascade"), only=("building",), device=device, precision="float32"
        )
        found.append(setting.folder / f"refined{number}.tif")
        started = time.monotonic()
        refine(image, mask, found[-1], options)
        findings.add(f"roofs-cascade on {device}", f"{time.monotonic() - started:.1f} s")
    _add_share(findings, "roofs-cascade", *found, remark=f", {1 - agreement(mask, found[-1]):.2%} refined")


def _published(setting: Setting, findings: Findings) -> None:
    """Compare both devices on an image of one block with `--compat published`, which keeps whole canvases."""
    small = draw(setting.folder / "small.tif", 1200, 1100)
    found = []
    for number, device in enumerate(("cpu", setting.device)):
        options = replace(paper(setting), device=device, precision="float32", compat="published", batch_size=BATCH)
        found.append(setting.folder / f"published{number}.tif")
        run_once(small, found[-1], load_model(options, Events()), options)
    _add_share(findings, "fpn508, published arithmetic", *found)


def _add_share(
    findings: Findings,
    what: str,
    expected: Path,
    found: Path,
    *,
    precision: str = "float32",
    remark: str = "",
    **more: float,
) -> None:
    """Add the share of equal labels of the CPU's mask and the device's, with the aim for the precision."""
    share, aim = agreement(expected, found), AIMS[precision]
    findings.add(
        f"{what}, {precision}: labels equal to the CPU's",
        f"{share:.4%}{remark}",
        aim=f">= {aim:.2%}",
        met=share >= aim,
        share=share,
        **more,
    )


def _compare(setting: Setting, findings: Findings, name: str, options: SegmentOptions, size: Size) -> None:
    """Compare the methods of a bundle in all precisions on a scene of this size."""
    with findings.guarded(f"{name}: masks compared"):
        image = draw(setting.folder / f"{name}.tif", size.width, size.height)
        _compare_on(setting, findings, name, replace(options, precision="float32", batch_size=BATCH), image)


def _compare_on(setting: Setting, findings: Findings, name: str, options: SegmentOptions, image: Path) -> None:
    options = replace(options, device="cpu")
    methods = METHODS[:1] if setting.short else METHODS
    wanted = _masks(options, image, setting.folder / f"{name}-cpu", methods)
    for precision in AIMS:
        if precision != "float32" and (setting.short or not computes_bfloat16(setting.device)):
            findings.add(f"{name}, {precision}", "skipped in a short run, and on devices without it")
            continue
        chosen = replace(options, device=setting.device, precision=cast("Precision", precision))
        with findings.guarded(f"{name}, {precision}"):
            found = _masks(chosen, image, setting.folder / f"{name}-{precision}", methods)
            for method in methods:
                (expected, seconds_cpu), (mask, seconds) = wanted[method], found[method]
                _add_share(
                    findings, f"{name}, {method}", expected, mask,
                    precision=precision, seconds_cpu=seconds_cpu, seconds=seconds,
                )  # fmt: skip


def _masks(
    options: SegmentOptions, image: Path, folder: Path, methods: tuple[Method, ...]
) -> dict[str, tuple[Path, float]]:
    """Return the mask and the seconds of each method."""
    found: dict[str, tuple[Path, float]] = {}
    model = load_model(options, Events())
    for method in methods:
        started, mask = time.monotonic(), folder / f"{method}.tif"
        run_once(image, mask, model, replace(options, method=method))
        found[method] = (mask, round(time.monotonic() - started, 2))
    return found

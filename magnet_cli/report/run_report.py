"""The report of a run: the JSON file beside each mask."""

from __future__ import annotations

import platform
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Protocol

from magnet_cli import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from magnet_cli.images import ImageInfo, Resolution
    from magnet_cli.models.bundle import Bundle
    from magnet_cli.plan import MemoryPlan, Plan
    from magnet_cli.run.measured import Measured, Totals

REPORT_SCHEMA = 1
NOT_RUN = ("nodata", "outside", "unselected", "unpaid", "settled")
"""Reasons why a window was not computed: it holds no data, lies outside the area, scored lower than others or than a
limit, lies beyond the budget, or has no point that could be taken."""
LIBRARIES = ("torch", "numpy", "tifffile", "zarr", "imagecodecs", "pyvips", "openslide-python", "safetensors")


class NamedColor(Protocol):
    """A class as bundles and masks have it."""

    @property
    def name(self) -> str:
        """The name of the class."""

    @property
    def color(self) -> str:
        """The colour as `#rrggbb`."""


def make_report(
    plan: Plan,
    bundle: Bundle,
    totals: Totals,
    measured: Measured,
    *,
    shares: Sequence[float],
    batches: Sequence[int],
) -> dict[str, object]:
    """Return the report of a finished run: pixels at level 0, bytes, seconds, areas in the square of the image's unit.

    Args:
        plan: The plan of the run.
        bundle: The bundle of its networks.
        totals: The summed counts of all groups.
        measured: The measurements of the run.
        shares: The share of the image that lies in each area of the plan.
        batches: Patches of a forward pass in each pass.
    """
    return {
        **run_facts(
            plan.image, classes=bundle.classes, memory=plan.memory, totals=totals, measured=measured, notes=plan.notes
        ),
        "bundle": {"name": bundle.name, "digest": bundle.digest, "licence": bundle.licence},
        "options": {
            **plan.settings.describe(),
            **plan.describe_values(),
            "scales": [{"width": stage.scale.width, "height": stage.scale.height} for stage in plan.stages],
            "batch": plan.batch,
            "group": list(plan.group),
            "device": plan.machine.device,
            "precision": plan.machine.precision,
            "engine": plan.machine.engine,
            **plan.describe_grid(),
            "probabilities": plan.probabilities,
            "uncertainty": plan.uncertainty,
        },
        "areas": [
            {"kind": area.kind, "source": area.source, "share": round(share, 6)}
            for area, share in zip(plan.areas, shares, strict=True)
        ],
        "passes": _passes(plan, totals, batches),
    }


def run_facts(
    image: ImageInfo,
    *,
    classes: Sequence[NamedColor],
    memory: MemoryPlan,
    totals: Totals,
    measured: Measured,
    notes: Sequence[str],
) -> dict[str, object]:
    """Return the facts that the reports of all runs share: program, image, measurements and classes of the mask.

    Args:
        image: The image that was read.
        classes: Name and colour of each class.
        memory: The planned memory.
        totals: The summed counts of at least the groups that stored labels.
        measured: The measurements of the run.
        notes: Notes from before the run.
    """
    return {
        **program_facts(measured),
        "input": input_facts(image),
        "groups": {"computed": measured.computed, "resumed": measured.resumed},
        "seconds": dict(measured.seconds),
        "memory": memory_facts(memory, measured),
        "classes": class_table(classes, totals.labels or (0,) * len(classes), image.resolution),
        "not_computed": {"pixels": totals.counts.get("nodata", 0)},
        "notes": [*notes, *measured.notes],
    }


@cache
def library_versions() -> dict[str, str]:
    """Return the versions of the installed libraries that a mask may depend on.

    Reading their metadata takes longer than writing a report.
    """
    found = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def program_facts(measured: Measured) -> dict[str, object]:
    """Return the facts about the origin of a mask: the program, its libraries and the machine."""
    return {
        "schema": REPORT_SCHEMA,
        "program": {"name": "magnet", "version": __version__},
        "versions": {"python": platform.python_version(), **library_versions()},
        "machine": {
            "system": platform.system(),
            "processor": platform.machine(),
            "threads": measured.threads,
        },
    }


def memory_facts(memory: MemoryPlan, measured: Measured) -> dict[str, object]:
    """Return the budgets, the planned memory and the peaks of a run, in bytes."""
    return {
        "host_budget": memory.budget,
        "host_planned": memory.total,
        "host_peak": measured.host_peak,
        "device_budget": memory.device_budget,
        "device_planned": memory.device,
        "device_peak": dict(measured.device_peak),
    }


def input_facts(info: ImageInfo) -> dict[str, object]:
    """Return the facts about the image of a run."""
    resolution = info.resolution
    return {
        "path": info.path,
        "series": None if info.series is None else {"number": info.series, "name": info.contents[info.series].name},
        "backend": info.backend,
        "size": {"width": info.size.width, "height": info.size.height},
        "levels": len(info.levels),
        "bands": list(info.bands),
        "alpha": info.alpha,
        "dtype": info.dtype,
        "crs": info.crs,
        "pixel": resolution and {"x": float(resolution.x), "y": float(resolution.y), "unit": resolution.unit},
        "objective": None if info.objective is None else float(info.objective),
    }


def _passes(plan: Plan, totals: Totals, batches: Sequence[int]) -> list[dict[str, object]]:
    found = []
    for step, batch in zip(plan.passes, batches, strict=True):
        stages = []
        for stage in step.stages:
            counts = totals.stages.get(stage.number, {})
            stages.append(
                {
                    "stage": stage.number,
                    "scale": {"width": stage.scale.width, "height": stage.scale.height},
                    "windows": step.window_count(stage),
                    "windows_planned": plan.windows(step, stage),
                    "windows_run": counts.get("run", 0),
                    "windows_considered": sum(counts.get(key, 0) for key in ("run", "unselected", "unpaid", "settled")),
                    "not_run": {why: counts.get(why, 0) for why in NOT_RUN},
                    "points": counts.get("points", 0),
                    "changed": _changed(counts),
                }
            )
        found.append({"pass": step.number + 1, "blocks": step.blocks.pixels, "batch": batch, "stages": stages})
    return found


def _changed(counts: Mapping[str, int]) -> dict[str, float] | None:
    """Return the changes that a stage made in the windows that it computed, from a sample of their pixels.

    These are the share of pixels that got another class and the mean change of probabilities; None where nothing could
    change.
    """
    compared = counts.get("compared", 0)
    if not compared:
        return None
    return {
        "labels": round(counts["changed"] / compared, 6),
        "probabilities": round(counts["moved_thousandths"] / 1000 / compared, 6),
    }


def class_table(
    classes: Sequence[NamedColor], labels: Sequence[int], resolution: Resolution | None
) -> list[dict[str, object]]:
    """Return the pixels, share of the computed pixels, and area of every class.

    Args:
        classes: Name and colour of each.
        labels: Level-0 pixels of each.
        resolution: The resolution of the image.
    """
    # A mask without a computed pixel has a share of 0 for each class.
    computed = max(1, sum(labels))
    rows = []
    for entry, pixels in zip(classes, labels, strict=True):
        area = None if resolution is None else round(float(pixels * resolution.area), 3)
        rows.append(
            {
                "name": entry.name,
                "color": entry.color,
                "pixels": pixels,
                "share": round(pixels / computed, 6),
                "area": area,
                "unit": None if resolution is None else f"{resolution.unit}2",
            }
        )
    return rows

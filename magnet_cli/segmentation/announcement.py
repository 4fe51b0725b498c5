"""The announcement states what was recognised about an image and what its run will do, in words for a new user."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magnet_cli.system.disk import free_bytes
from magnet_cli.system.memory import format_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.models.bundle import Bundle
    from magnet_cli.plan import Plan

UNITS = {"um": ("mm", 1000), "m": ("km", 1000)}
"""Each unit of a pixel has a larger unit, which is this many of the smaller ones."""
MOST_NAMED = 12
"""At most this many classes are named one by one."""


def announcement(plan: Plan, bundle: Bundle, *, mask: str) -> list[str]:
    """Return what was recognised about an image and what its run will do, as lines of text.

    Args:
        plan: The plan of the run.
        bundle: The bundle that the plan was made for.
        mask: Path or address of the mask that the run makes.
    """
    memory, disk = plan.memory, plan.disk()
    lines = [f"{plan.image.path}: {_size(plan)}", f"  {_classes(bundle)} in {mask}", f"  {_stages(plan)}"]
    if plan.areas:
        lines.append(f"  only {' and '.join(_area(area.kind, area.source) for area in plan.areas)} is computed")
    device = "" if not memory.device else f", {format_bytes(memory.device)} on {plan.machine.device}"
    lines.append(
        f"  takes at most {format_bytes(memory.total)} of memory{device}, "
        f"and {format_bytes(disk['mask_at_most'] + disk['journal_at_most'] + disk['decode_cache'])} of disk"
    )
    return lines


def too_little_disk(plan: Plan, mask: Path) -> str | None:
    """Return a note if the disk of the mask may be too small for a run that begins, or None if it suffices.

    A decoded copy of the image does not count: it lies in the folder for temporary files.
    """
    disk = plan.disk()
    needed, free = disk["mask_at_most"] + disk["journal_at_most"], free_bytes(mask.parent)
    if needed <= free:
        return None
    return (
        f"{mask}: the mask may need up to {format_bytes(needed)} of disk while it is made, and {format_bytes(free)} "
        "are free. If the disk fills, the run ends with exit status 5; free space there, and the same command goes on"
    )


def _size(plan: Plan) -> str:
    image = plan.image
    bands = len(image.bands)
    found = f"{image.size.width:,} x {image.size.height:,} pixels, {bands} band{'s'[: bands != 1]}"
    pixel = image.resolution
    if pixel is None:
        return f"{found}, size of a pixel unknown"
    unit, smaller = UNITS[pixel.unit]
    width = float(image.size.width * pixel.x) / smaller
    height = float(image.size.height * pixel.y) / smaller
    square = f"{float(pixel.x):.4g}" if pixel.x == pixel.y else f"{float(pixel.x):.4g} x {float(pixel.y):.4g}"
    return f"{found}, {square} {pixel.unit} a pixel: {width:.3g} x {height:.3g} {unit}"


def _classes(bundle: Bundle) -> str:
    names = [entry.name for entry in bundle.classes]
    listed = f": {', '.join(names)}," if len(names) <= MOST_NAMED else ""
    return f"each pixel gets one of the {len(names)} classes of the bundle {bundle.name}{listed}"


def _stages(plan: Plan) -> str:
    count = sum(plan.windows(step, stage) for step in plan.passes for stage in step.stages)
    sides = [stage.scale.brief for stage in plan.stages]
    several = f"{len(sides)} stages, from coarse to fine, compute" if len(sides) > 1 else "one stage computes"
    listed = ", ".join(sides[:-1]) + f" and {sides[-1]}" if len(sides) > 1 else sides[0]
    return f"{several} windows of {listed} pixels, at most {count:,} in all, on {plan.machine.device}"


def _area(kind: str, source: str) -> str:
    return {"tissue": "the tissue on the slide", "roi": f"the region {source}", "mask": f"the area of {source}"}[kind]

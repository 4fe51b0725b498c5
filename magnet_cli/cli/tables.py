"""Plans as text, and facts about images as text and as JSON values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magnet_cli.images.contents import listed
from magnet_cli.images.geotransform import system_label
from magnet_cli.system.memory import format_bytes
from magnet_cli.system.speeds import format_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from magnet_cli.images.protocol import ImageInfo, Level
    from magnet_cli.plan import Plan
    from magnet_cli.plan.windows import Pass, Stage
    from magnet_cli.refinement.method import RefinePreview

MOST_LISTED = 12
"""Largest number of bands that are named one by one."""


def plan_lines(plan: Plan, *, seconds: float | None = None, then: RefinePreview | None = None) -> list[str]:
    """Return the plan of a segmentation as lines of text.

    Args:
        plan: The plan of one image.
        seconds: The expected time of the segmentation. None where `magnet bench` has not measured it.
        then: The plan of the refinement that follows. None without `--refine`.
    """
    memory, disk = plan.memory, plan.disk()
    lines = [
        f"{plan.image.path}: {plan.image.size} pixels, read by {plan.image.backend}",
        f"  {', '.join(f'{key} {value}' for key, value in plan.settings.describe().items())}",
        f"  {_input(plan)}",
        f"  {plan.machine.device} {plan.machine.precision} {plan.machine.engine}, {plan.batch} patches a forward pass",
    ]
    if plan.areas:
        lines.append(f"  area: {' and '.join(f'{area.kind} {area.source}' for area in plan.areas)}")
    for step in plan.passes:
        blocks, groups = _several(step.blocks.pixels, "block"), _several(plan.groups(step), "group")
        lines.append(f"  pass {step.number + 1}: {blocks} in {groups}")
        lines += [
            f"    stage {stage.number}: windows of {_scale(plan, stage)}, {_windows(plan, step, stage)}"
            for stage in step.stages
        ]
    if plan.border_groups:
        lines.append(f"  then borders of blocks: {plan.border_groups} groups, without a network")
    lines.append(
        f"  host memory: {format_bytes(memory.total)} of {format_bytes(memory.budget)}, "
        f"{memory.ahead} groups read ahead"
    )
    if memory.device:
        budget = "" if memory.device_budget is None else f" of {format_bytes(memory.device_budget)}"
        lines.append(f"  device memory: {format_bytes(memory.device)}{budget}")
    lines.append(
        f"  disk at most: mask {format_bytes(disk['mask_at_most'])}, journal {format_bytes(disk['journal_at_most'])}"
    )
    if then is not None:
        used = f"{format_bytes(then.memory.total)} of {format_bytes(then.memory.budget)}"
        lines += [*(f"  then {line}" for line in then.lines), f"    host memory: {used}"]
    if seconds is not None:
        more = "" if then is None else "; refining comes on top"
        lines.append(f"  time: about {format_seconds(seconds)}, as 'magnet bench' measured here{more}")
    if disk["decode_cache"]:
        lines.append(f"  disk for decoding once: {format_bytes(disk['decode_cache'])}")
    return lines + [f"  note: {note}" for note in plan.notes]


def _input(plan: Plan) -> str:
    """Return the bands that the network gets, and the range of their values."""
    named = [plan.image.bands[band] for band in plan.bands]
    spans = [f"{low:g} to {high:g}" for low, high in plan.value_range]
    if len(named) > MOST_LISTED:
        return f"input: {len(named)} bands"
    if len(set(spans)) == 1:
        return f"input: {', '.join(named)}, values from {spans[0]}"
    return f"input: {', '.join(f'{name} from {span}' for name, span in zip(named, spans, strict=True))}"


def _scale(plan: Plan, stage: Stage) -> str:
    """Return the size of a stage's windows in working-grid pixels, and in the image's unit if that is known."""
    if plan.pixel is None:
        return f"{stage.scale} pixels"
    width, height = stage.scale.width * plan.pixel.x, stage.scale.height * plan.pixel.y
    return f"{stage.scale} pixels ({float(width):.4g} x {float(height):.4g} {plan.pixel.unit})"


def _windows(plan: Plan, step: Pass, stage: Stage) -> str:
    count, total = plan.windows(step, stage), step.window_count(stage)
    return f"all {total}" if count == total else f"at most {count} of {total}"


def info_dict(info: ImageInfo) -> dict[str, object]:
    """Return facts about an image as JSON values."""
    return {
        "image": info.path,
        "backend": info.backend,
        "size": {"width": info.size.width, "height": info.size.height},
        "levels": [
            {
                "width": level.size.width,
                "height": level.size.height,
                "downsample": {"x": float(level.downsample.x), "y": float(level.downsample.y)},
                "pixel": _pixel(info, level),
            }
            for level in info.levels
        ],
        "series": [_series(info, number) for number in range(len(info.contents))],
        "bands": list(info.bands),
        "alpha": info.alpha,
        "dtype": info.dtype,
        "pixel": _pixel(info, info.levels[0]),
        "objective": None if info.objective is None else float(info.objective),
        "crs": info.crs,
        "nodata": None if info.nodata is None else repr(info.nodata),
        "bounds": info.bounds and [info.bounds.x, info.bounds.y, info.bounds.width, info.bounds.height],
        "decode_cache": info.cache_bytes,
        "notes": list(info.notes),
    }


def _series(info: ImageInfo, number: int) -> dict[str, object]:
    """Return facts about one image of a file that holds several, as JSON values."""
    content = info.contents[number]
    size = None if content.size is None else {"width": content.size.width, "height": content.size.height}
    return {"number": number, "name": content.name, "size": size, "read": number == info.series}


def _pixel(info: ImageInfo, level: Level) -> dict[str, object] | None:
    """Return the physical size of a pixel of a level as JSON values, or None if it is not known."""
    found, step = info.resolution, level.downsample
    if found is None:
        return None
    return {"x": float(found.x * step.x), "y": float(found.y * step.y), "unit": found.unit}


def _level(info: ImageInfo, number: int) -> str:
    """Return a line with the facts about a level to which `--level`, `--mpp`, `--gsd` and `--mag` refer."""
    level = info.levels[number]
    parts = [f"level {number}: {level.size}", f"downsample {float(level.downsample.x):g}"]
    if info.resolution is not None:
        parts.append(f"{float(info.resolution.x * level.downsample.x):.4g} {info.resolution.unit} a pixel")
    if info.objective is not None:
        parts.append(f"{float(info.objective / level.downsample.x):.4g}x")
    return ", ".join(parts)


def _bands(names: Sequence[str]) -> str:
    """Return the number of bands, and how `--bands` can name each: by number, and by name if it has one."""
    shown = [name if name == f"band{index + 1}" else f"{index + 1} {name}" for index, name in enumerate(names)]
    few = len(names) <= MOST_LISTED
    return f"{len(names)} band{'s'[: len(names) > 1]} ({', '.join(shown) if few else f'{shown[0]} to {shown[-1]}'})"


def info_lines(info: ImageInfo) -> list[str]:
    """Return facts about an image as lines of text."""
    resolution = info.resolution
    pixel = "unknown" if resolution is None else f"{float(resolution.x):g} x {float(resolution.y):g} {resolution.unit}"
    lines = [
        f"{info.path}: {info.size} pixels, {_bands(info.bands)}, {info.dtype}",
        f"  reader: {info.backend}",
        f"  pixel size: {pixel}",
    ]
    if info.objective is not None:
        lines.append(f"  objective: {float(info.objective):g}x")
    if info.crs:
        lines.append(f"  CRS: {system_label(info.crs)}")
    if info.nodata is not None:
        lines.append(f"  nodata: {info.nodata:g}")
    if info.bounds is not None:
        lines.append(f"  scanned part: {info.bounds}")
    lines += [f"  {_level(info, number)}" for number in range(len(info.levels))]
    if info.contents:
        lines.append(f"  images in the file: {listed(range(len(info.contents)), info.contents)}; read is {info.series}")
    if info.cache_bytes:
        lines.append(f"  cannot be read by region: decoding it once takes {format_bytes(info.cache_bytes)} of disk")
    return lines + [f"  note: {note}" for note in info.notes]


def _several(count: int, what: str) -> str:
    return f"{count} {what}{'s'[: count != 1]}"

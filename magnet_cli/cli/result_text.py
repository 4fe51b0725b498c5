"""The result of the segmentation of an image is printed as lines of text, with the next commands."""

from __future__ import annotations

import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from magnet_cli.geometry import Size
from magnet_cli.options.spelling import as_path
from magnet_cli.segmentation.run_summary import class_lines
from magnet_cli.system.memory import format_bytes
from magnet_cli.system.speeds import format_seconds

SERVERS = ("starlette", "uvicorn")
"""Packages without which `magnet view` cannot serve its page."""


def result_lines(row: dict[str, Any], *, verbose: bool = False) -> list[str]:
    """Return the result of one image as lines of text; no lines for an image that failed or is done in part.

    Args:
        row: The result as JSON values, as `ImageResult.describe` returns it.
        verbose: Whether each stage and the time of each activity are listed, too.
    """
    report = row.get("report")
    if report is None:
        return []
    lines = class_lines(report["classes"])
    lines += [f"  limited to {area['kind']}: {100 * area['share']:.2f} % of the image" for area in report["areas"]]
    empty, size = report["not_computed"]["pixels"], report["input"]["size"]
    if empty:
        lines.append(f"  not computed (255 in the mask): {100 * empty / (size['width'] * size['height']):.2f} %")
    seconds = report["seconds"]
    if row["status"] == "done":
        lines.append(f"  took {format_seconds(seconds['wall'])} and {_bytes(report['memory']['host_peak'])} of memory")
    if verbose:
        lines += _stage_lines(report)
        spent = ", ".join(f"{name} {format_seconds(value)}" for name, value in seconds.items() if name != "wall")
        lines.append(f"  time by activity: {spent}")
    mask = str(row["mask"])
    lines.append(f"  {mask.rpartition('.')[0]}.json is the report")
    named = shlex.quote(as_path(mask))
    # These commands read local files alone, and with --private the name of a file lacks its folder.
    is_named = "://" not in mask and not report.get("private")
    if report.get("command") is not None and row["status"] == "done" and is_named:
        page = Path(mask).with_suffix(".html")
        look = f"open {shlex.quote(str(page))} in a browser" if page.is_file() else f"magnet report {named} --html"
        lines.append(f"  to look at it:    {look}")
        if all(find_spec(name) is not None for name in SERVERS):
            lines.append(f"  to zoom into it:  magnet view {shlex.quote(as_path(str(row['image'])))} {named}")
        lines.append(f"  to hand it on:    magnet export {named} --format geojson")
    return lines


def _stage_lines(report: dict[str, Any]) -> list[str]:
    return [
        f"  stage {stage['stage']}: {stage['windows_run']:,} of {stage['windows']:,} windows of "
        f"{Size(**stage['scale']).brief} pixels"
        for step in report["passes"]
        for stage in step["stages"]
    ]


def _bytes(count: int | None) -> str:
    return "an unknown amount" if count is None else format_bytes(count)

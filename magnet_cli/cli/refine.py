"""`magnet refine`."""

# ruff: noqa: ARG001 - typer makes options of the parameters; what segment has too is taken from the context
from __future__ import annotations

import json as json_format
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magnet_cli.cli import shared_options as words
from magnet_cli.cli.outcome import Listing, command, tell
from magnet_cli.system.memory import format_bytes
from magnet_cli.system.speeds import format_seconds

if TYPE_CHECKING:
    from magnet_cli.refinement.method import Job


class Compat(StrEnum):
    """Whose arithmetic."""

    PAPER = "paper"
    PUBLISHED = "published"


@command
def refine(
    context: typer.Context,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A file or URL.")],
    mask: Annotated[str, typer.Argument(metavar="MASK", help="A raster of the image's size, made by something else.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="A .tif file or a folder. Default: MASK.refined.tif in the current folder.",
            envvar="MAGNET_OUTPUT",
        ),
    ] = None,
    *,
    method: Annotated[
        words.Refine,
        typer.Option("--method", help="A cascade's bundle, or a classical tool.", envvar="MAGNET_REFINE_METHOD"),
    ] = words.Refine.CASCADEPSP,
    evidence: Annotated[
        Path | None,
        typer.Option(
            help="NAME.probabilities.zarr, which segment --probabilities has kept: what guided and crf start from, and "
            "what a pixel is that its object gives up. Default: the mask alone.",
        ),
    ] = None,
    weights: words.Weights = None,
    mask_kind: words.MaskKindOption = words.MaskKind.AUTO,
    objects: words.Objects = None,
    only: Annotated[
        str | None,
        typer.Option(
            help="Classes whose objects are refined in a mask of several, as names or indices: building. Pixels that "
            "no object gains or gives up keep their class. Default: all.",
            envvar="MAGNET_ONLY",
        ),
    ] = None,
    threshold: words.Threshold = None,
    side: words.Side = None,
    fast: words.Fast = False,
    stuff: Annotated[
        str | None,
        typer.Option(
            help="Classes that must be nearly certain to win a pixel, as names or indices: sky,water.",
            envvar="MAGNET_STUFF",
        ),
    ] = None,
    min_area: words.LeastArea = 64,
    padding: words.Padding = "12.5%",
    compat: Annotated[
        Compat | None,
        typer.Option("--compat", help="The paper's method, or the published program's.", envvar="MAGNET_COMPAT"),
    ] = None,
    bands: words.Bands = None,
    value_range: words.ValueRange = None,
    device: words.Device = None,
    gpu: words.Gpu = None,
    precision: words.PrecisionOption = words.Precision.AUTO,
    num_workers: words.NumWorkers = None,
    gpu_memory: words.GpuMemory = None,
    memory: words.Memory = None,
    overlay: words.Overlay = False,
    html: words.Html = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a mask of other inputs or made with other options.")
    ] = False,
    resume: words.Resume = True,
    json: words.Json = False,
    no_progress: words.NoProgress = False,
) -> int:
    """Sharpen a mask that something else made, object by object or square by square, at any size."""
    options = words.refine_options(context)
    with Listing(json=json and not dry_run) as listing:
        from magnet_cli.cli.progress import Display
        from magnet_cli.refinement import api as refining

        with Display(enabled=not no_progress) as display:
            if dry_run:
                _show(refining.plan_refine(image, mask, options, events=display), json=json)
                return 0
            result = refining.refine_mask(image, mask, output, options, events=display)
            if overlay or html:
                from magnet_cli.report.files import ViewPaths, write_views

                paths = ViewPaths.of(result.output, overlay=overlay, html=html)
                for path in write_views(paths, mask=result.output, report=result.report, image=image):
                    display.message(f"{path}: done")
        listing.add(result.describe())
    return 0


def _show(job: Job, *, json: bool) -> None:
    """The plan on standard output, with the time where a bench has told."""
    plan, seconds = job.plan, job.seconds()
    if json:
        found = {**plan.describe(), "seconds": None if seconds is None else round(seconds, 1)}
        tell(json_format.dumps(found, indent=1))
        return
    image = plan.seen.info
    lines = [f"{image.path}, {image.size} pixels; {plan.mask}, read as {plan.reading.kind}", *plan.lines()]
    lines += [f"pass {step.number + 1}: {step.what}, {step.groups} groups" for step in plan.passes]
    memory, disk = plan.memory, plan.disk()
    lines.append(f"memory: {format_bytes(memory.total)} of {format_bytes(memory.budget)}")
    lines.append(f"disk: at most {format_bytes(sum(disk.values()))}")
    if seconds is not None:
        lines.append(f"time: at most about {format_seconds(seconds)}, as 'magnet bench' measured here")
    tell("\n".join(lines))

"""`magnet refine`."""

# ruff: noqa: ARG001 - typer makes options of the parameters; what segment has too is taken from the context
from __future__ import annotations

import json as json_format
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from magnet_cli.cli import words
from magnet_cli.cli.ending import Listing, command, tell
from magnet_cli.memory import format_bytes, parse_bytes
from magnet_cli.refining.options import OF_CASCADE, RefineOptions, parse_padding, parse_stuff
from magnet_cli.values import parse_bands, parse_value_range

if TYPE_CHECKING:
    from magnet_cli.options import Precision, RefineMethod
    from magnet_cli.refining import options as values
    from magnet_cli.refining.method import MaskPlan


class MaskKind(StrEnum):
    """How the values of a mask are read."""

    AUTO = "auto"
    BINARY = "binary"
    LABELS = "labels"
    PROBABILITY = "probability"


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
            help="For guided and crf: NAME.probabilities.zarr, which segment --probabilities has kept. "
            "Default: the mask alone.",
        ),
    ] = None,
    weights: words.Weights = None,
    mask_kind: Annotated[
        MaskKind,
        typer.Option(
            "--mask-kind",
            help="How the mask's values are read; auto says what it took them for.",
            envvar="MAGNET_MASK_KIND",
        ),
    ] = MaskKind.AUTO,
    threshold: Annotated[
        str | None,
        typer.Option(help="Of a probability: above it is the object. Default: 0.5.", envvar="MAGNET_THRESHOLD"),
    ] = None,
    side: Annotated[
        int | None,
        typer.Option(
            "--L",
            help="Side in pixels at which objects and windows are looked at. Default: the bundle's.",
            envvar="MAGNET_L",
        ),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Look at objects as a whole alone, at --L pixels.", envvar="MAGNET_FAST")
    ] = False,
    stuff: Annotated[
        str | None,
        typer.Option(
            help="Classes that must be nearly certain to win a pixel, as names or indices: sky,water.",
            envvar="MAGNET_STUFF",
        ),
    ] = None,
    min_area: Annotated[int, typer.Option(min=0, help="Objects of fewer pixels are left as they are.")] = 64,
    padding: Annotated[
        str, typer.Option(help="What is looked at around an object, a share of its size.", envvar="MAGNET_PADDING")
    ] = "12.5%",
    compat: Annotated[
        Compat | None,
        typer.Option("--compat", help="The paper's method, or the published program's.", envvar="MAGNET_COMPAT"),
    ] = None,
    bands: words.Bands = None,
    value_range: words.ValueRange = None,
    device: words.Device = None,
    gpu: words.Gpu = None,
    precision: words.PrecisionOption = words.Precision.AUTO,
    num_workers: words.NumWorkers = 2,
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
    options = _options(context)
    with Listing(json=json and not dry_run) as listing:
        from magnet_cli.cli.progress import Display
        from magnet_cli.refining import refine as refining

        with Display(enabled=not no_progress) as display:
            if dry_run:
                _show(refining.plan_refine(image, mask, options, events=display), json=json)
                return 0
            result = refining.refine_mask(image, mask, output, options, events=display)
            if overlay or html:
                from magnet_cli.views.writing import ViewPaths, write_views

                paths = ViewPaths.of(result.output, overlay=overlay, html=html)
                for path in write_views(paths, mask=result.output, report=result.report, image=image):
                    display.message(f"{path}: done")
        listing.add(result.describe())
    return 0


def _options(context: typer.Context) -> RefineOptions:
    given = dict(context.params)
    if given["method"] is not words.Refine.CASCADEPSP:
        # What the environment says of cascades is none of a classical tool's business.
        given |= {
            str(entry.name): entry.default
            for entry in context.command.params
            if entry.name in OF_CASCADE and not words.is_typed(context, entry.name)
        }
    threshold, gpu_memory, memory = given["threshold"], given["gpu_memory"], given["memory"]
    return RefineOptions(
        method=cast("RefineMethod", str(given["method"])),
        evidence=given["evidence"],
        weights=given["weights"],
        side=given["side"],
        fast=given["fast"],
        mask_kind=cast("values.MaskKindOption", str(given["mask_kind"])),
        threshold=None if threshold is None else words.number(threshold, "--threshold"),
        stuff=parse_stuff(given["stuff"]),
        min_area=given["min_area"],
        padding=parse_padding(given["padding"]),
        bands=None if given["bands"] is None else parse_bands(given["bands"]),
        value_range=None if given["value_range"] is None else parse_value_range(given["value_range"]),
        compat=cast("values.CompatOption | None", None if given["compat"] is None else str(given["compat"])),
        device=words.device_name(context),
        precision=cast("Precision | Literal['auto']", str(given["precision"])),
        num_workers=given["num_workers"],
        gpu_memory=None if gpu_memory is None else parse_bytes(gpu_memory, option="--gpu-memory"),
        memory=None if memory is None else parse_bytes(memory, option="--memory"),
        overwrite=given["overwrite"],
        resume=given["resume"],
    )


def _show(plan: MaskPlan, *, json: bool) -> None:
    """The plan on standard output."""
    if json:
        tell(json_format.dumps(plan.describe(), indent=1))
        return
    image = plan.seen.info
    lines = [f"{image.path}, {image.size} pixels; {plan.mask}, read as {plan.reading.kind}", *plan.lines()]
    lines += [f"pass {step.number + 1}: {step.what}, {step.groups} groups" for step in plan.passes]
    memory, disk = plan.memory, plan.disk()
    lines.append(f"memory: {format_bytes(memory.total)} of {format_bytes(memory.budget)}")
    lines.append(f"disk: at most {format_bytes(sum(disk.values()))}")
    tell("\n".join(lines))

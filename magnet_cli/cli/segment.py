"""`magnet segment`."""

# ruff: noqa: ARG001 - typer makes options of the parameters, words.py takes their values from the context
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from magnet_cli.cli import shared_options as words
from magnet_cli.cli.outcome import Listing, command


@command
def segment(
    context: typer.Context,
    inputs: words.Inputs,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="A .tif file (one input) or a folder. Default: NAME.mask.tif in the current folder.",
            envvar="MAGNET_OUTPUT",
        ),
    ] = None,
    *,
    weights: words.Weights = None,
    scales: words.Scales = None,
    method: words.MethodOption = words.Method.MAGNET,
    points: words.Points = None,
    patches: words.Patches = None,
    select: words.SelectOption = None,
    budget: words.Budget = None,
    merge: words.MergeOption = None,
    median: words.Median = None,
    margin: words.Margin = None,
    compat: words.CompatOption = None,
    mpp: words.Mpp = None,
    gsd: words.Gsd = None,
    level: words.Level = None,
    mag: words.Mag = None,
    slide_mpp: words.SlideMpp = None,
    bands: words.Bands = None,
    value_range: words.ValueRange = None,
    roi: words.Roi = None,
    mask: words.Mask = None,
    tissue: words.TissueOption = words.Tissue.AUTO,
    device: words.Device = None,
    gpu: words.Gpu = None,
    precision: words.PrecisionOption = words.Precision.AUTO,
    batch_size: words.BatchSize = "auto",
    num_workers: words.NumWorkers = None,
    gpu_memory: words.GpuMemory = None,
    memory: words.Memory = None,
    probabilities: words.Probabilities = False,
    uncertainty: words.Uncertainty = False,
    refine: words.RefineOption = None,
    refine_weights: words.RefineWeights = None,
    refine_only: words.RefineOnly = None,
    overlay: words.Overlay = False,
    html: words.Html = False,
    format_: Annotated[
        str,
        typer.Option("--format", help="Further formats: tiff,cog,ome-tiff,ome-zarr,geojson.", envvar="MAGNET_FORMAT"),
    ] = "tiff",
    geojson: Annotated[
        bool, typer.Option("--geojson", help="Also write polygons, as --format geojson.", envvar="MAGNET_GEOJSON")
    ] = False,
    simplify: words.Simplify = None,
    min_area: words.MinArea = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a mask of another image or made with other options.")
    ] = False,
    resume: words.Resume = True,
    on_error: Annotated[
        words.OnError,
        typer.Option(help="After a failed image go on with the next, or stop.", envvar="MAGNET_ON_ERROR"),
    ] = words.OnError.SKIP,
    json: words.Json = False,
    no_progress: words.NoProgress = False,
) -> int:
    """Segment images of any size: a mask and a report for each."""
    with Listing(json=json) as listing:
        options = words.segment_options(context)
        from magnet_cli.cli.progress import Display
        from magnet_cli.segmentation import api as segmentation

        stops = on_error is words.OnError.FAIL
        with Display(enabled=not no_progress) as display:
            for result in segmentation.segment_each(inputs, output, options, stop_on_error=stops, events=display):
                listing.add(result.describe(), result.error)
                if stops and result.error is not None:
                    return result.error.exit_code
    return listing.exit_code

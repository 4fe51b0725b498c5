"""`magnet segment` writes a mask and a report for each image."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from magnet_cli.cli.device_processes import joined_rows, run_on_devices, watch_of
from magnet_cli.cli.outcome import Listing, command
from magnet_cli.cli.parameters import Given, Group, Inputs, Json, NoProgress, output_option, takes
from magnet_cli.cli.volume import VOLUME
from magnet_cli.errors import UsageError
from magnet_cli.events import Images
from magnet_cli.options.parts import PartOptions
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.options.spelling import as_path, option_words
from magnet_cli.system.address_space import check_address_space
from magnet_cli.system.bucket import WORK


def _words(inputs: list[str], output: str | None, work: Path, options: SegmentOptions, *, stops: bool) -> list[str]:
    """Return the words of the command for a process that computes a part of the run."""
    given = [] if output is None else ["-o", as_path(output), "--work", as_path(str(work))]
    weights = [] if options.weights is None else ["--weights", options.weights]
    switches = {"--overwrite": options.overwrite, "--no-resume": not options.resume, "--private": options.private}
    own = [word for word, is_given in switches.items() if is_given]
    own += ["--on-error", "fail"] if stops else []
    own += VOLUME.words
    rest = option_words(replace(options, memory=None))
    return ["segment", *map(as_path, inputs), *given, *weights, *rest, *own]


def _placed(options: Given[SegmentOptions], parts: Given[PartOptions]) -> tuple[SegmentOptions, PartOptions]:
    """Return the options of a run, which name one device or several.

    Raises:
        UsageError: Both one device and several are named, both on the command line or both in the environment.
    """
    chosen, shared = options.value(), parts.value()
    if shared.devices is not None and chosen.device != "auto":
        is_one, are_several = options.typed("device") or options.typed("gpu"), parts.typed("devices")
        if is_one is are_several:
            several = "," in chosen.device
            raise UsageError(
                "--gpu with several numbers is short for --devices"
                if several
                else "--devices and --device each say where to compute",
                value=chosen.device,
                advice=f"Give {'--gpu' if several else '--device'} or --devices, not both",
            )
        # Words of the command line come before variables of the environment.
        chosen = replace(chosen, device="auto") if are_several else chosen
        shared = replace(shared, devices=None) if is_one else shared
    if "," in chosen.device:
        return replace(chosen, device="auto"), replace(shared, devices=chosen.device)
    return chosen, shared


@command
@takes(options=Group(options=SegmentOptions), parts=Group(options=PartOptions))
def segment(
    inputs: Inputs,
    output: Annotated[
        str | None,
        output_option(
            "A .tif file (for one input) or a folder, here or in a bucket: s3://BUCKET/FOLDER/. Default: NAME.mask.tif "
            "in the current folder."
        ),
    ] = None,
    *,
    options: Given[SegmentOptions],
    parts: Given[PartOptions],
    on_error: Annotated[
        Literal["skip", "fail"],
        typer.Option(
            help="After an image failed, skip it and continue with the next, or fail and stop.",
            envvar="MAGNET_ON_ERROR",
            rich_help_panel="More",
        ),
    ] = "skip",
    work: Annotated[
        Path,
        typer.Option(
            help="Local folder in which outputs for a bucket are made, and from which an interrupted run is resumed.",
            envvar="MAGNET_WORK",
            rich_help_panel="More",
        ),
    ] = WORK,
    json: Json = False,
    no_progress: NoProgress = False,
) -> int:
    """Segment images of any size, and write a mask and a report for each."""
    with Listing(json=json) as listing:
        chosen, shared = _placed(options, parts)
        part = shared.part(os.environ)
        from magnet_cli.cli.progress import Display
        from magnet_cli.cli.result_text import result_lines

        check_address_space()
        from magnet_cli.masks.targets import plan_targets
        from magnet_cli.segmentation import api as segmentation
        from magnet_cli.segmentation.run_summary import RunSummary, row_of_process

        stops = on_error == "fail"
        if shared.devices is not None:
            words = _words(inputs, output, work, chosen, stops=stops)
            folder = segmentation.output_place(output, work)[1]
            # Wrong inputs are refused here once, and not by every process.
            targets = plan_targets(inputs, folder)
            is_one = len(targets) == 1
            summary = RunSummary(rows=[])
            with Display(enabled=not no_progress) as display:
                rows, code = run_on_devices(
                    shared.devices,
                    words,
                    memory=chosen.memory,
                    watch=watch_of(targets, folder, len(shared.devices)),
                    events=display,
                )
                rows = joined_rows(rows, is_one=is_one)
                failed = sum(row["status"] == "failed" for row in rows)
                display.images(Images(done=len(rows), total=max(1, len(rows)), failed=failed))
                for row in rows:
                    listing.take(row)
                    if not json:
                        display.describe(result_lines(row, verbose=VOLUME.verbose))
                # Each process has told of its own images alone. One that printed no results has left some out.
                if not is_one and not code:
                    summary.rows = [row_of_process(row) for row in rows]
                    for line in summary.lines():
                        display.message(line)
            return listing.exit_code or code
        with (
            Display(enabled=not no_progress) as display,
            closing(
                segmentation.segment_each(
                    inputs,
                    output,
                    chosen,
                    part=part,
                    cluster=shared.cluster or shared.scheduler_file,
                    stop_on_error=stops,
                    work=work,
                    events=display,
                )
            ) as results,
        ):
            for result in results:
                row = result.describe()
                listing.add(row, result.error)
                if not json:
                    display.describe(result_lines(row, verbose=VOLUME.verbose))
                if stops and result.error is not None:
                    return result.error.exit_code
    return listing.exit_code

"""`magnet refine` sharpens a mask that another program made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magnet_cli.cli.outcome import Listing, command, print_json, print_lines
from magnet_cli.cli.parameters import MORE, Given, Group, Json, NoProgress, output_option, takes
from magnet_cli.errors import UsageError
from magnet_cli.options.refine import RefineOptions
from magnet_cli.options.shared import ViewOptions
from magnet_cli.system.address_space import check_address_space
from magnet_cli.system.memory import format_bytes
from magnet_cli.system.speeds import format_seconds
from magnet_cli.system.written_files import refuse_collisions, refuse_foreign

if TYPE_CHECKING:
    from magnet_cli.refinement.method import MaskJob


@command
@takes(options=Group(options=RefineOptions), views=Group(options=ViewOptions))
def refine(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A file or URL.")],
    mask: Annotated[str, typer.Argument(metavar="MASK", help="A mask of the image's size, from any program.")],
    output: Annotated[
        Path | None, output_option("A .tif file or a folder. Default: MASK.refined.tif in the current folder.")
    ] = None,
    *,
    options: Given[RefineOptions],
    views: Given[ViewOptions],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done, and write nothing.", rich_help_panel=MORE)
    ] = False,
    shared: Annotated[
        str | None,
        typer.Option("--cluster", "--scheduler-file", "--num-parts", "--part-id", "--devices", hidden=True),
    ] = None,
    json: Json = False,
    no_progress: NoProgress = False,
) -> int:
    """Sharpen a mask of any size that another program made, object by object or square by square."""
    if shared is not None:
        raise UsageError(
            "a refinement is not shared: each of its passes reads what the pass before has left in the whole mask",
            value="--cluster, --scheduler-file, --num-parts, --part-id or --devices",
            advice="Run it in one process for each mask, or as segment --refine over several images with --cluster",
        )
    chosen, shown = options.value(), views.value()
    with Listing(json=json and not dry_run) as listing:
        from magnet_cli.cli.progress import Display

        check_address_space()
        from magnet_cli.refinement import api as refining

        with Display(enabled=not no_progress) as display:
            if dry_run:
                _show(refining.plan_refine(image, mask, chosen, events=display), json=json)
                return 0
            from magnet_cli.refinement.pairs import output_path, read_files
            from magnet_cli.report.files import ViewPaths, draw_views
            from magnet_cli.run.private_events import PrivateEvents

            paths = ViewPaths.of(output_path(mask, output), overlay=shown.overlay, html=shown.html)
            refuse_collisions(paths.files(image), read_files(image, mask, chosen))
            refuse_foreign(paths.files(image))
            result = refining.refine(image, mask, output, chosen, events=display)
            events = display if result.private is None else PrivateEvents(display, result.private)
            draw_views(result.output, shown, report=result.report, image=image, events=events)
        listing.add(result.describe())
    return 0


def _show(job: MaskJob, *, json: bool) -> None:
    """Print the plan on standard output, with a time if `magnet bench` has measured the bundle on this machine."""
    plan, seconds = job.plan, job.seconds()
    if json:
        found = {**plan.describe(), "seconds": None if seconds is None else round(seconds, 1)}
        print_json(found)
        return
    image = plan.view.info
    lines = [f"{image.path}, {image.size} pixels; {plan.mask}, read as {plan.reading.kind}", *plan.lines()]
    lines += [f"pass {step.number + 1}: {step.what}, {step.groups} groups" for step in plan.passes]
    memory, disk = plan.memory, plan.disk()
    lines.append(f"memory: {format_bytes(memory.total)} of {format_bytes(memory.budget)}")
    lines.append(f"disk: at most {format_bytes(sum(disk.values()))}")
    if seconds is not None:
        lines.append(f"time: at most about {format_seconds(seconds)}, as 'magnet bench' measured here")
    print_lines(*lines)

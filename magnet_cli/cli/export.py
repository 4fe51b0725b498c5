"""`magnet export` writes finished masks in other formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magnet_cli.cli.outcome import Listing, command
from magnet_cli.cli.parameters import Given, Group, Json, NoProgress, output_option, takes
from magnet_cli.errors import MagnetError
from magnet_cli.events import Step
from magnet_cli.options.export import ExportOptions
from magnet_cli.options.shared import RunOptions

if TYPE_CHECKING:
    from magnet_cli.exports.destinations import ExportTarget
    from magnet_cli.exports.formats import Export


@command
@takes(options=Group(options=ExportOptions, without=("geojson",)), run=Group(options=RunOptions, only=("overwrite",)))
def export(
    masks: Annotated[list[str], typer.Argument(metavar="MASK...", help="Masks of magnet segment, or folders of them.")],
    output: Annotated[
        Path | None, output_option("A file (for one mask and one format) or a folder. Default: beside each mask.")
    ] = None,
    *,
    options: Given[ExportOptions],
    run: Given[RunOptions],
    json: Json = False,
    no_progress: NoProgress = False,
) -> int:
    """Write masks in other formats, without computing them again."""
    with Listing(json=json) as listing:
        chosen, overwrite = options.value(), run.value().overwrite
        from magnet_cli.exports.destinations import plan_exports
        from magnet_cli.exports.formats import refuse_export_collisions

        targets = plan_exports(masks, output, chosen.formats)
        refuse_export_collisions(targets)
        for target in targets:
            made, error = _exported(target, chosen, overwrite=overwrite, progress=not no_progress)
            row: dict[str, object] = {"mask": str(target.mask), "exports": [each.describe() for each in made]}
            if error is not None:
                row |= error.describe()
            listing.add(row, error)
    return listing.exit_code


def _exported(
    target: ExportTarget, options: ExportOptions, *, overwrite: bool, progress: bool
) -> tuple[list[Export], MagnetError | None]:
    """Export one mask; return its exports, and its error instead of raising it, so that other masks follow."""
    from magnet_cli.cli.progress import Display
    from magnet_cli.exports.formats import export_mask

    made = []
    with Display(enabled=progress) as display:
        display.step(Step(image=str(target.mask), what="exporting", done=0, total=len(target.files)))
        try:
            for each in export_mask(target.mask, target.files, options, overwrite=overwrite):
                for line in each.lines():
                    display.message(line)
                made.append(each)
        except MagnetError as error:
            display.failed(str(target.mask), error)
            return made, error
    return made, None

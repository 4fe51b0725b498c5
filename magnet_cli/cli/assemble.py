"""`magnet assemble` makes masks of the pieces that the parts of a run have left."""

from __future__ import annotations

from typing import Annotated

import typer

from magnet_cli.cli.outcome import Listing, command
from magnet_cli.cli.parameters import Json, NoProgress
from magnet_cli.errors import MagnetError


@command
def assemble(
    masks: Annotated[
        list[str], typer.Argument(metavar="MASK...", help="Masks that segment --num-parts began, or their pieces.")
    ],
    *,
    json: Json = False,
    no_progress: NoProgress = False,
) -> int:
    """Make a mask of the pieces that segment --num-parts has left, where the last part could not do so."""
    with Listing(json=json) as listing:
        from magnet_cli.cli.progress import Display
        from magnet_cli.segmentation import image_parts

        with Display(enabled=not no_progress) as display:
            for mask in masks:
                try:
                    result = image_parts.assemble(mask, events=display)
                except MagnetError as error:
                    display.failed(str(mask), error)
                    listing.add({"mask": str(mask), **error.describe()}, error)
                else:
                    listing.add(result.describe())
    return listing.exit_code

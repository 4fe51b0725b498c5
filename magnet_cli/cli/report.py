"""`magnet report` makes the picture and the page of a mask that exists."""

from __future__ import annotations

from typing import Annotated

import typer

from magnet_cli.cli.outcome import Listing, command, print_failure, print_lines
from magnet_cli.cli.parameters import Given, Group, Json, NoProgress, takes
from magnet_cli.errors import MagnetError, UsageError
from magnet_cli.options.shared import ViewOptions
from magnet_cli.system.private_names import PrivateNames


@command
@takes(views=Group(options=ViewOptions))
def report(
    masks: Annotated[list[str], typer.Argument(metavar="MASK...", help="Masks of magnet, or folders of them.")],
    *,
    image: Annotated[
        str | None, typer.Option(help="The mask's image, if it is not where the report says (for one mask only).")
    ] = None,
    views: Given[ViewOptions],
    json: Json = False,
    no_progress: NoProgress = False,
) -> int:
    """Make a page and a picture of a finished mask, without computing the mask again."""
    with Listing(json=json) as listing:
        from magnet_cli.cli.progress import showing
        from magnet_cli.masks.targets import named_masks
        from magnet_cli.report.files import show_mask

        chosen, found = views.value(), list(named_masks(masks))
        if image is not None and len(found) > 1:
            raise UsageError("--image belongs to one mask", value=f"{len(found)} masks", advice="Name one mask")
        for mask in found:
            # Messages come before the report is read, which may be damaged, so they are made private here.
            names = PrivateNames([mask, *([] if image is None else [image])] if chosen.private else [])
            try:
                with showing(names.text(str(mask)), "drawing", enabled=not no_progress):
                    written = show_mask(mask, chosen, image=image)
            except MagnetError as error:
                failure = names.error(error) if chosen.private else error
                print_failure(failure)
                listing.add(names.table({"mask": str(mask), **failure.describe()}), failure)
                continue
            listing.add(names.table({"mask": str(mask), "written": [str(path) for path in written]}))
            if not json:
                print_lines(*(names.text(str(path)) for path in written))
    return listing.exit_code

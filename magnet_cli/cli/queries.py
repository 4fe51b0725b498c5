"""`magnet plan`, `magnet info` and `magnet verify`, which read files and write none."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from magnet_cli.cli.outcome import Listing, command, print_failure, print_lines, print_note
from magnet_cli.cli.parameters import Given, Group, Inputs, Json, NoProgress, takes
from magnet_cli.cli.volume import VOLUME
from magnet_cli.errors import MagnetError, OutputError, SourceError
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.options.shared import BandOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from magnet_cli.images import FoundImage
    from magnet_cli.masks.verification import Verification
    from magnet_cli.segmentation.image_planner import Planner

T = TypeVar("T")

SHOWN = 10
"""Largest number of damaged places that a message names. The JSON object lists more of them."""


@command
@takes(options=Group(options=SegmentOptions, without=("overwrite", "resume", "overlay", "html", "exports", "private")))
def plan(
    inputs: Inputs,
    *,
    options: Given[SegmentOptions],
    json: Json = False,
    no_progress: NoProgress = False,
) -> int:
    """Show what segment would do (passes, windows, memory and disk) without running it."""
    with Listing(json=json) as listing:
        chosen = options.value()
        from magnet_cli.masks.targets import input_images
        from magnet_cli.segmentation.image_planner import Planner

        found = input_images(inputs, _say_skipped)
        planner = Planner.of(chosen)
        for image in found:
            made, error = _attempt(
                partial(_planned, planner, image), image.source, "planning", progress=not no_progress
            )
            if made is None:
                listing.add(_failure("image", image.source, error), error)
                continue
            row, lines = made
            listing.add(row)
            _answer(lines, printed=not json)
    return listing.exit_code


def _say_skipped(note: str) -> None:
    print_note(f"magnet: {note}")


def _planned(planner: Planner, image: FoundImage) -> tuple[dict[str, object], list[str]]:
    """Return the plan of one image as JSON values and as lines of text."""
    from magnet_cli.cli.tables import plan_lines

    made = planner.plan(image.source, image.options)
    seconds, then = planner.seconds(made), planner.preview(made)
    facts = {"refine": None if then is None else then.describe()}
    row = {**made.describe(), **facts, "seconds": None if seconds is None else round(seconds, 1)}
    return row, plan_lines(made, seconds=seconds, then=then)


@command
@takes(options=Group(options=BandOptions, only=("series",)))
def info(inputs: Inputs, *, options: Given[BandOptions], json: Json = False, no_progress: NoProgress = False) -> int:
    """Show the levels, size, pixel size, CRS and bands of images, and the reader that opens them."""
    with Listing(json=json) as listing:
        series = options.value().series
        from magnet_cli import images
        from magnet_cli.cli.tables import info_dict, info_lines
        from magnet_cli.masks.targets import input_images

        for image in input_images(inputs, _say_skipped):
            found, error = _attempt(
                partial(images.inspect, image.source, series=series), image.source, "reading", progress=not no_progress
            )
            if found is None:
                listing.add(_failure("image", image.source, error), error)
                continue
            listing.add(info_dict(found))
            _answer(info_lines(found), printed=not json)
    return listing.exit_code


@command
def verify(
    masks: Annotated[
        list[str],
        typer.Argument(metavar="MASK...", help="Masks of magnet, or folders of them, here or behind an address."),
    ],
    *,
    json: Json = False,
    no_progress: NoProgress = False,
) -> int:
    """Re-open masks and check every tile, overview and palette against the report."""
    with Listing(json=json) as listing:
        from magnet_cli.masks.verification import masks_to_verify

        for mask in masks_to_verify(masks):
            # One damaged mask of many must not hide the state of the others.
            found, error = _attempt(partial(_verified, mask), mask, "checking", progress=not no_progress)
            if found is None:
                listing.add({**_failure("mask", mask, error), "ok": False}, error)
                continue
            if not found.ok:
                error = damaged(found)
                print_failure(error)
            listing.add(_verification(found), error)
            if found.ok:
                line = f"{mask}: {found.tiles} tiles on {found.pages} pages, {found.bytes} bytes, all as written"
                _answer([line], printed=not json and not VOLUME.quiet)
    return listing.exit_code


def _answer(lines: Sequence[str], *, printed: bool) -> None:
    """Append the lines of a result to the log, and print them where they are wanted."""
    for line in lines:
        VOLUME.record(line)
    if printed:
        print_lines(*lines)


def damaged(found: Verification) -> OutputError:
    """Return the error that names the damaged places of a mask."""
    shown = "; ".join(str(damage) for damage in found.damage[:SHOWN])
    rest = found.damaged - min(SHOWN, len(found.damage))
    return OutputError(
        f"not as it was written: {shown}" + (f"; and {rest} places more" if rest else ""),
        file=found.mask,
        advice="Restore it from a copy, or compute it again with --overwrite",
    )


def _verified(mask: Path | str) -> Verification:
    from magnet_cli.masks.verification import verify_mask

    if isinstance(mask, Path) and not mask.exists():
        raise SourceError("there is no such mask", file=mask, advice="Check the path")
    return verify_mask(mask)


def _verification(found: Verification) -> dict[str, object]:
    return {
        "mask": str(found.mask),
        "ok": found.ok,
        "pages": found.pages,
        "tiles": found.tiles,
        "bytes": found.bytes,
        "damaged": found.damaged,
        "damage": [vars(damage) for damage in found.damage],
    }


def _attempt(
    work: Callable[[], T], path: str | Path, what: str, *, progress: bool
) -> tuple[T | None, MagnetError | None]:
    """Run work on one file, and return its result or its error, which is also printed."""
    from magnet_cli.cli.progress import showing

    try:
        with showing(path, what, enabled=progress):
            return work(), None
    except MagnetError as error:
        print_failure(error)
        return None, error


def _failure(key: str, path: str | Path, error: MagnetError | None) -> dict[str, object]:
    return {key: str(path), **({} if error is None else error.describe())}

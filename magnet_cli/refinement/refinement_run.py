"""From a method, an image and a mask to the run that makes the mask sharper."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from magnet_cli.refinement.pairs import open_input_mask
from magnet_cli.run.clock import Clock
from magnet_cli.run.guards import naming_shortage
from magnet_cli.run.mask_run import MaskRun

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from magnet_cli.events import Events
    from magnet_cli.masks.output import OutputPaths
    from magnet_cli.options.refine import RefineOptions
    from magnet_cli.refinement.image_view import Seen
    from magnet_cli.refinement.method import MaskJob, Method


ACTIVITIES = ("survey", "read", "refine", "write", "idle")
"""The activities that are measured in a refinement. `survey` is the time in which the mask is read and its objects are
counted, before anything is planned."""


@contextmanager
def opened_run(
    method: Method,
    seen: Seen,
    mask: str | Path,
    options: RefineOptions,
    *,
    paths: OutputPaths,
    hashes: Mapping[str, str],
    events: Events,
) -> Iterator[tuple[MaskJob, MaskRun]]:
    """Open a mask, look through it, and plan what is to be done to it; the mask is closed at the end of the block.

    Args:
        method: How the mask is refined.
        seen: The bands and values that the method reads of the image.
        mask: A file or URL.
        options: As the user gave them.
        paths: The files that are written.
        hashes: SHA-256 of everything that the result depends on, by name.
        events: Hears about messages and progress.

    Yields:
        The job, and the run that does it.

    Raises:
        MagnetError: The mask cannot be read or refined, or it takes more memory than it may.
    """
    clock = Clock(ACTIVITIES)
    with clock.measure("survey"), naming_shortage("the mask was looked through", seen.info.path):
        opened = open_input_mask(mask, options)
    with opened:
        with clock.measure("survey"), naming_shortage("the mask was looked through", seen.info.path):
            job = method.job(seen, opened, workers=method.machine.readers(options.num_workers), events=events)
        yield (
            job,
            MaskRun(
                job=job,
                paths=paths,
                hashes=hashes,
                workers=options.num_workers,
                resume=options.resume,
                overwrite=options.overwrite,
                events=events,
                clock=clock,
            ),
        )

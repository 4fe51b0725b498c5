"""The run of a refinement: it opens the mask, plans its refinement, and hands both to the engine."""

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
    from magnet_cli.images import InputStates
    from magnet_cli.masks.output import OutputPaths
    from magnet_cli.options.refine import RefineOptions
    from magnet_cli.refinement.image_view import ImageView
    from magnet_cli.refinement.method import MaskJob, Method
    from magnet_cli.system.private_names import PrivateNames


ACTIVITIES = ("survey", "read", "refine", "write", "idle")
"""The activities that are measured in a refinement. `survey` is the time in which the mask is read and its objects are
counted, before anything is planned."""


@contextmanager
def opened_run(
    method: Method,
    view: ImageView,
    mask: str | Path,
    options: RefineOptions,
    *,
    paths: OutputPaths,
    hashes: Mapping[str, str],
    inputs: InputStates,
    private: PrivateNames | None,
    events: Events,
) -> Iterator[tuple[MaskJob, MaskRun]]:
    """Open a mask and plan its refinement, as a context manager that closes the mask.

    Args:
        method: The refinement method.
        view: The bands and values that the method reads of the image.
        mask: A file or URL.
        options: The options of the run.
        paths: The files that are written.
        hashes: SHA-256 of everything that the result depends on, by name.
        inputs: The files that are read, as they were when the run began.
        private: Names that the report leaves out; None without `--private`.
        events: Receives messages and progress.

    Yields:
        The job, and the run that does it.

    Raises:
        MagnetError: The mask cannot be read or refined, or the memory budget is too small.
    """
    clock = Clock(ACTIVITIES)
    with clock.measure("survey"), naming_shortage("the mask was surveyed", view.info.path):
        opened = open_input_mask(mask, options)
    with opened:
        with clock.measure("survey"), naming_shortage("the mask was surveyed", view.info.path):
            job = method.job(view, opened, workers=method.machine.readers(options.num_workers), events=events)
        yield (
            job,
            MaskRun(
                job=job,
                paths=paths,
                hashes=hashes,
                inputs=inputs,
                private=private,
                workers=options.num_workers,
                resume=options.resume,
                overwrite=options.overwrite,
                events=events,
                clock=clock,
            ),
        )

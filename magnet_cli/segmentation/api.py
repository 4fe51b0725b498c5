"""Entry point of `magnet segment`: plan the outputs, load the networks once, and segment image after image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from magnet_cli.errors import BugError, foreseen
from magnet_cli.events import Events
from magnet_cli.masks.targets import plan_targets
from magnet_cli.models.python_network import PythonNetwork
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.run.private_events import PrivateEvents
from magnet_cli.segmentation.image_files import read_files, written_files
from magnet_cli.segmentation.image_planner import as_words
from magnet_cli.segmentation.image_run import ImageResult, ImageRun, private_names
from magnet_cli.segmentation.segment_model import load_model
from magnet_cli.system.written_files import refuse_collisions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from magnet_cli.masks.targets import Target
    from magnet_cli.models.python_network import NetworkDescription, PatchFunction
    from magnet_cli.segmentation.segment_model import Model


PASSED_OVER = "some files of the inputs look like images and are not taken; leave --private out to see their names"
"""Note with `--private` in place of those that name the files."""


def segment(
    inputs: str | Path | Sequence[str | Path],
    output: str | Path | None = None,
    options: SegmentOptions | None = None,
    *,
    network: PatchFunction | None = None,
    description: NetworkDescription | None = None,
    stop_on_error: bool = False,
    events: Events | None = None,
) -> list[ImageResult]:
    """Segment images; each gets a mask and a report beside it, and the picture and the page that the options ask for.

    Args:
        inputs: Files, folders, glob patterns or URLs; one, or several.
        output: The mask's file (one image only), a folder, or None for `<name>.mask.tif` in the current folder.
        options: Options of the run. Fields that are left out take the bundle's defaults.
        network: A module or another callable that takes the place of a bundle: from normalised patches
            `(n, bands, h, w)`, float32, to scores `(n, classes, h', w')`.
        description: Classes, patch size and normalisation of `network`.
        stop_on_error: Stop after the first image that fails, instead of going on with the next.
        events: Receives messages, progress and failures.

    Returns:
        A result for each image, in order; failed ones carry their error.

    Raises:
        UsageError, SourceError, WeightsError, DeviceError: The run cannot begin for any image. The error is raised
            before the first image is opened.
    """
    own = PythonNetwork.of(network, description)
    return list(segment_each(inputs, output, options, own=own, stop_on_error=stop_on_error, events=events))


def segment_each(
    inputs: str | Path | Sequence[str | Path],
    output: str | Path | None = None,
    options: SegmentOptions | None = None,
    *,
    own: PythonNetwork | None = None,
    stop_on_error: bool = False,
    events: Events | None = None,
) -> Iterator[ImageResult]:
    """Segment images as `segment` does, and yield each result as soon as its files are complete."""
    options, events = options or SegmentOptions(), events or Events()
    targets = plan_targets(
        as_words(inputs),
        None if output is None else Path(output),
        on_note=lambda note: events.message(f"magnet: {PASSED_OVER if options.private else note}"),
    )
    # All outputs are checked before the networks load: a name that the last image would overwrite costs no work.
    refuse_collisions(
        (file for target in targets for file in written_files(target, options)), read_files(targets, options)
    )
    model = load_model(options, events, own)
    for target in targets:
        result = segment_target(target, model, options, events, alone=own is not None or len(targets) == 1)
        yield result
        if stop_on_error and result.error is not None:
            return


def segment_target(
    target: Target, model: Model, options: SegmentOptions, events: Events, *, alone: bool = False
) -> ImageResult:
    """Segment one image with a model that is loaded; its failure is in the result.

    Args:
        target: The image and its mask.
        model: The loaded bundle or network.
        options: Options of the run.
        events: Receives messages, progress and failures.
        alone: Whether there is no other image. A bug then passes; else it is the failure of this image, and the others
            follow.
    """
    names = private_names(target, options)
    if names is not None:
        events = PrivateEvents(events, names)
    try:
        result = ImageRun(target=target, model=model, options=options, events=events, private=names).result()
        return replace(result, private=names)
    # A bug of this image must not end the others of a folder; `BugError` keeps its traceback.
    except Exception as error:
        failure = foreseen(error)
        if failure is None:
            if alone:
                raise
            failure = BugError.of(error, file=target.image)
        events.failed(target.image, failure)
        failure = failure if names is None else names.error(failure)
        return ImageResult(image=target.image, mask=target.mask, error=failure, private=names)

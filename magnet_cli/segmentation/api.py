"""Entry point of `magnet segment`: plan the outputs, load the networks once, and segment image after image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from magnet_cli.errors import OutputError, UsageError
from magnet_cli.events import Events, Images
from magnet_cli.masks.bucket_folder import BucketFolder
from magnet_cli.masks.report_file import read_report
from magnet_cli.masks.targets import in_order, is_file_name, plan_targets
from magnet_cli.models.python_network import PythonNetwork
from magnet_cli.options.segment import SegmentOptions
from magnet_cli.segmentation.cluster.cluster_run import refuse_network_of_program, segment_on_cluster
from magnet_cli.segmentation.image_files import read_files, written_files
from magnet_cli.segmentation.image_parts import segment_part
from magnet_cli.segmentation.image_planner import as_words
from magnet_cli.segmentation.image_run import private_names
from magnet_cli.segmentation.image_series import ImageSeries, SharedEvents
from magnet_cli.segmentation.image_shares import ImageShares
from magnet_cli.segmentation.run_summary import FAILED, WAITING, RunSummary, join_summaries, list_digest, summary_file
from magnet_cli.segmentation.segment_model import load_model
from magnet_cli.system.bucket import WORK
from magnet_cli.system.written_files import refuse_collisions, refuse_foreign

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from magnet_cli.masks.targets import Target
    from magnet_cli.models.python_network import NetworkDescription, PatchFunction
    from magnet_cli.options.parts import JobPart
    from magnet_cli.segmentation.image_run import ImageResult


PASSED_OVER = "some files of the inputs look like images and are not taken; leave --private out to see their names"
"""Note with `--private` in place of those that name the files."""


def segment(
    inputs: str | Path | Sequence[str | Path],
    output: str | Path | None = None,
    options: SegmentOptions | None = None,
    *,
    network: PatchFunction | None = None,
    description: NetworkDescription | None = None,
    part: JobPart | None = None,
    cluster: str | Path | None = None,
    stop_on_error: bool = False,
    work: str | Path = WORK,
    events: Events | None = None,
) -> list[ImageResult]:
    """Segment images; each gets a mask and a report beside it, and the picture and the page that the options ask for.

    Where several images are segmented into a folder, `run.json` in it lists the result of each.

    Args:
        inputs: Files, folders, glob patterns, lists (`.csv`) or URLs; one, or several.
        output: The mask's file (one image only), a folder, or None for `<name>.mask.tif` in the current folder. A
            folder of a bucket is `s3://BUCKET/FOLDER/`, and a file `s3://BUCKET/FOLDER/NAME.tif`.
        options: Options of the run. Fields that are left out take the bundle's defaults.
        network: A module or another callable that takes the place of a bundle: from normalised patches
            `(n, bands, h, w)`, float32, to scores `(n, classes, h', w')`.
        description: Classes, patch size and normalisation of `network`.
        part: The part of the run that is computed here, where several jobs share it. None computes all of it.
        cluster: Workers of Dask that share the run: `local:4`, the address of a scheduler, or the path of the file in
            which one has left its address. None computes in this process.
        stop_on_error: Stop after the first image that fails, instead of going on with the next.
        work: Local folder in which outputs for a bucket are made.
        events: Receives messages, progress and failures.

    Returns:
        A result for each image, in order; failed ones carry their error.

    Raises:
        UsageError, SourceError, WeightsError, DeviceError: The run cannot begin for any image. The error is raised
            before the first image is opened.
    """
    own = PythonNetwork.of(network, description)
    return list(
        segment_each(
            inputs,
            output,
            options,
            own=own,
            part=part,
            cluster=cluster,
            stop_on_error=stop_on_error,
            work=work,
            events=events,
        )
    )


def segment_each(
    inputs: str | Path | Sequence[str | Path],
    output: str | Path | None = None,
    options: SegmentOptions | None = None,
    *,
    own: PythonNetwork | None = None,
    part: JobPart | None = None,
    cluster: str | Path | None = None,
    stop_on_error: bool = False,
    work: str | Path = WORK,
    events: Events | None = None,
) -> Generator[ImageResult]:
    """Segment images as `segment` does, and yield each result as soon as its files are complete."""
    options, events = options or SegmentOptions(), events or Events()
    if part is not None and cluster is not None:
        raise UsageError(
            "part and cluster each say who shares a run",
            value=f"part={part}, cluster={cluster}",
            advice="Give part or cluster, not both",
        )
    place, folder = output_place(output, work)
    targets = plan_targets(
        as_words(inputs),
        folder,
        on_note=lambda note: events.message(f"magnet: {PASSED_OVER if options.private else note}"),
    )
    if place is not None:
        targets = [replace(target, place=place) for target in targets]
        _check_bucket(as_words(inputs), targets, options, is_shared=part is not None, cluster=cluster)
        place.bucket.check()
    several = folder if folder is not None and len(targets) > 1 and not is_file_name(folder) else None
    # All outputs are checked before the networks load: a name that the last image would overwrite costs no work.
    files = [file for target in targets for file in written_files(target, target.options(options))]
    summaries = [] if several is None else [summary_file(several), summary_file(several, part)]
    refuse_collisions(
        [*files, *{file.path: file for file in summaries}.values()],
        [file for target in targets for file in read_files([target], target.options(options))],
    )
    refuse_foreign(summaries)
    if place is not None:
        place.refuse_foreign(file.path for file in summaries)
    share = targets
    if part is not None and len(targets) > 1:
        share = part.deal(in_order(targets))
    if not share:
        events.message(f"magnet: {part} has no image, because there are only {len(targets)}")
    summary = RunSummary(
        rows=[waiting(target, options) for target in share],
        path=summary_file(several, part).path if several is not None else None,
        shown=None if place is None or several is None else place.address(summary_file(several, part).path),
        images=list_digest(_listed(target, folder) for target in targets),
        part=part,
    )
    ended = False
    try:
        blocks = part if len(targets) == 1 else None
        yield from _segmented(
            share, options, events, summary, own=own, part=blocks, cluster=cluster, stop_on_error=stop_on_error
        )
        ended = True
    finally:
        if len(targets) > 1:
            _end_summary(summary, events, finished=ended)
    if several is not None:
        _share_summary(place, several, part, events)


def _end_summary(summary: RunSummary, events: Events, *, finished: bool) -> None:
    """Write the summary of a run for the last time, and send it as messages.

    Args:
        summary: The summary.
        events: Receives the messages.
        finished: Whether the run went through all of its images.

    Raises:
        OutputError: The file of a finished run cannot be written.
    """
    try:
        summary.end(finished=finished)
    except OutputError as error:
        # Raised from here, it would take the place of the interruption or the failure that has ended the run.
        if finished:
            raise
        events.message(f"magnet: {error}")
        summary.path = None
    for line in summary.lines():
        events.message(line)


def output_place(output: str | Path | None, work: str | Path) -> tuple[BucketFolder | None, Path | None]:
    """Return the bucket that an output names, and its local path; None where there is none.

    Args:
        output: A path, or the address of a folder or of a mask in a bucket.
        work: Local folder in which outputs for buckets are made.

    Raises:
        UsageError: The output is an address of another kind.
    """
    if output is None:
        return None, None
    return BucketFolder.of(output, Path(work)) or (None, Path(output))


def _listed(target: Target, folder: Path | None) -> str:
    """Return what a list says of one image, as text: its path, the name of its mask, and its own options.

    The name is that within the output folder, because parts may keep outputs for a bucket in different work folders.
    """
    mask = target.mask if folder is None or not target.mask.is_relative_to(folder) else target.mask.relative_to(folder)
    own = [(name, str(value)) for name, value in sorted(target.own.items())]
    return repr((target.image, str(mask), own))


def _share_summary(place: BucketFolder | None, folder: Path, part: JobPart | None, events: Events) -> None:
    """Write the summary of a run to its bucket, and join those of all parts if this part is the last one.

    Raises:
        OutputError: The bucket refuses it, or the parts were given different lists of images.
    """
    if place is not None:
        _move_summaries(place, folder, part, events)
    elif part is not None:
        joined = join_summaries(folder, part.count)
        if joined is not None:
            events.message(f"{joined}: all parts have ended")


def _move_summaries(place: BucketFolder, folder: Path, part: JobPart | None, events: Events) -> None:
    place.move(summary_file(folder, part).path)
    if part is None:
        return
    paths = [summary_file(folder, replace(part, index=index)).path for index in range(part.count)]
    if any(place.ours(place.key(path)) is None for path in paths):
        return
    for path in paths:
        place.bucket.fetch(place.key(path), path)
    try:
        if len({str(read_report(path)["list"]) for path in paths}) > 1:
            # Those of an earlier run stay in the bucket until the parts of this run have ended.
            events.message("The summaries of all parts are joined once the other parts of this run have ended.")
            return
        joined = join_summaries(folder, part.count)
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
    if joined is not None:
        place.move(joined)
        events.message(f"{place.address(joined)}: all parts have ended")


def _check_bucket(
    inputs: Sequence[str],
    targets: Sequence[Target],
    options: SegmentOptions,
    *,
    is_shared: bool,
    cluster: str | Path | None,
) -> None:
    """Check that the outputs of a run can be written to a bucket.

    Raises:
        UsageError: A part of one image, workers of a cluster, a last stage, or an output among the inputs of the run.
    """
    if cluster is not None:
        raise UsageError(
            "workers of a cluster write into a folder that all of them see, and a bucket is none",
            value=f"--cluster with -o {targets[0].shown}",
            advice="Write to a shared folder and copy it, or share the images by --num-parts",
        )
    if len(targets) == 1 and is_shared:
        raise UsageError(
            "parts of one image leave pieces in a folder that has locks, which a bucket has not",
            value=f"-o {targets[0].shown}",
            advice="Write to a shared folder, or share a folder of images between the parts",
        )
    if options.refine is not None:
        raise UsageError(
            "a last stage starts from the mask before it, which a bucket does not keep on this machine",
            value=f"--refine with -o {targets[0].shown}",
            advice="Write to a local folder, and copy it",
        )
    read = {target.image for target in targets}
    for target in targets:
        folders = [word for word in inputs if word.endswith("/") and target.shown.startswith(word)]
        if target.shown in read or folders:
            raise UsageError(
                "outputs may not be written among the inputs: the next run would take them for images",
                value=target.shown,
                advice="Choose another folder of the bucket with -o",
            )


def _segmented(
    share: Sequence[Target],
    options: SegmentOptions,
    events: Events,
    summary: RunSummary,
    *,
    own: PythonNetwork | None,
    part: JobPart | None,
    cluster: str | Path | None,
    stop_on_error: bool,
) -> Iterator[ImageResult]:
    """Segment images, note each in the summary, and yield its result.

    Args:
        share: The images that are segmented here.
        options: Options of the run.
        events: Receives messages, progress and failures.
        summary: Takes the results.
        own: The network of a Python program.
        part: The part of the image's blocks that is computed. None computes all blocks of every image.
        cluster: Workers of Dask that share the run. None computes in this process.
        stop_on_error: Stop after the first image that fails.
    """
    if not share:
        return
    total, shares = len(share), ImageShares([target.image for target in share])

    def progress() -> Images:
        return Images(
            done=total - summary.count(WAITING),
            total=total,
            failed=summary.count(FAILED),
            finished=shares.finished,
            following=shares.following,
        )

    def added(number: int, result: ImageResult) -> None:
        summary.add(number, result)
        shares.finish(number)
        events.images(progress())

    events = events if total == 1 else SharedEvents(events)
    events.images(progress())
    if cluster is not None:
        if own is not None:
            raise refuse_network_of_program()
        yield from segment_on_cluster(share, options, events, cluster, added=added, stop_on_error=stop_on_error)
        return
    model = load_model(options, events, own)
    if part is not None:
        result = segment_part(share[0], model, options, events, part)
        added(0, result)
        yield result
        return
    series = ImageSeries(model=model, options=options, events=events, added=added)
    alone = own is not None or total == 1
    yield from series.results(share, stop_on_error=stop_on_error, alone=alone)


def waiting(target: Target, options: SegmentOptions) -> dict[str, object]:
    """Return the row of a summary for an image that has not been segmented yet."""
    row: dict[str, object] = {"image": target.image, "mask": target.shown, "status": WAITING}
    names = private_names(target, options)
    return row if names is None else names.table(row)

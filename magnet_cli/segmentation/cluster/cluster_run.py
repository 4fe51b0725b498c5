"""A run gives each worker of a cluster whole images, or blocks of one image where there is only one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from magnet_cli.errors import UsageError, foreseen
from magnet_cli.options.parts import local_workers
from magnet_cli.run.private_events import PrivateEvents
from magnet_cli.segmentation.cluster.cluster_image import (
    ClusterImage,
    arithmetic,
    introduced,
    planning_model,
    shared_threads,
)
from magnet_cli.segmentation.cluster.cluster_series import ClusterSeries
from magnet_cli.segmentation.cluster.connection import connected
from magnet_cli.segmentation.cluster.crew import Crew
from magnet_cli.segmentation.image_run import private_names
from magnet_cli.segmentation.image_series import failed, image_run
from magnet_cli.segmentation.segment_model import load_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from distributed import Client

    from magnet_cli.events import Events
    from magnet_cli.masks.targets import Target
    from magnet_cli.options.segment import SegmentOptions
    from magnet_cli.segmentation.image_run import ImageResult


def segment_on_cluster(
    targets: Sequence[Target],
    options: SegmentOptions,
    events: Events,
    cluster: str | Path,
    *,
    added: Callable[[int, ImageResult], None],
    stop_on_error: bool = False,
) -> Iterator[ImageResult]:
    """Segment images by the workers of a cluster, and yield each result in the order of the images.

    Args:
        targets: The images and their masks.
        options: Options of the run. `memory` is for each machine.
        events: Receives messages, progress and failures.
        cluster: `local:N`, the address of a scheduler, or the file in which a scheduler has left its address.
        added: Takes each result, with the number of its image, as soon as it is known.
        stop_on_error: Give out no other image once one has failed.

    Raises:
        UsageError: The cluster cannot be used.
        DeviceError: There is no worker.
    """
    with connected(cluster) as (client, release):
        apart = local_workers(str(cluster)) is not None
        yield from run_on_workers(
            targets, options, events, client, release, apart=apart, added=added, stop_on_error=stop_on_error
        )


def run_on_workers(
    targets: Sequence[Target],
    options: SegmentOptions,
    events: Events,
    client: Client,
    release: Callable[[], None],
    *,
    added: Callable[[int, ImageResult], None],
    apart: bool = False,
    groups: int | None = None,
    stop_on_error: bool = False,
) -> Iterator[ImageResult]:
    """Segment images by the workers that a client of Dask knows.

    Args:
        targets: The images and their masks.
        options: Options of the run.
        events: Receives messages, progress and failures.
        client: The client.
        release: Ends workers that were started for this run.
        added: Takes each result, with the number of its image.
        apart: Whether Ctrl-C would reach the workers as well.
        groups: Groups of each task of a single image. None chooses a number that suits the workers.
        stop_on_error: Give out no other image once one has failed.
    """
    # The reports of workers name files of the options and, for a single image, the image and its mask.
    names = private_names(targets[0], targets[0].options(options))
    crew = Crew(client=client, events=events if names is None else PrivateEvents(events, names), apart=apart)
    found = introduced(crew, options)
    threads = shared_threads(crew, found)
    if len(targets) > 1:
        series = ClusterSeries(
            crew=crew,
            options=options,
            events=events,
            threads=threads,
            arithmetic=arithmetic(next(iter(found.values()))),
            admitted=set(found),
            added=added,
        )
        yield from series.results(targets, stop_on_error=stop_on_error)
        return
    target = targets[0]
    try:
        # The networks of this process are not run: it plans, and joins the borders of blocks.
        model = planning_model(load_model(replace(options, device="cpu", precision="float32"), events), found)
        image = ClusterImage(
            run=image_run(target, model, options, events), crew=crew, threads=threads, release=release, groups=groups
        )
        result = image.computed()
    # `foreseen` also knows some errors of the system. Everything else is a bug, and is raised again.
    except Exception as error:
        if foreseen(error) is None:
            raise
        result = failed(target, error, options, events)
    added(0, result)
    yield result


def refuse_network_of_program() -> UsageError:
    """Return the error for a network that only this process has."""
    return UsageError(
        "the network of a Python program cannot be sent to workers",
        value="network",
        advice="Save it and name it by --network, or run it without a cluster",
    )

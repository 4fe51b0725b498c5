"""The workers of a cluster segment several images: each worker computes one image at a time and writes its outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from magnet_cli import __version__
from magnet_cli.errors import OutputError
from magnet_cli.masks.output import OutputPaths
from magnet_cli.masks.report_file import read_report
from magnet_cli.run.private_events import PrivateEvents
from magnet_cli.segmentation.cluster.carried_errors import delivered
from magnet_cli.segmentation.cluster.cluster_image import introduction, other_arithmetic, worded
from magnet_cli.segmentation.cluster.crew import Shift
from magnet_cli.segmentation.image_parts import absolute_image
from magnet_cli.segmentation.image_run import ImageResult, private_names
from magnet_cli.segmentation.image_series import failed
from magnet_cli.segmentation.image_shares import image_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from magnet_cli.events import Events
    from magnet_cli.masks.targets import Target
    from magnet_cli.options.segment import SegmentOptions
    from magnet_cli.segmentation.cluster.crew import Answer, Crew, Question


@dataclass(kw_only=True)
class ClusterSeries:
    """Segments several images by the workers of a cluster, as the work of one crew."""

    crew: Crew
    options: SegmentOptions
    events: Events
    threads: int
    """The number of threads of each operation, unless an interrupted run of an image has chosen them."""
    arithmetic: tuple[str, ...]
    """The kind of device, the precision and the engine by which all workers compute."""
    admitted: set[str]
    """The addresses of the workers that have loaded the networks."""
    added: Callable[[int, ImageResult], None]
    """The function takes each result, with the number of its image, as soon as it is known."""

    def results(self, targets: Sequence[Target], *, stop_on_error: bool = False) -> Iterator[ImageResult]:
        """Segment images, and yield each result in the order of the images.

        Args:
            targets: The images and their masks.
            stop_on_error: Give out no other image once one has failed.

        Raises:
            DeviceError: There are no workers, or one image after another is lost with its worker.
        """
        self._targets = targets
        numbers = iter(range(len(targets)))
        stopped = False

        def following(workers: int) -> int | None:
            del workers
            return None if stopped else next(numbers, None)

        weights = image_weights([target.image for target in targets])
        shift: Shift[int] = Shift(
            crew=self.crew,
            work=self,
            following=following,
            admitted=self.admitted,
            is_independent=True,
            size=lambda number: weights[number],
        )
        found: dict[int, ImageResult] = {}
        due = 0
        for number, _, answered in shift.results():
            result = self._result(number, answered)
            stopped = stopped or (stop_on_error and result.error is not None)
            self.added(number, result)
            # A report is read again when its turn comes: those of many images would fill the memory.
            found[number] = replace(result, report=None)
            while due in found:
                yield self._with_report(due, found.pop(due))
                due += 1
        for number in sorted(found):
            yield self._with_report(number, found[number])

    def greeting(self, worker: str) -> Question:
        """Return the question that makes a worker load the networks."""
        del worker
        return introduction(self.options)

    def objection(self, worker: str, found: Answer) -> str | None:
        """Return why a worker gets no image; None where it is admitted."""
        del worker
        version = found["version"]
        if version != __version__:
            return f"its version is {version}, and here it is {__version__}"
        return other_arithmetic(found, self.arithmetic)

    def question(self, worker: str, task: int) -> Question:
        """Return the question that gives an image to a worker."""
        del worker
        target = self._targets[task]
        own = target.options(self.options)
        return {
            "what": "segment",
            "image": absolute_image(target.image),
            "mask": str(target.mask.absolute()),
            "words": worded(own),
            "model": worded(self.options),
            "private": own.private,
            "overwrite": own.overwrite,
            "resume": own.resume,
            "threads": self.threads,
        }

    def _result(self, number: int, answered: Answer) -> ImageResult:
        target = self._targets[number]
        if "error" in answered:
            return failed(target, delivered(answered["error"]), self.options, self.events)
        from magnet_cli.exports.formats import Export  # noqa: PLC0415 - libraries that only exports need

        was_done = bool(answered["was_done"])
        names = private_names(target, target.options(self.options))
        result = ImageResult(
            image=target.image,
            mask=target.mask,
            was_done=was_done,
            exports=tuple(
                Export(
                    mask=target.mask,
                    format=entry["format"],
                    path=Path(entry["path"]),
                    was_done=entry["status"] != "done",
                    notes=tuple(entry["notes"]),
                )
                for entry in answered["exports"]
            ),
            private=names,
        )
        result = self._with_report(number, result)
        if result.error is None:
            events = self.events if names is None else PrivateEvents(self.events, names)
            events.message(f"{target.mask}: {result.status}")
        return result

    def _with_report(self, number: int, result: ImageResult) -> ImageResult:
        """Return a result with the report that its worker has written; a failure of the image where it is not here."""
        if result.error is not None:
            return result
        try:
            return replace(result, report=read_report(OutputPaths.of(result.mask).report))
        except OutputError as exc:
            error = OutputError(
                "a worker has made this mask, and its report cannot be read here",
                file=result.mask,
                advice="Write to a folder that all workers share under one name",
            )
            error.__cause__ = exc
            return failed(self._targets[number], error, self.options, self.events)

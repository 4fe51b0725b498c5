"""The segmentation of several images with one model, so that the device does not wait between two of them.

While an image is computed, the next one is planned, and the mask of the one before is written. When the last group of
its windows is about to be computed, the next image is opened and its first group read, if both fit into memory.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from typing_extensions import override

from magnet_cli.errors import BugError, foreseen
from magnet_cli.events import Events, Images
from magnet_cli.run.engine import WorkBeside
from magnet_cli.run.private_events import PrivateEvents
from magnet_cli.segmentation.image_run import (
    ComputedImage,
    ImageResult,
    ImageRun,
    OpenedImage,
    PreparedImage,
    private_names,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from magnet_cli.errors import MagnetError
    from magnet_cli.events import Step
    from magnet_cli.masks.targets import Target
    from magnet_cli.options.segment import SegmentOptions
    from magnet_cli.plan import MemoryPlan
    from magnet_cli.segmentation.segment_model import Model

T = TypeVar("T")
FINISHING_BYTES = 64 << 20
"""Memory in which a mask and its exports are written beside the computation of the next image, besides its journal's
index. The most that was measured is 54 MiB, for an OME-Zarr of noise."""


class SharedEvents(Events):
    """Passes the events of several threads on, one at a time.

    Args:
        events: Receives the events.
    """

    def __init__(self, events: Events) -> None:
        self._events = events
        self._lock = threading.Lock()

    @override
    def message(self, text: str) -> None:
        with self._lock:
            self._events.message(text)

    @override
    def begins(self, image: str, lines: Sequence[str]) -> None:
        with self._lock:
            self._events.begins(image, lines)

    @override
    def step(self, step: Step) -> None:
        with self._lock:
            self._events.step(step)

    @override
    def images(self, progress: Images) -> None:
        with self._lock:
            self._events.images(progress)

    @override
    def failed(self, image: str, error: MagnetError) -> None:
        with self._lock:
            self._events.failed(image, error)


class DeferredEvents(Events):
    """Keeps the events of an image until its turn comes, and passes on those that follow.

    Args:
        events: Receives the events.
    """

    def __init__(self, events: Events) -> None:
        self._events = events
        self._kept: list[Callable[[], None]] | None = []

    def begin(self) -> None:
        """Pass on what was kept, because the turn of the image has come."""
        kept, self._kept = self._kept or [], None
        for event in kept:
            event()

    @override
    def message(self, text: str) -> None:
        self._take(partial(self._events.message, text))

    @override
    def begins(self, image: str, lines: Sequence[str]) -> None:
        self._take(partial(self._events.begins, image, lines))

    @override
    def step(self, step: Step) -> None:
        self._take(partial(self._events.step, step))

    @override
    def images(self, progress: Images) -> None:
        self._take(partial(self._events.images, progress))

    @override
    def failed(self, image: str, error: MagnetError) -> None:
        self._take(partial(self._events.failed, image, error))

    def _take(self, event: Callable[[], None]) -> None:
        if self._kept is None:
            event()
        else:
            self._kept.append(event)


class ImageAhead:
    """An image whose turn comes next: another thread plans it at once, and opens it when it is asked to.

    Args:
        thread: The thread.
        prepared: Plans the image, whose events it is given.
        events: Receives the events of the image once its turn has come.
    """

    def __init__(self, thread: ThreadPoolExecutor, prepared: Callable[[Events], PreparedImage], events: Events) -> None:
        self._thread = thread
        self._events = DeferredEvents(events)
        self._planned = thread.submit(_or_error(partial(prepared, self._events)))
        self._opened: Future[PreparedImage | OpenedImage | Exception] | None = None
        self._is_given_up = False

    def open(self, before: MemoryPlan, pending: Future[ImageResult] | None) -> None:
        """Open the image and read its first group beside the last group of the image before, if both fit into memory.

        Args:
            before: The planned memory of the image before.
            pending: The mask that is being written meanwhile; None where there is none.
        """
        if self._opened is None and not self._is_given_up:
            self._opened = self._thread.submit(self._opened_beside, before, pending)

    def give_up(self) -> None:
        """Close the image until its turn comes, because memory is short. Planning that still goes on is not awaited."""
        self._is_given_up = True
        self._close_opened()
        self._opened = None
        if self._planned.done():
            self._close_planned()

    def turn(self) -> PreparedImage | OpenedImage | Exception:
        """Return the image, or what is wrong with it, because its turn has come."""
        found = self._planned.result() if self._opened is None else self._opened.result()
        self._events.begin()
        return found

    def close(self) -> None:
        """Close the image, whose turn does not come."""
        if self._planned.cancel():
            return
        self._close_opened()
        self._close_planned()

    def _close_opened(self) -> None:
        if self._opened is not None and not self._opened.cancel():
            found = self._opened.result()
            if isinstance(found, OpenedImage):
                found.close()

    def _close_planned(self) -> None:
        planned = self._planned.result()
        if isinstance(planned, PreparedImage):
            planned.close()

    def _opened_beside(
        self, before: MemoryPlan, pending: Future[ImageResult] | None
    ) -> PreparedImage | OpenedImage | Exception:
        prepared = self._planned.result()
        if isinstance(prepared, Exception):
            return prepared
        is_writing = pending is not None and not pending.done()
        # The disk was measured for one decoded copy of an image that cannot be read by region.
        if prepared.plan.image.cache_bytes or not fits_beside(prepared.plan.memory, before, is_writing=is_writing):
            return prepared
        return _or_error(partial(prepared.opened, ahead=True))()


def fits_beside(following: MemoryPlan, before: MemoryPlan, *, is_writing: bool) -> bool:
    """Return whether an image may be opened and its first group read beside the last group of the image before.

    Nothing is read ahead of the last group, so the memory of the groups that wait is free.

    Args:
        following: The planned memory of the image.
        before: The planned memory of the image before.
        is_writing: Whether the mask of a third image is being written meanwhile.
    """
    held = before.total - before.ahead * before.group + (FINISHING_BYTES if is_writing else 0)
    more = following.cache + following.group + following.processes * following.process
    return following.ahead > 0 and held + more <= before.budget


def _or_error(work: Callable[[], T]) -> Callable[[], T | Exception]:
    """Return a function that does some work and returns its failure. A bug of one image must not end the others."""

    def done() -> T | Exception:
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - see above
            return error

    return done


@dataclass(frozen=True, kw_only=True)
class ImageSeries:
    """The segmentation of several images with one model."""

    model: Model
    options: SegmentOptions
    events: Events
    """Receives events of several threads at once where images overlap: `SharedEvents` passes them on one at a time."""
    added: Callable[[int, ImageResult], None]
    """Takes each result, with the number of its image, in the thread that finished it."""

    def results(
        self, targets: Sequence[Target], *, stop_on_error: bool = False, alone: bool = False
    ) -> Iterator[ImageResult]:
        """Segment images, and yield each result in the order of the images.

        Args:
            targets: The images and their masks.
            stop_on_error: Stop after the first image that fails. No other image is then begun before it is known
                whether the one before failed.
            alone: Whether a bug passes as it is, and is not turned into the failure of its image.
        """
        if alone or stop_on_error or len(targets) == 1 or self.model.last is not None:
            yield from self._in_turn(targets, stop_on_error=stop_on_error, alone=alone)
        else:
            yield from self._overlapping(targets)

    def _in_turn(self, targets: Sequence[Target], *, stop_on_error: bool, alone: bool) -> Iterator[ImageResult]:
        for number, target in enumerate(targets):
            result = segment_target(target, self.model, self.options, self.events, alone=alone)
            self.added(number, result)
            yield result
            if stop_on_error and result.error is not None:
                return

    def _overlapping(self, targets: Sequence[Target]) -> Iterator[ImageResult]:
        with ThreadPoolExecutor(1, "plan") as planner, ThreadPoolExecutor(1, "finish") as finisher:
            following: ImageAhead | None = None
            pending: Future[ImageResult] | None = None
            try:
                for number, target in enumerate(targets):
                    found = (following or self._ahead(planner, target)).turn()
                    following = self._ahead(planner, targets[number + 1]) if number + 1 < len(targets) else None
                    computed = self._computed(found, pending, following)
                    try:
                        if pending is not None:
                            yield pending.result()
                    except BaseException:  # This also handles Ctrl-C, and a caller that stops early.
                        if isinstance(computed, ComputedImage):
                            computed.close()
                        raise
                    pending = finisher.submit(self._finished, number, target, computed)
                if pending is not None:
                    yield pending.result()
            finally:
                if following is not None:
                    following.close()

    def _ahead(self, planner: ThreadPoolExecutor, target: Target) -> ImageAhead:
        def prepared(events: Events) -> PreparedImage:
            return image_run(target, self.model, self.options, events).prepared()

        return ImageAhead(planner, prepared, self.events)

    @staticmethod
    def _computed(
        found: PreparedImage | OpenedImage | Exception,
        pending: Future[ImageResult] | None,
        following: ImageAhead | None,
    ) -> ComputedImage | Exception:
        if isinstance(found, Exception):
            return found
        memory = found.plan.memory
        try:
            if pending is not None and memory.total + FINISHING_BYTES > memory.budget:
                pending.exception()
        except KeyboardInterrupt:
            found.close()
            raise
        try:
            opened = found.opened() if isinstance(found, PreparedImage) else found
            beside = None
            if following is not None:
                beside = WorkBeside(begin=partial(following.open, memory, pending), end=following.give_up)
            return opened.computed(beside)
        except Exception as error:  # noqa: BLE001 - a bug of one image must not end the others
            return error

    def _finished(self, number: int, target: Target, computed: ComputedImage | Exception) -> ImageResult:
        # Failures of all three steps are reported here, so that messages come in the order of the images.
        try:
            result = _completed(computed)
        except Exception as error:  # noqa: BLE001 - likewise
            result = failed(target, error, self.options, self.events)
        self.added(number, result)
        return result


def _completed(computed: ComputedImage | Exception) -> ImageResult:
    """Finish an image, or raise what ended the work on it before."""
    if isinstance(computed, Exception):
        raise computed
    return computed.finished()


def segment_target(
    target: Target, model: Model, options: SegmentOptions, events: Events, *, alone: bool = False
) -> ImageResult:
    """Segment one image with a model that is loaded; its failure is in the result.

    Args:
        target: The image and its mask.
        model: The loaded bundle or network.
        options: Options of the run. Those that the target has of its own take their place.
        events: Receives messages, progress and failures.
        alone: Whether there is no other image. A bug then passes; else it is the failure of this image, and the others
            follow.
    """
    try:
        return image_run(target, model, options, events).result()
    # A bug of this image must not end the others of a folder; `BugError` keeps its traceback.
    except Exception as error:
        if alone and foreseen(error) is None:
            raise
        return failed(target, error, options, events)


def image_run(target: Target, model: Model, options: SegmentOptions, events: Events) -> ImageRun:
    """Return the segmentation of one image, with the options that hold for it alone."""
    own = target.options(options)
    names = private_names(target, own)
    events = events if names is None else PrivateEvents(events, names)
    return ImageRun(target=target, model=model, options=own, events=events, private=names)


def failed(target: Target, error: Exception, options: SegmentOptions, events: Events) -> ImageResult:
    """Report the failure of an image, and return its result."""
    failure = foreseen(error) or BugError.of(error, file=target.image)
    names = private_names(target, target.options(options))
    if names is not None:
        events = PrivateEvents(events, names)
    events.failed(target.image, failure)
    failure = failure if names is None else names.error(failure)
    return ImageResult(image=target.image, mask=target.mask, error=failure, private=names, place=target.place)

"""The segmentation of one image: its plan, its mask, and the files beside the mask.

The code for refinement, pictures, pages and other formats is imported only if an option asks for it. Its libraries take
as long to load as those of the networks, and a shell loop over small images loads them for each image.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from magnet_cli import images
from magnet_cli.errors import MagnetError
from magnet_cli.events import Step
from magnet_cli.exports.destinations import default_files
from magnet_cli.geometry import Box
from magnet_cli.images.labels import open_labels
from magnet_cli.images.urls import is_url
from magnet_cli.masks.journal import drop_journal
from magnet_cli.masks.output import OutputPaths, OutputState, output_state
from magnet_cli.masks.report_file import read_report
from magnet_cli.masks.targets import Target
from magnet_cli.models.python_network import PYTHON
from magnet_cli.options.spelling import segment_words
from magnet_cli.plan import examine_bands
from magnet_cli.run.clock import Clock
from magnet_cli.run.mask_run import MaskRun, check_private, refuse_public
from magnet_cli.segmentation.announcement import announcement, too_little_disk
from magnet_cli.segmentation.computer import Normalisation
from magnet_cli.segmentation.image_files import bucket_output, outdated_files, written_files
from magnet_cli.segmentation.image_planner import plan_image
from magnet_cli.segmentation.kept_image import KeptImage
from magnet_cli.segmentation.published_job import PublishedJob
from magnet_cli.segmentation.segment_job import SegmentJob, options_hash
from magnet_cli.system.private_names import PrivateNames
from magnet_cli.system.scratch import scratch_folder
from magnet_cli.system.written_files import refuse_unwritable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from magnet_cli.events import Events
    from magnet_cli.exports.formats import Export
    from magnet_cli.masks.bucket_folder import BucketFolder
    from magnet_cli.options.segment import SegmentOptions
    from magnet_cli.plan import Plan
    from magnet_cli.refinement.last_stage import LastStage
    from magnet_cli.run.engine import WorkBeside
    from magnet_cli.run.mask_run import OpenedMask
    from magnet_cli.segmentation.segment_model import Model

Report = dict[str, object]
ACTIVITIES = ("read", "forward", "refine", "select", "write", "idle")
"""The activities that are measured in a segmentation. `forward` is the backbone, `refine` the refiner and merging, and
`select` the choice of windows and points."""


@dataclass(frozen=True, kw_only=True)
class ImageResult:
    """The result of segmenting one image: the mask and its report, or the error."""

    image: str
    mask: Path
    report: dict[str, object] | None = None
    """The report that lies beside the mask. None if the image failed."""
    error: MagnetError | None = None
    """The error of an image that failed."""
    was_done: bool = False
    """Whether an earlier run had already finished the mask."""
    pieces: tuple[int, int] | None = None
    """Number of groups that all parts of one image have computed so far, and of all groups.

    None once the mask is complete.
    """
    exports: tuple[Export, ...] = ()
    """The mask in other formats."""
    private: PrivateNames | None = None
    """Names that `describe` leaves out."""
    place: BucketFolder | None = None
    """The bucket to which the files are written, whose paths here are those before they were. None for local files."""

    @property
    def shown(self) -> str:
        """Return the path of the mask, or its address in a bucket."""
        return str(self.mask) if self.place is None else self.place.address(self.mask)

    def array(self) -> NDArray[np.uint8]:
        """Read the whole mask: `(height, width)` uint8 class indices at level 0, 255 where nothing was computed.

        Raises:
            MagnetError: The image failed. The error is the one in `error`.
        """
        if self.error is not None:
            raise self.error
        with ExitStack() as stack:
            path = self.mask
            if self.place is not None:
                path = stack.enter_context(scratch_folder("mask")) / self.mask.name
                self.place.bucket.fetch(self.place.key(self.mask), path)
            labels = stack.enter_context(open_labels(path))
            return labels.read(Box.whole(labels.size))

    @property
    def status(self) -> str:
        """The status in a word or two: `done`, `already done`, `part done` or `failed`."""
        if self.error is not None:
            return "failed"
        if self.pieces is not None:
            return "part done"
        return "already done" if self.was_done else "done"

    def describe(self) -> dict[str, object]:
        """Return the result as JSON values."""
        return self._described() if self.private is None else self.private.table(self._described())

    def _described(self) -> dict[str, object]:
        found: dict[str, object] = {"image": self.image, "mask": self.shown, "status": self.status}
        if self.error is not None:
            return {**found, **self.error.describe()}
        place = self.place
        exports = [each.describe(None if place is None else place.address(each.path)) for each in self.exports]
        return {**found, "report": self.report, "exports": exports}


def private_names(target: Target, options: SegmentOptions) -> PrivateNames | None:
    """Return the names that the outputs for one image leave out; None without `--private`."""
    if not options.private:
        return None
    weights = (options.weights, options.refine_weights, options.foreign.network)
    folders = (word for word in weights if word is not None and Path(word).exists())
    areas = (path for path in (options.roi, options.mask) if isinstance(path, Path | str))
    return PrivateNames([target.image, target.shown, target.mask, target.unrefined], [*areas, *folders])


@dataclass(frozen=True, kw_only=True)
class PreparedImage:
    """An image that is planned, before its first window is computed."""

    run: ImageRun
    plan: Plan
    inputs: images.InputStates
    kept: KeptImage | None = None
    """The image, if it can stay open until its run. None lets the run open it again."""

    def close(self) -> None:
        """Close the image, whose turn does not come."""
        if self.kept is not None:
            self.kept.close()

    def opened(self, *, ahead: bool = False) -> OpenedImage:
        """Open the image and its journal.

        Args:
            ahead: Whether another image is still being computed. The first missing group of windows is then read at
                once, and a failure to read it is raised when the image is computed.

        Raises:
            MagnetError: The image or an output cannot be opened.
        """
        image = None if self.kept is None else self.kept.take()
        return self.run.opened(self.plan, self.inputs, image, ahead=ahead)


@dataclass(frozen=True, kw_only=True)
class OpenedImage:
    """An image that is open, before its first window is computed."""

    run: ImageRun
    plan: Plan
    mask: OpenedMask | ComputedImage
    """The mask that is to be computed, or the result of an earlier run that has finished it."""

    def computed(self, beside: WorkBeside | None = None) -> ComputedImage:
        """Compute what is missing of the mask.

        Args:
            beside: Work that may begin while the last group of windows is computed. It does not begin where nothing is
                missing.

        Raises:
            MagnetError: The run failed. Finished groups stay in the journal, and the same command resumes the run.
        """
        if isinstance(self.mask, ComputedImage):
            return self.mask
        command = self.run.command(self.plan)
        groups = self.mask.computed(beside)
        return ComputedImage(
            run=self.run,
            write=lambda: self.run.done(groups.written(lambda report: {**report, "command": command})),
            close=groups.close,
        )

    def close(self) -> None:
        """Close the image without computing anything. The same command goes on from what an earlier run has left."""
        if not isinstance(self.mask, ComputedImage):
            self.mask.close()


def _nothing() -> None:
    """Do nothing, because no file is open."""


@dataclass(frozen=True, kw_only=True)
class ComputedImage:
    """An image whose every window is computed, before its mask is written."""

    run: ImageRun
    write: Callable[[], ImageResult]
    """Writes the mask and its report."""
    close: Callable[[], None] = _nothing
    """Close the journal of a mask that is not written. The same command resumes from it."""
    is_complete: bool = False
    """Whether a bucket has the mask and all other outputs already."""

    def finished(self) -> ImageResult:
        """Write the mask, its report, and the other outputs that the options ask for.

        Raises:
            MagnetError: An output could not be made. Outputs that are complete stay.
        """
        return self.write() if self.is_complete else self.run.completed(self.write())


@dataclass(frozen=True, kw_only=True)
class ImageRun:
    """The segmentation of one image by a loaded model."""

    target: Target
    model: Model
    options: SegmentOptions
    events: Events
    private: PrivateNames | None
    """The names that are left out of outputs and messages; None without `--private`."""

    def result(self) -> ImageResult:
        """Make the mask and the other outputs that the options ask for.

        Raises:
            MagnetError: An output could not be made. Outputs that are complete stay.
        """
        last = self.model.last
        if last is None:
            return self.prepared().opened().computed().finished()
        self.check_outputs()
        return self.completed(self._refined(last))

    def check_outputs(self) -> None:
        """Check that every file of the run can be written.

        Raises:
            UsageError, OutputError: A name is too long, or another program's file is in the way.
        """
        refuse_unwritable(written_files(self.target, self.options))
        output = bucket_output(self.target, self.options, {})
        if output is not None:
            output.refuse_foreign()

    def prepared(self) -> PreparedImage:
        """Plan the run and note the state of its inputs. Another thread may do so while an image is computed.

        Raises:
            MagnetError: The image cannot be segmented with these options, or an output cannot be written.
        """
        self.check_outputs()
        source = self.target.image
        before = None if is_url(source) else images.FileState.of(Path(source))
        with ExitStack() as stack:
            image = stack.enter_context(examine_bands(source, self.options))
            plan, inputs = self.plan(image.info), self.inputs()
            kept = None
            # What was opened has to be what was noted afterwards. A TIFF that is one file is one handle, and was not
            # written to or replaced in between; of other formats the libraries open files themselves.
            if image.info.backend == "tiff" and not image.info.cache_bytes and inputs.is_same_file(source, before):
                kept = KeptImage(image)
                stack.pop_all()
        return PreparedImage(run=self, plan=plan, inputs=inputs, kept=kept)

    def completed(self, result: ImageResult) -> ImageResult:
        """Make the outputs besides the mask that the options ask for.

        Raises:
            MagnetError: An output could not be made. Outputs that are complete stay.
        """
        with self._mask_complete():
            self._draw(result)
            result = replace(result, exports=tuple(self._exports()))
            self._upload(result)
            self._report_outdated(result)
            return result

    def inputs(self) -> images.InputStates:
        """Note the state of the files that the run reads.

        Raises:
            SourceError: A file cannot be read.
        """
        roi = self.options.roi if isinstance(self.options.roi, Path) else None
        return images.InputStates.of((self.target.image, roi, self.options.mask))

    def plan(self, info: images.ImageInfo | None = None) -> Plan:
        """Plan the run.

        Args:
            info: The facts about the image. None opens the image for them.

        Raises:
            MagnetError: The image cannot be segmented with these options.
        """
        return plan_image(
            self.target.image,
            self.model.facts,
            self.options,
            self.model.machine,
            folder=self.target.mask.parent,
            info=info,
        )

    def run(self, plan: Plan, inputs: images.InputStates | None = None, image: images.Image | None = None) -> MaskRun:
        """Return the run that makes the mask of a plan.

        Args:
            plan: The plan.
            inputs: State of the files that the run reads. None notes it now.
            image: The image, if it is open already.
        """
        bundle, job = self.model.bundle, PublishedJob if plan.settings.compat != "paper" else SegmentJob
        inputs = self.inputs() if inputs is None else inputs
        return MaskRun(
            job=job(
                plan=plan,
                bundle=bundle,
                networks=self.model.networks,
                normalisation=Normalisation.of(plan, mean=bundle.input.mean, std=bundle.input.std),
            ),
            paths=OutputPaths.of(self.target.mask),
            hashes={
                **inputs.image_hashes(plan.image),
                "bundle": bundle.digest,
                "options": options_hash(plan),
                **({} if self.model.runtime is None else {"runtime": self.model.runtime}),
            },
            inputs=inputs,
            image=image,
            private=self.private,
            workers=self.options.num_workers,
            resume=self.options.resume,
            overwrite=self.options.overwrite,
            events=self.events,
            threads=self.model.threads,
            clock=Clock(ACTIVITIES),
        )

    def segmented(self, plan: Plan) -> ImageResult:
        """Make the mask of a plan, unless an earlier run has finished it.

        Raises:
            MagnetError: The run failed. Finished groups stay in the journal, and the same command resumes the run.
        """
        return self.opened(plan).computed().write()

    def opened(
        self,
        plan: Plan,
        inputs: images.InputStates | None = None,
        image: images.Image | None = None,
        *,
        ahead: bool = False,
    ) -> OpenedImage:
        """Open the image of a plan and the journal of its mask, if anything is missing of the mask.

        Args:
            plan: The plan.
            inputs: State of the files that the run reads. None notes it now.
            image: The image, if it is open already. It is closed where the result is no open mask.
            ahead: Whether another image is still being computed, as in `PreparedImage.opened`.

        Raises:
            MagnetError: The image or an output cannot be opened.
        """
        with ExitStack() as stack:
            if image is not None:
                stack.callback(image.close)
            found = self._opened(plan, self.run(plan, inputs, image), ahead=ahead)
            if not isinstance(found.mask, ComputedImage):
                stack.pop_all()
            return found

    def _opened(self, plan: Plan, run: MaskRun, *, ahead: bool) -> OpenedImage:
        stored = self._in_bucket(run)
        if stored is not None:
            finished = ComputedImage(run=self, write=lambda: stored, is_complete=True)
            return OpenedImage(run=self, plan=plan, mask=finished)
        if run.is_done():
            report = run.report()
            finished = ComputedImage(run=self, write=lambda: self.done(report, was_done=True))
            return OpenedImage(run=self, plan=plan, mask=finished)
        self._report(self.model.notes)
        self.events.begins(self.target.image, announcement(plan, self.model.bundle, mask=self.target.shown))
        self.report_notes(plan)
        # A run that goes on has a part of what it takes on the disk already.
        if not run.paths.journal.exists() and (note := too_little_disk(plan, run.paths.mask)):
            self.events.message(note)
        return OpenedImage(run=self, plan=plan, mask=run.opened(ahead=ahead))

    def report_notes(self, plan: Plan) -> None:
        """Report the notes of a plan and of its model that no image has reported yet."""
        self._report(self.model.notes)
        self._report(plan.notes, about=f"{self.target.image}: ")

    def _report(self, notes: Iterable[str], *, about: str = "") -> None:
        for note in notes:
            if note not in self.model.reported:
                self.model.reported.add(note)
                self.events.message(f"{about}{note}")

    def _refined(self, last: LastStage) -> ImageResult:
        """Make the unrefined mask, which stays, and refine it into the mask of the run."""
        own = last.before(self.options, self.options.compat or self.model.facts.compat)
        before = replace(self, target=Target(image=self.target.image, mask=self.target.unrefined), options=own)
        plan = before.plan()
        last.preview(plan)
        run, paths = before.run(plan), OutputPaths.of(self.target.mask)
        hashes = {**run.hashes, "refine": last.digest()}
        if output_state(paths, hashes=hashes, overwrite=self.options.overwrite) is OutputState.DONE:
            if self.private is not None:
                check_private(paths)
            return self.done(read_report(paths.report), was_done=True)
        if not run.is_done():
            # The journal of a refinement holds for one unrefined mask. That mask is about to be made anew, so refined
            # groups of the old one must not be resumed.
            drop_journal(paths.journal, hashes=hashes, overwrite=self.options.overwrite or not self.options.resume)
        before.segmented(plan)
        command = self.command(plan)
        try:
            report = last.run(
                plan,
                before.target.mask,
                paths,
                hashes=hashes,
                command=command,
                private=self.private,
                events=self.events,
            )
        except MagnetError:
            self.events.message(
                f"{before.target.mask}: the unrefined mask is complete; the same command goes on from there"
            )
            raise
        return self.done(report)

    def command(self, plan: Plan) -> list[str]:
        """Return the words of the command line that makes the mask again. Empty for the network of a Python program."""
        if self.model.bundle.backbone.architecture == PYTHON:
            return []
        return segment_words(plan.image.path, self.target.shown, self.options)

    def done(self, report: Report, *, was_done: bool = False) -> ImageResult:
        """Report that the mask is complete, and return the result."""
        result = ImageResult(
            image=self.target.image,
            mask=self.target.mask,
            report=report,
            was_done=was_done,
            private=self.private,
            place=self.target.place,
        )
        if self.target.place is None:
            self.events.message(f"{self.target.mask}: {result.status}")
        return result

    def _in_bucket(self, run: MaskRun) -> ImageResult | None:
        """Return the result of an earlier run, if the bucket has all of its outputs.

        Raises:
            OutputError: The outputs in the bucket are those of other inputs or options, and are not to be replaced.
        """
        output = bucket_output(self.target, self.options, run.hashes)
        report = None if output is None else output.finished()
        if output is None or report is None:
            return None
        if self.private is not None:
            refuse_public(report, self.target.mask.name)
        from magnet_cli.exports.formats import Export  # noqa: PLC0415 - see above

        output.discard_done()
        self.events.message(f"{self.target.shown}: already done")
        found = [
            Export(mask=self.target.mask, format=name, path=path, was_done=True)
            for name, path in default_files(self.target.mask, self.options.exports)
        ]
        return replace(self.done(report, was_done=True), exports=tuple(found))

    def _upload(self, result: ImageResult) -> None:
        """Write the finished files to the bucket, if the run has one, and delete the local files."""
        hashes = (result.report or {}).get("hashes")
        if self.target.place is None or not isinstance(hashes, dict):
            return
        self.events.step(Step(image=self.target.mask.name, what="uploading", done=0, total=1))
        output = bucket_output(self.target, self.options, hashes)
        if output is not None:
            output.upload()
        self.events.message(f"{self.target.shown}: {result.status}")

    def _draw(self, result: ImageResult) -> None:
        """Make the picture and the page. Beside a mask that was done before, only missing or outdated ones are made."""
        if result.report is None or not (self.options.overlay or self.options.html):
            return
        from magnet_cli.report.files import draw_views  # noqa: PLC0415 - see above

        draw_views(
            result.mask,
            self.options,
            report=result.report,
            image=result.image,
            events=self.events,
            only_outdated=result.was_done,
        )

    def _exports(self) -> Iterator[Export]:
        """Write the finished mask in the formats that the options name."""
        if not self.options.exports.formats:
            return
        from magnet_cli.exports.formats import export_beside  # noqa: PLC0415 - see above

        self.events.step(Step(image=self.target.mask.name, what="exporting", done=0, total=1))
        for export in export_beside(self.target.mask, self.options.exports, overwrite=self.options.overwrite):
            for line in export.lines():
                self.events.message(line)
            yield export

    def _report_outdated(self, result: ImageResult) -> None:
        """Report files beside a new mask that show the one before: they look as if they belonged to it."""
        if result.was_done or self.target.place is not None:
            return
        outdated = outdated_files(self.target, self.options, [export.path for export in result.exports])
        if outdated:
            names = ", ".join(path.name for path in outdated)
            self.events.message(
                f"{self.target.mask}: files beside it were made of an earlier mask: {names}. Make them again, or "
                "delete them"
            )

    @contextmanager
    def _mask_complete(self) -> Iterator[None]:
        """Report that the mask is complete if a file beside it cannot be made."""
        try:
            yield
        except MagnetError:
            self.events.message(
                f"{self.target.mask}: the mask is complete; the same command makes the missing files beside it"
                if self.target.place is None
                else f"{self.target.mask}: the mask is complete; the same command writes what the bucket lacks"
            )
            raise

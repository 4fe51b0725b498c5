"""A run that makes one mask: its journal, the engine that fills it, its report, and its files."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from magnet_cli import images
from magnet_cli.errors import OutputError, redacted_report
from magnet_cli.events import Notes, Step
from magnet_cli.images.input_states import changed
from magnet_cli.images.read_samples import ReadSamples
from magnet_cli.images.reading_processes import ImageProcesses
from magnet_cli.masks.header import JournalHeader
from magnet_cli.masks.journal import Journal
from magnet_cli.masks.output import OutputState, finish_output, output_state
from magnet_cli.masks.report_file import read_report
from magnet_cli.models.device import device_peak, pin_arithmetic, reset_device_peak
from magnet_cli.run.engine import Engine, missing
from magnet_cli.run.guards import check_peak, keeping_changed_inputs_apart, keeping_what_is_finished
from magnet_cli.run.job import Resources
from magnet_cli.run.measured import NOTED, Measured
from magnet_cli.run.workload import Workload
from magnet_cli.system.memory import PeakSampler
from magnet_cli.system.threads import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from magnet_cli.events import Events
    from magnet_cli.masks.output import OutputPaths
    from magnet_cli.masks.pieces import PieceFolder, PieceStore
    from magnet_cli.run.clock import Clock
    from magnet_cli.run.engine import FirstGroup, Progress, WorkBeside
    from magnet_cli.run.job import Job, RunPass
    from magnet_cli.run.results import GroupStore, Results
    from magnet_cli.system.private_names import PrivateNames

Report = dict[str, object]
LARGEST_SECOND_IMAGE = 256 << 20
"""Memory up to which an image is opened a second time beside the first, in bytes."""


def _unchanged(report: Report) -> Report:
    return report


@dataclass(frozen=True, kw_only=True)
class MaskRun:
    """The run of one job: where its mask goes, and how it is resumed and reported."""

    job: Job
    paths: OutputPaths
    hashes: Mapping[str, str]
    """SHA-256 of everything that the mask depends on, by name: image, bundle, options."""
    inputs: images.InputStates = field(default_factory=images.InputStates)
    """The files that the run reads, as they were when it began. No mask is written of files that have changed."""
    workers: int | None
    """Threads that read ahead. None takes the default of the machine."""
    resume: bool
    """Whether the journal of an interrupted run is resumed."""
    overwrite: bool
    """Whether a journal or mask of other inputs or options is replaced."""
    events: Events
    image: images.Image | None = None
    """The image, if it is open already; it is closed with the run. None opens it."""
    private: PrivateNames | None = None
    """Names that the report and the mask's metadata leave out."""
    pieces: PieceFolder | None = None
    """Pieces that several parts have left, of which the mask is made."""
    piece_header: JournalHeader | None = None
    """Header of the pieces, with the facts on which their values depend."""
    elsewhere: Callable[[Journal], None] | None = None
    """Function that lets other processes compute groups and attaches their pieces to the journal of this process.

    Groups that are still missing afterwards are computed here. None computes everything here.
    """
    threads: int | None = None
    """The number of threads of each operation of a run that begins. None takes as many as there are cores."""
    clock: Clock
    """Measures the time. It may have begun before the run, to include the survey of a mask."""

    def is_done(self) -> bool:
        """Return whether an earlier run has finished this mask.

        Raises:
            OutputError: A file of other inputs or options is in the way, and `overwrite` is false.
        """
        done = output_state(self.paths, hashes=self.hashes, overwrite=self.overwrite) is OutputState.DONE
        if done and self.private is not None:
            check_private(self.paths)
        return done

    def report(self) -> Report:
        """Read the report of the finished mask."""
        return read_report(self.paths.report)

    def finish(self, complete: Callable[[Report], Report] = _unchanged) -> Report:
        """Compute the missing groups, and write the mask and its report.

        Args:
            complete: Completes the job's report, for example with the command line.

        Returns:
            The report as it was written.

        Raises:
            SourceError: An input changed while it was read. What was computed of it is kept apart.
            MagnetError: The run failed. Finished groups are kept, and the same run resumes from them.
        """
        return self.computed().written(complete)

    def computed(self) -> ComputedMask:
        """Compute the missing groups.

        Returns:
            The mask before it is written. Its journal stays open until then.

        Raises:
            SourceError: An input changed while it was read. What was computed of it is kept apart.
            MagnetError: The run failed. Finished groups are kept, and the same run resumes from them.
        """
        return self.opened().computed()

    def opened(self, *, ahead: bool = False) -> OpenedMask:
        """Open the journal and the image, and let the job learn what it has to know before its first group.

        Args:
            ahead: Whether another mask is still being computed, and this method called by another thread. The first
                missing group is then read at once, if the plan reads ahead at all. A failure to read it is raised when
                the mask is computed. Memory and wall time are measured from then on.

        Raises:
            SourceError: An input cannot be read, or has changed.
            OutputError: Another run owns the journal, or it cannot be written.
        """
        with ExitStack() as rest:
            journal = self._journal(rest)
            with ExitStack() as work:
                work.enter_context(keeping_changed_inputs_apart(journal, inputs=self.inputs, events=self.events))
                if self.elsewhere is not None:
                    self.elsewhere(journal)
                groups = self._groups(journal, work, ahead=ahead)
                return OpenedMask(run=self, journal=journal, groups=groups, work=work.pop_all(), rest=rest.pop_all())

    def _journal(self, stack: ExitStack) -> Journal:
        """Open the journal of the interrupted run, or begin a new one."""
        journal = stack.enter_context(
            Journal.open(
                self.paths.journal,
                header=JournalHeader(hashes=self.hashes, spec=self.job.spec, fields=self.job.fields),
                resume=self.resume,
                overwrite=self.overwrite,
                threaded=self.job.machine.kind != "cpu",
            )
        )
        stack.enter_context(
            keeping_what_is_finished(
                journal,
                [step.number for step in self.job.passes],
                mask=self.paths.mask,
                resume=self.resume,
                events=self.events,
            )
        )
        for repair in journal.repairs:
            self.events.message(f"magnet: {repair}")
        finished = sum(len(journal.finished(step.number)) for step in self.job.passes)
        if self.pieces is not None and self.piece_header is not None:
            journal.attach(self.pieces.pieces(), self.piece_header)
        elif finished:
            groups = sum(step.groups for step in self.job.passes)
            self.events.message(
                f"{self.paths.mask}: an interrupted run is resumed, which had finished {finished} of {groups} groups "
                f"of windows ({100 * finished // groups} %)"
            )
        return journal

    def leave_pieces(self, store: PieceStore, *, threads: int) -> None:
        """Compute the groups that are missing of a part, and leave them as pieces.

        Args:
            store: The pieces of all parts, from which the missing groups of this part follow.
            threads: Threads of each operation, which all parts have to agree on.

        Raises:
            SourceError: An input changed while it was read.
            MagnetError: The part failed. Its pieces are kept.
        """
        with ExitStack() as stack:
            groups = self._groups(store, stack, threads=threads, pieces=lambda step, _: store.missing(step.number))
            groups.computed(stack)
        self.inputs.refuse_change()

    def _groups(
        self,
        journal: GroupStore,
        stack: ExitStack,
        *,
        threads: int | None = None,
        pieces: Callable[[RunPass, Collection[int]], Iterable[int]] = missing,
        ahead: bool = False,
    ) -> OpenedGroups:
        """Open the image, and prepare the job to compute groups of it.

        Args:
            journal: The groups that are finished, and where others go.
            stack: Closes the image and what else is opened for the run.
            threads: Threads of each operation. None takes the number of an interrupted run, or the machine's.
            pieces: Chooses the groups that are computed.
            ahead: Whether another mask is still being computed.
        """
        name, peaks = self.paths.mask.name, PeakSampler()
        noted = _noted(journal, self.job.passes)
        threads = threads or noted.get("threads") or self.threads or usable_cores()
        self.clock.resume(self._counts(journal))
        if not ahead:
            _begin(self.job.machine.device, threads, peaks, stack)
        image = stack.enter_context(ReadSamples(self._image()))
        prepared, notes = self.job.resumed(noted).prepared(image, stack), Notes(name, self.events)
        for message in prepared.messages:
            self.events.message(f"{name}: {message}")
        for note in prepared.notes:
            notes.append(note)
        job = prepared.job
        tally = Tally(job, name, self.events, peaks)
        engine = Engine(
            resources=Resources(image=image, results=journal, sink=journal, clock=self.clock),
            readers=job.machine.readers(self.workers),
            threads=threads,
            pieces=pieces,
            on_progress=tally,
            on_note=notes.append,
        )
        first = engine.first(job) if ahead else None
        if first is not None:
            stack.enter_context(first.readers)
        return OpenedGroups(
            run=self,
            job=job,
            image=image,
            engine=engine,
            peaks=peaks,
            tally=tally,
            notes=notes,
            first=first,
            is_ahead=ahead,
        )

    def refuse_changed_pixels(self, samples: ReadSamples) -> None:
        """Compare a few reads with what the image gives when it is opened anew.

        An image that is decoded once, or that takes much memory to be opened twice, is known by its fingerprint alone,
        and so is one whose every byte is hashed again and which the system says was not written to.

        Raises:
            SourceError: The pixels have changed.
        """
        info = self.job.image
        if info.cache_bytes or info.backend == "vips" or info.resident_bytes > LARGEST_SECOND_IMAGE:
            return
        if self.inputs.is_untouched(info.path):
            return
        with images.reopen(info) as again:
            samples.refuse_difference(again)

    def _image(self) -> images.Image:
        """Return the open image, with the number of reading processes that the plan has.

        Raises:
            SourceError: The image cannot be opened, or has changed since the run was planned.
        """
        planned, image = self.job.image, self.image
        if image is None:
            image = images.reopen(planned, cache=images.CacheBudget.within(self.paths.mask.parent))
        if (image.info.size, image.info.levels, image.info.dtype) != (planned.size, planned.levels, planned.dtype):
            image.close()
            raise changed(planned.path, f"it had {planned.size} pixels and has {image.info.size}")
        return ImageProcesses(image, self.job.memory.processes) if self.job.memory.processes else image

    def _counts(self, journal: Results) -> Iterator[Mapping[str, object]]:
        """Yield the counts of all finished groups."""
        for step in self.job.passes:
            yield from journal.finished(step.number).values()


@dataclass(frozen=True, kw_only=True)
class OpenedGroups:
    """The groups of a run whose image is open, before the first of them is computed."""

    run: MaskRun
    job: Job
    image: ReadSamples
    engine: Engine
    peaks: PeakSampler
    tally: Tally
    notes: Notes
    first: FirstGroup | None
    """The first group that is missing, if it is being read already."""
    is_ahead: bool
    """Whether another mask was still being computed when the image was opened."""

    def computed(self, stack: ExitStack, beside: WorkBeside | None = None) -> tuple[Job, Measured]:
        """Compute the groups, and return the job with the batches that it used, and the measurements.

        Args:
            stack: Closes what is opened for the run.
            beside: Work that may begin while the last group is computed.

        Raises:
            SourceError: The pixels have changed while they were read.
            MagnetError: A group failed. Finished groups are kept.
        """
        clock, threads, device = self.run.clock, self.engine.threads, self.job.machine.device
        if self.is_ahead:
            clock.begin()
            _begin(device, threads, self.peaks, stack)
        engine = self.engine if beside is None else replace(self.engine, beside=beside)
        job = engine.run(self.job, self.first)
        self.run.refuse_changed_pixels(self.image)
        return job, Measured(
            seconds=clock.seconds(),
            host_peak=self.peaks.peak.pss,
            device_peak=device_peak(device),
            computed=self.tally.computed,
            resumed=self.tally.resumed,
            threads=threads,
            notes=tuple(self.notes),
        )


class _NotComputedError(BaseException):
    """Ends a run that was opened and is not wanted any more, as an interruption ends it."""


@dataclass(frozen=True, kw_only=True)
class OpenedMask:
    """A mask whose journal and image are open, before the first missing group is computed."""

    run: MaskRun
    journal: Journal
    groups: OpenedGroups
    work: ExitStack
    """Closes the image and its readers, and deals with an input that has changed."""
    rest: ExitStack
    """Closes the journal, and deals with a failure as the run does."""

    def computed(self, beside: WorkBeside | None = None) -> ComputedMask:
        """Compute the missing groups.

        Args:
            beside: Work that may begin while the last group is computed.

        Raises:
            SourceError: An input changed while it was read. What was computed of it is kept apart.
            MagnetError: The run failed. Finished groups are kept, and the same run resumes from them.
        """
        with self.rest:
            with self.work:
                job, measured = self.groups.computed(self.work, beside)
            # The mask may be written while another image is computed, and both have to fit into memory.
            self.journal.drop_cache()
            return ComputedMask(
                run=self.run, journal=self.journal, job=job, measured=measured, rest=self.rest.pop_all()
            )

    def close(self) -> None:
        """Close the image and the journal without computing anything. A journal that holds no group is deleted."""
        with suppress(_NotComputedError), self.rest, self.work:
            raise _NotComputedError


@dataclass(frozen=True, kw_only=True)
class ComputedMask:
    """A mask whose groups are all computed, before it is written. Another thread may write it."""

    run: MaskRun
    journal: Journal
    """The open journal, which holds all groups."""
    job: Job
    """The job with the batches that it used."""
    measured: Measured
    rest: ExitStack
    """Closes the journal, and deals with a failure as the run does."""

    def close(self) -> None:
        """Close the journal without writing the mask; the same run goes on from there."""
        self.rest.close()

    def written(self, complete: Callable[[Report], Report] = _unchanged) -> Report:
        """Write the mask and its report, and return the report.

        Args:
            complete: Completes the job's report, for example with the command line.

        Raises:
            OutputError: The mask cannot be written. The journal stays, and the same run goes on from there.
        """
        run = self.run
        with self.rest:
            # Paths of remote images may hold credentials, which must not reach a file that is passed on.
            report = redacted_report(complete(self.job.report(self.journal, self.measured)))
            if run.private is not None:
                report = {**run.private.table(report), "private": True}
            workload = Workload.of(self.job)

            def advance(done: int, total: int) -> None:
                share = workload.share_written(done / total)
                run.events.step(Step(image=run.paths.mask.name, what="writing", done=done, total=total, share=share))

            advance(0, 1)
            written = finish_output(
                self.journal,
                run.paths,
                report=report,
                description=_description(self.job, report),
                fields=list(self.job.kept),
                on_progress=advance,
            )
            if run.pieces is not None:
                run.pieces.remove()
        return written


def _begin(device: str, threads: int, peaks: PeakSampler, stack: ExitStack) -> None:
    """Fix the threads of each operation for a mask, and begin to measure memory.

    Args:
        device: The device of the networks.
        threads: Threads of each operation. Sums are split over them, so all runs of a mask have to take as many.
        peaks: Measures the memory of the host.
        stack: Ends these measurements.
    """
    pin_arithmetic(threads)
    reset_device_peak(device)
    stack.enter_context(peaks)


def check_private(paths: OutputPaths) -> None:
    """Accept a finished mask whose report leaves private names out.

    Raises:
        OutputError: The mask was made without `--private`.
    """
    refuse_public(read_report(paths.report), paths.mask.name)


def refuse_public(report: Report, name: str) -> None:
    """Accept the report of a mask if it leaves private names out.

    Raises:
        OutputError: The mask was made without `--private`.
    """
    if report.get("private") is not True:
        raise OutputError(
            "this mask was made without --private, so its report may name folders and files",
            file=name,
            advice="Make it again with --private and --overwrite, or leave --private out",
        )


class Tally:
    """Counts groups, forwards progress, and stops a run that uses more memory than its budget.

    Args:
        job: The job that is run.
        name: The name of the mask in messages.
        events: Receives progress.
        peaks: Samples the memory in use.
    """

    def __init__(self, job: Job, name: str, events: Events, peaks: PeakSampler) -> None:
        self._job = job
        self._workload = Workload.of(job)
        self._name = name
        self._events = events
        self._peaks = peaks
        self.computed = 0
        """Groups that this run has computed."""
        self.resumed = 0
        """Groups that earlier runs had finished."""

    def __call__(self, progress: Progress) -> None:
        """Count a finished group and report it.

        Raises:
            DeviceError: The run has used more memory than its budget.
        """
        step = progress.step
        if progress.resumed:
            self.resumed += progress.done
        else:
            self.computed += 1
        what = f"pass {step.number + 1} of {self._job.passes[-1].number + 1}{step.what and ', '}{step.what}"
        share = self._workload.share(step.number, progress.done / max(1, step.groups))
        self._events.step(Step(image=self._name, what=what, done=progress.done, total=step.groups, share=share))
        check_peak(self._peaks.peak.pss, self._job.memory.budget, file=self._job.image.path)


def _noted(results: Results, passes: Sequence[RunPass]) -> dict[str, int]:
    """Return the numbers that an interrupted run stored with each group, such as its batch; empty for a new run.

    They are equal in all groups of a pass. A later pass may have had to take smaller batches, and nothing is missing of
    those before the last one that was begun.
    """
    begun = (results.finished(step.number).values() for step in reversed(passes))
    counts = next((group for groups in begun for group in groups), {})
    return {key: int(str(counts[key])) for key in NOTED if key in counts}


def _description(job: Job, report: Report) -> Report:
    """Return the description in the mask's file: the bundle, and the slide's bounds.

    Viewers that crop a slide to its bounds count coordinates from there, so they need them to place the mask.
    """
    bounds, bundle = job.image.bounds, report["bundle"]
    found: Report = {"bundle": bundle["name"]} if isinstance(bundle, dict) else {}
    return found if bounds is None else {**found, "bounds": [bounds.x, bounds.y, bounds.width, bounds.height]}

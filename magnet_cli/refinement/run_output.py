"""The output of a run over a mask: journal, report and file, whatever the method."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from magnet_cli import images
from magnet_cli.errors import redacted_report
from magnet_cli.events import Notes, Step
from magnet_cli.masks.header import JournalHeader
from magnet_cli.masks.journal import Journal
from magnet_cli.masks.output import finish_output
from magnet_cli.masks.report_file import read_report
from magnet_cli.masks.spec import MaskSpec
from magnet_cli.models.device import device_peak, pin_arithmetic, reset_device_peak
from magnet_cli.refinement.engine import Progress, Run
from magnet_cli.refinement.method import Opened, PassTotals
from magnet_cli.report.run_report import Measured
from magnet_cli.run.guards import check_peak, decode_cache, keeping_what_is_finished
from magnet_cli.system.memory import PeakSampler
from magnet_cli.system.threads import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable

    from magnet_cli.events import Events
    from magnet_cli.masks.output import OutputPaths
    from magnet_cli.refinement.input_mask import InputMask
    from magnet_cli.refinement.method import Job, MaskPlan
    from magnet_cli.run.clock import Clock

ACTIVITIES = ("survey", "read", "refine", "write", "idle")
"""Where the time of a run goes; `survey` looks through the mask before anything is planned."""
Report = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Output:
    """What one job writes, and how."""

    job: Job
    mask: InputMask
    paths: OutputPaths
    resume: bool
    overwrite: bool
    events: Events
    clock: Clock
    """Of `ACTIVITIES`; it began with the run."""

    def finish(self, hashes: dict[str, str], *, complete: Callable[[Report], Report]) -> Report:
        """Compute what is missing and write the mask; its report.

        Args:
            hashes: Of everything that the mask depends on.
            complete: Makes the mask's report of the job's.
        """
        plan, clock, device = self.job.plan, self.clock, self.job.plan.machine.device
        header = JournalHeader(hashes=hashes, spec=_spec(plan), fields=plan.fields)
        with ExitStack() as stack:
            journal = stack.enter_context(
                Journal.open(self.paths.journal, header=header, resume=self.resume, overwrite=self.overwrite)
            )
            numbers = [step.number for step in plan.passes]
            stack.enter_context(
                keeping_what_is_finished(journal, numbers, mask=self.paths.mask, resume=self.resume, events=self.events)
            )
            for repair in journal.repairs:
                self.events.message(f"magnet: {repair}")
            threads = _noted_threads(journal, plan) or usable_cores()
            clock.go_on(counts for number in numbers for counts in journal.finished(number).values())
            pin_arithmetic(threads)
            reset_device_peak(device)
            cache = decode_cache(self.paths.mask.parent)
            image = stack.enter_context(
                images.open_image(plan.seen.info.path, cache=cache, series=plan.seen.info.series)
            )
            peaks = stack.enter_context(PeakSampler())
            tally, told = _Tally(plan, self.paths, self.events, peaks), Notes(self.paths.mask.name, self.events)
            opened = Opened(image=image, mask=self.mask, journal=journal)
            run = Run(job=self.job, opened=opened, clock=clock, threads=threads, on_progress=tally, on_note=told.append)
            run.passes()
            measured = Measured(
                seconds=clock.seconds(),
                host_peak=peaks.peak.pss,
                device_peak=device_peak(device),
                computed=tally.computed,
                resumed=tally.resumed,
                threads=threads,
                notes=tuple(told),
            )
            totals = {step.number: PassTotals.of(journal.finished(step.number).values()) for step in plan.passes}
            report = redacted_report(complete(self.job.report(totals, measured)))
            self.events.step(Step(image=self.paths.mask.name, what="writing", done=0, total=1))
            finish_output(journal, self.paths, report=report, description=_description(plan, report))
        return read_report(self.paths.report)


def _spec(plan: MaskPlan) -> MaskSpec:
    info = plan.seen.info
    return MaskSpec(size=info.size, classes=plan.reading.classes, resolution=info.resolution, geo_tags=info.geo_tags)


def _description(plan: MaskPlan, report: Report) -> Report:
    bounds, bundle = plan.seen.info.bounds, report["bundle"]
    found: Report = {"bundle": bundle["name"]} if isinstance(bundle, dict) else {}
    return found if bounds is None else {**found, "bounds": [bounds.x, bounds.y, bounds.width, bounds.height]}


def _noted_threads(journal: Journal, plan: MaskPlan) -> int | None:
    """How many threads the run that is resumed had."""
    for step in plan.passes:
        for counts in journal.finished(step.number).values():
            return int(str(counts["threads"]))
    return None


class _Tally:
    """Counts groups, passes progress on, and stops a run that uses more memory than it may."""

    def __init__(self, plan: MaskPlan, paths: OutputPaths, events: Events, peaks: PeakSampler) -> None:
        self._plan = plan
        self._name = paths.mask.name
        self._events = events
        self._peaks = peaks
        self.computed = 0
        self.resumed = 0

    def __call__(self, progress: Progress) -> None:
        step = progress.step
        if progress.resumed:
            self.resumed += progress.done
        else:
            self.computed += 1
        what = f"pass {step.number + 1} of {len(self._plan.passes)}, {step.what}"
        self._events.step(Step(image=self._name, what=what, done=progress.done, total=step.groups))
        check_peak(self._peaks.peak.pss, self._plan.memory.budget, file=self._plan.seen.info.path)

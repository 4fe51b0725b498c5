"""Sharpening a mask: every room joined, for one image and its mask. What the command line calls."""

from __future__ import annotations

import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from magnet_cli import images
from magnet_cli.commandline import as_path, option_words
from magnet_cli.errors import DeviceError, UsageError
from magnet_cli.events import Events, Step
from magnet_cli.masks.header import JournalHeader
from magnet_cli.masks.journal import Journal
from magnet_cli.masks.output import OutputPaths, OutputState, finish_output, output_state
from magnet_cli.masks.reportfile import read_report
from magnet_cli.masks.spec import MaskSpec
from magnet_cli.memory import PeakSampler, format_bytes
from magnet_cli.models.device import device_peak, pin_arithmetic, reset_device_peak, usable_cores
from magnet_cli.pipeline.clock import Clock
from magnet_cli.refining.making import check_pair, make_plan, open_input_mask, resolve
from magnet_cli.refining.model import load_refine_model
from magnet_cli.refining.options import RefineOptions
from magnet_cli.refining.plan import options_hash
from magnet_cli.refining.reporting import PassTotals, make_report
from magnet_cli.refining.running import Progress, run_passes
from magnet_cli.refining.work import RefineWork
from magnet_cli.report import Measured
from magnet_cli.targets import is_file_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from magnet_cli.images import ImageInfo
    from magnet_cli.objects.mask import InputMask
    from magnet_cli.refining.model import RefineModel
    from magnet_cli.refining.plan import RefinePlan

DECODE_SHARE = 0.5
"""Share of the free disk that decoding an image once may take."""


@dataclass(frozen=True, kw_only=True)
class RefineResult:
    """What became of a mask."""

    image: str
    mask: str
    output: Path
    report: dict[str, object]
    """As written beside the output."""
    was_done: bool = False
    """Whether an earlier run had finished it."""

    def describe(self) -> dict[str, object]:
        """As JSON values."""
        return {
            "image": self.image,
            "refined": self.mask,
            "mask": str(self.output),
            "status": "already done" if self.was_done else "done",
            "report": self.report,
        }


def refine_mask(
    image: str | Path,
    mask: str | Path,
    output: str | Path | None = None,
    options: RefineOptions | None = None,
    *,
    events: Events | None = None,
) -> RefineResult:
    """Sharpen a mask that something else made, object by object; a mask and a report are written.

    Args:
        image: A file or URL that `segment` reads.
        mask: Of the image's size: 0 and another value, class indices, or probabilities.
        output: The file to write, a folder, or None for `<mask's name>.refined.tif` in the current folder.
        options: How; the bundle's defaults where left out.
        events: Hears about messages and progress.

    Raises:
        UsageError, SourceError, WeightsError, OutputError, DeviceError: What was finished is kept: the same call goes
            on from there.
    """
    options, events = options or RefineOptions(), events or Events()
    paths = OutputPaths.of(output_path(image, mask, None if output is None else Path(output)))
    info = check_pair(image, mask)
    model = load_refine_model(options, events)
    settings = resolve(options, model)
    hashes = {
        "input": images.fingerprint(image),
        "refined": images.fingerprint(mask),
        "bundle": model.bundle.digest,
        "options": options_hash(settings, model.machine),
    }
    if output_state(paths, hashes=hashes, overwrite=options.overwrite) is OutputState.DONE:
        events.message(f"{paths.mask}: already done")
        report = read_report(paths.report)
        return RefineResult(image=str(image), mask=str(mask), output=paths.mask, report=report, was_done=True)
    with open_input_mask(mask, options) as opened:
        plan = make_plan(info, opened, settings, model, workers=options.num_workers, events=events)
        for note in plan.notes:
            events.message(note)
        run = _Run(plan=plan, mask=opened, model=model, paths=paths, options=options, events=events)
        report = run.finish(hashes)
    events.message(f"{paths.mask}: done")
    return RefineResult(image=str(image), mask=str(mask), output=paths.mask, report=report)


def plan_refine(
    image: str | Path, mask: str | Path, options: RefineOptions | None = None, *, events: Events | None = None
) -> RefinePlan:
    """What `refine_mask` would do; the mask is looked through, nothing is computed or written.

    Raises:
        MagnetError: It would fail.
    """
    options, events = options or RefineOptions(), events or Events()
    info = check_pair(image, mask)
    model = load_refine_model(options, events)
    with open_input_mask(mask, options) as opened:
        return make_plan(info, opened, resolve(options, model), model, workers=options.num_workers, events=events)


def output_path(image: str | Path, mask: str | Path, output: Path | None) -> Path:
    """The file that is written.

    Raises:
        UsageError: It has a suffix in which masks are not written, or is one of the inputs.
    """
    name = images.stem(mask)
    if output is None:
        found = Path(f"{name}.refined.tif")
    else:
        found = output if is_file_name(output) else output / f"{name}.tif"
    if found.resolve() in {Path(image).resolve(), Path(mask).resolve()}:
        raise UsageError("a mask may not replace an input", value=str(found), advice="Choose another -o")
    return found


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One run over a plan."""

    plan: RefinePlan
    mask: InputMask
    model: RefineModel
    paths: OutputPaths
    options: RefineOptions
    events: Events

    def finish(self, hashes: dict[str, str]) -> dict[str, object]:
        """Compute what is missing and write the mask; its report."""
        plan, clock, device = self.plan, Clock(), self.plan.machine.device
        header = JournalHeader(hashes=hashes, spec=_spec(plan.image, plan), fields=plan.fields)
        with ExitStack() as stack:
            journal = stack.enter_context(
                Journal.open(
                    self.paths.journal, header=header, resume=self.options.resume, overwrite=self.options.overwrite
                )
            )
            stack.enter_context(_leaving_nothing_empty(journal, plan))
            for repair in journal.repairs:
                self.events.message(f"magnet: {repair}")
            threads = _noted_threads(journal, plan) or usable_cores()
            pin_arithmetic(threads)
            reset_device_peak(device)
            image = stack.enter_context(images.open_image(plan.image.path, cache=_decode_cache(self.paths)))
            peaks = stack.enter_context(PeakSampler())
            work = RefineWork(
                plan=plan,
                image=image,
                mask=self.mask,
                network=self.model.network,
                journal=journal,
                clock=clock,
                threads=threads,
            )
            tally = _Tally(plan, self.paths, self.events, peaks)
            run_passes(work, on_progress=tally)
            measured = Measured(
                seconds=clock.seconds(),
                host_peak=peaks.peak.pss,
                device_peak=device_peak(device),
                computed=tally.computed,
                resumed=tally.resumed,
                threads=threads,
            )
            totals = {step.number: PassTotals.of(journal.finished(step.number).values()) for step in plan.passes}
            report = {
                **make_report(plan, self.model.bundle, totals, measured),
                "command": refine_words(plan, self.paths.mask, self.options, self.model.bundle.name),
            }
            self.events.step(Step(image=self.paths.mask.name, what="writing", done=0, total=1))
            finish_output(journal, self.paths, report=report, description=_description(plan, self.model.bundle.name))
        return read_report(self.paths.report)


def refine_words(plan: RefinePlan, output: Path, options: RefineOptions, bundle: str) -> list[str]:
    """The command line that makes a mask again, word by word."""
    files = [as_path(plan.image.path), as_path(plan.mask), "-o", as_path(str(output))]
    return ["magnet", "refine", *files, "--weights", options.weights or bundle, *option_words(options)]


def _spec(info: ImageInfo, plan: RefinePlan) -> MaskSpec:
    return MaskSpec(size=info.size, classes=plan.reading.classes, resolution=info.resolution, geo_tags=info.geo_tags)


def _description(plan: RefinePlan, bundle: str) -> dict[str, object]:
    bounds = plan.image.bounds
    found: dict[str, object] = {"bundle": bundle}
    return found if bounds is None else {**found, "bounds": [bounds.x, bounds.y, bounds.width, bounds.height]}


def _noted_threads(journal: Journal, plan: RefinePlan) -> int | None:
    """How many threads the run that is resumed had."""
    for step in plan.passes:
        for counts in journal.finished(step.number).values():
            return int(str(counts["threads"]))
    return None


def _decode_cache(paths: OutputPaths) -> images.CacheBudget:
    folder = paths.mask.parent.resolve()
    return images.CacheBudget(folder=folder, max_bytes=int(shutil.disk_usage(folder).free * DECODE_SHARE))


@contextmanager
def _leaving_nothing_empty(journal: Journal, plan: RefinePlan) -> Iterator[None]:
    """Delete the journal of a run that ends before it has finished a group: it would only refuse a mended image."""
    try:
        yield
    except BaseException:
        if not any(journal.finished(step.number) for step in plan.passes):
            journal.discard()
        raise


class _Tally:
    """Counts groups, passes progress on, and stops a run that uses more memory than it may."""

    def __init__(self, plan: RefinePlan, paths: OutputPaths, events: Events, peaks: PeakSampler) -> None:
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
        peak, budget = self._peaks.peak.pss, self._plan.memory.budget
        if peak is not None and peak > budget:
            raise DeviceError(
                f"the run used {format_bytes(peak)} of host memory and may use {format_bytes(budget)}",
                file=self._plan.image.path,
                advice="What was finished is kept: run the same command with a larger --memory",
            )

"""Segmenting images: every room joined, one image after the other. What the command line calls.

What comes after the mask (its refinement, picture, page, and other formats) is imported where it was asked for: its
libraries take as long to load as the networks' own, which a loop over small images pays once for each.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from magnet_cli import images
from magnet_cli.areas import open_area, specify
from magnet_cli.errors import MagnetError, MemoryShortageError, UsageError, redacted_report
from magnet_cli.events import Events, Notes, Step
from magnet_cli.exports.destinations import default_path, paths_of, refuse_collisions
from magnet_cli.geometry import Box
from magnet_cli.images.labels import open_labels
from magnet_cli.images.reading_processes import ImageProcesses
from magnet_cli.masks.header import JournalHeader, digest_of
from magnet_cli.masks.journal import Journal, drop_journal
from magnet_cli.masks.output import OutputPaths, OutputState, finish_output, output_state
from magnet_cli.masks.report_file import read_report
from magnet_cli.masks.spec import FieldSpec, MaskClass, MaskSpec
from magnet_cli.masks.targets import Target, input_images, plan_targets, refuse_collisions_of_unrefined
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.device import (
    device_case,
    device_peak,
    limit_device_memory,
    machine_of,
    pin_arithmetic,
    precision_notes,
    reset_device_peak,
    resolve_device,
    resolve_precision,
)
from magnet_cli.models.facts import model_facts
from magnet_cli.models.networks import load_networks
from magnet_cli.models.python_network import PYTHON, PythonNetwork
from magnet_cli.options.segment import DEFAULT_BUNDLE, SegmentOptions
from magnet_cli.options.spelling import segment_words
from magnet_cli.plan import Machine, ModelFacts, Plan, check_bands, inspect_bands, make_plan
from magnet_cli.report.maps import describe_maps
from magnet_cli.report.run_report import make_report
from magnet_cli.run.clock import Clock
from magnet_cli.run.guards import check_peak, decode_cache, keeping_what_is_finished
from magnet_cli.run.measured import Measured, Totals
from magnet_cli.segmentation.computer import Normalisation
from magnet_cli.segmentation.published_run import run_published
from magnet_cli.segmentation.scheduler import PROBABILITIES, UNCERTAINTY, Progress, Work, field_name, run_plan
from magnet_cli.system.memory import PeakSampler, host_memory, reuse_large_tensors
from magnet_cli.system.speeds import Case, nearest_figure
from magnet_cli.system.threads import usable_cores

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from magnet_cli.exports.formats import Export
    from magnet_cli.models.bundle import Bundle
    from magnet_cli.models.networks import Networks
    from magnet_cli.models.python_network import NetworkDescription, PatchFunction
    from magnet_cli.options.segment import ExportFormat
    from magnet_cli.refinement.last_stage import LastStage
    from magnet_cli.refinement.method import Foreseen

ARITHMETIC = 6
"""Raised by hand when the same options begin to give another mask; part of the options hash."""


@dataclass(frozen=True, kw_only=True)
class ImageResult:
    """What became of one image."""

    image: str
    mask: Path
    report: dict[str, object] | None = None
    """As written beside the mask; None where the image failed."""
    error: MagnetError | None = None
    was_done: bool = False
    """Whether an earlier run had finished it."""
    exports: tuple[Export, ...] = ()
    """The mask in other formats."""

    def array(self) -> NDArray[np.uint8]:
        """The whole mask, `(height, width)`: class indices of the image's full resolution, 255 where not computed.

        Raises:
            MagnetError: The image failed; the error is that of the result.
        """
        if self.error is not None:
            raise self.error
        with open_labels(self.mask) as labels:
            return labels.read(Box.whole(labels.size))

    def describe(self) -> dict[str, object]:
        """As JSON values."""
        status = "failed" if self.error else "already done" if self.was_done else "done"
        found: dict[str, object] = {"image": self.image, "mask": str(self.mask), "status": status}
        if self.error is not None:
            return {**found, "error": str(self.error), "exit_code": self.error.exit_code}
        return {**found, "report": self.report, "exports": [each.describe() for each in self.exports]}


@dataclass(frozen=True, kw_only=True)
class Model:
    """A bundle on a device, ready for any number of images."""

    bundle: Bundle
    facts: ModelFacts
    networks: Networks
    machine: Machine
    last: LastStage | None = None
    """What refines finished masks."""
    told: set[str] = field(default_factory=set)
    """Notes that the user has read; they are the same for many images."""


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
        options: How; the bundle's defaults where left out.
        network: A module or another callable that takes the place of a bundle: from normalised patches
            `(n, bands, h, w)`, float32, to scores `(n, classes, h', w')`.
        description: What has to be known of `network`.
        stop_on_error: Leave out what follows the first image that fails, instead of going on with the next.
        events: Hears about messages, progress and failures.

    Returns:
        A result for each image, in order; failed ones carry their error.

    Raises:
        UsageError, SourceError, WeightsError, DeviceError: Before any work, where nothing could be done for any image.
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
    """As `segment`, one result after the other, each as soon as its files are complete."""
    options, events = options or SegmentOptions(), events or Events()
    targets = plan_targets(
        as_words(inputs),
        None if output is None else Path(output),
        on_note=lambda note: events.message(f"magnet: {note}"),
    )
    refuse_collisions(
        (path for target in targets for path in paths_of(_exports(target, options))),
        inputs=[Path(target.image).resolve() for target in targets],
    )
    if options.refine is not None:
        refuse_collisions_of_unrefined(targets)
    model = load_model(options, events, own)
    for target in targets:
        result = segment_target(target, model, options, events)
        yield result
        if stop_on_error and result.error is not None:
            return


def segment_target(target: Target, model: Model, options: SegmentOptions, events: Events) -> ImageResult:
    """One image with a model that is loaded; its failure is in the result."""
    try:
        last = model.last
        if last is None:
            result = _segment_image(target, model, options, events)
        else:
            result = _refined_image(target, model, last, options, events)
        return replace(result, exports=tuple(_export(target, options, events)))
    except MagnetError as error:
        events.failed(target.image, error)
        return ImageResult(image=target.image, mask=target.mask, error=error)


def _exports(target: Target, options: SegmentOptions) -> list[tuple[ExportFormat, Path]]:
    return [(name, default_path(target.mask, name)) for name in options.exports.formats]


def _export(target: Target, options: SegmentOptions, events: Events) -> Iterator[Export]:
    """Write a finished mask in the other formats that were asked for."""
    files = _exports(target, options)
    if not files:
        return
    from magnet_cli.exports.formats import export_mask  # noqa: PLC0415 - see above

    events.step(Step(image=target.mask.name, what="exporting", done=0, total=1))
    with _mask_complete(target, events):
        for export in export_mask(target.mask, files, options.exports, overwrite=options.overwrite):
            for line in export.lines():
                events.message(line)
            yield export


def as_words(inputs: str | Path | Sequence[str | Path]) -> list[str]:
    """One input or several, as the command line names them."""
    return [str(inputs)] if isinstance(inputs, str | Path) else [str(item) for item in inputs]


def load_model(options: SegmentOptions, events: Events, own: PythonNetwork | None = None) -> Model:
    """The bundle that the options name, or the network of a Python program, on the device that the options name.

    Raises:
        WeightsError, DeviceError, UsageError: It cannot be had.
    """
    last = _last_stage(options, events)
    if options.weights is None and own is None:
        events.message(f"magnet: taking the bundle '{DEFAULT_BUNDLE}', because --weights was not given")
    device = resolve_device(options.device)
    bundle = _bundle(options, own)
    for note in bundle.notes:
        events.message(f"magnet: {note}")
    precision = resolve_precision(options.precision, device, bundle)
    for told in precision_notes(precision, device, bundle):
        events.message(f"magnet: {told}")
    limit_device_memory(device, options.gpu_memory)
    if own is None:
        facts, networks = model_facts(bundle), None
    else:
        facts, networks = own.load(device=device, precision=precision)
    if facts.large_tensors and device == "cpu":
        reuse_large_tensors()
    networks = networks or load_networks(bundle, device=device, precision=precision)
    machine = machine_of(device, precision, memory=options.memory, gpu_memory=options.gpu_memory)
    if last is not None:
        last = last.after([entry.name for entry in bundle.classes], base=machine.base)
        for note in last.notes:
            events.message(f"magnet: {note}")
    return Model(bundle=bundle, facts=facts, networks=networks, machine=machine, last=last)


def _bundle(options: SegmentOptions, own: PythonNetwork | None) -> Bundle:
    if own is None:
        return load_bundle(options.weights or DEFAULT_BUNDLE)
    if options.weights is not None:
        raise UsageError(
            "a network of your own takes the place of a bundle",
            value=f"network={own.description.name} and weights={options.weights!r}",
            advice="Give one of them",
        )
    return own.bundle


def _last_stage(options: SegmentOptions, events: Events) -> LastStage | None:
    if options.refine is None:
        return None
    from magnet_cli.refinement.last_stage import LastStage  # noqa: PLC0415 - see above

    return LastStage.load(options.refine, options, events)


def plan_segment(
    inputs: str | Path | Sequence[str | Path],
    options: SegmentOptions | None = None,
    *,
    network: PatchFunction | None = None,
    description: NetworkDescription | None = None,
) -> list[Plan]:
    """Plan what `segment` would do with each image; no image is decoded and nothing is written.

    Args:
        inputs: As `segment` takes them.
        options: As `segment` takes them.
        network: As `segment` takes it; it is run on one patch of noise.
        description: What has to be known of `network`.

    Raises:
        MagnetError: The first image that cannot be planned.
    """
    found = input_images(as_words(inputs))
    planner = Planner.of(options or SegmentOptions(), PythonNetwork.of(network, description))
    return [planner.plan(image.source) for image in found]


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Plans any number of images with one bundle and one machine."""

    facts: ModelFacts
    options: SegmentOptions
    machine: Machine
    digest: str
    """Of the bundle."""
    last: LastStage | None = None
    """What refines finished masks."""

    @classmethod
    def of(cls, options: SegmentOptions, own: PythonNetwork | None = None) -> Self:
        """For the bundle and the device that the options name; its networks are not loaded, their memory is estimated.

        Raises:
            WeightsError, DeviceError, UsageError: They cannot be had.
        """
        device = resolve_device(options.device)
        last = _last_stage(options, Events())
        bundle = _bundle(options, own)
        precision = resolve_precision(options.precision, device, bundle)
        facts = model_facts(bundle) if own is None else own.load(device=device, precision=precision)[0]
        machine = machine_of(
            device,
            precision,
            memory=options.memory,
            gpu_memory=options.gpu_memory,
            base=(host_memory() or 0) + 2 * _weights_bytes(bundle),  # float16 on disk is float32 in memory
        )
        last = None if last is None else last.after([entry.name for entry in bundle.classes], base=machine.base)
        return cls(facts=facts, options=options, machine=machine, digest=bundle.digest, last=last)

    def plan(self, image: str | Path) -> Plan:
        """What `segment` would do with an image.

        Raises:
            MagnetError: It would fail.
        """
        options = self.options
        if self.last is not None:
            options = self.last.before(options, options.compat or self.facts.compat)
        return plan_image(image, self.facts, options, self.machine)

    def foresee(self, image_plan: Plan) -> Foreseen | None:
        """What the last stage will do to the mask of a plan; None where there is none.

        Raises:
            MagnetError: It would fail.
        """
        return None if self.last is None else self.last.foresee(image_plan)

    def seconds(self, image_plan: Plan) -> float | None:
        """What a run will take, at the speed that `magnet bench` measured here; None where it has not."""
        figure = nearest_figure(case_of(image_plan, digest=self.digest), pixels=image_plan.image.size.pixels)
        return None if figure is None else windows_planned(image_plan) / figure.windows_per_second


def plan_image(
    image: str | Path, facts: ModelFacts, options: SegmentOptions, machine: Machine, *, folder: Path | None = None
) -> Plan:
    """Everything about a run over one image; only for percentiles of its values a part of it is decoded.

    Args:
        image: A file or a URL.
        facts: Of the bundle.
        options: As given.
        machine: Where it runs.
        folder: Takes an image that has to be decoded once; None for the one for temporary files.

    Raises:
        MagnetError: It cannot be done.
    """
    info = inspect_bands(image, options)
    measured, given = None, options.value_range
    if given is not None and given.kind == "percentiles":
        bands = check_bands(info, facts, options.bands)
        cache = decode_cache(folder or Path(tempfile.gettempdir()))
        with images.reopen(info, cache=cache) as opened:
            measured = images.sample_percentiles(opened, bands, (float(given.low), float(given.high)))
    return make_plan(info, facts, options, machine, specify(options, info), measured=measured)


def case_of(image_plan: Plan, *, digest: str) -> Case:
    """What the speed of a plan depends on.

    Args:
        image_plan: Of a run.
        digest: Of its bundle.
    """
    settings = image_plan.settings
    return Case(
        bundle=digest,
        device=device_case(image_plan.machine.device),
        precision=image_plan.machine.precision,
        method=settings.method,
        merge=settings.merge if settings.refines else "none",
        batch=image_plan.batch,
    )


def windows_planned(image_plan: Plan) -> int:
    """Forward passes through the backbone, at most."""
    return sum(image_plan.windows(step, stage) for step in image_plan.passes for stage in step.stages)


def _weights_bytes(bundle: Bundle) -> int:
    optional = filter(None, (bundle.selector, bundle.local))
    files = {spec.file for spec in (bundle.backbone, *bundle.refiners, *optional)}
    return sum((bundle.folder / file).stat().st_size for file in files if (bundle.folder / file).is_file())


def _segment_image(target: Target, model: Model, options: SegmentOptions, events: Events) -> ImageResult:
    image_plan = plan_image(target.image, model.facts, options, model.machine, folder=target.mask.parent)
    return _segment_planned(target, image_plan, model, options, events)


def _refined_image(
    target: Target, model: Model, last: LastStage, options: SegmentOptions, events: Events
) -> ImageResult:
    """The mask of a last stage; the mask that it refines is finished and kept before it begins."""
    own = last.before(options, options.compat or model.facts.compat)
    image_plan = plan_image(target.image, model.facts, own, model.machine, folder=target.mask.parent)
    last.foresee(image_plan)
    before = Target(image=target.image, mask=target.unrefined)
    header, paths = _header(image_plan, model, target), OutputPaths.of(target.mask)
    hashes = {**header.hashes, "refine": last.digest()}
    if output_state(paths, hashes=hashes, overwrite=options.overwrite) is OutputState.DONE:
        return _already_done(target, options, events)
    kept = OutputPaths.of(before.mask)
    if output_state(kept, hashes=header.hashes, overwrite=options.overwrite) is OutputState.OPEN:
        # What was refined of another mask than the one that will be here is worth nothing.
        drop_journal(paths.journal)
    _segment_planned(before, image_plan, model, own, events)
    command = _command(image_plan, target.mask, model, options)
    try:
        report = last.run(image_plan, before.mask, paths, hashes=hashes, command=command, events=events)
    except MagnetError:
        events.message(f"{before.mask}: the mask before the last stage is complete; the same command goes on from it")
        raise
    events.message(f"{target.mask}: done")
    _show(target, report, options, events)
    return ImageResult(image=target.image, mask=target.mask, report=report)


def _segment_planned(
    target: Target, image_plan: Plan, model: Model, options: SegmentOptions, events: Events
) -> ImageResult:
    paths = OutputPaths.of(target.mask)
    header = _header(image_plan, model, target)
    if output_state(paths, hashes=header.hashes, overwrite=options.overwrite) is OutputState.DONE:
        return _already_done(target, options, events)
    for note in image_plan.notes:
        if note not in model.told:
            model.told.add(note)
            events.message(f"{target.image}: {note}")
    report = _run(image_plan, model, paths=paths, header=header, options=options, events=events)
    events.message(f"{target.mask}: done")
    _show(target, report, options, events)
    return ImageResult(image=target.image, mask=target.mask, report=report)


def _already_done(target: Target, options: SegmentOptions, events: Events) -> ImageResult:
    events.message(f"{target.mask}: already done")
    report = read_report(OutputPaths.of(target.mask).report)
    _show(target, report, options, events, missing=True)
    return ImageResult(image=target.image, mask=target.mask, report=report, was_done=True)


def _show(
    target: Target, report: dict[str, object], options: SegmentOptions, events: Events, *, missing: bool = False
) -> None:
    """Make the picture and the page that were asked for; `missing` leaves those alone that are younger than the mask.

    Raises:
        SourceError, OutputError: They cannot be made; mask and report are complete and stay.
    """
    if not (options.overlay or options.html):
        return
    from magnet_cli.report.files import ViewPaths, write_views  # noqa: PLC0415 - see above

    wanted = ViewPaths.of(target.mask, overlay=options.overlay, html=options.html)
    wanted = wanted.outdated(target.mask) if missing else wanted
    if wanted == ViewPaths():
        return
    events.step(Step(image=target.mask.name, what="drawing", done=0, total=1))
    with _mask_complete(target, events):
        for path in write_views(wanted, mask=target.mask, report=report, image=target.image):
            events.message(f"{path}: done")


@contextmanager
def _mask_complete(target: Target, events: Events) -> Iterator[None]:
    """Where what goes beside a finished mask fails, say that the mask itself is there."""
    try:
        yield
    except MagnetError:
        events.message(f"{target.mask}: the mask is complete; the same command tries what is missing beside it again")
        raise


def _command(image_plan: Plan, mask: Path, model: Model, options: SegmentOptions) -> list[str]:
    """The command line that makes a mask again, word by word; empty where a Python program's network made it."""
    if model.bundle.backbone.architecture == PYTHON:
        return []
    return segment_words(image_plan.image.path, mask, options)


def _header(image_plan: Plan, model: Model, target: Target) -> JournalHeader:
    return JournalHeader(
        hashes={
            **images.image_hashes(target.image, image_plan.image),
            "bundle": model.bundle.digest,
            "options": options_hash(image_plan),
        },
        spec=mask_spec(image_plan, model.bundle),
        fields=field_specs(image_plan),
    )


def options_hash(image_plan: Plan) -> str:
    """SHA-256 over every resolved value that the mask depends on, and `ARITHMETIC`."""
    pixel = image_plan.image.resolution
    values = {
        "arithmetic": ARITHMETIC,
        **image_plan.settings.describe(),
        "points_exact": [str(value) for value in image_plan.settings.points.values],
        "patches_exact": [str(value) for value in image_plan.settings.patches.values],
        "scales": [str(stage.scale) for stage in image_plan.stages],
        "working": [str(image_plan.working.x), str(image_plan.working.y)],
        "batch": image_plan.batch,
        "group": list(image_plan.group),
        "device": image_plan.machine.kind,
        "precision": image_plan.machine.precision,
        "pixel": pixel and [str(pixel.x), str(pixel.y), pixel.unit],
        "areas": [[area.kind, area.digest] for area in image_plan.areas],
        "bands": list(image_plan.bands),
        "value_range": [list(span) for span in image_plan.value_range],
        "fields": [image_plan.probabilities, image_plan.uncertainty],
    }
    return digest_of(values)


def mask_spec(image_plan: Plan, bundle: Bundle) -> MaskSpec:
    """The mask of a plan."""
    info = image_plan.image
    return MaskSpec(
        size=info.size,
        classes=tuple(MaskClass(name=entry.name, color=entry.color) for entry in bundle.classes),
        resolution=info.resolution,
        geo_tags=info.geo_tags,
    )


def field_specs(image_plan: Plan) -> tuple[FieldSpec, ...]:
    """The fields of a plan: one for each coarse pass, and what the user asked to keep."""
    fields = [
        FieldSpec(
            name=field_name(step.number),
            bands=image_plan.field_bands(step),
            size=step.stages[-1].extent,
            pitch=step.stages[-1].pitch,
        )
        for step in image_plan.passes[:-1]
    ]
    last = image_plan.stages[-1]
    for name, bands, wanted in (
        (PROBABILITIES, image_plan.classes, image_plan.probabilities),
        (UNCERTAINTY, 1, image_plan.uncertainty),
    ):
        if wanted:
            fields.append(FieldSpec(name=name, bands=bands, size=last.extent, pitch=last.pitch, dtype="uint8"))
    return tuple(fields)


def _run(
    image_plan: Plan,
    model: Model,
    *,
    paths: OutputPaths,
    header: JournalHeader,
    options: SegmentOptions,
    events: Events,
) -> dict[str, object]:
    clock = Clock()
    with ExitStack() as stack:
        journal = stack.enter_context(
            Journal.open(
                paths.journal,
                header=header,
                resume=options.resume,
                overwrite=options.overwrite,
                threaded=image_plan.machine.kind != "cpu",
            )
        )
        numbers = [step.number for step in image_plan.passes]
        stack.enter_context(
            keeping_what_is_finished(journal, numbers, mask=paths.mask, resume=options.resume, events=events)
        )
        for repair in journal.repairs:
            events.message(f"magnet: {repair}")
        threads = _noted("threads", _all_counts(image_plan, journal)) or usable_cores()
        image_plan = replace(image_plan, batch=_noted("batch", _all_counts(image_plan, journal)) or image_plan.batch)
        clock.go_on(_all_counts(image_plan, journal))
        pin_arithmetic(threads)
        reset_device_peak(image_plan.machine.device)
        image = stack.enter_context(_opened(image_plan, decode_cache(paths.mask.parent)))
        peaks = stack.enter_context(PeakSampler())
        opened = open_area(image_plan.areas, image, stack)
        tally, told = _Tally(image_plan, paths, events, peaks), Notes(paths.mask.name, events)
        work = Work(
            image=image,
            networks=model.networks,
            normalisation=Normalisation.of(image_plan, mean=model.bundle.input.mean, std=model.bundle.input.std),
            sink=journal,
            workers=image_plan.machine.readers(options.num_workers),
            clock=clock,
            on_progress=tally,
            threads=threads,
            area=opened.area,
            on_note=told.append,
        )
        for spec, share in zip(image_plan.areas, opened.shares, strict=True):
            events.message(f"{paths.mask.name}: {spec.kind} {spec.source}: {share:.1%} of the image is looked at")
        for note in opened.notes:
            told.append(note)
        image_plan = _run_with_what_fits(image_plan, work, told)
        totals = Totals.of(_all_counts(image_plan, journal))
        measured = Measured(
            seconds=clock.seconds(),
            host_peak=peaks.peak.pss,
            device_peak=device_peak(image_plan.machine.device),
            computed=tally.computed,
            resumed=tally.resumed,
            threads=threads,
            notes=tuple(told),
        )
        report = redacted_report(
            {
                **make_report(image_plan, model.bundle, totals, measured, shares=opened.shares),
                "command": _command(image_plan, paths.mask, model, options),
                "maps": describe_maps(image_plan, journal.finished),
            }
        )
        events.step(Step(image=paths.mask.name, what="writing", done=0, total=1))
        finish_output(
            journal,
            paths,
            report=report,
            description={"bundle": model.bundle.name, **_slide_bounds(image_plan)},
            fields=[kept.name for kept in header.fields if kept.name in (PROBABILITIES, UNCERTAINTY)],
        )
    return read_report(paths.report)


def _opened(image_plan: Plan, cache: images.CacheBudget) -> images.Image:
    """The image of a plan, read by as many processes as it says."""
    info = image_plan.image
    image = images.reopen(info, cache=cache)
    return ImageProcesses(image, image_plan.memory.processes) if image_plan.memory.processes else image


def _run_with_what_fits(image_plan: Plan, work: Work, told: Notes) -> Plan:
    """Run a plan, with smaller batches where memory runs out before anything was finished; the plan that was run.

    Afterwards the batch stays: it may change the last bits of a probability, and with them the mask.

    Raises:
        MemoryShortageError: Nothing smaller is left to try, or a group was finished.
    """
    run = run_plan if image_plan.settings.compat == "paper" else run_published
    while True:
        try:
            run(image_plan, work)
        except MemoryShortageError:
            durable = any(work.sink.finished(step.number) for step in image_plan.passes)
            if durable or image_plan.batch == 1:
                raise
            told.append(f"memory was short: {image_plan.batch // 2} patches a forward pass, not {image_plan.batch}")
            image_plan = replace(image_plan, batch=image_plan.batch // 2)
        else:
            return image_plan


def _noted(key: str, finished: Iterable[Mapping[str, object]]) -> int | None:
    """A number that the run which is resumed noted with each group, and that the mask may depend on."""
    return next((int(str(counts[key])) for counts in finished if key in counts), None)


def _slide_bounds(image_plan: Plan) -> dict[str, object]:
    """Where a viewer that crops a slide to what was scanned begins to count."""
    bounds = image_plan.image.bounds
    return {} if bounds is None else {"bounds": [bounds.x, bounds.y, bounds.width, bounds.height]}


def _all_counts(image_plan: Plan, journal: Journal) -> Iterator[dict[str, object]]:
    for step in image_plan.passes:
        yield from journal.finished(step.number).values()


class _Tally:
    """Counts groups, passes progress on, and stops a run that uses more memory than it may."""

    def __init__(self, image_plan: Plan, paths: OutputPaths, events: Events, peaks: PeakSampler) -> None:
        self._plan = image_plan
        self._name = paths.mask.name
        self._events = events
        self._peaks = peaks
        self._done: dict[int, int] = {}
        self.computed = 0
        self.resumed = 0

    def __call__(self, progress: Progress) -> None:
        self.resumed += progress.resumed
        self.computed += not progress.resumed
        done = self._done[progress.pass_index] = self._done.get(progress.pass_index, 0) + 1
        what = f"pass {progress.pass_index + 1} of {len(self._plan.passes)}"
        self._events.step(Step(image=self._name, what=what, done=done, total=progress.groups))
        check_peak(self._peaks.peak.pss, self._plan.memory.budget, file=self._plan.image.path)

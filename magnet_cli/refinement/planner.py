"""Planner of a cascade's run: it surveys the mask, and derives passes and memory from its objects."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from magnet_cli.errors import SourceError, UsageError
from magnet_cli.events import Step
from magnet_cli.options.refine import THRESHOLD
from magnet_cli.plan import MemoryPlan, host_memory_plan
from magnet_cli.plan.footprint import HEAP
from magnet_cli.refinement.census import Census
from magnet_cli.refinement.evidence import kept_bytes, kept_evidence
from magnet_cli.refinement.label_pass import RIM
from magnet_cli.refinement.mask_kinds import class_indices
from magnet_cli.refinement.pass_context import objects_in
from magnet_cli.refinement.refinement_plan import (
    BYTES_A_PIXEL,
    SQUARE,
    RefinePlan,
    RefineSettings,
    check_memory,
    make_passes,
)
from magnet_cli.refinement.survey import TILE, Survey

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from magnet_cli.events import Events
    from magnet_cli.geometry import Box, Pitch
    from magnet_cli.images import ImageInfo
    from magnet_cli.options.refine import RefineOptions
    from magnet_cli.refinement.cascade_model import RefineModel
    from magnet_cli.refinement.image_view import ImageView
    from magnet_cli.refinement.input_mask import InputMask

JOURNAL = 64 << 20
"""Host memory in bytes for decoded chunks of the journal."""
JOIN_BYTES = 30
"""Host memory in bytes that a pixel of a square and its rim takes while claims are joined: mostly the 64-bit numbers of
its components."""
READ_BYTES = 14
"""Host memory in bytes that a pixel takes while a unit waits to be computed, besides its bands: labels, components and
masks."""


def resolve(options: RefineOptions, model: RefineModel) -> RefineSettings:
    """Resolve the options: those that are left out take the bundle's values."""
    return RefineSettings(
        side=options.side or model.bundle.side,
        fast=options.fast,
        compat=options.compat or model.bundle.compat,
        kind=options.mask_kind,
        threshold=THRESHOLD if options.threshold is None else options.threshold,
        objects=options.objects,
        only=options.only,
        stuff=options.stuff,
        min_area=options.min_area,
        padding=options.padding,
        bands=options.bands,
        value_range=options.value_range,
    )


def make_plan(
    view: ImageView,
    mask: InputMask,
    settings: RefineSettings,
    model: RefineModel,
    *,
    kept: Path | None,
    notes: Sequence[str] = (),
    workers: int,
    events: Events,
) -> RefinePlan:
    """Read the mask once to find its objects, and plan the run.

    Args:
        view: The view of the image.
        mask: The open mask.
        settings: The resolved options.
        model: The loaded bundle.
        kept: Probabilities that `segment` has kept. None without them.
        notes: Notes that are known before the survey.
        workers: The number of reading threads.
        events: Receives the progress of the survey.

    Raises:
        SourceError: The mask cannot be read, or no pixel of a probability exceeds the threshold.
        UsageError: `--stuff` or `--only` names an unknown class or they exclude each other, or `--evidence` was given
            with a mask of one object.
        DeviceError: The memory budget is too small. The message names what is needed.
    """
    info = view.info
    stuff = class_indices(settings.stuff, mask.reading.names, option="--stuff")
    only = class_indices(settings.only, mask.reading.names, option="--only")
    if mask.reading.kind != "labels" and kept is not None:
        raise UsageError(
            "--evidence gives pixels that an object loses their next class, and this is a mask of one object",
            value=f"{mask.path}, read as {mask.reading.kind}",
            advice="Leave --evidence out, or name with --only the classes whose objects are refined",
        )
    if only and (silent := [mask.reading.names[label] for label in stuff if label not in only]):
        raise UsageError(
            "--stuff names classes that are refined, and --only leaves these out",
            value=", ".join(silent),
            advice="Take the classes out of --stuff, or add them to --only",
        )
    evidence = None if kept is None else kept_evidence(mask, kept)
    census = _survey(mask, settings, only, events)
    passes = make_passes(census, settings)
    memory = _memory(
        info,
        settings,
        model,
        labels=len(census.labels),
        evidence_bytes=0 if evidence is None else evidence.bytes_a_pixel + 4 * evidence.channels,
        held=census.nbytes + mask.resident_bytes,
        workers=workers,
    )
    large = (
        f"class '{mask.reading.classes[each.label].name}', around {each.box}: too large to be held as a whole "
        f"({settings.unit} pixels at this L), refined level by level; objects of this kind: {each.objects}"
        for each in census.large.values()
    )
    return RefinePlan(
        view=view,
        mask=mask.path,
        reading=mask.reading,
        settings=settings,
        stuff=stuff,
        evidence=evidence,
        kept=kept,
        census=census,
        passes=passes,
        machine=model.machine,
        memory=memory,
        notes=(*info.notes, *mask.notes, *notes, *large),
    )


def _survey(mask: InputMask, settings: RefineSettings, only: Sequence[int], events: Events) -> Census:
    census = Census(size=mask.size, padding=settings.padding, min_area=settings.min_area, unit=settings.unit)
    total = -(-mask.size.height // TILE)

    def read(box: Box) -> NDArray[np.uint8]:
        # One message for each row of tiles is enough.
        if box.x == 0:
            events.step(Step(image=mask.path, what="finding objects", done=box.y // TILE, total=total))
        return objects_in(mask.read(box), is_binary=mask.reading.kind != "labels", only=only)

    census.take(Survey(read, size=mask.size, side=TILE).objects())
    if not census.found and mask.largest > 0 and mask.reading.kind == "probability":
        raise SourceError(
            "no pixel of the mask is above the threshold",
            value=f"at most {mask.largest:g}",
            file=mask.path,
            advice="Give a lower --threshold, or --mask-kind binary if all but 0 is the object",
        )
    return census


def preview_memory(
    info: ImageInfo,
    settings: RefineSettings,
    model: RefineModel,
    *,
    classes: int,
    kept: Pitch | None,
    workers: int,
) -> MemoryPlan:
    """Plan the memory of a run whose mask does not exist yet. The list of its objects is not included.

    Raises:
        DeviceError: The run needs more memory than its budget.
    """
    evidence_bytes = 0 if kept is None else kept_bytes(classes, kept) + 4 * classes
    return _memory(info, settings, model, labels=classes, evidence_bytes=evidence_bytes, held=0, workers=workers)


def _memory(
    info: ImageInfo,
    settings: RefineSettings,
    model: RefineModel,
    *,
    labels: int,
    evidence_bytes: int,
    held: int,
    workers: int,
) -> MemoryPlan:
    machine = model.machine
    on_host = machine.kind == "cpu"
    pixels = min(settings.unit, info.size.pixels)
    stored = {"uint8": 1, "uint16": 2, "int16": 2}.get(info.dtype, 4) * len(info.bands)
    # A square is joined with a rim in which the objects at its border are measured.
    square = SQUARE + 2 * min(settings.min_area, RIM)
    # Claims of all classes of a square are held at once, one byte each.
    joined = min(square**2, info.size.pixels) * (labels + JOIN_BYTES)
    joined += min(SQUARE**2, info.size.pixels) * evidence_bytes
    # Passes follow one another, so the larger of both counts.
    group = max(pixels * (2 * stored + READ_BYTES), joined)
    base = machine.base + HEAP
    cache = info.resident_bytes + held + JOURNAL
    compute = pixels * BYTES_A_PIXEL + (model.activation_bytes if on_host else 0)
    # With workers one result is computed while the writer stores another.
    output = (1 + bool(workers)) * max(pixels, min(SQUARE**2, info.size.pixels))
    found = host_memory_plan(
        machine.memory, base=base, cache=cache, compute=compute, group=group, output=output, readers=workers
    )
    found = replace(
        found,
        device_budget=machine.gpu_memory,
        device=0 if on_host else model.activation_bytes + machine.context,
    )
    check_memory(found, info.path, advice=", or take a smaller --L")
    return found

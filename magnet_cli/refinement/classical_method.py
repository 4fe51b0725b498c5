"""The classical tools as refinement methods: they refine a mask square by square, each with a rim."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from magnet_cli import images
from magnet_cli.errors import SourceError, WeightsError
from magnet_cli.images.protocol import NODATA
from magnet_cli.refinement.evidence import ClassProbabilities, kept_bytes, open_evidence
from magnet_cli.refinement.image_view import view_of_image
from magnet_cli.refinement.method import MaskJob, RefinePreview
from magnet_cli.refinement.refinement_plan import check_memory
from magnet_cli.refinement.refinement_report import make_square_report
from magnet_cli.refinement.squares import SquarePlan, SquaresPass, square_memory
from magnet_cli.run.job import Runner

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from magnet_cli.events import Events
    from magnet_cli.geometry import Box, Pitch
    from magnet_cli.images import ImageInfo
    from magnet_cli.masks.spec import GroupId
    from magnet_cli.plan import InputFacts, Machine, MemoryPlan
    from magnet_cli.refinement.evidence import Evidence
    from magnet_cli.refinement.image_view import ImageView
    from magnet_cli.refinement.input_mask import InputMask
    from magnet_cli.refinement.squares import SquareSettings
    from magnet_cli.run.job import Resources, RunPass
    from magnet_cli.run.measured import Measured
    from magnet_cli.run.results import Results

GREY = 1
"""Bands of an image without colours. The tools read three bands, so this one is read three times."""


@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """The refinement method of a classical tool. It implements `Method`."""

    settings: SquareSettings
    machine: Machine
    evidence: Path | None = None
    """Probabilities that `segment` has kept. None for a run that starts from the mask alone."""

    @property
    def input_facts(self) -> InputFacts:
        """The bands and values that the tool reads."""
        return self.settings.tool

    @property
    def wants_probabilities(self) -> bool:
        """Whether kept probabilities are used: always, because both tools start from probabilities."""
        return True

    @property
    def needs_doubt(self) -> bool:
        """Whether the tool changes nothing where all labels are equally certain."""
        return self.settings.tool.needs_doubt

    def starting_from(self, kept: Path) -> Smoothing:
        """Return the method with kept probabilities as evidence."""
        return replace(self, evidence=kept)

    def hashes(self) -> dict[str, str]:
        """Return the hashes of the options and the evidence, by name."""
        found = {"options": self.settings.digest()}
        return found if self.evidence is None else {**found, "evidence": images.fingerprint(self.evidence)}

    def words(self) -> list[str]:
        """Return no words: options alone name the tool."""
        return []

    def check_classes(self, names: Sequence[str], *, option: str, file: str | None = None) -> tuple[str, ...]:
        """Accept every mask, because a tool refines borders between any classes."""
        del names, option, file
        return ()

    def view(self, info: ImageInfo) -> ImageView:
        """Choose the bands and values of an image that the tool reads."""
        tool, bands = self.settings.tool, self.settings.bands
        if len(info.bands) == GREY and bands is None:
            bands = ("1",) * len(tool.bands)
        try:
            return view_of_image(info, tool, bands=bands, value_range=self.settings.value_range)
        except WeightsError as error:
            raise SourceError(
                error.rule,
                file=error.file,
                advice="Name three bands of the image with --bands, and the stored values of black and white with "
                "--value-range",
            ) from error

    def preview(self, view: ImageView, *, classes: int, kept: Pitch | None, workers: int) -> RefinePreview:
        """Preview a run whose mask does not exist yet."""
        evidence = 0 if kept is None else kept_bytes(classes, kept)
        memory = self._memory(view, channels=classes, evidence_bytes=evidence, resident=0, workers=workers)
        step = SquaresPass(size=view.info.size, rim=self.settings.tool.reach)
        return RefinePreview(
            lines=(self.settings.line(step),),
            settings={**self.settings.describe(), "squares": step.groups},
            memory=memory,
        )

    def job(self, view: ImageView, mask: InputMask, *, workers: int, events: Events) -> SmoothingJob:
        """Plan how a mask is refined."""
        del events
        evidence = open_evidence(mask, self.evidence, self.settings.tool)
        plan = SquarePlan(
            view=view,
            mask=mask.path,
            reading=mask.reading,
            settings=self.settings,
            evidence=self.evidence,
            machine=self.machine,
            memory=self._memory(
                view,
                channels=evidence.channels,
                evidence_bytes=evidence.bytes_a_pixel,
                resident=mask.resident_bytes,
                workers=workers,
            ),
            notes=(*view.info.notes, *mask.notes),
        )
        return SmoothingJob(plan=plan, mask=mask, evidence=evidence)

    def based(self, base: int) -> Smoothing:
        """Return the method with another amount of host memory in use before a run."""
        return replace(self, machine=replace(self.machine, base=base))

    def _memory(
        self, view: ImageView, *, channels: int, evidence_bytes: int, resident: int, workers: int
    ) -> MemoryPlan:
        found = square_memory(
            view.info,
            self.settings,
            self.machine,
            channels=channels,
            evidence_bytes=evidence_bytes,
            resident=resident,
            workers=workers,
        )
        check_memory(found, view.info.path)
        return found


@dataclass(frozen=True, kw_only=True)
class SmoothingJob(MaskJob):
    """The refinement of one mask by a classical tool."""

    plan: SquarePlan
    mask: InputMask
    evidence: Evidence

    @override
    def runner(self, step: RunPass, resources: Resources) -> Squares:
        del step
        return Squares(self.plan, self.mask, self.evidence, resources)

    @override
    def report(self, results: Results, measured: Measured) -> dict[str, object]:
        return make_square_report(self.plan, self.totals(results)[self.plan.step.number], measured)

    @override
    def seconds(self) -> None:
        # `magnet bench` measures networks, not the tools of other libraries.
        return None


@dataclass(frozen=True, kw_only=True)
class SmoothingSquare:
    """A square of the mask, with everything that a tool needs to refine it."""

    box: Box
    labels: NDArray[np.uint8]
    """Labels of the mask, `(box.height, box.width)` uint8."""
    known: NDArray[np.bool_]
    """True for pixels with both a label and image data, of the same shape."""
    inner: tuple[slice, slice]
    """Rows and columns of the square in arrays that include its rim."""
    shares: ClassProbabilities | None
    """Class probabilities of the square and its rim. None if the square is not refined."""
    pixels: NDArray[np.uint8] | None
    """Pixels of the square and its rim, `(height, width, 3)`. None if the square is not refined."""


@dataclass(frozen=True, kw_only=True)
class Smoothed:
    """The refined labels of a square."""

    box: Box
    labels: NDArray[np.uint8]
    changed: int
    """Pixels whose label differs from the mask's."""
    is_computed: bool
    """Whether the tool ran, because several classes were possible."""


class Squares(Runner):
    """The pass that refines all squares of a mask."""

    def __init__(self, plan: SquarePlan, mask: InputMask, evidence: Evidence, resources: Resources) -> None:
        self._plan = plan
        self._step = plan.step
        self._evidence = evidence
        self._mask = mask
        self._resources = resources
        self._cut = float(plan.settings.threshold) if plan.reading.kind == "probability" else None

    @override
    def read(self, group: int) -> SmoothingSquare:
        box = self._step.box(group)
        area = self._step.area(box)
        inner = box.shifted(x=-area.x, y=-area.y).slices
        labels = self._mask.read(area)
        own = labels[inner]
        if not self._is_open(labels, own):
            return SmoothingSquare(box=box, labels=own, known=own != NODATA, inner=inner, shares=None, pixels=None)
        pixels, valid = self._plan.view.read(self._resources.image, area, pitch=1)
        # Where the image holds no data its colours are arbitrary, so labels there may not influence their neighbours.
        usable = labels if valid is None else np.where(valid, labels, np.uint8(NODATA))
        return SmoothingSquare(
            box=box,
            labels=own,
            known=usable[inner] != NODATA,
            inner=inner,
            shares=self._evidence.read(area, usable),
            pixels=_as_bytes(pixels),
        )

    @override
    def compute(self, given: SmoothingSquare, known: None) -> Smoothed:
        del known
        shares, labels = given.shares, given.labels
        is_computed = shares is not None and len(shares.labels) > 1
        if shares is not None and given.pixels is not None and is_computed:
            probs = self._plan.settings.tool.apply(shares.probs, given.pixels)[:, *given.inner]
            labels = np.where(given.known, self._decided(probs, shares.labels, given.labels), given.labels)
        changed = int(np.count_nonzero(labels != given.labels))
        return Smoothed(box=given.box, labels=labels, changed=changed, is_computed=is_computed)

    @override
    def store(self, group: GroupId, found: Smoothed) -> dict[str, object]:
        self._resources.sink.put_labels(group, box=found.box, labels=found.labels)
        counts = np.bincount(found.labels.ravel(), minlength=NODATA + 1)
        return {
            "labels": counts[: len(self._plan.reading.classes)].tolist(),
            "nodata": int(counts[NODATA]),
            "changed": found.changed,
            "looked": int(found.is_computed),
        }

    def _is_open(self, labels: NDArray[np.uint8], own: NDArray[np.uint8]) -> bool:
        """Return whether a tool could change a label: not if no label is known, nor between labels of one class."""
        if (own == NODATA).all():
            return False
        known = labels[labels != NODATA]
        return not self._evidence.is_mask or bool((known != known[0]).any())

    def _decided(
        self, probs: NDArray[np.float32], labels: tuple[int, ...], before: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        """Return the most probable class, or for a mask of one object whether its probability exceeds the threshold.

        Kept probabilities are rounded, so ties occur. They go to the mask's own label, then to the lowest index.
        """
        if self._cut is not None:
            return np.asarray(probs[1] > np.float32(self._cut), np.uint8)
        found: NDArray[np.uint8] = np.array(labels, np.uint8)[probs.argmax(axis=0)]
        best = probs.max(axis=0)
        for label, values in zip(labels, probs, strict=True):
            found[(before == label) & (values == best)] = label
        return found


def _as_bytes(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return values from 0 to 255 as contiguous bytes, which both libraries require."""
    found = pixels if pixels.dtype == np.uint8 else np.rint(pixels).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(found)

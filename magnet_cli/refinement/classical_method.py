"""The classical tools as ways of refining masks: square by square, with a rim."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from magnet_cli import images
from magnet_cli.errors import SourceError, WeightsError
from magnet_cli.images.protocol import NODATA
from magnet_cli.refinement.evidence import ClassProbabilities, kept_bytes, open_evidence
from magnet_cli.refinement.image_view import see
from magnet_cli.refinement.method import Foreseen, MaskJob
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
    from magnet_cli.plan import Machine, MemoryPlan, Seer
    from magnet_cli.refinement.evidence import Evidence
    from magnet_cli.refinement.image_view import Seen
    from magnet_cli.refinement.input_mask import InputMask
    from magnet_cli.refinement.squares import SquareSettings
    from magnet_cli.run.job import Resources, RunPass
    from magnet_cli.run.measured import Measured
    from magnet_cli.run.results import Results

GREY = 1
"""Bands of an image that has no colours: they are seen three times."""


@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """A classical tool; see `Method`."""

    settings: SquareSettings
    machine: Machine
    evidence: Path | None = None
    """What was kept of `segment`; None for the mask alone."""

    @property
    def seer(self) -> Seer:
        """See `Method`."""
        return self.settings.tool

    @property
    def wants_probabilities(self) -> bool:
        """See `Method`."""
        return True

    @property
    def needs_doubt(self) -> bool:
        """See `Method`."""
        return self.settings.tool.needs_doubt

    def starting_from(self, kept: Path) -> Smoothing:
        """See `Method`."""
        return replace(self, evidence=kept)

    def hashes(self) -> dict[str, str]:
        """See `Method`."""
        found = {"options": self.settings.digest()}
        return found if self.evidence is None else {**found, "evidence": images.fingerprint(self.evidence)}

    def words(self) -> list[str]:
        """See `Method`."""
        return []

    def check_classes(self, names: Sequence[str], *, option: str, file: str | None = None) -> tuple[str, ...]:
        """See `Method`: a tool looks at borders of any kind."""
        del names, option, file
        return ()

    def see(self, info: ImageInfo) -> Seen:
        """See `Method`."""
        tool, bands = self.settings.tool, self.settings.bands
        if len(info.bands) == GREY and bands is None:
            bands = ("1",) * len(tool.bands)
        try:
            return see(info, tool, bands=bands, value_range=self.settings.value_range)
        except WeightsError as error:
            raise SourceError(
                error.rule,
                file=error.file,
                advice="Say with --bands which three of the image's bands are looked at, and with --value-range which "
                "stored values are black and white",
            ) from error

    def foresee(self, seen: Seen, *, classes: int, kept: Pitch | None, workers: int) -> Foreseen:
        """See `Method`."""
        evidence = 0 if kept is None else kept_bytes(classes, kept)
        memory = self._memory(seen, channels=classes, evidence_bytes=evidence, resident=0, workers=workers)
        step = SquaresPass(size=seen.info.size, rim=self.settings.tool.reach)
        return Foreseen(
            lines=(self.settings.line(step),),
            settings={**self.settings.describe(), "squares": step.groups},
            memory=memory,
        )

    def job(self, seen: Seen, mask: InputMask, *, workers: int, events: Events) -> SmoothingJob:
        """See `Method`."""
        del events
        evidence = open_evidence(mask, self.evidence, self.settings.tool)
        plan = SquarePlan(
            seen=seen,
            mask=mask.path,
            reading=mask.reading,
            settings=self.settings,
            evidence=self.evidence,
            machine=self.machine,
            memory=self._memory(
                seen,
                channels=evidence.channels,
                evidence_bytes=evidence.bytes_a_pixel,
                resident=mask.resident_bytes,
                workers=workers,
            ),
            notes=(*seen.info.notes, *mask.notes),
        )
        return SmoothingJob(plan=plan, mask=mask, evidence=evidence)

    def based(self, base: int) -> Smoothing:
        """See `Method`."""
        return replace(self, machine=replace(self.machine, base=base))

    def _memory(self, seen: Seen, *, channels: int, evidence_bytes: int, resident: int, workers: int) -> MemoryPlan:
        found = square_memory(
            seen.info,
            self.settings,
            self.machine,
            channels=channels,
            evidence_bytes=evidence_bytes,
            resident=resident,
            workers=workers,
        )
        check_memory(found, seen.info.path)
        return found


@dataclass(frozen=True, kw_only=True)
class SmoothingJob(MaskJob):
    """A mask that a classical tool refines, square by square."""

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
        # A bench measures networks.
        return None


@dataclass(frozen=True, kw_only=True)
class SmoothingSquare:
    """A square, and what a tool needs to look at it."""

    box: Box
    labels: NDArray[np.uint8]
    """Of the mask, `(box.height, box.width)`."""
    known: NDArray[np.bool_]
    """Where the mask and the image say something, the same shape."""
    inner: tuple[slice, slice]
    """The square in what lies with its rim."""
    shares: ClassProbabilities | None
    """With the rim; None where there is nothing to decide."""
    pixels: NDArray[np.uint8] | None
    """`(height, width, 3)` with the rim."""


@dataclass(frozen=True, kw_only=True)
class Smoothed:
    """The labels of a square."""

    box: Box
    labels: NDArray[np.uint8]
    changed: int
    """Pixels whose label differs from the mask's."""
    looked: bool


class Squares(Runner):
    """The pass over the squares."""

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
        pixels, valid = self._plan.seen.read(self._resources.image, area, pitch=1)
        # Where the image holds no data its colours mean nothing, and neither does what the mask says there.
        heard = labels if valid is None else np.where(valid, labels, np.uint8(NODATA))
        return SmoothingSquare(
            box=box,
            labels=own,
            known=heard[inner] != NODATA,
            inner=inner,
            shares=self._evidence.read(area, heard),
            pixels=_as_bytes(pixels),
        )

    @override
    def compute(self, given: SmoothingSquare, known: None) -> Smoothed:
        del known
        shares, labels = given.shares, given.labels
        looked = shares is not None and len(shares.labels) > 1
        if shares is not None and given.pixels is not None and looked:
            probs = self._plan.settings.tool.apply(shares.probs, given.pixels)[:, *given.inner]
            labels = np.where(given.known, self._decided(probs, shares.labels, given.labels), given.labels)
        changed = int(np.count_nonzero(labels != given.labels))
        return Smoothed(box=given.box, labels=labels, changed=changed, looked=looked)

    @override
    def store(self, group: GroupId, found: Smoothed) -> dict[str, object]:
        self._resources.sink.put_labels(group, box=found.box, labels=found.labels)
        counts = np.bincount(found.labels.ravel(), minlength=NODATA + 1)
        return {
            "labels": counts[: len(self._plan.reading.classes)].tolist(),
            "nodata": int(counts[NODATA]),
            "changed": found.changed,
            "looked": int(found.looked),
        }

    def _is_open(self, labels: NDArray[np.uint8], own: NDArray[np.uint8]) -> bool:
        """Whether a tool could change anything: not where nothing is known, or one class alone."""
        if (own == NODATA).all():
            return False
        known = labels[labels != NODATA]
        return not self._evidence.is_mask or bool((known != known[0]).any())

    def _decided(
        self, probs: NDArray[np.float32], labels: tuple[int, ...], before: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        """The most probable class; or, of one object, where it exceeds the threshold.

        Ties go to the mask's own label, since kept probabilities are rounded, then to the lowest index.
        """
        if self._cut is not None:
            return np.asarray(probs[1] > np.float32(self._cut), np.uint8)
        found: NDArray[np.uint8] = np.array(labels, np.uint8)[probs.argmax(axis=0)]
        best = probs.max(axis=0)
        for label, values in zip(labels, probs, strict=True):
            found[(before == label) & (values == best)] = label
        return found


def _as_bytes(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Values 0 to 255 as the tools take them."""
    found = pixels if pixels.dtype == np.uint8 else np.rint(pixels).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(found)

"""Runs of the method over fields that are kept: every merge and every choice of points in seconds, no forward pass.

What a stage sees, O, does not depend on the stages before it. So one set of forward passes serves every way of merging
and choosing. A scene is one canvas here, where the program has one a block; only Y' within a pixel of a block's border,
and what a refiner sees beyond a window's cell, differ from a run of the program.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol

import cv2
import numpy as np
import torch

from magnet_cli.arithmetic.canvas import Canvas
from magnet_cli.arithmetic.merge import by_certainty
from magnet_cli.arithmetic.scores import certainty, choose_above, choose_largest, share_of, uncertainty
from magnet_cli.geometry import Box
from magnet_cli.segmentation.results import labels_of, largest
from magnet_cli.train.canvases import HeldField, HeldTruth
from magnet_cli.train.temperature import fit_temperature, labelled_pixels, tempered

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.models.networks import Networks
    from magnet_cli.options.segment import Rule
    from magnet_cli.plan.windows import Pass, Stage

STRIP = 256
"""Rows of a canvas that are worked on at a time."""
LEVELS = 250
"""Steps of a score in `stepped_median`; with the thresholds they fit into a byte."""
IGNORE = 255
SMALLEST = 2.0**-24
"""Probabilities below the smallest float16 count as this."""

Measure = Literal["both", "field", "merged"]


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenScene:
    """A scene as one backbone sees it at every scale, and its truth."""

    name: str
    own: Mapping[int, NDArray[np.float16]]
    """O by window side, `(classes, rows, columns)` at temperature 1."""
    truth: NDArray[np.uint8]
    """`(height, width)`, 255 where unknown."""
    temperatures: Mapping[int, float] = field(default_factory=dict)
    """Of O, by window side; 1 where there is none."""

    @cached_property
    def pixels(self) -> NDArray[np.int64]:
        """Of the truth, by class, `(256,)`."""
        return np.bincount(self.truth.ravel(), minlength=IGNORE + 1)

    def canvas(self, stage: Stage) -> Canvas:
        """O at a stage, as the canvas that the next one refines."""
        whole = Box.whole(stage.extent)
        values = torch.empty((len(self.own[stage.scale.width]), whole.height, whole.width), dtype=torch.float16)
        for box in strips(whole):
            values[:, *box.slices] = self.look(stage, box).half()
        return Canvas(values=values, box=whole, pitch=stage.pitch)

    def look(self, stage: Stage, box: Box) -> Tensor:
        """O in a box of a stage's grid, `(classes, box.height, box.width)` float32."""
        values = torch.from_numpy(np.array(self.own[stage.scale.width][:, *box.slices])).float()
        heat = self.temperatures.get(stage.scale.width, 1.0)
        return values if heat == 1 else tempered(values.clamp_min(SMALLEST).log(), heat)

    def labels(self, stage: Stage, box: Box) -> NDArray[np.uint8]:
        """The truth under the centres of a box of a stage's grid."""
        rows = _centres(box.y, box.height, stage.pitch.y, self.truth.shape[0])
        columns = _centres(box.x, box.width, stage.pitch.x, self.truth.shape[1])
        if stage.pitch.x == stage.pitch.y == 1:
            return self.truth[box.slices]
        return self.truth[rows[:, None], columns]


def _centres(start: int, count: int, pitch: Fraction, length: int) -> NDArray[np.int64]:
    """Level-0 pixels under the centres of canvas pixels, those beyond the edge moved to it."""
    doubled = (2 * (start + np.arange(count, dtype=np.int64)) + 1) * pitch.numerator
    return (doubled // (2 * pitch.denominator)).clip(max=length - 1)


def strips(whole: Box) -> Iterator[Box]:
    """Boxes of at most `STRIP` rows that make up a box."""
    for top in range(whole.y, whole.bottom, STRIP):
        yield Box.between(left=whole.x, top=top, right=whole.right, bottom=min(top + STRIP, whole.bottom))


class Merger(Protocol):
    """R from O and Y'."""

    @property
    def halo(self) -> int:
        """Pixels around a place that R there depends on, even."""

    def merge(self, own: Tensor, under: Tensor, stage: Stage) -> Tensor:
        """R, `(classes, h, w)` float32, from O and Y' of the same shape."""


@dataclass(frozen=True)
class Weighted:
    """R = share * O + (1 - share) * Y'."""

    share: float = 0.5
    halo: int = 0

    def merge(self, own: Tensor, under: Tensor, stage: Stage) -> Tensor:  # noqa: ARG002 - alike at every stage
        """The weighted mean."""
        return under.lerp(own, self.share)


@dataclass(frozen=True)
class AllScales:
    """Each stage weighs the same in the end: the mean of all scales' probabilities."""

    halo: int = 0

    def merge(self, own: Tensor, under: Tensor, stage: Stage) -> Tensor:
        """The mean of `stage.number` predictions, of which Y' holds all but the last."""
        return under.lerp(own, 1 / stage.number)


@dataclass(frozen=True)
class ByCertainty:
    """Each side weighs as much as it is certain."""

    halo: int = 0

    def merge(self, own: Tensor, under: Tensor, stage: Stage) -> Tensor:  # noqa: ARG002 - alike at every stage
        """As the program's `--merge certainty`."""
        return by_certainty(own, under)


@dataclass(frozen=True)
class Geometric:
    """The geometric mean, normalised: a class that either side rules out stays out."""

    halo: int = 0

    def merge(self, own: Tensor, under: Tensor, stage: Stage) -> Tensor:  # noqa: ARG002 - alike at every stage
        """The mean of logarithms."""
        return (own.clamp_min(SMALLEST).log() + under.clamp_min(SMALLEST).log()).div_(2).softmax(dim=0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Refined:
    """A bundle's refiner decides."""

    networks: Networks
    halo: int = 32
    """More than the reach of every refiner in the project, and a multiple of their strides."""

    def merge(self, own: Tensor, under: Tensor, stage: Stage) -> Tensor:
        """R of the refiner nearest in scale."""
        return self.networks.refine(own[None], under[None], stage.scale)[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """What a choice of points may look at: some rows of a stage."""

    stage: Stage
    under: Tensor
    """Y', `(classes, h, w)` float32."""
    merged: Tensor
    """R, the same shape."""
    truth: NDArray[np.uint8]
    """`(h, w)`."""


class Pick(Protocol):
    """Where a stage takes R and where it keeps Y'."""

    def score(self, part: Part) -> Tensor:
        """What is chosen by, `(h, w)` float32, 0 or less where R must not be taken."""

    def choose(self, score: Tensor, *, stage: Stage, step: Pass) -> Tensor:
        """`(H, W)` bool from the scores of a whole stage."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The paper's choice: by Q, by its parts alone, smoothed or not, with the program's rules for `--points`."""

    rule: Rule
    """A count, a share or a threshold."""
    measure: Measure = "both"
    """Q, the uncertainty of Y' alone, or the certainty of R alone."""
    median: int = 11

    def score(self, part: Part) -> Tensor:
        """Q before the median."""
        if self.measure == "field":
            return uncertainty(part.under)
        sure = certainty(part.merged)
        return sure if self.measure == "merged" else sure.mul_(uncertainty(part.under))

    def choose(self, score: Tensor, *, stage: Stage, step: Pass) -> Tensor:
        """By threshold, or so many of each block."""
        cuts = self.rule.values if self.rule.kind == "threshold" else ()
        smooth = score if self.median == 1 else stepped_median(score, self.median, keep=[float(cut) for cut in cuts])
        if self.rule.kind == "threshold":
            return choose_above(smooth, self.rule.values[0])
        chosen = torch.zeros(score.shape, dtype=torch.bool)
        for number in range(step.blocks.pixels):
            own = step.own(step.block(number), stage)
            count = self.count(own, stage=stage, step=step)
            chosen[own.slices] = choose_largest(smooth[own.slices], count).chosen
        return chosen

    def count(self, own: Box, *, stage: Stage, step: Pass) -> int:
        """How many points a block may choose, as the program counts them."""
        value = self.rule.value(stage.number - 2)
        if self.rule.kind == "share":
            return share_of(Fraction(own.area), value)
        full = step.ratio(stage).pixels * stage.cell.pixels
        return share_of(value, Fraction(own.area, full))


@dataclass(frozen=True)
class Oracle:
    """R exactly where it is right and Y' is wrong: what no choice can beat, pixel by pixel."""

    agreed: bool = False
    """Whether R is also taken where both say the same, which changes no label now but what later stages start from."""

    def score(self, part: Part) -> Tensor:
        """1 where R is to be taken."""
        theirs, mine = largest(part.under), largest(part.merged)
        truth = torch.from_numpy(part.truth)
        wanted = (mine == truth) & (theirs != truth)
        return (wanted | (mine == theirs)).float() if self.agreed else wanted.float()

    def choose(self, score: Tensor, *, stage: Stage, step: Pass) -> Tensor:  # noqa: ARG002 - the protocol's
        """Where the score is positive."""
        return score > 0


def stepped_median(score: Tensor, side: int, *, keep: Sequence[float] = ()) -> Tensor:
    """The project's `median_blur`, 30 times as fast, with the score rounded up to one of some 250 steps.

    A median commutes with every increasing function, so the steps may lie at the score's own quantiles, where they tell
    most; 0 and `keep` are among them, so whether a median exceeds one of these is exact.

    Args:
        score: `(height, width)` float32, zero or more.
        side: Odd.
        keep: Values that have to be told from those above them, at most four.

    Returns:
        `(height, width)` float32.
    """
    some = score.flatten()[:: max(1, score.numel() // 1_000_000)]
    inner = np.quantile(some.numpy(), np.linspace(0, 1, LEVELS))
    steps = np.unique(np.array([0.0, *inner, *keep, float(score.max())], np.float32))
    table = torch.from_numpy(steps)
    codes = torch.bucketize(score, table, out_int32=True).to(torch.uint8)
    return table[torch.from_numpy(cv2.medianBlur(codes.numpy(), side)).int()]


@dataclass(frozen=True, kw_only=True)
class StageCount:
    """What one stage did, in shares of its pixels."""

    chosen: float
    """R was taken."""
    changed: float
    """The class is another than before."""

    def describe(self) -> dict[str, float]:
        """As JSON values."""
        return {"chosen": round(self.chosen, 4), "changed": round(self.changed, 4)}


def starts(scene: SeenScene, step: Pass) -> Canvas:
    """The coarsest stage's canvas."""
    return scene.canvas(step.stages[0])


@torch.inference_mode()
def advanced(
    scene: SeenScene, canvas: Canvas, *, step: Pass, stage: Stage, merger: Merger, pick: Pick | None
) -> tuple[Canvas, StageCount]:
    """One stage of refinement.

    Args:
        scene: What is looked at.
        canvas: Of the stage before.
        step: All stages.
        stage: This one.
        merger: Makes R.
        pick: Chooses the points; None takes them all.
    """
    whole = Box.whole(stage.extent)
    values = torch.empty((canvas.values.shape[0], whole.height, whole.width), dtype=torch.float16)
    score = torch.empty(values.shape[1:]) if pick is not None else None
    for box in strips(whole):
        under, merged = both(scene, canvas, stage=stage, box=box, merger=merger)
        values[:, *box.slices] = merged.half()
        if score is not None and pick is not None:
            truth = scene.labels(stage, box)
            score[box.slices] = pick.score(Part(stage=stage, under=under, merged=merged, truth=truth))
    chosen = None if score is None or pick is None else pick.choose(score, stage=stage, step=step)
    changed = 0
    for box in strips(whole):
        under = canvas.sample(box, stage.pitch).half()
        if chosen is not None:
            values[:, *box.slices] = torch.where(chosen[box.slices], values[:, *box.slices], under)
        changed += int((largest(values[:, *box.slices]) != largest(under)).sum())
    share = 1.0 if chosen is None else float(chosen.float().mean())
    count = StageCount(chosen=share, changed=changed / whole.area)
    return Canvas(values=values, box=whole, pitch=stage.pitch), count


def both(scene: SeenScene, canvas: Canvas, *, stage: Stage, box: Box, merger: Merger) -> tuple[Tensor, Tensor]:
    """Y' and R in a box of a stage's grid, `(classes, box.height, box.width)` float32."""
    extent = stage.extent
    halo = merger.halo
    wide = Box.between(left=box.x, top=box.y - halo, right=box.right, bottom=box.bottom + halo).intersection(
        Box.whole(extent)
    )
    own, under = scene.look(stage, wide), canvas.sample(wide, stage.pitch)
    inner = slice(box.y - wide.y, box.bottom - wide.y)
    return under[:, inner], merger.merge(own, under, stage)[:, inner]


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What a run came to."""

    labels: NDArray[np.uint8]
    """`(height, width)`, at level 0."""
    counts: Mapping[int, StageCount]
    """By the window side of each stage after the first."""

    def describe(self) -> dict[str, object]:
        """The counts as JSON values."""
        return {str(scale): count.describe() for scale, count in self.counts.items()}


def cascade(scene: SeenScene, step: Pass, *, merger: Merger, pick: Pick | None = None) -> Outcome:
    """A run over a scene, all its stages."""
    canvas, counts = starts(scene, step), {}
    for stage in step.stages[1:]:
        canvas, counts[stage.scale.width] = advanced(scene, canvas, step=step, stage=stage, merger=merger, pick=pick)
    return Outcome(labels=labels_of(canvas, Box.whole(step.stages[0].image), None), counts=counts)


def fitted_temperature(seen: Sequence[SeenScene], scale: int, stages: Sequence[Stage]) -> float:
    """The temperature of O at a scale that suits scenes which the backbone behind each has not seen.

    Args:
        seen: The scenes.
        scale: Window side.
        stages: The stage of that scale in each scene.
    """
    fields = [HeldField(torch.from_numpy(np.array(scene.own[scale]))) for scene in seen]
    labels = [
        HeldTruth(scene.labels(stage, Box.whole(stage.extent))) for scene, stage in zip(seen, stages, strict=True)
    ]
    probs, truth = labelled_pixels(fields, labels, ignore=IGNORE)
    return fit_temperature(probs.clamp_min(SMALLEST).log(), truth).temperature

"""Accept by measured gain: take R where, on scenes that nobody was trained on, it was more often right than Y'."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.accuracy.lab import IGNORE, advanced, both, starts, strips
from magnet_cli.arithmetic.scores import certainty
from magnet_cli.geometry import Box
from magnet_cli.segmentation.results import largest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from benchmarks.accuracy.lab import Merger, Part, SeenScene
    from magnet_cli.arithmetic.canvas import Canvas
    from magnet_cli.plan.windows import Pass, Stage

BINS = 10
"""Of certainty, along either axis."""
PRIOR = 2000
"""Pixels of average gain that every bin is given: neighbours are alike, so a thousand of them say little."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GainTable:
    """How often R was right where it differs from Y', less how often Y' was, by both certainties."""

    pixels: NDArray[np.int64]
    """Labelled pixels where the two differ, `(BINS, BINS)`: certainty of Y', then of R."""
    gained: NDArray[np.int64]
    """Those where R is right less those where Y' is right."""

    @property
    def expected(self) -> NDArray[np.float32]:
        """Gain a pixel, -1 to 1, drawn towards the average over all bins where there are few pixels."""
        average = self.gained.sum() / max(1, self.pixels.sum())
        expected: NDArray[np.float32] = ((self.gained + PRIOR * average) / (self.pixels + PRIOR)).astype(np.float32)
        return expected

    @classmethod
    def of(cls, bins: NDArray[np.int64], gained: NDArray[np.int64]) -> GainTable:
        """From pixels.

        Args:
            bins: `(n,)`, as `bins_of` gives them.
            gained: `(n,)` 1 where R is right, -1 where Y' is, 0 where neither.
        """
        shape = (BINS, BINS)
        return cls(
            pixels=np.bincount(bins, minlength=BINS * BINS).reshape(shape),
            gained=np.bincount(bins, weights=gained, minlength=BINS * BINS).astype(np.int64).reshape(shape),
        )

    def __add__(self, other: GainTable) -> GainTable:
        return GainTable(pixels=self.pixels + other.pixels, gained=self.gained + other.gained)

    def describe(self) -> dict[str, object]:
        """As JSON values."""
        share = float((self.expected > 0).mean())
        return {"pixels": int(self.pixels.sum()), "gained": int(self.gained.sum()), "bins_taken": round(share, 2)}


def bins_of(under: Tensor, merged: Tensor) -> Tensor:
    """The bin of every pixel, `(h, w)` int64, from Y' and R, `(classes, h, w)`."""
    theirs, mine = ((certainty(probs) * BINS).long().clamp_(max=BINS - 1) for probs in (under, merged))
    return theirs * BINS + mine


@dataclass(frozen=True, kw_only=True, eq=False)
class ByGain:
    """Takes R where the tables expect a gain."""

    tables: Mapping[int, GainTable] = field(default_factory=dict)
    """By window side."""
    agreed: bool = False
    """Whether R is also taken where both say the same: there is nothing to gain, but later stages start from it."""

    def score(self, part: Part) -> Tensor:
        """The expected gain; where both say the same class, 1 or 0."""
        table = torch.from_numpy(self.tables[part.stage.scale.width].expected.ravel())
        gain = table[bins_of(part.under, part.merged)]
        return torch.where(largest(part.under) == largest(part.merged), float(self.agreed), gain)

    def choose(self, score: Tensor, *, stage: Stage, step: Pass) -> Tensor:  # noqa: ARG002 - the protocol's
        """Where a gain is expected."""
        return score > 0


def fitted_gain(seen: Sequence[tuple[SeenScene, Pass]], *, merger: Merger, agreed: bool) -> ByGain:
    """Tables for every stage after the first, each fitted over what the ones before it make of the same scenes.

    Args:
        seen: Scenes, with the stages of each, as backbones see them that were not trained on them.
        merger: Makes R.
        agreed: As `ByGain` takes it.
    """
    canvases = [starts(scene, step) for scene, step in seen]
    tables: dict[int, GainTable] = {}
    for number in range(1, len(seen[0][1].stages)):
        measured = [
            measured_gain(scene, canvas, stage=step.stages[number], merger=merger)
            for (scene, step), canvas in zip(seen, canvases, strict=True)
        ]
        scale = seen[0][1].stages[number].scale.width
        tables[scale] = sum(measured[1:], start=measured[0])
        pick = ByGain(tables=tables, agreed=agreed)
        if number + 1 < len(seen[0][1].stages):
            canvases = [
                advanced(scene, canvas, step=step, stage=step.stages[number], merger=merger, pick=pick)[0]
                for (scene, step), canvas in zip(seen, canvases, strict=True)
            ]
    return ByGain(tables=tables, agreed=agreed)


@torch.inference_mode()
def measured_gain(scene: SeenScene, canvas: Canvas, *, stage: Stage, merger: Merger) -> GainTable:
    """The table of one stage over one scene."""
    bins, gained = [], []
    for box in strips(Box.whole(stage.extent)):
        under, merged = both(scene, canvas, stage=stage, box=box, merger=merger)
        theirs, mine = largest(under), largest(merged)
        truth = torch.from_numpy(np.ascontiguousarray(scene.labels(stage, box)))
        differ = (theirs != mine) & (truth != IGNORE)
        bins.append(bins_of(under, merged)[differ].numpy())
        gained.append(((mine == truth).long() - (theirs == truth).long())[differ].numpy())
    return GainTable.of(np.concatenate(bins), np.concatenate(gained))

"""Runs that compute some of their windows, over kept fields: every selection of windows in seconds, no forward pass.

What a stage sees does not depend on the stages before it, so a run that passes windows over is simulated exactly: a
window that is computed takes R = (O + Y') / 2, any other keeps Y'. As with `--budget`, each stage is a pass of its own
over the whole image, and windows are compared over all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import floor
from typing import TYPE_CHECKING, Literal, Protocol, Self

import numpy as np
import torch

from benchmarks.accuracy.lab import IGNORE, SeenScene, starts
from magnet_cli.arithmetic.canvas import Canvas
from magnet_cli.arithmetic.scores import uncertainty
from magnet_cli.geometry import Box
from magnet_cli.plan.segmentation_plan import paid_share
from magnet_cli.plan.windows import Index
from magnet_cli.segmentation.results import labels_of, largest
from magnet_cli.segmentation.window_scores import difference

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.plan.windows import Pass, Stage


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """What is known of one row of a stage's windows before any of them is computed."""

    scene: SeenScene
    before: Stage
    """The stage before."""
    canvas: Canvas
    """What it came to."""
    stage: Stage
    number: int
    under: Tensor
    """Y' of the windows' own parts, `(classes, h, width)` float32."""
    moved: Tensor | None
    """How far the stage before moved each pixel, `(h, width)` float32; None where nothing has moved yet."""

    @property
    def box(self) -> Box:
        """The row, on the stage's grid."""
        return row_box(self.stage, self.number)

    def sums(self, values: Tensor) -> NDArray[np.float64]:
        """The sums of `(h, width)` values over each window's own part, `(columns,)`."""
        down: NDArray[np.float64] = values.double().sum(dim=0).numpy()
        edges = np.arange(0, len(down), self.stage.cell.width)
        summed: NDArray[np.float64] = np.add.reduceat(down, edges)
        return summed

    def means(self, values: Tensor) -> NDArray[np.float64]:
        """The means over each window's own part, `(columns,)`."""
        return self.sums(values) / self.sums(torch.ones_like(values))


def row_box(stage: Stage, number: int) -> Box:
    """A row of a stage's cells, on its grid."""
    whole, top = Box.whole(stage.extent), number * stage.cell.height
    return Box.between(left=0, top=top, right=whole.right, bottom=top + stage.cell.height).intersection(whole)


class Worth(Protocol):
    """What windows are compared by."""

    @property
    def by_change(self) -> bool:
        """Whether it asks how far the stage before moved each pixel."""

    def of(self, row: Row) -> NDArray[np.float64]:
        """Of the windows of a row, `(columns,)`."""


Untaught = Literal["uncertainty", "change", "both"]
"""The program's ways of choosing that nothing has to be trained for."""


@dataclass(frozen=True, kw_only=True)
class Uncertain:
    """The program's `--select`: mean uncertainty of Y', mean change, or their product."""

    select: Untaught = "uncertainty"

    @property
    def by_change(self) -> bool:
        """Unless uncertainty alone counts."""
        return self.select != "uncertainty"

    def of(self, row: Row) -> NDArray[np.float64]:
        """As the program's `window_worth`."""
        unsure = row.means(uncertainty(row.under))
        if not self.by_change or row.moved is None:
            return unsure
        change = row.means(row.moved)
        return change if self.select == "change" else change * unsure


@dataclass(frozen=True, kw_only=True)
class AtRandom:
    """Nothing is known."""

    seed: int
    by_change: bool = False

    def of(self, row: Row) -> NDArray[np.float64]:
        """Uniform numbers, the same for every budget."""
        rng = np.random.default_rng((self.seed, row.stage.number, row.number))
        numbers: NDArray[np.float64] = rng.random(row.stage.cells.width)
        return numbers


@dataclass(frozen=True, kw_only=True)
class TrueGain:
    """What computing a window makes right, less what it makes wrong, given Y' so far: known to an oracle alone."""

    balanced: bool = False
    """Whether each class weighs the same in the image, as in a mean over classes, instead of each pixel."""
    by_change: bool = False

    def of(self, row: Row) -> NDArray[np.float64]:
        """In pixels of the stage's grid, or in shares of a class."""
        scene, box = row.scene, row.box
        truth = torch.from_numpy(np.ascontiguousarray(scene.labels(row.stage, box)))
        merged = (scene.look(row.stage, box) + row.under) / 2
        gained = (largest(merged) == truth).double() - (largest(row.under) == truth).double()
        return row.sums(gained * self._weights(scene)[truth.long()])

    def _weights(self, scene: SeenScene) -> Tensor:
        weights = 1 / scene.pixels.clip(min=1) if self.balanced else np.ones(IGNORE + 1)
        weights[IGNORE] = 0
        return torch.from_numpy(weights)


class Rule(Protocol):
    """How many windows are computed."""

    def choose(self, worths: NDArray[np.float64], stage: Stage) -> NDArray[np.bool_]:
        """Which windows of a stage are computed, from the worths of all of them, `(rows, columns)`."""


@dataclass(frozen=True, kw_only=True)
class Best:
    """That share of the windows of every stage after the first, those above one number."""

    share: Fraction

    def choose(self, worths: NDArray[np.float64], stage: Stage) -> NDArray[np.bool_]:  # noqa: ARG002 - alike at all
        """See `Rule`."""
        return best(worths, self.share)


@dataclass(frozen=True, kw_only=True)
class CoarseFirst:
    """The program's `--budget`: coarse stages are filled first, and of the one that cannot be the best are computed."""

    budget: Fraction
    """Of the windows of all stages."""
    stages: tuple[Stage, ...]
    """All of them."""

    def choose(self, worths: NDArray[np.float64], stage: Stage) -> NDArray[np.bool_]:
        """See `Rule`."""
        return best(worths, paid_share(self.budget, self.stages, stage))


@dataclass(frozen=True, kw_only=True)
class Tapered:
    """A share that doubles with the window's side, up to all: coarse windows are few, and finer ones rest on them."""

    share: Fraction
    """Of the finest stage."""
    finest: int
    """Its window side."""

    @classmethod
    def spending(cls, total: Fraction, step: Pass) -> Self:
        """The shares that together come to so many windows of the stages after the first.

        Args:
            total: Windows.
            step: All stages.
        """
        finest = step.stages[-1].scale.width
        left, uncut = total, {stage.scale.width: stage.cells.pixels for stage in step.stages[1:]}
        while uncut:
            share = left / sum(Fraction(side, finest) * count for side, count in uncut.items())
            side = max(uncut)
            if share * Fraction(side, finest) <= 1:
                return cls(share=share, finest=finest)
            left -= uncut.pop(side)
        return cls(share=Fraction(1), finest=finest)

    def choose(self, worths: NDArray[np.float64], stage: Stage) -> NDArray[np.bool_]:
        """See `Rule`."""
        return best(worths, min(Fraction(1), self.share * Fraction(stage.scale.width, self.finest)))


@dataclass(frozen=True, kw_only=True)
class Above:
    """One threshold for all stages."""

    limit: float

    def choose(self, worths: NDArray[np.float64], stage: Stage) -> NDArray[np.bool_]:  # noqa: ARG002 - alike at all
        """See `Rule`."""
        return worths > self.limit


def best(worths: NDArray[np.float64], share: Fraction) -> NDArray[np.bool_]:
    """The windows above the number that at most that share of them exceed.

    Where windows tie at the cut, none of them is taken: it is a threshold that blocks can apply alone.
    """
    count = floor(share * worths.size)
    if count >= worths.size:
        return np.ones(worths.shape, np.bool_)
    chosen: NDArray[np.bool_] = worths > np.sort(worths, axis=None)[worths.size - count - 1]
    return chosen


@dataclass(frozen=True, kw_only=True, eq=False)
class Selected:
    """What a run came to."""

    labels: NDArray[np.uint8]
    """`(height, width)`, at level 0."""
    windows: tuple[int, ...]
    """That were computed, by stage."""


@torch.inference_mode()
def selected(scene: SeenScene, step: Pass, *, worth: Worth, rule: Rule) -> Selected:
    """A run over a scene: all windows of the coarsest stage, then those of each stage that a rule chooses.

    Args:
        scene: What is looked at.
        step: All stages, coarsest first.
        worth: What windows are compared by.
        rule: How many of each stage are computed.
    """
    canvas, moves = starts(scene, step), None
    windows = [step.stages[0].cells.pixels]
    for before, stage in pairwise(step.stages):
        rows = _rows(scene, before, canvas, moves, stage)
        canvas, moves, count = _advanced(scene, canvas, rows, stage=stage, worth=worth, rule=rule)
        windows.append(count)
    return Selected(labels=labels_of(canvas, Box.whole(step.stages[0].image), None), windows=tuple(windows))


@dataclass(frozen=True, kw_only=True, eq=False)
class Moves:
    """How far a stage has moved each pixel."""

    stage: Stage
    values: Tensor
    """`(1, height, width)` float16."""

    def under(self, stage: Stage, number: int) -> Tensor:
        """Under a row of the next stage's windows, `(h, width)` float32.

        Each looks at the window that holds it alone, as blocks do: beside one that was computed nothing has moved.
        """
        across = self.stage.scale.width // stage.scale.width
        parts = []
        for column in range(stage.cells.width):
            box = self.stage.own(Index(column=column // across, row=number // across))
            held = Canvas(values=self.values[:, *box.slices], box=box, pitch=self.stage.pitch)
            parts.append(held.sample(stage.own(Index(column=column, row=number)), stage.pitch)[0])
        return torch.cat(parts, dim=1)


def _advanced(
    scene: SeenScene, canvas: Canvas, rows: Iterable[Row], *, stage: Stage, worth: Worth, rule: Rule
) -> tuple[Canvas, Moves | None, int]:
    """A stage: its canvas, how far it moved each pixel, and how many windows it computed."""
    whole = Box.whole(stage.extent)
    values = torch.empty((canvas.values.shape[0], whole.height, whole.width), dtype=torch.float16)
    worths = np.empty((stage.cells.height, stage.cells.width))
    for row in rows:
        values[:, *row.box.slices] = row.under.half()
        worths[row.number] = worth.of(row)
    chosen = rule.choose(worths, stage)
    change = torch.zeros((1, whole.height, whole.width), dtype=torch.float16) if worth.by_change else None
    for number, column in np.argwhere(chosen).tolist():
        box = stage.own(Index(column=column, row=number))
        under = canvas.sample(box, stage.pitch)
        merged = ((scene.look(stage, box) + under) / 2).half()
        values[:, *box.slices] = merged
        if change is not None:
            change[0, *box.slices] = difference(merged, under).half()
    after = None if change is None else Moves(stage=stage, values=change)
    return Canvas(values=values, box=whole, pitch=stage.pitch), after, int(chosen.sum())


def _rows(scene: SeenScene, before: Stage, canvas: Canvas, moves: Moves | None, stage: Stage) -> Iterator[Row]:
    for number in range(stage.cells.height):
        yield Row(
            scene=scene,
            before=before,
            canvas=canvas,
            stage=stage,
            number=number,
            under=canvas.sample(row_box(stage, number), stage.pitch),
            moved=None if moves is None else moves.under(stage, number),
        )

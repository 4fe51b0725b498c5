"""The gain of computing a window, on scenes that the backbone of the fields was not trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from magnet_cli.arithmetic.scores import uncertainty
from magnet_cli.geometry import Box
from magnet_cli.train.batches import recoloured
from magnet_cli.train.scene_fields import patch_at, windows_of
from magnet_cli.train.stage_runs import Previous, Refiners, StageRun, continued, merged_field, starts
from magnet_cli.train.temperature import tempered

if TYPE_CHECKING:
    from collections.abc import Sequence
    from fractions import Fraction

    from numpy.typing import NDArray
    from torch import Tensor

    from magnet_cli.geometry import Size
    from magnet_cli.models.bundle import Bundle, InputSpec
    from magnet_cli.options.segment import Merge
    from magnet_cli.plan.windows import Stage
    from magnet_cli.train.canvases import Field
    from magnet_cli.train.scene_fields import SceneView
    from magnet_cli.train.scenes import LabelledScene


NOTHING = torch.tensor([[0.0, 0, 1, 1, 0, 0]])
"""A target that does not count."""


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowPair:
    """Two successive stages of a run over a scene: the field of the first, and the result of the second over it."""

    scene: LabelledScene
    step: StageRun
    """The second stage, over the first."""
    after: Field
    """Log R of the second stage, every window computed."""
    spec: InputSpec
    ignore: int
    """The label of unlabelled pixels."""

    @property
    def first(self) -> Stage:
        """The stage before, whose windows a selector gets."""
        return self.step.field.stage

    @property
    def second(self) -> Stage:
        """The stage whose windows the selector scores."""
        return self.step.stage

    @property
    def ratio(self) -> tuple[Fraction, Fraction]:
        """Pixels of the second stage in one of the first, along x and y."""
        one, other = self.first.pitch, self.second.pitch
        return one.x / other.x, one.y / other.y

    def patch(self, box: Box) -> NDArray[np.float32]:
        """Return the image in a box of the first stage's grid, `(bands, h, w)`, normalised."""
        return patch_at(self.scene, box, stage=self.first, spec=self.spec)

    def known(self, box: Box) -> Tensor:
        """Return the first stage's probabilities in a box of its grid, `(classes, h, w)` float32."""
        field = self.step.field
        inside = box.intersection(Box.whole(self.first.extent))
        return continued(tempered(field.logs.read(inside), field.temperature), box)

    def gain(self, box: Box) -> tuple[float, float]:
        """Return what the second stage gains in a box of its grid.

        Returns:
            Labelled pixels that turn right less those that turn wrong, as a share of the labelled ones (0 where there
            are none); and the labelled ones as a share of the box.
        """
        inside = box.intersection(Box.whole(self.second.extent))
        if not inside.area:
            return 0.0, 0.0
        truth = torch.from_numpy(self.step.labels.read(inside).astype(np.int64))
        labelled = truth != self.ignore
        count = int(labelled.sum())
        if not count:
            return 0.0, 0.0
        was, now = self.step.under(inside).argmax(dim=0), self.after.read(inside).argmax(dim=0)
        better = (now == truth)[labelled].sum() - (was == truth)[labelled].sum()
        return int(better) / count, count / box.area

    def within(self, box: Box, around: Box) -> tuple[float, float, float, float]:
        """Return a box of the second stage's grid in pixels of a box of the first's: left, top, right, bottom."""
        x, y = self.ratio
        edges = (box.x / x - around.x, box.y / y - around.y, box.right / x - around.x, box.bottom / y - around.y)
        left, top, right, bottom = map(float, edges)
        return left, top, right, bottom

    def parts(self, around: Box) -> list[Box]:
        """Return the cells of the second stage, on its grid, that a window of the first holds inside its margin."""
        x, y = self.ratio
        cell, margin = self.second.cell, self.first.margin
        left, top = round((around.x + margin) * x), round((around.y + margin) * y)
        return [
            Box(x=left + column * cell.width, y=top + row * cell.height, width=cell.width, height=cell.height)
            for row in range(max(1, int(y)))
            for column in range(max(1, int(x)))
        ]

    def targets(self, around: Box, parts: Sequence[Box]) -> Tensor:
        """Return the places and the gains of parts of a box of the first stage's grid, `(k, 6)` for `GainObjective`."""
        return torch.tensor([(*self.within(part, around), *self.gain(part)) for part in parts])

    def truth(self, box: Box) -> Tensor:
        """Return the labels of a box of the first stage's grid, `(h, w)` int64."""
        labels = self.step.view.labels[self.step.index - 1]
        inside = box.intersection(Box.whole(self.first.extent))
        return continued(torch.from_numpy(labels.read(inside).astype(np.int64))[None], box)[0]


def pairs_of(
    views: Sequence[SceneView], scenes: Sequence[LabelledScene], *, bundle: Bundle, ignore: int
) -> list[WindowPair]:
    """Return all pairs of successive stages of runs over scenes with every window computed.

    Args:
        views: The fields of scenes, by backbones that were not trained on them.
        scenes: The scenes; fields find theirs by its name.
        bundle: Its temperatures, and how it merges; the mean stands in for a refiner, which knows the scenes.
        ignore: The label of pixels without a class.
    """
    named = {scene.name: scene for scene in scenes}
    heat = bundle.backbone.temperature
    # A refiner of the bundle was trained on these scenes, and would gain more on them than on others.
    how = cast("Merge", "mean" if bundle.magnet.merge == "refiner" else bundle.magnet.merge)
    pairs = []
    for view in views:
        temperatures = [heat.at(stage.scale) for stage in view.stages]
        field = starts(view, temperatures)
        for index, stage in enumerate(view.stages[1:], start=1):
            step = StageRun(view=view, index=index, field=field, temperature=temperatures[index])
            after = merged_field(step, how=how, refiners=Refiners())
            pairs.append(WindowPair(scene=named[view.name], step=step, after=after, spec=bundle.input, ignore=ignore))
            field = Previous(logs=after, stage=stage, temperature=1.0)
    return pairs


@dataclass(frozen=True, kw_only=True)
class Symmetry:
    """One of the eight combinations of rotating and mirroring a square."""

    across: bool
    """Whether rows become columns, which is done first."""
    left: bool
    """Whether the result is mirrored along x."""
    up: bool
    """Whether the result is mirrored along y."""

    @classmethod
    def drawn(cls, rng: np.random.Generator, *, size: Size) -> Symmetry:
        """Draw a combination at random. For a rectangle it is one that keeps the sides."""
        across, left, up = (bool(rng.integers(2)) for _ in range(3))
        return cls(across=across and size.width == size.height, left=left, up=up)

    def laid(self, values: Tensor) -> Tensor:
        """Return `(..., h, w)`, turned."""
        values = values.transpose(-1, -2) if self.across else values
        dims = [-1] * self.left + [-2] * self.up
        return values.flip(dims).contiguous()

    def boxes(self, targets: Tensor, *, size: Size) -> Tensor:
        """Return the targets `(k, 6)` in a patch of that size, turned with it."""
        found = targets[:, [1, 0, 3, 2, 4, 5]] if self.across else targets.clone()
        if self.left:
            found[:, 0], found[:, 2] = size.width - found[:, 2], size.width - found[:, 0].clone()
        if self.up:
            found[:, 1], found[:, 3] = size.height - found[:, 3], size.height - found[:, 1].clone()
        return found


@dataclass(frozen=True, kw_only=True)
class PairSampler:
    """Draws windows of first stages anywhere in their scenes: batch k is a function of the seed and k alone."""

    pairs: Sequence[WindowPair]
    batch: int
    seed: int
    colour: float = 0.0
    """Strength of the random changes of colour."""
    gains: bool = True
    """Whether targets are given, as `GainObjective` takes them; else labels, as `FieldObjective` does."""

    def __call__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return patches with the probabilities under them, `(n, bands + classes, h, w)` float32, and their targets."""
        drawn = [self.sample(np.random.default_rng((self.seed, index, item))) for item in range(self.batch)]
        answers = [answer for _, answer in drawn]
        if self.gains:
            # Windows have different numbers of parts. Rows that do not count make them one tensor.
            most = max(map(len, answers))
            answers = [torch.cat((answer, NOTHING.expand(most - len(answer), -1))) for answer in answers]
        return torch.stack([inputs for inputs, _ in drawn]), torch.stack(answers)

    def sample(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return one window, recoloured, turned and mirrored at random."""
        # Windows are drawn as for a backbone: neither by area nor by number of scenes (`BatchSampler`).
        weight = np.sqrt([pair.second.cells.pixels for pair in self.pairs])
        pair = self.pairs[rng.choice(len(self.pairs), p=weight / weight.sum())]
        size, extent = pair.first.input, pair.first.extent
        x = int(rng.integers(max(0, extent.width - size.width) + 1))
        y = int(rng.integers(max(0, extent.height - size.height) + 1))
        box = Box(x=x, y=y, width=size.width, height=size.height)
        patch = self.coloured(pair.patch(box), rng, spec=pair.spec)
        inputs, turn = torch.cat((torch.from_numpy(patch), pair.known(box))), Symmetry.drawn(rng, size=size)
        if self.gains:
            return turn.laid(inputs), turn.boxes(pair.targets(box, pair.parts(box)), size=size)
        return turn.laid(inputs), turn.laid(pair.truth(box))

    def coloured(self, patch: NDArray[np.float32], rng: np.random.Generator, *, spec: InputSpec) -> NDArray[np.float32]:
        """Return a patch `(bands, h, w)`, normalised before and after."""
        if not self.colour:
            return patch
        mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (spec.mean, spec.std))
        pixels = (patch * std + mean).transpose(1, 2, 0)
        other = recoloured(pixels, rng, strength=self.colour).transpose(2, 0, 1)
        return np.ascontiguousarray((other - mean) / std, np.float32)


@dataclass(frozen=True, kw_only=True)
class GainRow:
    """One window of a run's second stage."""

    scale: Size
    unsure: float
    """Mean uncertainty under it."""
    gain: float
    """The gain and the labelled share of the window, as `WindowPair.gain` gives them."""
    labelled: float


def census(pairs: Sequence[WindowPair]) -> list[GainRow]:
    """Return the windows of runs that have labelled pixels."""
    rows = []
    for pair in pairs:
        for own in (window.own for window in windows_of(pair.second)):
            gain, labelled = pair.gain(own)
            if labelled:
                unsure = float(uncertainty(pair.step.under(own)).mean())
                rows.append(GainRow(scale=pair.second.scale, unsure=unsure, gain=gain, labelled=labelled))
    return rows

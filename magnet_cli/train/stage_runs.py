"""Runs of the program over scenes whose fields are known: the input of each stage, and the score at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from magnet_cli.arithmetic.canvas import Canvas, CanvasTaps, reflected
from magnet_cli.arithmetic.merge import merge
from magnet_cli.geometry import Box
from magnet_cli.models.network_spec import distance
from magnet_cli.train.canvases import strips
from magnet_cli.train.scene_fields import add_window, inside, windows_of
from magnet_cli.train.temperature import fit_temperature, labelled_pixels, tempered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from magnet_cli.geometry import Pitch, Size
    from magnet_cli.options.segment import Merge
    from magnet_cli.plan.windows import Stage
    from magnet_cli.train.canvases import Field, Truth
    from magnet_cli.train.scene_fields import SceneView
    from magnet_cli.train.temperature import Fit


SMALLEST = 1e-12
"""Probabilities below this count as this, so that their logarithm is finite."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Refiners:
    """Refiners during their training. Their input is O first, and their temperature is 1."""

    networks: tuple[tuple[Size | None, nn.Module], ...] = ()
    """The refiners with the scale that each serves; None serves every scale."""

    @torch.inference_mode()
    def refine(self, own: Tensor, field: Tensor, scale: Size) -> Tensor:
        """Return R of the nearest refiner, `(n, classes, h, w)` float32, from two of the same shape."""

        def far(item: tuple[Size | None, nn.Module]) -> float:
            return float("inf") if item[0] is None else distance(item[0], scale)

        network = min(self.networks, key=far)[1]
        place = next(network.parameters()).device
        joined = torch.cat((own, field), dim=1).to(place)
        logits: Tensor = network(joined.contiguous(memory_format=torch.channels_last))
        return logits.float().softmax(dim=1).cpu()


@dataclass(frozen=True, kw_only=True, eq=False)
class Previous:
    """The result of a stage, which the next stage refines."""

    logs: Field
    stage: Stage
    temperature: float

    def sample(self, box: Box, pitch: Pitch) -> Tensor:
        """Read the probabilities under a box of another grid, as `Canvas.sample` gives them, and no others."""
        mine, extent = self.stage.pitch, self.stage.extent
        rows = CanvasTaps.between(start=box.y, count=box.height, ratio=pitch.y / mine.y, origin=0, length=extent.height)
        columns = CanvasTaps.between(
            start=box.x, count=box.width, ratio=pitch.x / mine.x, origin=0, length=extent.width
        )
        near = Box.between(
            left=int(columns.first[0]),
            top=int(rows.first[0]),
            right=int(columns.second[-1]) + 1,
            bottom=int(rows.second[-1]) + 1,
        )
        # A run keeps its canvases in float16, and a refiner has to learn from what it will get.
        values = tempered(self.logs.read(near), self.temperature).half()
        return Canvas(values=values, box=near, pitch=mine).sample(box, pitch)


@dataclass(frozen=True, kw_only=True, eq=False)
class StageRun:
    """One refining stage of a run over one scene."""

    view: SceneView
    index: int
    """The index of the stage in `view`."""
    field: Previous
    """The stage before, as far as it has come."""
    temperature: float
    """The temperature of O."""

    @property
    def stage(self) -> Stage:
        """The stage, with the grid of its pixels."""
        return self.view.stages[self.index]

    @property
    def labels(self) -> Truth:
        """The labels on the stage's grid."""
        return self.view.labels[self.index]

    def own(self, box: Box) -> Tensor:
        """Return O in a box of the stage's grid, `(classes, box.height, box.width)` float32."""
        return tempered(self.view.logs[self.index].read(box), self.temperature)

    def under(self, box: Box) -> Tensor:
        """Return Y' in a box of the stage's grid, the same shape, as the program resamples it."""
        return self.field.sample(box, self.stage.pitch)


def starts(view: SceneView, temperatures: Sequence[float]) -> Previous:
    """Return the field of the coarsest stage."""
    return Previous(logs=view.logs[0], stage=view.stages[0], temperature=temperatures[0])


def merged_field(step: StageRun, *, how: Merge, refiners: Refiners) -> Field:
    """Return log R over a whole scene, window by window, with all points taken, blended by the weights of a run.

    In the rim of a window, O is the weighted mean of the windows there, where a run has the window's own. With the mean
    of O and Y' that makes no difference.
    """
    stage = step.stage
    whole = Box.whole(stage.extent)
    found = step.view.scratch.field(step.view.logs[step.index].shape)
    for window in windows_of(stage):
        seen = window.box.intersection(whole)
        pair = (continued(part, window.box)[None] for part in (step.own(seen), step.under(seen)))
        result = merge(*pair, how=how, networks=refiners, scale=stage.scale)[0]
        add_window(found, window, result[:, *inside(window)].clamp_min(SMALLEST).log())
    return found


def continued(part: Tensor, window: Box) -> Tensor:
    """Return `(classes, rows, columns)` continued by reflection to a window's size."""
    for dim, want in ((1, window.height), (2, window.width)):
        if part.shape[dim] < want:
            part = part.index_select(dim, torch.from_numpy(reflected(part.shape[dim], want)))
    return part


def accumulated_runs(
    views: Sequence[SceneView], *, temperatures: Sequence[float], how: Merge, refiners: Sequence[Refiners]
) -> list[StageRun]:
    """Return the refining stages of runs over scenes, each with the result of the coarser stages as its field.

    Args:
        views: The fields of the scenes.
        temperatures: The temperatures of O, coarsest scale first.
        how: The way in which the stages below merge.
        refiners: Refiners of each scene.
    """
    steps = []
    for view, mine in zip(views, refiners, strict=True):
        field = starts(view, temperatures)
        for index in range(1, len(view.stages)):
            step = StageRun(view=view, index=index, field=field, temperature=temperatures[index])
            steps.append(step)
            if index + 1 < len(view.stages):
                field = Previous(logs=merged_field(step, how=how, refiners=mine), stage=step.stage, temperature=1.0)
    return steps


def direct_runs(views: Sequence[SceneView], *, temperatures: Sequence[float]) -> list[StageRun]:
    """Return the refining stages over O of the coarsest stage, as the published program trains refiners."""
    return [
        StageRun(view=view, index=index, field=starts(view, temperatures), temperature=temperatures[index])
        for view in views
        for index in range(1, len(view.stages))
    ]


@dataclass(frozen=True, kw_only=True, eq=False)
class Ending:
    """The scores of runs over labelled scenes."""

    miou: float
    """The mean IoU at the finest scale's canvas, pooled over the scenes, 0 to 1."""
    fits: tuple[Fit, ...] = ()
    """R's temperatures by refining stage; empty where none were fitted."""


def ending_of(
    views: Sequence[SceneView],
    *,
    temperatures: Sequence[float],
    how: Merge,
    refiners: Sequence[Refiners],
    ignore: int,
    fitting: bool = False,
) -> Ending:
    """Run all stages over scenes and compare the result with their labels.

    Args:
        views: The fields of the scenes.
        temperatures: The temperatures of O, coarsest scale first.
        how: The way in which every stage merges.
        refiners: Refiners of each scene.
        ignore: The label of pixels without a class.
        fitting: Fit a temperature of R at each stage, over all scenes together, which the next stage's Y' then has.
    """
    fields = [starts(view, temperatures) for view in views]
    logs, fits = [view.logs[0] for view in views], []
    for index in range(1, len(views[0].stages)):
        steps = [
            StageRun(view=view, index=index, field=field, temperature=temperatures[index])
            for view, field in zip(views, fields, strict=True)
        ]
        logs = [merged_field(step, how=how, refiners=mine) for step, mine in zip(steps, refiners, strict=True)]
        if fitting:
            fits.append(fit_at(logs, [step.labels for step in steps], ignore=ignore))
        heat = fits[-1].temperature if fitting else 1.0
        if index + 1 < len(views[0].stages):
            fields = [
                Previous(logs=one, stage=step.stage, temperature=heat) for one, step in zip(logs, steps, strict=True)
            ]
    return Ending(miou=mean_iou(logs, [view.labels[-1] for view in views], ignore=ignore), fits=tuple(fits))


def fit_at(logs: Sequence[Field], labels: Sequence[Truth], *, ignore: int) -> Fit:
    """Fit one temperature to fields of one scale."""
    return fit_temperature(*labelled_pixels(logs, labels, ignore=ignore))


def mean_iou(logs: Sequence[Field], labels: Sequence[Truth], *, ignore: int) -> float:
    """Return the mean IoU over the classes that either side has, pooled over fields, 0..1."""
    classes = logs[0].shape[0]
    counts = np.zeros((classes, classes), np.int64)
    for one, truth in zip(logs, labels, strict=True):
        for box in strips(truth.size, classes=classes):
            counts += confusion(one.read(box), truth.read(box), ignore=ignore)
    hits = np.diag(counts)
    union = counts.sum(axis=0) + counts.sum(axis=1) - hits
    return float((hits[union > 0] / union[union > 0]).mean()) if union.any() else 0.0


def confusion(logs: Tensor, truth: NDArray[np.uint8], *, ignore: int) -> NDArray[np.int64]:
    """Return the confusion matrix of one piece, `(true class, predicted class)`."""
    classes = len(logs)
    known = truth != ignore
    pairs = truth[known].astype(np.int32) * classes + logs.argmax(dim=0).numpy()[known]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)

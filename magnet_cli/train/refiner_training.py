"""Training of a refiner and of temperatures, on fields of scenes that the backbone behind them was not trained on."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from magnet_cli.errors import UsageError
from magnet_cli.geometry import Box
from magnet_cli.models.bundle import Bundle, load_bundle
from magnet_cli.models.bundle_writer import read_description, write_bundle
from magnet_cli.models.registry import build_refiner
from magnet_cli.train.backbone_training import keep_text
from magnet_cli.train.destination import real_path, training_folder
from magnet_cli.train.encoder_start import refuse_idle_rate
from magnet_cli.train.folds import scene_views, with_marks
from magnet_cli.train.loop import Files, Trainer, class_weights, counted, seeded
from magnet_cli.train.losses import PixelObjective
from magnet_cli.train.scene_data import refuse_preparation, scenes_for
from magnet_cli.train.scene_fields import short_hash
from magnet_cli.train.snapshots import identity
from magnet_cli.train.stage_runs import Refiners, accumulated_runs, direct_runs, ending_of, fit_at, mean_iou
from magnet_cli.train.unread_keys import NONE, refuse_idle_keys

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from magnet_cli.geometry import Size
    from magnet_cli.options.segment import Merge
    from magnet_cli.train.config import LoopConfig, TrainConfig
    from magnet_cli.train.loop import Message, Progress
    from magnet_cli.train.scene_fields import SceneView
    from magnet_cli.train.stage_runs import Ending, StageRun
    from magnet_cli.train.temperature import Fit

CONFIG_FILE = "train-refiner.toml"
SIDE = 160
"""Rows and columns of the pieces that a refiner learns from."""


@dataclass(frozen=True, kw_only=True)
class FieldSampler:
    """Draws pieces of steps: batch k is a function of the seed and k alone."""

    steps: Sequence[StageRun]
    batch: int
    seed: int
    ignore: int

    def __call__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return O and Y' joined, `(n, 2 * classes, side, side)` float32, and labels `(n, side, side)`."""
        pairs = [self.sample(np.random.default_rng((self.seed, index, item))) for item in range(self.batch)]
        return torch.stack([probs for probs, _ in pairs]), torch.stack([labels for _, labels in pairs])

    def sample(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return one piece, turned and mirrored at random; filled up with ignored pixels where the stage is smaller."""
        step = self.steps[int(rng.integers(len(self.steps)))]
        size = step.labels.size
        rows, columns = min(SIDE, size.height), min(SIDE, size.width)
        y, x = int(rng.integers(size.height - rows + 1)), int(rng.integers(size.width - columns + 1))
        box = Box(x=x, y=y, width=columns, height=rows)
        joined = torch.cat((step.own(box), step.under(box)))
        labels = torch.from_numpy(step.labels.read(box).astype(np.int64))
        pad = (0, SIDE - columns, 0, SIDE - rows)
        joined = torch.nn.functional.pad(joined, pad)
        labels = torch.nn.functional.pad(labels, pad, value=self.ignore)
        turns = int(rng.integers(4))
        joined, labels = joined.rot90(turns, (1, 2)), labels.rot90(turns, (0, 1))
        if rng.integers(2):
            joined, labels = joined.flip(2), labels.flip(1)
        return joined, labels


@dataclass(frozen=True, kw_only=True, eq=False)
class Course:
    """The fitting of refiners to the fields of scenes."""

    bundle: Bundle
    config: TrainConfig
    temperatures: tuple[float, ...]
    """The temperatures of O, coarsest scale first."""
    folder: Path
    """The folder of checkpoints; each course keeps its own below, under a hash of all that it depends on."""
    progress: Progress | None = None

    def fitted(self, views: Sequence[SceneView]) -> Refiners:
        """Return the refiners after the fit to fields of the mean and the rounds on their own output."""
        folds, loop = self.config.folds, self.config.loop
        folder = self.folder / f"refiner-{self.named(views)}"
        refiners = Refiners()
        for number in range(folds.rounds + 1):
            steps = self.steps(views, refiners)
            networks = []
            for place, scale in enumerate(self.served(views)):
                # A refiner of round two begins with the weights of round one, which are nearer to it than random ones.
                start = refiners.networks[place][1] if refiners.networks else None
                files = Files(folder=folder / f"round{number}" / ("all" if scale is None else str(scale)))
                mine = [step for step in steps if scale in (None, step.stage.scale)]
                # The rounds draw different pieces, and go on from each other's weights.
                fitting = replace(loop, seed=loop.seed + number)
                progress = with_marks(self.progress, round=number, **({} if scale is None else {"scale": scale.width}))
                networks.append((scale, self.network(mine, start=start, loop=fitting, files=files, progress=progress)))
            refiners = Refiners(networks=tuple(networks))
        return refiners

    def steps(self, views: Sequence[SceneView], refiners: Refiners) -> list[StageRun]:
        """Return what refiners learn from next: fields of their own, or of the mean where there are none yet."""
        if not self.config.folds.accumulate:
            return direct_runs(views, temperatures=self.temperatures)
        how: Merge = "refiner" if refiners.networks else "mean"
        return accumulated_runs(views, temperatures=self.temperatures, how=how, refiners=[refiners] * len(views))

    def served(self, views: Sequence[SceneView]) -> tuple[Size | None, ...]:
        """Return the scale of each refiner; None serves all."""
        return tuple(stage.scale for stage in views[0].stages[1:]) if self.config.folds.per_scale else (None,)

    def named(self, views: Sequence[SceneView]) -> str:
        """Return a hash of what a course depends on, so that no checkpoint of another one is taken up."""
        config = self.config
        flags = [config.folds.accumulate, config.folds.per_scale, config.data.ignore]
        network = [config.network.architecture, json.dumps(config.network.options, sort_keys=True)]
        loop = identity(config.loop, {})
        # Trainings that were begun before there was this key go on.
        if not config.loop.logit_adjustment:
            del loop["[loop] logit_adjustment"]
        return short_hash([*network, loop, *flags, self.temperatures, *(view.key for view in views)])

    def network(
        self,
        steps: Sequence[StageRun],
        *,
        start: nn.Module | None,
        loop: LoopConfig,
        files: Files,
        progress: Progress | None,
    ) -> nn.Module:
        """Return one refiner with averaged weights, fitted to steps.

        Args:
            steps: The stages whose fields the refiner learns from.
            start: The network with which the fit begins. None begins with initial weights.
            loop: The configuration of the loop.
            files: Checkpoint and log.
            progress: Receives each log line.
        """
        seeded(loop.seed, threads=loop.threads)
        classes, ignore, wanted = len(self.bundle.classes), self.config.data.ignore, self.config.network
        if start is None:
            network = build_refiner(wanted.architecture, classes=classes, options=wanted.options)
        else:
            network = copy.deepcopy(start).requires_grad_(requires_grad=True)
        weights = class_weights(
            counted([step.labels.counts for step in steps], classes=classes, ignore=ignore), balance=loop.balance
        )
        trainer = Trainer(
            network,
            batches=FieldSampler(steps=steps, batch=loop.batch, seed=loop.seed, ignore=ignore),
            config=loop,
            objective=PixelObjective(weights=weights, config=loop, ignore=ignore),
            files=files,
        )
        return trainer.fit(progress=progress).to(trainer.arithmetic.device)


def train_refiner(
    data: Path,
    output: Path,
    config: TrainConfig,
    *,
    message: Message | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Add a refiner and temperatures to a bundle that has a backbone; its defaults stay as they are.

    First the temperatures of O are fitted, because they change the input of a refiner, then the refiner, then its
    temperatures. `metrics.out_of_fold` of bundle.json has the scores on the held-out scenes; without folds they are in
    `metrics.own_scenes`, because the backbone was trained on these scenes.

    Args:
        data: Folder of scenes, or a CSV file; see `DataConfig`.
        output: The bundle's folder.
        config: The whole configuration; `[network]` is the refiner, or "none"; `[folds]` says how its fields are made.
        message: Receives messages about the files of the scenes.
        progress: Receives each log line, those of the folds' backbones first.

    Raises:
        WeightsError: There is no such bundle, or a fold's backbone is of another kind.
        UsageError: The bundle has one scale, so there is nothing to refine; or a fold names an unknown scene; or
            temperatures would change below a refiner that is not trained again.
    """
    config.network.refuse_encoder_weights(trained="a refiner")
    output = real_path(output)
    bundle = load_bundle(str(output))
    check_configuration(bundle, config)
    refuse_idle_keys(config, "refiner")
    with training_folder(output, ".refiner-training", ()) as work:
        folder = work.path
        scenes = scenes_for(bundle, data, config.data, work=folder, output=output, message=message)
        work.depend_on(scenes)
        folds = scene_views(scenes, bundle=bundle, config=config, folder=folder, progress=progress, message=message)
        views = [view for fold in folds for view in fold]
        stages, ignore = views[0].stages, config.data.ignore
        fits = [
            fit_at([view.logs[index] for view in views], [view.labels[index] for view in views], ignore=ignore)
            for index in range(len(stages))
        ]
        given = tuple(bundle.backbone.temperature.at(stage.scale) for stage in stages)
        heat = tuple(fit.temperature for fit in fits) if config.folds.temperatures else given
        course = Course(bundle=bundle, config=config, temperatures=heat, folder=folder, progress=progress)
        refiners, ending = Refiners(), None
        if config.network.architecture != NONE:
            refiners = course.fitted(views)
            ending = course_ending(course, folds, refiners)
        description = read_description(output)
        if config.folds.temperatures:
            description["networks"]["backbone"]["temperature"] = by_scale([stage.scale for stage in stages], fits)
        files = {}
        if ending is not None:
            entries = entries_of(
                refiners, scales=[stage.scale for stage in stages[1:]], fits=ending.fits, config=config
            )
            description["networks"]["refiners"] = entries
            files = {entry["file"]: network for entry, (_, network) in zip(entries, refiners.networks, strict=True)}
        where = "out_of_fold" if config.folds.held_out else "own_scenes"
        scores = merge_scores(views, temperatures=heat, ignore=ignore)
        metrics = description.setdefault("metrics", {})
        for key in ("out_of_fold", "own_scenes"):
            # Scores of an earlier training of this bundle do not hold any more.
            metrics.pop(key, None)
        metrics[where] = score_report(views, config=config, fits=fits, ending=ending, scores=scores)
        work.refuse_change()
        bundle = write_bundle(output, description, files, dtype=torch.float32)
        keep_text(output / CONFIG_FILE, config.text)
        return bundle


def check_configuration(bundle: Bundle, config: TrainConfig) -> None:
    """Refuse a configuration that cannot be trained, before any work."""
    refuse_preparation(bundle)
    if config.loop.validate_every:
        raise UsageError(
            "a refiner is not validated while it is fitted",
            value=f"validate_every = {config.loop.validate_every}",
            advice="Leave the key out of [loop]; [folds] cross = true scores a refiner on scenes that are new to it",
        )
    if config.network.architecture == NONE:
        if not config.folds.temperatures:
            raise UsageError(
                "neither a refiner nor temperatures are asked for",
                value=f'architecture = "{NONE}"',
                advice="Choose an architecture for the refiner, or ask for temperatures",
            )
        if bundle.refiners:
            raise UsageError(
                "other temperatures change what the bundle's refiner sees, so it must be trained again",
                file=bundle.folder,
                advice="Name its architecture in [network], or take networks.refiners out of bundle.json",
            )
        return
    if len(bundle.scales) == 1:
        raise UsageError(
            "a refiner needs a bundle of two or more scales",
            file=bundle.folder,
            advice="Train the backbone at two scales or more",
        )
    network = build_refiner(config.network.architecture, classes=len(bundle.classes), options=config.network.options)
    refuse_idle_rate(network, config.loop)


def course_ending(course: Course, folds: Sequence[Sequence[SceneView]], refiners: Refiners) -> Ending:
    """Return how runs with a refiner end, and its temperatures: on the scenes that it learnt from, or across folds."""
    config = course.config.folds
    views = [view for fold in folds for view in fold]
    whose = [refiners] * len(views)
    if config.cross:
        whose = []
        for index, fold in enumerate(folds):
            others = [view for number, other in enumerate(folds) if number != index for view in other]
            whose += [course.fitted(others)] * len(fold)
    return ending_of(
        views,
        temperatures=course.temperatures,
        how="refiner",
        refiners=whose,
        ignore=course.config.data.ignore,
        fitting=config.temperatures,
    )


def by_scale(scales: Sequence[Size], fits: Sequence[Fit]) -> dict[str, float]:
    """Return temperatures as bundle.json writes them."""
    return {str(scale): fit.temperature for scale, fit in zip(scales, fits, strict=True)}


def entries_of(
    refiners: Refiners, *, scales: Sequence[Size], fits: Sequence[Fit], config: TrainConfig
) -> list[dict[str, Any]]:
    """Return refiners as bundle.json describes them.

    Args:
        refiners: The fitted refiners.
        scales: Refining scales, coarsest first.
        fits: Temperatures at these scales; empty for 1.
        config: Names the network.
    """
    heats = by_scale(scales, fits) if fits else {}
    return [
        {
            "scale": None if scale is None else {"width": scale.width, "height": scale.height},
            "architecture": config.network.architecture,
            "options": config.network.options,
            "input": "own-first",
            "temperature": (heats or 1.0) if scale is None else heats.get(str(scale), 1.0),
            "file": "refiner.safetensors" if scale is None else f"refiner-{scale}.safetensors",
        }
        for scale, _ in refiners.networks
    ]


def merge_scores(views: Sequence[SceneView], *, temperatures: Sequence[float], ignore: int) -> dict[str, float]:
    """Return the mean IoU of methods that need no refiner; that of merges is also given without temperatures."""
    none = [Refiners()] * len(views)
    found = {
        "downsample": mean_iou([view.logs[0] for view in views], [view.labels[0] for view in views], ignore=ignore),
        "patch": mean_iou([view.logs[-1] for view in views], [view.labels[-1] for view in views], ignore=ignore),
    }
    ways: tuple[Merge, ...] = ("mean", "certainty")
    for how in ways:
        for suffix, heat in (("", temperatures), ("_untempered", [1.0] * len(temperatures))):
            if len(views[0].stages) > 1:
                ending = ending_of(views, temperatures=heat, how=how, refiners=none, ignore=ignore)
                found[how + suffix] = ending.miou
    return found


def score_report(
    views: Sequence[SceneView],
    *,
    config: TrainConfig,
    fits: Sequence[Fit],
    ending: Ending | None,
    scores: dict[str, float],
) -> dict[str, Any]:
    """Return the entries of bundle.json about the held-out scenes; mean IoU in percent."""
    stages, applied = views[0].stages, config.folds.temperatures
    said: dict[str, Any] = {
        "scenes": [view.name for view in views],
        "protocol": f"whole scenes, margin {stages[0].margin}, all points, mIoU at the canvas of each method's last "
        "stage in percent, negative log likelihood in nats a pixel"
        + ("; temperatures of O fitted on these same scenes" if applied else ""),
        "backbone": {str(stage.scale): fit.describe(applied=applied) for stage, fit in zip(stages, fits, strict=True)},
    }
    if ending is not None:
        scores = {**scores, "refiner": ending.miou}
        said["refiner"] = {
            str(stage.scale): fit.describe() for stage, fit in zip(stages[1:], ending.fits, strict=bool(ending.fits))
        }
        said["refiner_scored_by"] = "refiners of the other folds" if config.folds.cross else "the refiner itself"
    return {**said, "miou": {key: round(100 * value, 2) for key, value in scores.items()}}

"""Training of a selector for a bundle that has a backbone: by the paper's label rule, or by what windows gain."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Unpack, cast

import numpy as np
import torch

from magnet_cli.errors import UsageError
from magnet_cli.models.bundle import Bundle, load_bundle
from magnet_cli.models.bundle_writer import read_description, write_bundle
from magnet_cli.models.registry import build_selector
from magnet_cli.models.weights_file import fill
from magnet_cli.train.backbone_training import Recipe, check, keep_text
from magnet_cli.train.destination import real_path, training_folder
from magnet_cli.train.encoder_start import refuse_idle_rate
from magnet_cli.train.folds import scene_views
from magnet_cli.train.gains import PairSampler, census, pairs_of
from magnet_cli.train.loop import Files, Trainer, seeded
from magnet_cli.train.proposals import FieldObjective, GainObjective, SelectorObjective
from magnet_cli.train.scene_data import refuse_preparation, scenes_for, split_scenes
from magnet_cli.train.unread_keys import refuse_idle_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from magnet_cli.geometry import Size
    from magnet_cli.models.architectures.ppn import PatchProposalNetwork
    from magnet_cli.train.config import TrainConfig
    from magnet_cli.train.gains import GainRow, WindowPair
    from magnet_cli.train.loop import Message, Progress, Watch
    from magnet_cli.train.losses import Objective
    from magnet_cli.train.scenes import LabelledScene

SELECTOR_FILE = "selector.safetensors"
CONFIG_FILE = "train-selector.toml"
MEASURED = 16
"""Number of batches on which the mean score of whole windows is measured."""
DIGITS = 6
"""Number of decimals of scores and gains in bundle.json."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """The batches, the objective and the facts of a selector's training."""

    batches: Callable[[int], tuple[Tensor, Tensor]]
    objective: Objective
    about: Mapping[str, Mapping[str, object]]
    """The facts that a checkpoint is compared by, as `Trainer` takes them."""
    metrics: Mapping[str, object] = field(default_factory=dict)
    """The entries of the training in bundle.json."""


def train_selector(
    data: Path, output: Path, config: TrainConfig, *, message: Message | None = None, **watch: Unpack[Watch]
) -> Bundle | None:
    """Add a selector to a bundle that has a backbone, which stays as it is.

    An interrupted training goes on from the last checkpoint.

    - Labels by the paper's rule, without folds: an image is a window of the bundle's coarsest scale as its own backbone
      sees it. With folds: a window of any scale but the finest, and what a run that computes every window comes to
      there, by backbones that have not seen the scene. Where P is compared with a constant, that is the mean of G.
    - Labels by gain: the same windows, and how much better the windows of the next scale make the mask in their places.
      A score is negative where more is expected to turn right than wrong.

    Args:
        data: Folder of scenes, or a CSV file; see `DataConfig`.
        output: The bundle's folder.
        config: The whole configuration; `[network]` is the selector, `[selector]` its labels, and `[folds]` says how
            fields are made.
        message: Receives messages about the files of the scenes.
        watch: Functions that follow the training, and the iteration to stop at.

    Returns:
        The bundle; None where `until` came first.

    Raises:
        WeightsError: There is no such bundle, or no such selector, or a fold's backbone is of another kind.
        UsageError: The bundle has a local branch that was trained with its own selector; cells are not equal; there are
            no pairs of scales or held-out scenes to learn a gain from; or no window changes anything.
    """
    config.network.refuse_encoder_weights(trained="a selector")
    output = real_path(output)
    bundle = load_bundle(str(output))
    check_configuration(bundle, config)
    refuse_idle_keys(config, "selector")
    with training_folder(output, ".selector-training", (SELECTOR_FILE,)) as work:
        files = Files(folder=work.path)
        scenes = scenes_for(bundle, data, config.data, work=files.folder, output=output, message=message)
        work.depend_on(scenes)
        trainer, lesson = selector_trainer(
            bundle, config, scenes, files=files, progress=watch.get("progress"), message=message
        )
        network = trainer.fit(**watch)
        if not trainer.done:
            return None
        options = dict(config.network.options)
        if config.selector.labels == "paper" and options.get("against") == "constant":
            selector = cast("PatchProposalNetwork", network)
            options["constant"] = mean_score(selector, lesson, bands=len(bundle.input.bands))
        description = read_description(output)
        description["networks"]["selector"] = {
            "architecture": config.network.architecture,
            "options": options,
            "file": SELECTOR_FILE,
        }
        description.setdefault("metrics", {})["selector"] = dict(lesson.metrics)
        work.refuse_change()
        bundle = write_bundle(output, description, {SELECTOR_FILE: network}, dtype=torch.float32)
        keep_text(output / CONFIG_FILE, config.text)
        return bundle


def selector_trainer(
    bundle: Bundle,
    config: TrainConfig,
    scenes: Sequence[LabelledScene],
    *,
    files: Files,
    progress: Progress | None = None,
    message: Message | None = None,
) -> tuple[Trainer, Lesson]:
    """Return what fits a selector to windows of scenes, and what it learns from.

    Raises:
        SourceError: A scene does not fit the bundle.
        UsageError: The bundle is of a kind that cannot be trained, or there is nothing to learn; or a name of
            `[data] validation` is unknown.
    """
    check(scenes, Recipe(bundle=bundle, data=config.data, loop=config.loop))
    learnt, _ = split_scenes(scenes, config.data)
    pairs: list[WindowPair] = []
    if config.folds.held_out:
        folds = scene_views(
            scenes, bundle=bundle, config=config, folder=files.folder, progress=progress, message=message
        )
        views = [view for fold in folds for view in fold]
        pairs = pairs_of(views, scenes, bundle=bundle, ignore=config.data.ignore)
    seeded(config.loop.seed, threads=config.loop.threads)
    network = selector_of(bundle, config)
    if not pairs:
        lesson = own_lesson(bundle, config, learnt, cells=network.cells)
    elif config.selector.labels == "paper":
        lesson = field_lesson(bundle, config, pairs, cells=network.cells)
    else:
        rows = census(pairs)
        lesson = gain_lesson(bundle, config, pairs, rows)
        initialise_scores(network, rows)
    trainer = Trainer(
        network, batches=lesson.batches, config=config.loop, objective=lesson.objective, files=files, about=lesson.about
    )
    if isinstance(lesson.objective, SelectorObjective):
        lesson.objective.backbone.to(trainer.arithmetic.device)
    return trainer, lesson


def selector_of(bundle: Bundle, config: TrainConfig) -> PatchProposalNetwork:
    """Return the selector that a configuration names, as it is trained, with initial weights.

    The paper's rule compares a cell with its own image; a constant takes the image's place afterwards.

    Raises:
        WeightsError: There is no such selector.
    """
    options = dict(config.network.options)
    if config.selector.labels == "paper":
        options.pop("against", None)
    bands, classes = len(bundle.input.bands), len(bundle.classes)
    return build_selector(config.network.architecture, bands=bands, classes=classes, options=options)


def own_lesson(bundle: Bundle, config: TrainConfig, scenes: Sequence[LabelledScene], *, cells: int) -> Lesson:
    """Return the paper's labels, as the bundle's backbone gives them at its coarsest scale."""
    whole = dataclasses.replace(bundle, scales=(coarsest(bundle),))
    recipe = Recipe(bundle=whole, data=config.data, loop=config.loop)
    backbone = recipe.network()
    fill(backbone, spec=bundle.backbone, folder=bundle.folder)
    ignore, minimum = config.data.ignore, config.selector.minimum
    return Lesson(
        batches=recipe.sampler(scenes),
        objective=SelectorObjective(backbone=backbone, cells=cells, ignore=ignore, minimum=minimum),
        about={**recipe.about(scenes, ()), **about(config), "backbone": {"sha256": bundle.backbone.sha256}},
        metrics={"labels": "paper", "scenes": [scene.name for scene in scenes]},
    )


def field_lesson(bundle: Bundle, config: TrainConfig, pairs: Sequence[WindowPair], *, cells: int) -> Lesson:
    """Return the lesson of the paper's labels, by backbones that were not trained on the scenes."""
    bands, ignore, minimum = len(bundle.input.bands), config.data.ignore, config.selector.minimum
    return Lesson(
        batches=sampler(config, pairs, gains=False),
        objective=FieldObjective(bands=bands, cells=cells, ignore=ignore, minimum=minimum),
        about={**about(config), "pairs": about_pairs(pairs)},
        metrics={"labels": "paper", "scenes": scene_names(pairs)},
    )


def gain_lesson(bundle: Bundle, config: TrainConfig, pairs: Sequence[WindowPair], rows: Sequence[GainRow]) -> Lesson:
    """Return the lesson whose targets are the gains of windows.

    Raises:
        UsageError: No window gains or loses anything.
    """
    mean, deviation = spread(rows)
    if not deviation:
        raise UsageError(
            "no window of the held-out scenes changes the mask, so there is nothing to learn",
            advice="Hold out other scenes, or train the refiner for longer",
        )
    return Lesson(
        batches=sampler(config, pairs, gains=True),
        objective=GainObjective(bands=len(bundle.input.bands)),
        about={**about(config), "pairs": about_pairs(pairs)},
        metrics={
            "labels": "gain",
            "scenes": scene_names(pairs),
            "windows": len(rows),
            "gain_mean": round(mean, DIGITS),
            "gain_deviation": round(deviation, DIGITS),
        },
    )


def sampler(config: TrainConfig, pairs: Sequence[WindowPair], *, gains: bool) -> PairSampler:
    """Return the sampler of windows of a configuration."""
    loop = config.loop
    return PairSampler(pairs=pairs, batch=loop.batch, seed=loop.seed, colour=config.data.colour, gains=gains)


def about(config: TrainConfig) -> dict[str, dict[str, object]]:
    """Return the facts that identify a selector's training, for the `about` of a `Trainer`."""
    network = {"architecture": config.network.architecture, "options": dict(config.network.options)}
    return {"network": network, "selector": dataclasses.asdict(config.selector)}


def about_pairs(pairs: Sequence[WindowPair]) -> dict[str, object]:
    """Return the facts that identify the fields of a selector's training."""
    steps = [(pair.step.view.name, pair.step.view.key, str(pair.second.scale)) for pair in pairs]
    heats = [(pair.step.field.temperature, pair.step.temperature) for pair in pairs]
    return {"steps": steps, "temperatures": heats}


def scene_names(pairs: Sequence[WindowPair]) -> list[str]:
    """Return the names of the scenes, sorted."""
    return sorted({pair.scene.name for pair in pairs})


def spread(rows: Sequence[GainRow]) -> tuple[float, float]:
    """Return the mean and deviation of gains, each window counting by its labelled pixels."""
    if not rows:
        return 0.0, 0.0
    gains, weights = np.array([row.gain for row in rows]), np.array([row.labelled for row in rows])
    mean = float(np.average(gains, weights=weights))
    return mean, float(np.sqrt(np.average((gains - mean) ** 2, weights=weights)))


def initialise_scores(network: PatchProposalNetwork, rows: Sequence[GainRow]) -> None:
    """Let a selector's scores begin as minus the gain, in deviations, by the best line from mean uncertainty.

    One that does not see the field begins with the mean gain.

    Args:
        network: The selector with initial weights.
        rows: The rows of the held-out scenes, not all alike.
    """
    # Least squares with weights: each row is multiplied by the root of its weight.
    root = np.sqrt([row.labelled for row in rows])
    columns = np.array([(row.unsure, 1.0) for row in rows]) * root[:, None]
    gains = np.array([row.gain for row in rows]) / spread(rows)[1]
    if not network.sees_field:
        network.score.bias.data.fill_(-float(np.average(gains, weights=root**2)))
        return
    slope, height = np.linalg.lstsq(columns, gains * root, rcond=None)[0]
    network.score.weight.data[:, -1] = -float(slope)
    network.score.bias.data.fill_(-float(height))


@torch.inference_mode()
def mean_score(network: PatchProposalNetwork, lesson: Lesson, *, bands: int) -> float:
    """Return the mean of G over windows as they are drawn for training."""
    found = []
    for index in range(MEASURED):
        inputs, _ = lesson.batches(index)
        found.append(network.score_map(inputs[:, :bands], inputs[:, bands:]).mean())
    return round(float(torch.stack(found).mean()), DIGITS)


def coarsest(bundle: Bundle) -> Size:
    """Return the scale of a bundle's largest windows."""
    return max(bundle.scales, key=lambda scale: scale.pixels)


def check_configuration(bundle: Bundle, config: TrainConfig) -> None:
    """Refuse a configuration that cannot be trained, before any work."""
    refuse_preparation(bundle)
    options, gain = config.network.options, config.selector.labels == "gain"
    field, held_out = options.get("sees") == "image+field", bool(config.folds.held_out)
    for holds, rule, value, advice in (
        (
            not config.loop.validate_every,
            "a selector is not validated while it is fitted",
            f"validate_every = {config.loop.validate_every}",
            "Leave the key out of [loop]",
        ),
        (
            not config.loop.logit_adjustment,
            "[loop] logit_adjustment is for networks that segment, and a selector learns from windows",
            f"logit_adjustment = {config.loop.logit_adjustment:g}",
            "Leave the key out of [loop]",
        ),
        (
            bundle.local is None,
            "the bundle's local branch was trained with its own selector",
            bundle.folder,
            "Train both with 'magnet train grnet', or take networks.local out of bundle.json",
        ),
        (
            held_out or not (gain or field),
            "a gain and a field must be of scenes that the backbone has not seen",
            "no held_out",
            'Name them: [folds] held_out = [["a"], ["b"]]; a backbone is fitted for each fold, or given in backbones',
        ),
        (
            len(bundle.scales) > 1 or not held_out,
            "windows of a bundle of one scale have no next stage",
            bundle.folder,
            "Leave out [folds] and take labels = paper, or a bundle of two or more scales",
        ),
        (
            not gain or options.get("against") == "constant",
            "labels = gain need a selector that compares with a constant",
            options.get("against", "image"),
            'Add against = "constant" to the options of [network]',
        ),
        (
            gain or "constant" not in options,
            "labels = paper measure the constant themselves",
            options.get("constant"),
            "Leave the key out of the options of [network]",
        ),
        (
            gain or "cells" in options,
            "[network] options must say how many cells a side",
            "no cells",
            "Add options = { cells = 4 }",
        ),
    ):
        if not holds:
            raise UsageError(rule, value=value, advice=advice)
    network = selector_of(bundle, config)
    refuse_idle_rate(network, config.loop)
    if not gain:
        refuse_unequal(bundle.input.size, cells=network.cells)


def refuse_unequal(size: Size, *, cells: int) -> None:
    """Check that an input can be cut into equal cells, so that cells of the map and of the image are the same places.

    Raises:
        UsageError: The input cannot be cut so.
    """
    if size.width % cells or size.height % cells:
        raise UsageError(
            f"an input must be a multiple of its {cells} cells a side",
            value=size,
            advice="Choose an input size that is a multiple of the cells",
        )

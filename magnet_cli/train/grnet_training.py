"""Training of a GRNet: labelled scenes to a bundle, its parts taking turns."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Unpack, cast, get_args

import torch

from magnet_cli.arithmetic.grnet_stages import CellLayout, Variant
from magnet_cli.errors import UsageError
from magnet_cli.geometry import Size
from magnet_cli.images import InputStates
from magnet_cli.models.bundle_writer import write_bundle
from magnet_cli.models.registry import build_local, build_selector
from magnet_cli.train.backbone_training import (
    BACKBONE_FILE,
    CONFIG_FILE,
    Recipe,
    bundle_description,
    bundle_of,
    check,
    check_classes,
    keep_text,
    with_origin,
)
from magnet_cli.train.destination import real_path, training_folder
from magnet_cli.train.encoder_start import EncoderStart
from magnet_cli.train.grnet_parts import GRNet, TurnObjective, turn_at
from magnet_cli.train.loop import Files, Trainer, class_weights, counted, seeded
from magnet_cli.train.scene_data import refuse_range, scenes_for, split_scenes
from magnet_cli.train.selector_training import SELECTOR_FILE, refuse_unequal
from magnet_cli.train.unread_keys import refuse_idle_keys
from magnet_cli.train.validation import Validator

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from magnet_cli.arithmetic.grnet_stages import Fusion
    from magnet_cli.models.architectures.grnet import LocalBranch
    from magnet_cli.models.bundle import Bundle
    from magnet_cli.models.encoder_weights import EncoderOrigin
    from magnet_cli.train.config import GRNetConfig, NetworkConfig, TrainConfig
    from magnet_cli.train.grnet_parts import Turn
    from magnet_cli.train.log import Line
    from magnet_cli.train.loop import Message, Progress, Watch
    from magnet_cli.train.scenes import LabelledScene

LOCAL_FILE = "local.safetensors"
SHARES = "looked_at"
"""Key of the log for the mean share of refined cells."""


class AlternatingTrainer(Trainer):
    """Fits a GRNet, whose parts take turns; the log has each turn's loss and the share of refined cells.

    Weights whose turn it is not get no gradient, so the optimizer changes neither them nor its state for them.

    Args:
        network: The GRNet that is fitted.
        turns: The lengths of the turns.
        objectives: The objective of each turn.
        others: The arguments of `Trainer`.
    """

    def __init__(
        self, network: GRNet, *, turns: GRNetConfig, objectives: dict[Turn, TurnObjective], **others: Any
    ) -> None:
        super().__init__(network, objective=objectives["alone"], **others)
        self.turns, self.objectives = turns, objectives

    def step(self, inputs: Tensor, labels: Tensor) -> float:
        """Run one iteration of the part whose turn it is, and return its loss."""
        turn = turn_at(self.iteration, self.turns)
        self.objective = self.objectives[turn]
        loss = super().step(inputs, labels)
        self.unlogged[f"loss_{turn}"].append(loss)
        shares = self.objectives["refining"].shares
        self.unlogged[SHARES] += shares
        shares.clear()
        return loss

    def compare(self, progress: Progress | None) -> None:
        """Validate the network; while the global branch learns alone, there is nothing to compare."""
        if turn_at(self.iteration - 1, self.turns) != "alone":
            super().compare(progress)

    def log(self, line: Line, progress: Progress | None) -> None:
        """Log a line; one with a loss gets the mean loss of each turn and the mean share of refined cells, too."""
        if "loss" in line:
            found = {key: values for key, values in self.unlogged.items() if key != "loss" and values}
            line = {**line, **{key: round(sum(values) / len(values), 5) for key, values in found.items()}}
            for values in found.values():
                values.clear()
        super().log(line, progress)


def grnet_description(config: TrainConfig, *, folder: Path) -> dict[str, Any]:
    """Return the description of the bundle that a configuration leads to, checked before any work.

    Raises:
        WeightsError: A key is missing, unknown or wrong.
        UsageError: The bundle has several scales, its input cannot be cut into equal cells, or the training would end
            before the turn of the local branch.
    """
    description = bundle_description(config, folder=folder)
    grnet = config.grnet
    shared = {"cells": grnet.cells}
    networks = description["networks"]
    if grnet.variant == "selected":
        networks["selector"] = network_entry(grnet.selector, SELECTOR_FILE, **shared)
    networks["local"] = network_entry(grnet.local, LOCAL_FILE, **shared, fusion=grnet.fusion)
    bundle = bundle_of(description, folder=folder)
    # The global branch always gets a whole image, at one size.
    if len(bundle.scales) != 1:
        raise UsageError(
            "a GRNet has one scale, that of a whole image",
            value=", ".join(map(str, bundle.scales)),
            advice="Give one scale in the configuration",
        )
    refuse_unequal(bundle.input.size, cells=grnet.cells)
    before = grnet.alone + (grnet.selecting if grnet.variant == "selected" else 0)
    if config.loop.iterations <= before:
        raise UsageError(
            f"the local branch of a GRNet is trained last, so that a training needs more than {before} iterations",
            value=f"[loop] iterations = {config.loop.iterations}",
            advice="Raise [loop] iterations, which counts those of all parts, or lower alone and selecting in [grnet]",
        )
    return description


def network_entry(network: NetworkConfig, file: str, **given: object) -> dict[str, Any]:
    """Return a network of a GRNet as bundle.json describes it, before its file is there."""
    options = {**network.options, **given}
    return {"architecture": network.architecture, "options": options, "file": file, "sha256": "0" * 64}


def alternating_trainer(
    bundle: Bundle,
    config: TrainConfig,
    scenes: Sequence[LabelledScene],
    validation: Sequence[LabelledScene],
    *,
    files: Files | None,
) -> AlternatingTrainer:
    """Return what fits a bundle's networks to scenes.

    Raises:
        SourceError: A scene does not fit the bundle.
        UsageError: The configuration cannot be trained.
        WeightsError: A network is unknown, or has other options.
    """
    start = EncoderStart(words=config.network.encoder_weights, folder=config.folder)
    recipe = Recipe(bundle=bundle, data=config.data, loop=config.loop, start=start)
    check([*scenes, *validation], recipe)
    loop, ignore = config.loop, config.data.ignore
    seeded(loop.seed, threads=loop.threads)
    network = build_grnet(recipe, config.grnet)
    counts = counted([scene.labels.counts for scene in scenes], classes=len(bundle.classes), ignore=ignore)
    weights = class_weights(counts, balance=loop.balance)
    turns: tuple[Turn, ...] = ("alone", "selecting", "refining")
    seen = bundle_of_cells(bundle, cells=config.grnet.cells)
    return AlternatingTrainer(
        network,
        turns=config.grnet,
        objectives={turn: TurnObjective(config=loop, weights=weights, ignore=ignore, turn=turn) for turn in turns},
        batches=replace(recipe, bundle=seen).sampler(scenes),
        config=loop,
        files=files,
        validate=Validator(scenes=validation, bundle=seen, ignore=ignore) if validation else None,
        about={**recipe.about(scenes, validation), "grnet": asdict(config.grnet)},
    )


def build_grnet(recipe: Recipe, config: GRNetConfig) -> GRNet:
    """Build a GRNet with initial weights. Its cells have the size that the image has for the global branch."""
    bundle = recipe.bundle
    bands, classes, size = len(bundle.input.bands), len(bundle.classes), bundle.input.size
    layout = CellLayout.of(cast("Fusion", config.fusion), side=config.cells, overview=size, patch=size)
    backbone = recipe.network()
    options = {**config.selector.options, "cells": config.cells}
    selector = build_selector(config.selector.architecture, bands=bands, classes=classes, options=options)
    local, _ = local_branch(recipe, config)
    return GRNet(
        backbone=backbone, selector=selector, local=local, layout=layout, variant=cast("Variant", config.variant)
    )


def local_branch(recipe: Recipe, config: GRNetConfig) -> tuple[LocalBranch, EncoderOrigin | None]:
    """Build a local branch, and return it with the origin of its encoder's first weights, None where they are random.

    Raises:
        UsageError: The branch has no encoder that could begin with the weights.
        WeightsError: The weights are missing, or do not fit.
    """
    bundle = recipe.bundle
    options = {**config.local.options, "cells": config.cells, "fusion": config.fusion}
    bands, classes = len(bundle.input.bands), len(bundle.classes)
    local = build_local(config.local.architecture, classes=classes, bands=bands, options=options)
    return local, replace(recipe.start, words=config.local.encoder_weights).fill(local)


def bundle_of_cells(bundle: Bundle, *, cells: int) -> Bundle:
    """Return the bundle as if its input held every cell at the size that the refinement branch sees one at."""
    size = Size(width=cells * bundle.input.size.width, height=cells * bundle.input.size.height)
    return replace(bundle, input=replace(bundle.input, size=size))


def variant_scores(network: nn.Module, trainer: AlternatingTrainer) -> dict[str, float]:
    """Return the mean IoU on the held-out scenes in percent, at the cells' resolution, of each variant of the paper.

    The paper trains each for itself (table 2); here they are what one training can be run as. `selected` is left out
    where no selector was trained.
    """
    grnet, found = cast("GRNet", network), {}
    own = grnet.variant
    for variant in get_args(Variant):
        if trainer.validate is not None and (variant, own) != ("selected", "all"):
            grnet.variant = variant
            score = trainer.validate(grnet.to(trainer.arithmetic.device), trainer.arithmetic)
            found[variant] = round(100 * score.miou, 2)
    grnet.variant = own
    grnet.cpu()
    return found


def train_grnet(
    data: Path, output: Path, config: TrainConfig, *, message: Message | None = None, **watch: Unpack[Watch]
) -> Bundle | None:
    """Train a GRNet and write its bundle; an interrupted training goes on from the last checkpoint.

    Args:
        data: Folder of scenes, or a CSV file; see `DataConfig`.
        output: The bundle's folder.
        config: The whole configuration; `[network]` is the global branch, `[grnet]` the rest.
        message: Receives messages about the files of the scenes.
        watch: Functions that follow the training, and the iteration to stop at.

    Returns:
        The bundle, whose metrics compare the variants where there are held-out scenes; None where `until` came first.
    """
    refuse_idle_keys(config, "grnet")
    output = real_path(output)
    description = grnet_description(config, folder=output)
    bundle = bundle_of(description, folder=output)
    words = (config.network.encoder_weights, config.grnet.local.encoder_weights)
    weights = InputStates.joined(EncoderStart(words=each, folder=config.folder).states() for each in words)
    # Weights that are missing are refused here, before the scenes are decoded.
    start = EncoderStart(words=config.network.encoder_weights, folder=config.folder)
    recipe = Recipe(bundle=bundle, data=config.data, loop=config.loop, start=start)
    origins = recipe.origin(), local_branch(recipe, config.grnet)[1]
    refuse_range(bundle.input.range)
    with training_folder(output, ".training", (BACKBONE_FILE, LOCAL_FILE, SELECTOR_FILE), replaces=True) as work:
        files = Files(folder=work.path)
        read = scenes_for(bundle, data, config.data, work=files.folder, output=output, message=message)
        scenes, validation = split_scenes(read, config.data)
        work.depend_on([*scenes, *validation], weights=weights)
        note = check_classes(scenes, bundle, ignore=config.data.ignore)
        if note is not None and message is not None:
            message(note)
        trainer = alternating_trainer(bundle, config, scenes, validation, files=files)
        network = trainer.fit(**watch)
        if not trainer.done:
            return None
        if trainer.validate is not None:
            description["metrics"] = {**description["metrics"], "variants": variant_scores(network, trainer)}
        description = with_origin(description, *origins)
        parts = dict(network.named_children())
        written = {BACKBONE_FILE: parts["backbone"], LOCAL_FILE: parts["local"]}
        if config.grnet.variant == "selected":
            written[SELECTOR_FILE] = parts["selector"]
        work.refuse_change()
        bundle = write_bundle(output, description, written, dtype=torch.float16)
        keep_text(output / CONFIG_FILE, config.text)
        return bundle

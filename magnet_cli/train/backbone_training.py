"""Training of a backbone: labelled scenes to a bundle."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch

from magnet_cli.errors import SourceError, UsageError
from magnet_cli.images.protocol import NODATA
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.bundle_writer import read_description, weights_digest, write_bundle
from magnet_cli.models.description import CARD, DESCRIPTION, SCHEMA, segmentation_bundle
from magnet_cli.models.registry import build_backbone
from magnet_cli.models.schema import parse_object
from magnet_cli.system import durable, regular_files
from magnet_cli.train.batches import BatchSampler
from magnet_cli.train.destination import real_path, refuse_lost_networks, training_folder
from magnet_cli.train.encoder_start import EncoderStart, refuse_idle_rate
from magnet_cli.train.evaluation_page import EVALUATION_FILE, evaluation_page, score_held_out
from magnet_cli.train.loop import Files, Trainer, class_weights, counted, seeded
from magnet_cli.train.losses import PixelObjective
from magnet_cli.train.scene_data import refuse_preparation, refuse_range, scenes_for, split_scenes
from magnet_cli.train.training_card import card
from magnet_cli.train.unread_keys import refuse_idle_keys
from magnet_cli.train.validation import Validator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import nn

    from magnet_cli.models.bundle import Bundle
    from magnet_cli.models.encoder_weights import EncoderOrigin
    from magnet_cli.train.config import DataConfig, LoopConfig, TrainConfig
    from magnet_cli.train.loop import Each, Message, Progress, Watch
    from magnet_cli.train.scenes import LabelledScene

BACKBONE_FILE = "backbone.safetensors"
CONFIG_FILE = "train.toml"
DTYPE = torch.float16
"""The dtype of a bundle's weights on disk, which take half the space of float32."""
RGB = 3
ENCODER = "encoder: "
"""What comes before the origin of an encoder's first weights in the source of a bundle."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A bundle, its data, its loop and the start of its encoder: all that a training is made of but the scenes."""

    bundle: Bundle
    data: DataConfig
    loop: LoopConfig
    start: EncoderStart = field(default_factory=EncoderStart)
    """The weights that the encoder begins with."""

    def network(self) -> nn.Module:
        """Return the bundle's backbone with initial weights, those of the encoder as `start` says.

        Raises:
            WeightsError: The encoder's weights are not there, or do not fit.
        """
        network = self._built()
        self.start.fill(network)
        return network

    def origin(self) -> EncoderOrigin | None:
        """Return where the encoder's first weights come from; None where they are random.

        Raises:
            WeightsError: The weights are missing, or do not fit.
        """
        return self.start.fill(self._built()) if self.start.words else None

    def refuse_idle_rate(self) -> None:
        """Refuse a rate of the encoder where the bundle's backbone has none, before any work.

        Raises:
            UsageError: The loop states one.
        """
        # On the device meta a network has shapes and takes no memory.
        with torch.device("meta"):
            refuse_idle_rate(self._built(), self.loop)

    def _built(self) -> nn.Module:
        return build_backbone(
            self.bundle.backbone.architecture,
            classes=self.bundle.logits,
            bands=len(self.bundle.input.bands),
            options=self.bundle.backbone.options,
        )

    def sampler(self, scenes: Sequence[LabelledScene]) -> BatchSampler:
        """Return the batches of windows at the bundle's scales."""
        spec = self.bundle.input
        return BatchSampler(
            scenes=scenes,
            size=spec.size,
            scales=self.bundle.scales,
            mean=spec.mean,
            std=spec.std,
            span=spec.range,
            jitter=self.data.jitter,
            colour=self.data.colour,
            rare=self.data.rare,
            border=self.data.border,
            ignore=self.data.ignore,
            batch=self.loop.batch,
            seed=self.loop.seed,
        )

    def about(
        self, scenes: Sequence[LabelledScene], validation: Sequence[LabelledScene]
    ) -> dict[str, dict[str, object]]:
        """Return the facts that identify a training beside its loop: a checkpoint of another training is refused."""
        bundle = self.bundle
        return {
            "network": {
                "architecture": bundle.backbone.architecture,
                "options": dict(bundle.backbone.options),
                "encoder_weights": self.start.words,
            },
            "bundle": {
                "classes": len(bundle.classes),
                "scales": [str(scale) for scale in bundle.scales],
                "input": repr(bundle.input),
            },
            "data": {key: value for key, value in asdict(self.data).items() if key != "memory"},
            "scenes": about_scenes(scenes, validation),
        }


def about_scenes(scenes: Sequence[LabelledScene], validation: Sequence[LabelledScene]) -> dict[str, object]:
    """Return the facts that identify the scenes of a training."""
    return {
        "held": all(scene.held for scene in scenes),
        "training": [(scene.name, scene.digest) for scene in scenes],
        "validation": [(scene.name, scene.digest) for scene in validation],
    }


def bundle_description(config: TrainConfig, *, folder: Path) -> dict[str, Any]:
    """Return the description of the bundle that a configuration leads to, checked before any work.

    Raises:
        WeightsError: A key is missing, unknown or wrong.
        UsageError: Runs of the bundle would prepare colours.
    """
    entry = {
        "architecture": config.network.architecture,
        "options": config.network.options,
        "temperature": 1.0,
        "file": BACKBONE_FILE,
        # The file does not exist before the training ends, and only a whole description can be checked.
        "sha256": "0" * 64,
    }
    networks: dict[str, object] = {"backbone": entry, "refiners": [], "selector": None}
    # The user's table comes after the defaults and replaces them, and the networks come last: they are not the user's
    # to set.
    description = {"schema": SCHEMA, "resolution": None, "metrics": {}, **config.bundle, "networks": networks}
    pixels = description.get("input")
    if isinstance(pixels, dict) and config.network.encoder_weights:
        description["input"] = {**_encoder_pixels(config, pixels), **pixels}
    refuse_preparation(bundle_of(description, folder=folder))
    return description


def _encoder_pixels(config: TrainConfig, pixels: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mean and standard deviation that the encoder's weights expect, where a bundle has three bands."""
    bands = pixels.get("bands")
    if not isinstance(bands, list) or len(bands) != RGB:
        return {}
    # On the device meta a network has shapes and takes no memory.
    with torch.device("meta"):
        network = build_backbone(config.network.architecture, classes=2, bands=RGB, options=config.network.options)
    return dict(EncoderStart(words=config.network.encoder_weights).normalisation(network))


def bundle_of(description: dict[str, Any], *, folder: Path) -> Bundle:
    """Return the bundle that a description describes, though its files may be still to come."""
    data = json.dumps(description).encode()
    file = folder / DESCRIPTION
    return segmentation_bundle(parse_object(data, file=file), file=file, data=data, is_shipped=False)


def fit_backbone(
    recipe: Recipe,
    scenes: Sequence[LabelledScene],
    *,
    files: Files | None,
    progress: Progress | None = None,
    until: int | None = None,
    validation: Sequence[LabelledScene] = (),
    each: Each | None = None,
) -> nn.Module:
    """Fit a backbone to scenes.

    Args:
        recipe: Bundle, drawing and loop.
        scenes: The scenes for training.
        files: Checkpoint, log and curves; None keeps none of them.
        progress: Receives each log line.
        until: Stop at that iteration.
        validation: Scenes to validate on, if the loop does.
        each: Function that is called after each iteration.

    Returns:
        The network in host memory with averaged weights, in eval mode.
    """
    trainer = backbone_trainer(recipe, scenes, validation=validation, files=files)
    return trainer.fit(progress=progress, until=until, each=each)


def backbone_trainer(
    recipe: Recipe, scenes: Sequence[LabelledScene], *, validation: Sequence[LabelledScene], files: Files | None
) -> Trainer:
    """Return the trainer of a backbone; see `fit_backbone`.

    Raises:
        SourceError: A scene does not fit the bundle.
        UsageError: The recipe cannot be trained.
    """
    check([*scenes, *validation], recipe)
    loop = recipe.loop
    # The seed is set before the network is built, so that its random weights belong to the training.
    seeded(loop.seed, threads=loop.threads)
    ignore = recipe.data.ignore
    counts = counted([scene.labels.counts for scene in scenes], classes=len(recipe.bundle.classes), ignore=ignore)
    weights = class_weights(counts, balance=loop.balance)
    return Trainer(
        recipe.network(),
        batches=recipe.sampler(scenes),
        config=loop,
        objective=PixelObjective(weights=weights, config=loop, ignore=ignore),
        files=files,
        validate=Validator(scenes=validation, bundle=recipe.bundle, ignore=ignore) if validation else None,
        about=recipe.about(scenes, validation),
    )


def check(scenes: Sequence[LabelledScene], recipe: Recipe) -> None:
    """Check that scenes have the bundle's bands and classes, and a loss that this loop knows.

    Raises:
        SourceError: A scene does not fit.
        UsageError: The bundle's activation is not softmax.
    """
    if recipe.bundle.activation != "softmax":
        raise UsageError(
            "training supports softmax only",
            value=recipe.bundle.activation,
            advice="Set activation to softmax in the configuration",
        )
    bands, classes = len(recipe.bundle.input.bands), len(recipe.bundle.classes)
    for scene in scenes:
        if scene.pixels.bands != bands:
            raise SourceError(
                f"the bundle has {bands} bands",
                value=scene.pixels.bands,
                file=scene.name,
                advice="Choose pictures with the bands of the bundle, or correct the bands of the configuration",
            )
        values = np.flatnonzero(scene.labels.counts)
        largest = values[values != recipe.data.ignore].max(initial=0)
        if largest >= classes:
            raise SourceError(
                f"labels must be below {classes}, or {recipe.data.ignore}",
                value=largest,
                file=scene.name,
                advice="Correct label_values or the classes in the configuration, or the label map",
            )


def check_classes(scenes: Sequence[LabelledScene], bundle: Bundle, *, ignore: int) -> str | None:
    """Check that the scenes to train on have pixels of two classes at least.

    Args:
        scenes: The scenes to train on.
        bundle: The bundle that is trained.
        ignore: The label of pixels without a class.

    Returns:
        A note on the classes that no pixel has; None where there are none.

    Raises:
        SourceError: No pixel is labelled, or all labelled pixels have one class.
    """
    counts = counted([scene.labels.counts for scene in scenes], classes=len(bundle.classes), ignore=ignore)
    names = [entry.name for entry in bundle.classes]
    found = [name for name, count in zip(names, counts, strict=True) if count]
    if len(found) <= 1:
        unlabelled = "255 means" if ignore == NODATA else f"{ignore} and 255 mean"
        raise SourceError(
            "a network learns from pixels of two classes or more",
            value=f"{found[0]} alone" if found else "no labelled pixel",
            file=", ".join(scene.name for scene in scenes),
            advice=f"Label pixels of another class, too. In label maps {unlabelled} unlabelled; where they store such "
            "a value for a class, give the class in [data] label_values = { 255 = 1 }",
        )
    absent = [name for index, name in enumerate(names) if name not in found and index != ignore]
    if not absent:
        return None
    return f"No pixel of the scenes to train on has {_listed(absent)}, so that the bundle will hardly ever find any."


def _listed(names: Sequence[str]) -> str:
    return f"the class {names[0]}" if len(names) == 1 else f"one of the classes {', '.join(names)}"


def train_backbone(
    data: Path, output: Path, config: TrainConfig, *, message: Message | None = None, **watch: Unpack[Watch]
) -> Bundle | None:
    """Train a backbone and write its bundle.

    An interrupted training goes on from the last checkpoint, which lies in the folder OUTPUT.training beside the log
    and its curves, and ends with the weights that it would have had.

    Args:
        data: Folder of scenes, or a CSV file; see `DataConfig`.
        output: The bundle's folder.
        config: The whole configuration.
        message: Receives messages about the files of the scenes.
        watch: Functions that follow the training, and the iteration to stop at.

    Returns:
        The bundle; None where `until` came first.
    """
    refuse_idle_keys(config, "backbone")
    output = real_path(output)
    description = bundle_description(config, folder=output)
    start = EncoderStart(words=config.network.encoder_weights, folder=config.folder)
    recipe = Recipe(bundle=bundle_of(description, folder=output), data=config.data, loop=config.loop, start=start)
    # What cannot be trained is refused here, before the scenes are decoded: weights that are missing or do not fit.
    recipe.refuse_idle_rate()
    weights = start.states()
    origin = recipe.origin()
    refuse_range(recipe.bundle.input.range)
    with training_folder(output, ".training", (BACKBONE_FILE,), replaces=True) as work:
        files = Files(folder=work.path)
        read = scenes_for(recipe.bundle, data, config.data, work=files.folder, output=output, message=message)
        scenes, validation = split_scenes(read, config.data)
        work.depend_on([*scenes, *validation], weights=weights)
        check([*scenes, *validation], recipe)
        note = check_classes(scenes, recipe.bundle, ignore=config.data.ignore)
        if note is not None and message is not None:
            message(note)
        trainer = backbone_trainer(recipe, scenes, validation=validation, files=files)
        network = trainer.fit(**watch)
        if not trainer.done:
            return None
        description = with_origin(description, origin)
        if validation:
            validator = Validator(scenes=validation, bundle=recipe.bundle, ignore=config.data.ignore)
            scores = score_held_out(network.to(trainer.arithmetic.device), validator, trainer.arithmetic)
            keep_text(files.folder / EVALUATION_FILE, evaluation_page(scores, validator, curves=files.curves))
            network.cpu()
        work.refuse_change()
        is_same = has_backbone(output, network)
        if is_same and is_complete(output, config):
            # Others may have added networks, temperatures, figures and defaults since then.
            return load_bundle(str(output.resolve()))
        if is_same:
            description = with_additions(description, read_description(output))
        else:
            refuse_lost_networks(output, (BACKBONE_FILE,))
        bundle = write_bundle(output, description, {BACKBONE_FILE: network}, dtype=DTYPE)
        keep_text(output / CONFIG_FILE, config.text)
        # A card that a person has completed is not replaced.
        if not (output / CARD).exists():
            text = card(
                bundle,
                config,
                network=network,
                scenes=scenes,
                origin=origin,
                iterations=trainer.iteration,
                best=None if trainer.best is None else trainer.best.iteration,
            )
            keep_text(output / CARD, text)
        elif message is not None:
            message(
                f"{output / CARD} is kept: where it describes an earlier training, delete it and repeat the command."
            )
        return bundle


def has_backbone(output: Path, network: nn.Module) -> bool:
    """Return whether a folder holds a bundle of this backbone, its file undamaged."""
    if not (output / DESCRIPTION).is_file() or not (output / BACKBONE_FILE).is_file():
        return False
    digest = regular_files.sha256_of(output / BACKBONE_FILE)
    backbone = read_description(output)["networks"].get("backbone")
    known = backbone.get("sha256") if isinstance(backbone, dict) else None
    return digest == known == weights_digest(network, dtype=DTYPE)


def is_complete(output: Path, config: TrainConfig) -> bool:
    """Return whether a bundle has its card, and the text of this configuration."""
    file = output / CONFIG_FILE
    return (output / CARD).exists() and file.is_file() and file.read_bytes() == config.text.encode()


def with_origin(description: Mapping[str, Any], *origins: EncoderOrigin | None) -> dict[str, Any]:
    """Return a description whose source also names what encoders began with; None is an encoder of random weights."""
    named = (f"{ENCODER}{origin}" for origin in dict.fromkeys(origins) if origin is not None)
    source = "; ".join(filter(None, (description.get("source", ""), *named)))
    return {**description, "source": source} if source else dict(description)


def with_additions(description: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of a training, with what was added to the bundle of the same backbone since.

    Args:
        description: The description that the configuration leads to.
        found: The description in the bundle's folder. Its refiners, selector, temperatures and figures are kept.
    """
    known = found["networks"]
    backbone = {**description["networks"]["backbone"], "temperature": known["backbone"]["temperature"]}
    metrics = description["metrics"] or found.get("metrics", {})
    return {**found, **description, "metrics": metrics, "networks": {**known, "backbone": backbone}}


def keep_text(path: Path, text: str) -> None:
    """Write a configuration beside what it made, unless it is there already: it may be the file that was read.

    Raises:
        OutputError: The folder refuses it.
    """
    data = text.encode()
    if not (path.is_file() and path.read_bytes() == data):
        durable.write_whole(path, data)

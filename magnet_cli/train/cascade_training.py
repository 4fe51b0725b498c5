"""Training of a cascade, which sharpens masks: labelled scenes to a bundle."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import log
from typing import TYPE_CHECKING, Any, Unpack, cast

import torch

from magnet_cli.errors import SourceError, UsageError, WeightsError
from magnet_cli.geometry import Size
from magnet_cli.models.bundle import CascadeBundle
from magnet_cli.models.bundle_writer import CASCADE_FILE, write_cascade_bundle
from magnet_cli.models.description import DESCRIPTION, SCHEMA, parse_bundle
from magnet_cli.models.registry import build_cascade
from magnet_cli.models.schema import parse_object
from magnet_cli.train.backbone_training import CONFIG_FILE, about_scenes, keep_text, with_origin
from magnet_cli.train.batches import BatchSampler
from magnet_cli.train.binary_objects import BinaryObjects
from magnet_cli.train.cascade_losses import BANDS, LevelObjective
from magnet_cli.train.destination import real_path, training_folder
from magnet_cli.train.encoder_start import EncoderStart, refuse_idle_rate
from magnet_cli.train.loop import Files, Trainer, seeded
from magnet_cli.train.mask_samples import MaskSampler, MaskValidator
from magnet_cli.train.perturbation import Perturbation
from magnet_cli.train.scene_data import load_scenes, refuse_range, split_scenes
from magnet_cli.train.spoilage import Spoiling
from magnet_cli.train.unread_keys import refuse_idle_keys

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from magnet_cli.models.architectures.cascade_base import CascadeModule
    from magnet_cli.models.encoder_weights import EncoderOrigin
    from magnet_cli.train.config import TrainConfig
    from magnet_cli.train.loop import Message, Watch
    from magnet_cli.train.scenes import LabelledScene


@dataclass(frozen=True, kw_only=True)
class CascadeRecipe:
    """The bundle and the configuration of the training of a cascade."""

    bundle: CascadeBundle
    config: TrainConfig

    def trainer(
        self, scenes: Sequence[LabelledScene], *, validation: Sequence[LabelledScene], files: Files | None
    ) -> Trainer:
        """Return the trainer of a cascade.

        Raises:
            SourceError: A scene has other than three bands.
            WeightsError: The encoder's first weights are missing, or do not fit.
        """
        check([*scenes, *validation])
        config, loop = self.config, self.config.loop
        seeded(loop.seed, threads=loop.threads)
        network = self.network()
        self.start.fill(network)
        return Trainer(
            network,
            batches=self.sampler(scenes),
            config=loop,
            objective=LevelObjective(gradient=config.cascade.gradient, finest=config.cascade.finest),
            files=files,
            validate=self.validator(validation) if validation else None,
            about=self.about(scenes, validation),
        )

    def network(self) -> CascadeModule:
        """Return the cascade with random weights."""
        return build_cascade(self.config.network.architecture, options=self.config.network.options)

    @property
    def start(self) -> EncoderStart:
        """The weights that the encoder begins with."""
        return EncoderStart(words=self.config.network.encoder_weights, folder=self.config.folder)

    def origin(self) -> EncoderOrigin | None:
        """Return where the encoder's first weights come from; None where they are random.

        Raises:
            UsageError: The network has no encoder, though the configuration names weights or a rate of it.
            WeightsError: The weights are missing, or do not fit.
        """
        network = self.network()
        refuse_idle_rate(network, self.config.loop)
        return self.start.fill(network)

    def sampler(self, scenes: Sequence[LabelledScene], *, plain: bool = False) -> MaskSampler:
        """Return a sampler of objects with wrong masks. With `plain` colours and scales are not varied."""
        spec, cascade, data = self.bundle.input, self.config.cascade, self.config.data
        least, most = cascade.iou
        return MaskSampler(
            windows=BatchSampler(
                scenes=scenes,
                size=Size(width=cascade.crop, height=cascade.crop),
                scales=[Size(width=scale, height=scale) for scale in cascade.scales],
                mean=spec.mean,
                std=spec.std,
                span=spec.range,
                jitter=1.0 if plain else data.jitter,
                colour=0.0 if plain else data.colour,
                batch=self.config.loop.batch,
                seed=self.config.loop.seed,
            ),
            objects=BinaryObjects(
                ignore=data.ignore, pieces=cascade.pieces, smallest=cascade.smallest, only=cascade.classes
            ),
            perturbation=Perturbation(iou=(least, most), coarse=cascade.coarse, shrink=cascade.shrink),
            spoiling=Spoiling(dropped=cascade.dropped, soft=cascade.soft),
            masks=cascade.masks,
        )

    def validator(self, scenes: Sequence[LabelledScene]) -> MaskValidator:
        """Return what scores wrong masks of held-out objects before and after refinement."""
        return MaskValidator(sampler=self.sampler(scenes, plain=True), windows=self.config.cascade.windows)

    def about(
        self, scenes: Sequence[LabelledScene], validation: Sequence[LabelledScene]
    ) -> dict[str, dict[str, object]]:
        """Return the facts that identify a training beside its loop: a checkpoint of another training is refused."""
        return {
            "network": asdict(self.config.network),
            "bundle": {"input": repr(self.bundle.input)},
            "data": {key: value for key, value in asdict(self.config.data).items() if key != "memory"},
            "cascade": asdict(self.config.cascade),
            "scenes": about_scenes(scenes, validation),
        }


def cascade_description(config: TrainConfig) -> dict[str, Any]:
    """Return the description of the bundle that a configuration leads to."""
    entry = {
        "architecture": config.network.architecture,
        "options": config.network.options,
        "file": CASCADE_FILE,
        "sha256": "0" * 64,
    }
    head = {"schema": SCHEMA, "kind": "cascade", "metrics": {}}
    description = {**head, **config.bundle, "networks": {"cascade": entry}}
    pixels = description.get("input")
    if isinstance(pixels, dict) and config.network.encoder_weights:
        # On the device meta a network has shapes and takes no memory.
        with torch.device("meta"):
            network = build_cascade(config.network.architecture, options=config.network.options)
        expected = EncoderStart(words=config.network.encoder_weights).normalisation(network)
        description["input"] = {**expected, **pixels}
    return description


def cascade_of(description: dict[str, Any], *, folder: Path) -> CascadeBundle:
    """Return the bundle of a description. Its file need not exist yet.

    Raises:
        WeightsError: A key is missing, unknown or wrong, or the bundle is of another kind.
    """
    data = json.dumps(description).encode()
    file = folder / DESCRIPTION
    bundle = parse_bundle(parse_object(data, file=file), file=file, data=data, is_shipped=False)
    if not isinstance(bundle, CascadeBundle):
        raise WeightsError(
            "kind must be cascade", value=description["kind"], file=file, advice="Name a bundle of a cascade"
        )
    return bundle


def check(scenes: Sequence[LabelledScene]) -> None:
    """Check that scenes have three bands.

    Raises:
        SourceError: A scene has another number of bands.
    """
    for scene in scenes:
        if scene.pixels.bands != BANDS:
            raise SourceError(
                f"a cascade takes {BANDS} bands",
                value=scene.pixels.bands,
                file=scene.name,
                advice="Choose pictures with the bands of the bundle",
            )


def train_cascade(
    data: Path, output: Path, config: TrainConfig, *, message: Message | None = None, **watch: Unpack[Watch]
) -> CascadeBundle | None:
    """Train a cascade, and write its bundle; an interrupted training goes on as that of a backbone does.

    Args:
        data: Folder of scenes, or a CSV file; see `DataConfig`.
        output: The bundle's folder.
        config: The whole configuration; see `CascadeConfig`.
        message: Receives messages about the files of the scenes.
        watch: Functions that follow the training, and the iteration to stop at.

    Returns:
        The bundle; None where `until` came first.

    Raises:
        WeightsError: `[bundle]` or `[network]` does not describe a cascade.
        UsageError: The configuration has keys that a cascade does not have, or asks for masks that no scene has.
    """
    # These are refused before the scenes are decoded, which may take minutes.
    if config.data.rare or config.data.border:
        raise UsageError(
            "[data] rare and border are for backbones and GRNets: a cascade draws objects, and learns at their borders",
            value=f"rare = {config.data.rare:g}, border = {config.data.border}",
            advice="Leave both out",
        )
    for key, value in (
        ("smoothing", config.loop.smoothing),
        ("logit_adjustment", config.loop.logit_adjustment),
    ):
        if value:
            raise UsageError(
                f"[loop] {key} is for networks that segment, and a cascade has the paper's losses",
                value=value,
                advice="Leave it out",
            )
    refuse_idle_keys(config, "cascade")
    output = real_path(output)
    description = cascade_description(config)
    recipe = CascadeRecipe(bundle=cascade_of(description, folder=output), config=config)
    weights = recipe.start.states()
    origin = recipe.origin()
    refuse_range(recipe.bundle.input.range)
    with training_folder(output, ".training", (CASCADE_FILE,), replaces=True) as work:
        files = Files(folder=work.path)
        read = load_scenes(
            data, config.data, work=files.folder, output=output, bands=recipe.bundle.input.bands, message=message
        )
        scenes, validation = split_scenes(read, config.data)
        work.depend_on([*scenes, *validation], weights=weights)
        if config.cascade.masks and all(scene.mask is None for scene in scenes):
            raise UsageError(
                "[cascade] masks is the share of masks of another program, and no scene to train on has a mask",
                value=config.cascade.masks,
                file=data,
                advice="Name masks in the column `mask` of a CSV file, or leave the key masks out",
            )
        trainer = recipe.trainer(scenes, validation=validation, files=files)
        network = trainer.fit(**watch)
        if not trainer.done:
            return None
        description = with_origin(description, origin)
        cut = config.cascade.cut
        # sigmoid(x + log((1 - cut) / cut)) is one half where sigmoid(x) is `cut`.
        cast("CascadeModule", network).raise_finest(log((1 - cut) / cut))
        work.refuse_change()
        bundle = write_cascade_bundle(output, description, network, dtype=torch.float16)
        keep_text(output / CONFIG_FILE, config.text)
        return bundle

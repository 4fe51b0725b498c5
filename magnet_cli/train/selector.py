"""Training of a selector for a bundle that has a backbone, by the paper's label rule."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from magnet_cli.errors import UsageError
from magnet_cli.models.bundle import Bundle, load_bundle
from magnet_cli.models.networks import fill
from magnet_cli.models.registry import build_selector
from magnet_cli.models.writing import write_bundle
from magnet_cli.train.backbone import Recipe, check, keep
from magnet_cli.train.data import load_scenes
from magnet_cli.train.loop import Files, Trainer, seeded
from magnet_cli.train.proposals import SelectorObjective
from magnet_cli.train.refiner import described_again

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from magnet_cli.geometry import Size
    from magnet_cli.models.ppn import PatchProposalNetwork
    from magnet_cli.train.config import TrainConfig
    from magnet_cli.train.loop import Each, Progress
    from magnet_cli.train.scenes import Scene

SELECTOR_FILE = "selector.safetensors"
CONFIG_FILE = "train-selector.toml"


def train_selector(
    data: Path,
    output: Path,
    config: TrainConfig,
    *,
    progress: Progress | None = None,
    until: int | None = None,
    each: Each | None = None,
) -> Bundle | None:
    """Add a selector to a bundle that has a backbone, which stays as it is.

    An image is a window of the bundle's coarsest scale. An interrupted training goes on from the last checkpoint.

    Args:
        data: Folder of scenes, or a CSV file; see `DataConfig`.
        output: The bundle's folder.
        config: The whole configuration; `[network]` is the selector, whose option `cells` says how images are cut.
        progress: Told each log line.
        until: Stop at that iteration with a checkpoint.
        each: Told each iteration.

    Returns:
        The bundle; None where `until` came first.

    Raises:
        WeightsError: There is no such bundle, or no such selector.
        UsageError: The bundle has a local branch that was trained with its own selector, or cells are not equal.
    """
    output = output.resolve()
    bundle = load_bundle(str(output))
    checked(bundle, config)
    files = Files(folder=output.with_name(output.name + ".selector-training"))
    scenes = load_scenes(data, config.data, work=files.folder)
    trainer = selector_trainer(bundle, config, scenes, files=files)
    network = trainer.fit(progress=progress, until=until, each=each)
    if not trainer.done:
        return None
    description = described_again(output)
    description["networks"]["selector"] = {
        "architecture": config.network.architecture,
        "options": config.network.options,
        "file": SELECTOR_FILE,
    }
    bundle = write_bundle(output, description, {SELECTOR_FILE: network})
    keep(output / CONFIG_FILE, config.text)
    return bundle


def selector_trainer(bundle: Bundle, config: TrainConfig, scenes: Sequence[Scene], *, files: Files | None) -> Trainer:
    """What fits a selector to windows of scenes that a bundle's backbone looks at.

    Raises:
        SourceError: A scene does not fit the bundle.
        UsageError: The bundle is of a kind that cannot be trained.
    """
    whole = dataclasses.replace(bundle, scales=(coarsest(bundle),))
    recipe = Recipe(bundle=whole, data=config.data, loop=config.loop)
    check(scenes, recipe)
    backbone = recipe.network()
    fill(backbone, spec=bundle.backbone, folder=bundle.folder)
    seeded(config.loop.seed, threads=config.loop.threads)
    options = config.network.options
    network = selector_of(bundle, config)
    objective = SelectorObjective(backbone=backbone, cells=network.cells, ignore=config.data.ignore)
    about = recipe.about(scenes, ())
    about["network"] = {"architecture": config.network.architecture, "options": dict(options)}
    about["backbone"] = {"sha256": bundle.backbone.sha256}
    trainer = Trainer(
        network, batches=recipe.sampler(scenes), config=config.loop, objective=objective, files=files, about=about
    )
    backbone.to(trainer.arithmetic.device)
    return trainer


def selector_of(bundle: Bundle, config: TrainConfig) -> PatchProposalNetwork:
    """The selector that a configuration names, with initial weights.

    Raises:
        WeightsError: There is no such selector.
    """
    bands, classes = len(bundle.input.bands), len(bundle.classes)
    return build_selector(config.network.architecture, bands=bands, classes=classes, options=config.network.options)


def coarsest(bundle: Bundle) -> Size:
    """The scale of a bundle's largest windows."""
    return max(bundle.scales, key=lambda scale: scale.pixels)


def checked(bundle: Bundle, config: TrainConfig) -> None:
    """Refuse what cannot end well, before any work."""
    if config.loop.validate_every:
        raise UsageError(
            "a selector is not validated while it is fitted",
            value=f"validate_every = {config.loop.validate_every}",
            advice="Leave it out of [loop]",
        )
    if bundle.local is not None:
        raise UsageError(
            "the bundle's local branch was trained with its own selector",
            file=bundle.folder,
            advice="Train both with 'magnet train grnet', or take networks.local out of bundle.json",
        )
    if "cells" not in config.network.options:
        raise UsageError("[network] options must say how many cells a side", advice="Add options = { cells = 4 }")
    network = selector_of(bundle, config)
    refuse_unequal(bundle.input.size, cells=network.cells)


def refuse_unequal(size: Size, *, cells: int) -> None:
    """Check that an input can be cut into equal cells, so that cells of the map and of the image are the same places.

    Raises:
        UsageError: It cannot.
    """
    if size.width % cells or size.height % cells:
        raise UsageError(f"an input must be a multiple of its {cells} cells a side", value=size)

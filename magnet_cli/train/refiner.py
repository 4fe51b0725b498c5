"""Training of a refiner on fields of scenes that the backbone behind them has not seen."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from magnet_cli.errors import UsageError, WeightsError
from magnet_cli.models.bundle import Bundle, load_bundle
from magnet_cli.models.description import DESCRIPTION
from magnet_cli.models.networks import load_networks
from magnet_cli.models.registry import build_refiner
from magnet_cli.models.writing import write_bundle
from magnet_cli.train.backbone import Recipe, check, fit_backbone, keep
from magnet_cli.train.data import load_scenes
from magnet_cli.train.fields import label_canvas, own_canvas, under
from magnet_cli.train.loop import Files, Trainer, class_weights, counted, seeded

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from magnet_cli.geometry import Size
    from magnet_cli.train.config import TrainConfig
    from magnet_cli.train.data import Scene
    from magnet_cli.train.loop import Progress

REFINER_FILE = "refiner.safetensors"
CONFIG_FILE = "train-refiner.toml"
SIDE = 160
"""Rows and columns of the pieces that a refiner learns from."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """One step of refinement over one scene."""

    own: Tensor
    """O, `(classes, rows, columns)` float16."""
    field: Tensor
    """The coarser stage's result, on its own, coarser grid."""
    labels: NDArray[np.uint8]
    ratio: tuple[float, float]
    """Pixels of `own` per pixel of `field`, over rows and columns."""


def chained(owns: Sequence[Tensor], labels: Sequence[NDArray[np.uint8]], *, scales: Sequence[Size]) -> list[Stage]:
    """The stages of one scene, coarsest first, each over the mean of what lies below: R = (O + Y') / 2.

    Args:
        owns: O at each scale, coarsest first.
        labels: At each scale.
        scales: Coarsest first.
    """
    stages = []
    field = owns[0]
    for index in range(1, len(scales)):
        own, fine, coarse = owns[index], scales[index], scales[index - 1]
        ratio = (coarse.height / fine.height, coarse.width / fine.width)
        stages.append(Stage(own=own, field=field, labels=labels[index], ratio=ratio))
        below = under(field, ratio=ratio, corner=(0, 0), shape=(own.shape[1], own.shape[2]))
        field = ((own.float() + below) / 2).half()
    return stages


@dataclass(frozen=True, kw_only=True)
class FieldSampler:
    """Draws pieces of stages: batch k is a function of the seed and k alone."""

    stages: Sequence[Stage]
    batch: int
    seed: int
    ignore: int

    def __call__(self, index: int) -> tuple[Tensor, Tensor]:
        """O and Y' joined, `(n, 2 * classes, side, side)` float32, and labels `(n, side, side)`."""
        pairs = [self.sample(np.random.default_rng((self.seed, index, item))) for item in range(self.batch)]
        return torch.stack([probs for probs, _ in pairs]), torch.stack([labels for _, labels in pairs])

    def sample(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """One piece, turned and mirrored at random; filled up with ignored pixels where the stage is smaller."""
        stage = self.stages[int(rng.integers(len(self.stages)))]
        shape = tuple(min(SIDE, side) for side in stage.labels.shape)
        y, x = (int(rng.integers(full - part + 1)) for full, part in zip(stage.labels.shape, shape, strict=True))
        own = stage.own[:, y : y + shape[0], x : x + shape[1]].float()
        field = under(stage.field, ratio=stage.ratio, corner=(y, x), shape=(shape[0], shape[1]))
        labels = torch.from_numpy(stage.labels[y : y + shape[0], x : x + shape[1]].astype(np.int64))
        pad = (0, SIDE - shape[1], 0, SIDE - shape[0])
        joined = torch.nn.functional.pad(torch.cat((own, field)), pad)
        labels = torch.nn.functional.pad(labels, pad, value=self.ignore)
        turns = int(rng.integers(4))
        joined, labels = joined.rot90(turns, (1, 2)), labels.rot90(turns, (0, 1))
        if rng.integers(2):
            joined, labels = joined.flip(2), labels.flip(1)
        return joined, labels


def fields_of(
    scenes: Sequence[Scene], *, bundle: Bundle, config: TrainConfig, folder: Path, progress: Progress | None = None
) -> list[Stage]:
    """Stages of every held-out scene, with a backbone fitted to all others; kept on disk for a later start.

    Without folds the bundle's own backbone looks at the scenes.
    """
    scales = sorted(bundle.scales, key=lambda scale: -scale.pixels)
    recipe = Recipe(bundle=bundle, data=config.data, loop=config.folds.loop)
    check(scenes, recipe)
    stages = []
    for index, names in enumerate(config.folds.held_out or [tuple(scene.name for scene in scenes)]):
        held = [scene for scene in scenes if scene.name in names]
        if len(held) != len(names):
            raise UsageError("[folds] held_out names a scene that the data do not have", value=", ".join(names))
        if config.folds.held_out:
            rest = [scene for scene in scenes if scene.name not in names]
            files = Files(folder=folder / f"fold{index}")
            network = fit_backbone(recipe, rest, files=files, progress=progress)
        else:
            network = load_networks(bundle, device="cpu", precision="float32").backbone
        for scene in held:
            owns = [
                own_canvas(network, scene, classes=len(bundle.classes), scale=scale, spec=bundle.input)
                for scale in scales
            ]
            labels = [label_canvas(scene, scale=scale, spec=bundle.input) for scale in scales]
            stages += chained(owns, labels, scales=scales)
    return stages


def train_refiner(data: Path, output: Path, config: TrainConfig, *, progress: Progress | None = None) -> Bundle:
    """Train one refiner for all scales and add it to a bundle that has a backbone; its defaults stay as they are.

    Args:
        data: Folder of scenes, or a CSV file; see `DataConfig`.
        output: The bundle's folder.
        config: The whole configuration; `[network]` is the refiner, `[folds]` says how its fields are made.
        progress: Told each log line, of the folds' backbones first.

    Raises:
        WeightsError: There is no such bundle.
        UsageError: The bundle has one scale, so there is nothing to refine, or a fold names an unknown scene.
    """
    bundle = load_bundle(str(output))
    if len(bundle.scales) == 1:
        raise UsageError("a refiner needs a bundle of two or more scales", file=output)
    folder = output.with_name(output.name + ".refiner-training")
    scenes = load_scenes(data, config.data)
    stages = fields_of(scenes, bundle=bundle, config=config, folder=folder, progress=progress)
    network = fit_refiner(stages, bundle=bundle, config=config, files=Files(folder=folder), progress=progress)
    entry = {
        "scale": None,
        "architecture": config.network.architecture,
        "options": config.network.options,
        "input": "own-first",
        "temperature": 1.0,
        "file": REFINER_FILE,
    }
    description = described_again(output)
    description["networks"]["refiners"] = [entry]
    bundle = write_bundle(output, description, {REFINER_FILE: network}, dtype=torch.float32)
    keep(output / CONFIG_FILE, config.text)
    return bundle


def fit_refiner(
    stages: Sequence[Stage],
    *,
    bundle: Bundle,
    config: TrainConfig,
    files: Files | None,
    progress: Progress | None = None,
) -> nn.Module:
    """Fit a refiner to stages; gives the network with averaged weights."""
    seeded(config.loop.seed, threads=config.loop.threads)
    classes = len(bundle.classes)
    weights = class_weights(counted([stage.labels for stage in stages], classes=classes), balance=config.loop.balance)
    return Trainer(
        build_refiner(config.network.architecture, classes=classes, options=config.network.options),
        batches=FieldSampler(stages=stages, batch=config.loop.batch, seed=config.loop.seed, ignore=config.data.ignore),
        config=config.loop,
        weights=weights,
        files=files,
        ignore=config.data.ignore,
    ).fit(progress=progress)


def described_again(folder: Path) -> dict[str, dict[str, object]]:
    """The description of a bundle as it stands on disk."""
    try:
        table: dict[str, dict[str, object]] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise WeightsError(f"cannot be read: {exc}", file=folder / DESCRIPTION) from exc
    return table

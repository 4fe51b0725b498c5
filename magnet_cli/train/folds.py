"""Folds of scenes, so that no network is judged on scenes that it learnt from."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from magnet_cli.errors import OutputError, UsageError, WeightsError
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.device import resolve_device
from magnet_cli.models.networks import load_networks
from magnet_cli.system.memory import format_bytes
from magnet_cli.train.backbone_training import Recipe, check, fit_backbone
from magnet_cli.train.loop import Files
from magnet_cli.train.scene_data import free_bytes
from magnet_cli.train.scene_fields import disk_of, view_scene

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn

    from magnet_cli.geometry import Size
    from magnet_cli.models.bundle import Bundle
    from magnet_cli.train.config import TrainConfig
    from magnet_cli.train.loop import Progress
    from magnet_cli.train.scene_fields import SceneView
    from magnet_cli.train.scenes import LabelledScene


def scene_views(
    scenes: Sequence[LabelledScene],
    *,
    bundle: Bundle,
    config: TrainConfig,
    folder: Path,
    progress: Progress | None = None,
) -> list[list[SceneView]]:
    """Return the fields of every held-out scene by a backbone fitted without it, by fold; they are kept on disk.

    Without folds the bundle's own backbone makes the fields of all scenes except those for validation, as one fold.

    Args:
        scenes: All scenes of the data set.
        bundle: The bundle whose backbone the folds' backbones replace.
        config: `[folds]`, and `[data]` for the drawing of windows.
        folder: The folder of checkpoints and fields.
        progress: Receives the log lines of backbones that are fitted here.

    Raises:
        UsageError: A fold names a scene that is not there, or leaves none to train on.
        WeightsError: A backbone that is given is not of the bundle's kind.
        OutputError: The disk has no room for the fields.
    """
    recipe = Recipe(bundle=bundle, data=config.data, loop=config.folds.loop)
    check(scenes, recipe)
    kept = [scene for scene in scenes if scene.name not in config.data.validation]
    held = [scenes_named(scenes, names) for names in config.folds.held_out] or [kept]
    given = [fold_bundle(config.folder / path, like=bundle) for path in config.folds.backbones]
    if not given and config.folds.held_out:
        for mine in held:
            if all(scene in mine for scene in kept):
                raise UsageError(
                    "[folds] a fold leaves nothing to train on",
                    value=", ".join(scene.name for scene in mine),
                    advice="Make fewer scenes part of this fold",
                )
    refuse_full_disk([scene.size for mine in held for scene in mine], bundle=bundle, folder=folder)
    # A training that was killed leaves temporary fields, which no object refers to any more.
    shutil.rmtree(folder / "scratch", ignore_errors=True)
    views = []
    for index, mine in enumerate(held):
        if given or not config.folds.held_out:
            whose = given[index] if given else bundle
            network: nn.Module = load_networks(whose, device="cpu", precision="float32").backbone
        else:
            network = fit_backbone(
                recipe,
                [scene for scene in kept if scene not in mine],
                # Scenes of the fold do not even choose the weights: they stay unseen.
                validation=[scene for scene in scenes if scene not in kept and scene not in mine],
                files=Files(folder=folder / f"fold{index}"),
                progress=with_marks(progress, fold=index),
            )
        network = network.to(resolve_device(recipe.loop.device))
        views.append([view_scene(network, scene, bundle=bundle, folder=folder / "fields") for scene in mine])
    return views


def refuse_full_disk(sizes: Sequence[Size], *, bundle: Bundle, folder: Path) -> None:
    """Check that the fields of scenes fit the disk, beside those that are there.

    Raises:
        OutputError: The disk is too small for the fields.
    """
    needed = disk_of(bundle, sizes) - sum(path.stat().st_size for path in (folder / "fields").glob("*.npy"))
    if needed > (free := free_bytes(folder)):
        raise OutputError(
            f"fields of {len(sizes)} held-out scenes, {sum(size.pixels for size in sizes):,} pixels, need up to "
            f"{format_bytes(needed)} of disk",
            value=f"{format_bytes(free)} free",
            file=folder,
            advice=f"Free disk, or hold out parts of scenes: about {free / needed:.0%} of that area fits",
        )


def with_marks(progress: Progress | None, **marks: float) -> Progress | None:
    """Return a receiver of log lines that puts `marks` first in each line, to say which network is fitted."""
    return None if progress is None else lambda line: progress({**marks, **line})


def scenes_named(scenes: Sequence[LabelledScene], names: Sequence[str]) -> list[LabelledScene]:
    """Return the scenes of these names.

    Raises:
        UsageError: There is no scene of a name.
    """
    found = [scene for scene in scenes if scene.name in names]
    if len(found) != len(names):
        raise UsageError(
            "[folds] held_out names a scene that the data do not have",
            value=", ".join(names),
            advice="Correct held_out in the configuration",
        )
    return found


def fold_bundle(folder: Path, *, like: Bundle) -> Bundle:
    """Load a fold's bundle, whose backbone has to have the form of another bundle's backbone.

    Raises:
        WeightsError: The bundle is missing, or differs in architecture, options, classes or input.
    """
    found = load_bundle(str(folder.resolve()))
    pairs = {
        "architecture": (found.backbone.architecture, like.backbone.architecture),
        "options": (dict(found.backbone.options), dict(like.backbone.options)),
        "classes": ([entry.name for entry in found.classes], [entry.name for entry in like.classes]),
        "input": (found.input, like.input),
        "activation": (found.activation, like.activation),
    }
    for key, (theirs, mine) in pairs.items():
        if theirs != mine:
            raise WeightsError(
                f"a fold's backbone must have the bundle's {key}, {mine}",
                value=theirs,
                file=folder,
                advice="Train the backbones of the folds with the bundle's configuration",
            )
    return found

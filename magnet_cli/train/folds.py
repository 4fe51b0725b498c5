"""Folds of scenes, so that no network is judged on scenes that it learnt from."""

from __future__ import annotations

import shutil
import tomllib
from dataclasses import replace
from typing import TYPE_CHECKING

from magnet_cli.errors import OutputError, UsageError, WeightsError
from magnet_cli.models.bundle import load_bundle
from magnet_cli.models.device import resolve_device
from magnet_cli.models.networks import load_networks
from magnet_cli.system import regular_files
from magnet_cli.system.disk import free_bytes
from magnet_cli.system.memory import format_bytes
from magnet_cli.train.backbone_training import CONFIG_FILE, ENCODER, Recipe, check, fit_backbone
from magnet_cli.train.config import LARGEST_CONFIG
from magnet_cli.train.encoder_start import EncoderStart
from magnet_cli.train.loop import Files
from magnet_cli.train.scene_data import split_scenes
from magnet_cli.train.scene_fields import disk_of, view_scene

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn

    from magnet_cli.geometry import Size
    from magnet_cli.models.bundle import Bundle
    from magnet_cli.train.config import TrainConfig
    from magnet_cli.train.loop import Message, Progress
    from magnet_cli.train.scene_fields import SceneView
    from magnet_cli.train.scenes import LabelledScene

DIGEST, SHOWN = "(SHA-256 ", 16
"""How the source of a bundle states the digest of its encoder's first weights, and how many characters of it."""


def scene_views(
    scenes: Sequence[LabelledScene],
    *,
    bundle: Bundle,
    config: TrainConfig,
    folder: Path,
    progress: Progress | None = None,
    message: Message | None = None,
) -> list[list[SceneView]]:
    """Return the fields of every held-out scene by a backbone fitted without it, by fold; they are kept on disk.

    Without folds the bundle's own backbone makes the fields of all scenes except those for validation, as one fold. A
    backbone that is fitted here begins with the encoder's weights with which the bundle's own began, where these can be
    had.

    Args:
        scenes: All scenes of the data set.
        bundle: The bundle whose backbone the folds' backbones replace.
        config: `[folds]`, and `[data]` for the drawing of windows.
        folder: The folder of checkpoints and fields.
        progress: Receives the log lines of backbones that are fitted here.
        message: Receives a message where these backbones begin at random and the bundle's own did not.

    Raises:
        UsageError: A fold or `[data] validation` names a scene that is not there, or leaves none to train on.
        WeightsError: A backbone that is given is not of the bundle's kind.
        OutputError: The disk has no room for the fields.
    """
    recipe = Recipe(bundle=bundle, data=config.data, loop=config.folds.loop)
    check(scenes, recipe)
    kept, _ = split_scenes(scenes, config.data)
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
        recipe = replace(recipe, start=start_of_folds(recipe, config.folder, message))
        recipe.refuse_idle_rate()
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


def start_of_folds(recipe: Recipe, folder: Path, message: Message | None) -> EncoderStart:
    """Return the weights with which the encoder of the bundle's backbone began, by its configuration.

    Args:
        recipe: The recipe of the backbones of the folds.
        folder: The folder of the configuration at hand. Files of weights are searched there and in the bundle.
        message: Receives a message where the bundle's encoder began with weights that cannot be had.
    """
    bundle, start, why = recipe.bundle, EncoderStart(), ""
    words = encoder_words(bundle)
    if not words and ENCODER in bundle.source:
        why = f"no {CONFIG_FILE} in {bundle.folder} names its weights"
    # The digest of an encoder stands behind its name: before it may be that of a data set.
    stated = bundle.source.partition(ENCODER)[2]
    # A file is named relative to the folder of its configuration, which may have been that of the one at hand.
    for place in (bundle.folder, folder) if words else ():
        start = EncoderStart(words=words or "", folder=place)
        try:
            origin = replace(recipe, start=start).origin()
        except (UsageError, WeightsError) as exc:
            start, why = EncoderStart(), why or exc.rule
            continue
        if DIGEST not in stated or (origin is not None and origin.digest[:SHOWN] in stated):
            return start
        start, why = EncoderStart(), f"{words} holds other weights today"
    if why and message is not None:
        message(
            f"The encoder of {bundle.name} began with weights of other images ({words or bundle.source}), which cannot "
            f"be had here: {why}. The backbones of the folds begin at random, and their fields are worse than its own. "
            "To give them the same start, put the weights where the bundle's configuration names them, and train into "
            "an empty folder."
        )
    return start


def encoder_words(bundle: Bundle) -> str | None:
    """Return the words by which the configuration of a bundle names the first weights of its encoder.

    None where the bundle has no configuration of its backbone.
    """
    try:
        table = tomllib.loads(regular_files.text_of(bundle.folder / CONFIG_FILE, most=LARGEST_CONFIG))["network"]
        is_own = table["architecture"] == bundle.backbone.architecture
        words = table.get("encoder_weights", "")
    # The file of a bundle from elsewhere may be anything.
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    return words if is_own and isinstance(words, str) else None


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

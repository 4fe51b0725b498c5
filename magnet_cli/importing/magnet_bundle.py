"""Bundles of published checkpoints, which appear complete or not at all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from magnet_cli.arithmetic.published.stages import IMAGENET_MEAN, IMAGENET_STD
from magnet_cli.errors import UsageError
from magnet_cli.importing.card import card
from magnet_cli.importing.orders import ORDERS, Order, OrderSample, order_scores
from magnet_cli.importing.staging import UNKNOWN_LICENCE, check_output, staged
from magnet_cli.models.bundle import Bundle, load_bundle
from magnet_cli.models.bundle_writer import describe, write_bundle
from magnet_cli.models.checkpoint import fitted_state, read_checkpoint
from magnet_cli.models.description import CARD
from magnet_cli.models.registry import build_backbone, build_refiner
from magnet_cli.system import durable
from magnet_cli.system.addresses import is_address

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from magnet_cli.geometry import Size
    from magnet_cli.importing.presets import Preset
    from magnet_cli.models.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """The checkpoint files and the choices of the user."""

    preset: Preset
    architecture: str | None = None
    """The architecture of the backbone. None takes the preset's."""
    refiner_architecture: str = "magnet"
    refiner_scales: tuple[Size, ...] = ()
    """Window side for which each refiner was trained. Without them a single refiner serves every scale, and as many
    refiners as there are refining stages serve these in order, coarsest first."""
    order: Order = "own-first"
    sample: OrderSample | None = None
    """A labelled sample. Both input orders are tried on it, and the better one replaces `order`."""
    name: str | None = None
    licence: str = UNKNOWN_LICENCE
    device: str = "cpu"
    overwrite: bool = False
    """Whether a bundle that exists already is replaced."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """The bundle that was made."""

    bundle: Bundle
    order: Order
    scores: Mapping[Order, float]
    """Mean IoU on the sample by input order. It is empty where no sample was given."""
    dropped: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Names of checkpoints, and the keys in them that belong to training and were left out."""

    @property
    def left_out(self) -> list[str]:
        """A sentence for each part that was left out of the checkpoints."""
        return [
            f"{name}: left out {', '.join(keys)}, which training used and the network has not"
            for name, keys in self.dropped
        ]

    @property
    def finding(self) -> str:
        """A sentence on the choice of the input order."""
        if not self.bundle.refiners:
            return "there is no refiner"
        if not self.scores:
            return f"refiner input {self.order}: not tried, because no sample was given"
        tried = ", ".join(f"{order} has mIoU {score:.4f}" for order, score in self.scores.items())
        # `max` would take the first of two equal scores, and the sentence must not call that one better.
        if len(set(self.scores.values())) == 1:
            return f"refiner input {self.order}: the sample does not tell the orders apart ({tried})"
        return f"refiner input {self.order}: the better one on the sample ({tried})"


def import_bundle(backbone: Path, refiners: Sequence[Path], output: Path, options: ImportOptions) -> Imported:
    """Make a bundle of published checkpoints; it appears complete or not at all.

    Args:
        backbone: A `.pth` file with the state dict of the segmentation network.
        refiners: The same for the refinement modules, in the order of `ImportOptions.refiner_scales`.
        output: The bundle's folder, not yet there.
        options: The experiment that the files come from, and the choices of the user.

    Raises:
        WeightsError: A file is no plain state dict, or does not fit its architecture exactly.
        UsageError: The options contradict each other.
        OutputError: The folder is there already, or cannot be written.
        SourceError: The sample cannot be read, or does not fit.
    """
    given = () if options.sample is None else (options.sample.image, options.sample.label)
    sample = [Path(path) for path in given if not is_address(str(path))]
    check_output(output, overwrite=options.overwrite, read=[backbone, *refiners, *sample])
    scales = refiner_scales(options, len(refiners))
    # All files are read before the folder is made, so that a wrong one leaves nothing behind.
    checkpoints = [read_checkpoint(path) for path in (backbone, *refiners)]
    states, entries = _states(checkpoints, options)
    dropped = tuple((found.file.name, found.dropped) for found in checkpoints if found.dropped)
    for entry, scale in zip(entries, scales, strict=True):
        entry["scale"] = None if scale is None else {"width": scale.width, "height": scale.height}
    description = _description(options, entries, name=options.name or output.name)
    with staged(output) as folder:
        # The networks are loaded from the new folder, so the orders are tried on the very files that the bundle will
        # hold.
        made = replace(_written(folder, description, states, options), dropped=dropped)
        sources = dict(zip(states, [found.file.name for found in checkpoints], strict=True))
        text = card(made.bundle, options.preset, finding=made.finding, files=sources, dropped=made.left_out)
        durable.write_whole(folder / CARD, text.encode())
    # The bundle is read again, because its paths are those of the folder that was renamed.
    return replace(made, bundle=load_bundle(str(output)))


def refiner_scales(options: ImportOptions, count: int) -> tuple[Size | None, ...]:
    """Return the scale for which each refiner was trained; None serves every scale.

    Raises:
        UsageError: The scale of a refiner is neither given nor follows from the number of refiners.
    """
    given, stages = options.refiner_scales, options.preset.scales[1:]
    if given and len(given) != count:
        raise UsageError(
            "--refiner-scale is given once for each --refiner",
            value=f"{len(given)} for {count}",
            advice="Give --refiner-scale as often as --refiner, in the same order",
        )
    if given:
        return given
    if count <= 1:
        return (None,) * count
    if count != len(stages):
        raise UsageError(
            "the scale of each refiner must be given",
            value=f"{count} refiners for {len(stages)} refining stages",
            advice="Give --refiner-scale WIDTHxHEIGHT after each --refiner",
        )
    return stages


def _states(
    checkpoints: Sequence[Checkpoint], options: ImportOptions
) -> tuple[dict[str, dict[str, Tensor]], list[dict[str, Any]]]:
    """Return complete states by file name, the backbone's first, and the entries of the refiners in the description."""
    backbone, *refiners = checkpoints
    classes = len(options.preset.classes)
    architecture = options.architecture or options.preset.architecture
    network = build_backbone(architecture, classes=classes, bands=3, options={})
    states = {"backbone.safetensors": fitted_state(backbone, network, architecture=architecture)}
    entries: list[dict[str, Any]] = []
    for index, found in enumerate(refiners):
        kind = options.refiner_architecture
        # The published refinement module can be built without the norm on its input.
        settings = {"bn0": False} if kind == "magnet" and not any(key.startswith("bn0.") for key in found.state) else {}
        refiner = build_refiner(kind, classes=classes, options=settings)
        name = f"refiner{index or ''}.safetensors"
        states[name] = fitted_state(found, refiner, architecture=kind)
        entries.append({"architecture": kind, "options": settings, "file": name, "input": options.order})
    return states, entries


def _description(options: ImportOptions, refiners: Sequence[Mapping[str, Any]], *, name: str) -> dict[str, Any]:
    preset = options.preset
    description = describe(
        name=name,
        classes=[{"name": entry, "color": color} for entry, color in preset.classes],
        size=(preset.input.width, preset.input.height),
        backbone={"architecture": options.architecture or preset.architecture},
        refiners=refiners,
        input={"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD), "resample": "bilinear"},
        magnet={
            "merge": "refiner" if refiners else "mean",
            "points": preset.points,
            "median": preset.median,
        },
        compat="published",
        licence=options.licence,
        domain=preset.domain,
        source=f"published MagNet checkpoints for {preset.title}",
    )
    description["origins"] = [*preset.origins, *_chosen(options)]
    description["scales"] = [{"width": scale.width, "height": scale.height} for scale in preset.scales]
    return description


def _chosen(options: ImportOptions) -> list[str]:
    """Return a sentence for each choice of the user that replaces one of the experiment's."""
    usual = options.preset.architecture
    if options.architecture in (None, usual):
        return []
    return [f"backbone: {options.architecture}, chosen at the import instead of {usual}"]


def _written(
    folder: Path, description: dict[str, Any], states: Mapping[str, Mapping[str, Tensor]], options: ImportOptions
) -> Imported:
    bundle = write_bundle(folder, description, states, dtype=torch.float32)
    if options.sample is None or not bundle.refiners:
        return Imported(bundle=bundle, order=options.order, scores={})
    scores = order_scores(bundle, options.sample, exclude=options.preset.exclude, device=options.device)
    best = max(ORDERS, key=lambda order: scores[order])
    for entry in description["networks"]["refiners"]:
        entry["input"] = best
    description["metrics"] = {"miou_by_refiner_input": scores}
    return Imported(bundle=write_bundle(folder, description, {}), order=best, scores=scores)

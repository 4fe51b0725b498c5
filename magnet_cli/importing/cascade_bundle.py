"""Conversion of the published CascadePSP checkpoint into a bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from magnet_cli.arithmetic.published.stages import IMAGENET_MEAN, IMAGENET_STD
from magnet_cli.importing.staging import UNKNOWN_LICENCE, check_output, staged
from magnet_cli.models.bundle import load_cascade_bundle
from magnet_cli.models.bundle_writer import describe_cascade, write_cascade_bundle
from magnet_cli.models.checkpoint import fitted_state, read_checkpoint
from magnet_cli.models.description import CARD
from magnet_cli.models.registry import build_cascade
from magnet_cli.system import durable

if TYPE_CHECKING:
    from pathlib import Path

    from magnet_cli.models.bundle import CascadeBundle

ARCHITECTURE = "cascadepsp-resnet50"
ORIGINS = (
    "network: the published program; the paper, section 3.1, has the same but for widths that it does not give",
    "side: the paper, section 3.2.3, and the published package",
    "mean and deviation: ImageNet's, as the published program has them",
)
"""A sentence for the model card on the source of the description's values."""


def import_cascade(file: Path, output: Path, *, licence: str | None = None, overwrite: bool = False) -> CascadeBundle:
    """Make a bundle of the published checkpoint; it appears complete or not at all.

    Args:
        file: The state dict of the refinement module, its keys with or without the prefix of the published file.
        output: The bundle's folder.
        licence: The licence of the weights.
        overwrite: Replace a bundle that is there.

    Raises:
        WeightsError: The file is no plain state dict, or does not fit the module exactly.
        OutputError: The folder is there already, or cannot be written.
    """
    check_output(output, overwrite=overwrite, read=[file])
    state = fitted_state(read_checkpoint(file), build_cascade(ARCHITECTURE, options={}), architecture=ARCHITECTURE)
    description = describe_cascade(
        name=output.name,
        network={"architecture": ARCHITECTURE},
        input={"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)},
        compat="published",
        licence=licence or UNKNOWN_LICENCE,
        source="the published CascadePSP checkpoint",
        origins=list(ORIGINS),
    )
    with staged(output) as folder:
        # The published weights are float32. They are kept as they are, because fewer digits would change their masks.
        bundle = write_cascade_bundle(folder, description, state, dtype=torch.float32)
        durable.write_whole(folder / CARD, card(bundle, source=file.name).encode())
    return load_cascade_bundle(str(output))


def card(bundle: CascadeBundle, *, source: str) -> str:
    """Return the model card as Markdown."""
    lines = [
        f"# {bundle.name}",
        "",
        "Published CascadePSP weights, imported: they sharpen a mask of any object, whatever made it.",
        "",
        f"- {bundle.network.file}: from {source}",
        f"- licence: {bundle.licence}",
        "- scores: none measured here",
        "",
        "## Where the values are from",
        "",
        *(f"- {origin}" for origin in bundle.origins),
        "",
    ]
    return "\n".join(lines)

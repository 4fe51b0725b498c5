"""Architectures by the names that bundles call them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from magnet_cli.errors import WeightsError
from magnet_cli.models.architectures.cascadepsp import cascadepsp_light, cascadepsp_lite0, cascadepsp_resnet50
from magnet_cli.models.architectures.conv import conv_backbone, conv_cascade, conv_refiner
from magnet_cli.models.architectures.deeplab import deeplabv3plus_resnet50
from magnet_cli.models.architectures.fpn import (
    fpn_lite0,
    fpn_lite2,
    fpn_resnet18,
    fpn_resnet50,
    fpn_small,
    fpn_timm,
)
from magnet_cli.models.architectures.grnet import grnet_lite0, grnet_resnet18, grnet_small
from magnet_cli.models.architectures.ocr import hrnet18_ocr, hrnet48_ocr
from magnet_cli.models.architectures.ppn import ppn_resnet18, ppn_small
from magnet_cli.models.architectures.psp import psp_resnet101
from magnet_cli.models.architectures.refiner import RefinementMagNet, SharedRefiner
from magnet_cli.models.architectures.unet import unet_lite0, unet_resnet34

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from magnet_cli.models.architectures.cascade_base import CascadeModule
    from magnet_cli.models.architectures.grnet import LocalBranch
    from magnet_cli.models.architectures.ppn import PatchProposalNetwork

N = TypeVar("N", bound="nn.Module")

BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "fpn-resnet18": fpn_resnet18,
    "fpn-resnet50": fpn_resnet50,
    "fpn-small": fpn_small,
    "fpn-lite0": fpn_lite0,
    "fpn-lite2": fpn_lite2,
    "fpn-timm": fpn_timm,
    "psp-resnet101": psp_resnet101,
    "hrnet18-ocr": hrnet18_ocr,
    "hrnet48-ocr": hrnet48_ocr,
    "deeplabv3plus-resnet50": deeplabv3plus_resnet50,
    "unet": unet_resnet34,
    "unet-lite0": unet_lite0,
    "conv": conv_backbone,
}
"""Backbones. Each takes `classes` (logits), `bands` and its options, and maps normalised patches to logits."""

REFINERS: dict[str, Callable[..., nn.Module]] = {
    "magnet": RefinementMagNet,
    "shared": SharedRefiner,
    "conv": conv_refiner,
}
"""Refiners. Each takes `classes` and its options, and maps two joined sets of probabilities to logits."""

CASCADES: dict[str, Callable[..., CascadeModule]] = {
    "cascadepsp-resnet50": cascadepsp_resnet50,
    "cascadepsp-light": cascadepsp_light,
    "cascadepsp-lite0": cascadepsp_lite0,
    "conv": conv_cascade,
}
"""Cascades. Each takes its options, and sharpens a mask of an image in two or three passes."""

SELECTORS: dict[str, Callable[..., PatchProposalNetwork]] = {
    "ppn-resnet18": ppn_resnet18,
    "ppn-small": ppn_small,
}
"""Selectors. Each takes `bands`, `classes` and its options, and scores places and cells of normalised patches."""

LOCAL_BRANCHES: dict[str, Callable[..., LocalBranch]] = {
    "grnet-resnet18": grnet_resnet18,
    "grnet-small": grnet_small,
    "grnet-lite0": grnet_lite0,
}
"""The local branches of GRNets, which refine selected cells; each takes `classes`, `bands` and its options."""


def build_backbone(architecture: str, *, classes: int, bands: int, options: Mapping[str, Any]) -> nn.Module:
    """Return a backbone with initial weights.

    Raises:
        WeightsError: The name or an option is unknown, or an option cannot be carried out.
    """
    return built(BACKBONES, architecture, {**options, "classes": classes, "bands": bands})


def build_refiner(architecture: str, *, classes: int, options: Mapping[str, Any]) -> nn.Module:
    """Return a refiner with initial weights.

    Raises:
        WeightsError: The name or an option is unknown, or an option cannot be carried out.
    """
    return built(REFINERS, architecture, {**options, "classes": classes})


def build_cascade(architecture: str, *, options: Mapping[str, Any]) -> CascadeModule:
    """Return a refinement module of CascadePSP with initial weights.

    Raises:
        WeightsError: The name or an option is unknown, or an option cannot be carried out.
    """
    return built(CASCADES, architecture, options)


def build_selector(architecture: str, *, bands: int, classes: int, options: Mapping[str, Any]) -> PatchProposalNetwork:
    """Return a selector with initial weights.

    Raises:
        WeightsError: The name or an option is unknown, or an option cannot be carried out.
    """
    return built(SELECTORS, architecture, {**options, "bands": bands, "classes": classes})


def build_local(architecture: str, *, classes: int, bands: int, options: Mapping[str, Any]) -> LocalBranch:
    """Return a GRNet's local branch with initial weights.

    Raises:
        WeightsError: The name or an option is unknown, or an option cannot be carried out.
    """
    return built(LOCAL_BRANCHES, architecture, {**options, "classes": classes, "bands": bands})


def built(known: Mapping[str, Callable[..., N]], architecture: str, options: Mapping[str, Any]) -> N:
    """Return the network of that name with these options."""
    if architecture not in known:
        raise WeightsError("unknown architecture", value=architecture, advice=f"Choose from {', '.join(sorted(known))}")
    try:
        return known[architecture](**options)
    except (TypeError, ValueError, IndexError, RuntimeError) as exc:
        raise WeightsError(
            f"the options do not fit {architecture}: {exc}",
            value=dict(options),
            advice="Correct the options of this architecture in the bundle or the configuration, or leave them out",
        ) from exc

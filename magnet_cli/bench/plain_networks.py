"""A bundle's networks as PyTorch gives them: nothing fused, no memory format chosen, nothing compiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from magnet_cli.arithmetic.merge import merge
from magnet_cli.models.foreign.loading import load_foreign
from magnet_cli.models.networks import PRECISIONS, activated, placed
from magnet_cli.models.registry import build_backbone, build_refiner
from magnet_cli.models.weights_file import fill

if TYPE_CHECKING:
    from magnet_cli.geometry import Size
    from magnet_cli.models.bundle import Bundle
    from magnet_cli.options.segment import Merge


@dataclass(frozen=True, kw_only=True, eq=False)
class PlainNetworks:
    """The networks of a program that loads the weights and calls the modules."""

    bundle: Bundle
    backbone: nn.Module
    refiners: tuple[nn.Module, ...]
    device: torch.device
    precision: str
    how: Merge
    """The merge that `refine` computes."""

    @classmethod
    def load(cls, bundle: Bundle, *, device: str, precision: str, how: Merge) -> PlainNetworks:
        """Read the weights of a bundle.

        Raises:
            WeightsError, DeviceError: The weights cannot be loaded.
        """
        place, classes = placed(device), len(bundle.classes)
        if bundle.foreign is not None:
            # A network of another library runs as that library has built it anyway.
            network = load_foreign(bundle, device=device, precision=precision).backbone
            return cls(bundle=bundle, backbone=network, refiners=(), device=place, precision=precision, how=how)
        backbone = build_backbone(
            bundle.backbone.architecture,
            classes=bundle.logits,
            bands=len(bundle.input.bands),
            options=bundle.backbone.options,
        )
        specs = bundle.refiners
        refiners = [build_refiner(spec.architecture, classes=classes, options=spec.options) for spec in specs]
        for network, spec in zip((backbone, *refiners), (bundle.backbone, *specs), strict=True):
            fill(network, spec=spec, folder=bundle.folder)
        return cls(
            bundle=bundle,
            backbone=_frozen(backbone).to(place),
            refiners=tuple(_frozen(refiner).to(place) for refiner in refiners),
            device=place,
            precision=precision,
            how=how,
        )

    @torch.inference_mode()
    def logits(self, patches: Tensor) -> Tensor:
        """Return logits `(n, logits, h, w)` float32 of normalised patches `(n, bands, h, w)`."""
        return self._called(self.backbone, patches)

    @torch.inference_mode()
    def predict(self, patches: Tensor, scale: Size) -> Tensor:
        """Return the probabilities of patches, as `Networks.predict` does."""
        logits = self.logits(patches) / self.bundle.backbone.temperature.at(scale)
        return activated(logits, activation=self.bundle.activation)

    @torch.inference_mode()
    def refine(self, own: Tensor, field: Tensor, scale: Size) -> Tensor:
        """Return R of the refiner, or of the merge in a bundle without one."""
        index = self.bundle.refiner_for(scale)
        if self.how != "refiner" or index is None:
            return merge(own, field, how=self.how, networks=self, scale=scale)
        spec = self.bundle.refiners[index]
        pair = (own, field) if spec.input == "own-first" else (field, own)
        logits = self._called(self.refiners[index], torch.cat(pair, dim=1))
        return (logits / spec.temperature.at(scale)).softmax(dim=1)

    def _called(self, network: nn.Module, x: Tensor) -> Tensor:
        dtype = PRECISIONS[self.precision]
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            return cast("Tensor", network(x)).float()


def _frozen(network: nn.Module) -> nn.Module:
    return network.eval().requires_grad_(requires_grad=False)
